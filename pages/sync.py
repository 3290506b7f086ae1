"""Writes what notebooks share into them, and the solutions for lecturers beside them: `python pages/sync.py`.

Shared are the first cell, which installs the package where it is missing, and the badges below the title. Outputs and
the names of cells stay as they are. A test says when this has to be run again. Only the standard library is used.
"""

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
NEEDS = {"train": "scenedetect", "studio": "gradio"}  # a module that tells whether an extra is installed

FIRST_CELL = """\
import importlib.util
import subprocess
import sys
from pathlib import Path

if not all(map(importlib.util.find_spec, {modules})):  # on Colab and Kaggle it installs itself
    source = "{source}"  # a wheel's or a repository's address; pages/sync.py writes it
    places = [Path.cwd().parent.glob("pyproject.toml"), Path.cwd().glob("shotstream_lite-*.whl")]
    near = [p for found in (*places, Path("/kaggle/input").rglob("shotstream_lite-*.whl")) for p in found]
    source = (near[0].parent if near[0].suffix == ".toml" else near[0]).as_uri() if near else source
    wanted = f"shotstream_lite[{extras}] @ {{source}}"
    if not source or subprocess.run([sys.executable, "-m", "pip", "install", "-q", wanted]).returncode:
        sys.exit("Not installed: switch the internet on, put a wheel beside this notebook, or fill in `source`.")

from shotstream_lite.course import classroom

classroom.begin(minutes={minutes})"""


def notebooks() -> list[Path]:
    return sorted(FOLDER.glob("*.ipynb"))


def repository() -> str:
    """ "owner/name" on GitHub, said in one place: pyproject.toml, [tool.shotstream]; empty as long as there is none."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["shotstream"]["repository"]


def badges(name: str, repo: str) -> str:
    """Launch buttons of a notebook, in Markdown; none without a repository."""
    page = f"github.com/{repo}/blob/main/notebooks/{name}"
    colab = f"[**Open in Colab**](https://colab.research.google.com/{page.replace('.com', '', 1)})"
    return f"{colab} · [**Open in Kaggle**](https://kaggle.com/kernels/welcome?src=https://{page})" if repo else ""


def plain_title(source: str) -> str:
    """The first cell's text without its badges."""
    return re.sub(r"\n*\[\*\*Open in .*", "", source)


def shared(book: dict, name: str, repo: str) -> dict:
    """The notebook with the first cell and the badges as all have them; its extras and minutes are its own."""
    title, begin = book["cells"][:2]
    old = "".join(begin["source"])
    extras = re.search(r"\[(notebooks[\w,]*)\]", old)[1]
    cell = FIRST_CELL.format(
        source=f"https://github.com/{repo}/archive/refs/heads/main.zip" if repo else "",
        modules=_tuple("shotstream_lite", *(NEEDS[extra] for extra in extras.split(",")[1:])),
        extras=extras,
        minutes=re.search(r"minutes=([\d.]+)", old)[1],
    )
    begin["source"] = cell.splitlines(keepends=True)
    text = "\n\n".join(filter(None, (plain_title("".join(title["source"])), badges(name, repo))))
    title["source"] = text.splitlines(keepends=True)
    return book


def _tuple(*names: str) -> str:
    return f'("{names[0]}",)' if len(names) == 1 else "({})".format(", ".join(f'"{name}"' for name in names))


def solutions(book: dict, name: str) -> dict:
    """A notebook of exercises and solutions alone: the text of each, its checker, and the solution, open."""
    cells, checkers, text = [], {}, ""
    heading = "".join(book["cells"][0]["source"]).splitlines()[0].removeprefix("# ")
    for cell in book["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            text = source
        elif "solution" in cell["metadata"].get("tags", []):
            cells.append(_cell("markdown", f"{cell['id']}-text", text))
            cells.append(_cell("code", cell["id"], source.partition("\n")[2]))
        else:
            for line in ast.walk(ast.parse(source)):
                if isinstance(line, ast.ImportFrom) and line.module.startswith("shotstream_lite.course.exercises"):
                    checkers.setdefault(line.module, set()).update(alias.name for alias in line.names)
    imports = "\n".join(f"from {module} import {', '.join(sorted(checkers[module]))}" for module in sorted(checkers))
    title = f"# Solutions: {heading}\n\nFor lecturers; from [{name}](../{name})."
    cells = [_cell("markdown", "title", title), _cell("code", "checkers", imports), *cells]
    about = {"kernelspec": book["metadata"]["kernelspec"]}
    return {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}


def _cell(kind: str, name: str, source: str) -> dict:
    cell = {"cell_type": kind, "id": name, "metadata": {}, "source": source.splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def wanted(repo: str) -> Iterator[tuple[Path, str]]:
    """Each file that this writes, and what it shall hold."""
    for path in notebooks():
        book = shared(json.loads(path.read_text(encoding="utf-8")), path.name, repo)
        for target, content in ((path, book), (FOLDER / "solutions" / path.name, solutions(book, path.name))):
            yield target, json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (FOLDER / "solutions").mkdir(exist_ok=True)
    for target, text in list(wanted(repository())):
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            target.write_text(text, encoding="utf-8", newline="\n")
            print(f"written: {target.relative_to(ROOT)}")
