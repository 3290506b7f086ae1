"""The site of all notebooks, from the outputs stored in them: `pip install --group site && python pages/build.py site`.

Nothing is run, and neither torch nor the library is imported. Every page is one file without scripts, but for the page
of sliders; it can be put on any static host, or opened as a file. Launch buttons need to know the repository (see
`sync.repository`); without one they are left out.
"""

import base64
import html
import json
import os
import re
import shutil
import sys
from pathlib import Path, PurePosixPath
from posixpath import normpath

import mistune
from latex2mathml.converter import convert
from mistune.renderers.html import HTMLRenderer
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sync import ROOT, badges, notebooks, plain_title, repository

PAGES = {
    "notebooks/README.md": ("index.html", "The notebooks"),
    "pages/explore.html": ("explore.html", "By hand"),
    "notebooks/ERRATA.md": ("errata.html", "Errata"),
    "shotstream_lite/weights/toybox/README.md": ("weights.html", "How these weights were made"),
}
STYLE = (Path(__file__).parent / "site.css").read_text(encoding="utf-8")


def moved(link: str, page: str, repo: str) -> str | None:
    """Where a link of `page`, a path in the repository, leads on the site; None: nowhere without a repository."""
    target, hash_, anchor = link.partition("#")
    if re.match(r"\w+:", link) or not target:
        return link
    path = normpath(str(PurePosixPath(page).parent / target))
    if path in PAGES or path == "notebooks":
        return PAGES.get(path, ("index.html",))[0] + hash_ + anchor
    if path.startswith("notebooks/") and path.endswith(".ipynb") and path.count("/") == 1:
        return PurePosixPath(path).stem + ".html" + hash_ + anchor
    return f"https://github.com/{repo}/blob/main/{path}" if repo else None


class Page(HTMLRenderer):
    """Markdown of one file, its links led to the site, its equations as MathML, its headings with names."""

    def __init__(self, path: str, repo: str) -> None:
        super().__init__(escape=False)
        self.path, self.repo = path, repo

    def link(self, text: str, url: str, title: str | None = None) -> str:
        url = moved(url, self.path, self.repo)
        return text if url is None else f'<a href="{html.escape(url)}">{text}</a>'

    def image(self, text: str, url: str, title: str | None = None) -> str:
        picture = (ROOT / normpath(str(PurePosixPath(self.path).parent / url))).read_bytes()
        return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'

    def heading(self, text: str, level: int, **attrs) -> str:
        name = re.sub(r"\W+", "-", re.sub(r"<.*?>", "", text).lower()).strip("-")
        return f'<h{level} id="{name}">{text}</h{level}>\n'

    def block_code(self, code: str, info: str | None = None) -> str:
        return python(code) if info == "python" else f"<pre>{html.escape(code)}</pre>\n"


def markdown(text: str, path: str, repo: str) -> str:
    """A Markdown text of the file `path` as HTML."""
    renderer = Page(path, repo)
    render = mistune.create_markdown(renderer=renderer, plugins=["table", "math", "strikethrough"])
    renderer.register("inline_math", lambda _, tex: convert(tex))
    renderer.register("block_math", lambda _, tex: convert(tex, display="block"))
    return render(text).replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")


def python(code: str) -> str:
    return highlight(code, PythonLexer(), HtmlFormatter(cssclass="code"))


def output(given: dict) -> str:
    """A stored output. Widgets are shown by the picture that is stored with them."""
    data = given.get("data", {})
    if "image/png" in data:
        alt = html.escape(given["metadata"].get("image/png", {}).get("alt", "A figure"), quote=True)
        note = '<p class="note">A widget: it moves in the notebook.</p>' if len(data) > 2 else ""
        return f'<img alt="{alt}" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">{note}'
    if "text/html" in data:
        inside = "".join(data["text/html"])
        return "" if 'class="still"' in inside else inside  # the still is that of the widget before it
    text = "".join(given.get("text", data.get("text/plain", "")))
    return f"<pre>{html.escape(text)}</pre>"


def cell(given: dict, path: str, repo: str) -> str:
    """A cell and its outputs; solutions, and the cell that only installs, are folded."""
    source = "".join(given["source"])
    if given["cell_type"] == "markdown":
        return markdown(source, path, repo)
    outputs = "".join(map(output, given["outputs"]))
    body = python(source) + (f'<div class="out">{outputs}</div>' if outputs else "")
    solution = "solution" in given["metadata"].get("tags", [])
    if solution or given["id"].endswith("-begin"):
        return f"<details><summary>{'A solution' if solution else 'Set-up'}</summary>{body}</details>"
    return body


def framed(title: str, body: str, before: str = "", after: str = "") -> str:
    """A whole page. before, after: links to the neighbours."""
    links = "".join(f'<a href="{name}">{words}</a>' for name, words in PAGES.values())
    code = "".join(
        f"@media (prefers-color-scheme: {scheme}) {{ {HtmlFormatter(style=style).get_style_defs('.code')} }}\n"
        for scheme, style in (("light", "default"), ("dark", "github-dark"))
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>{code}{STYLE}</style></head><body>"
        f'<nav aria-label="Site">{links}</nav><main>{body}</main><nav aria-label="Neighbours">{before}{after}</nav>'
        "</body></html>"
    )


def build(folder: Path, repo: str) -> None:
    """Writes the site into `folder`, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, (name, title) in PAGES.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        if path.endswith(".html"):
            page = re.sub(r'href="(\.\./[^"]*)"', lambda found: f'href="{moved(found[1], "pages/x", repo)}"', text)
        else:
            page = framed(title, markdown(text, path, repo))
        (folder / name).write_text(page, encoding="utf-8")
    books = notebooks()
    for number, path in enumerate(books):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        name = f"notebooks/{path.name}"
        cells[0]["source"] = plain_title("".join(cells[0]["source"]))
        title, *others = (cell(one, name, repo) for one in cells)
        links = [f'<a href="{book.stem}.html">{book.stem.replace("_", " ")}</a>' for book in books]
        before, after = ("", *links)[number], (*links, "")[number + 1]
        launch = markdown(badges(path.name, repo), name, repo)
        launch += f'<p class="note"><a href="{path.name}" download>Download the notebook</a></p>'
        body = title + launch + "".join(others)
        (folder / f"{path.stem}.html").write_text(
            framed(path.stem.replace("_", " "), body, before, after), encoding="utf-8"
        )
        shutil.copy(path, folder)
    print(
        f"{len(books) + len(PAGES)} pages in {folder}, {sum(f.stat().st_size for f in folder.iterdir()) / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) == 2 else "site")
    if target.exists() and not (target / "explore.html").exists():
        sys.exit(f"{target} is there and is no site: name another folder, it would be emptied")
    build(target, repository() or os.environ.get("GITHUB_REPOSITORY", ""))  # a workflow knows its own
