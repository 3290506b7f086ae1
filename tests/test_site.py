"""The site is built from what notebooks store; what they share is in step, and says where it is from."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "pages"))

import sync  # noqa: E402

REPO = "somebody/film"


def test_shared_cells_badges_and_solutions_are_in_step():
    for path, text in sync.wanted(sync.repository()):
        assert path.exists() and path.read_text(encoding="utf-8") == text, f"{path.name}: run `python pages/sync.py`"
    names = {path.name for path in sync.notebooks()}
    assert {path.name for path in (sync.FOLDER / "solutions").iterdir()} == names


def test_a_repository_said_once_is_in_every_badge_and_first_cell_and_goes_again(monkeypatch):
    for path in sync.notebooks():
        book = json.loads(path.read_text(encoding="utf-8"))
        before, kept = json.dumps(book), [cell.get("outputs") for cell in book["cells"]]
        told = sync.shared(book, path.name, REPO)
        title, begin = ("".join(cell["source"]) for cell in told["cells"][:2])
        assert f"colab.research.google.com/github/{REPO}/blob/main/notebooks/{path.name}" in title
        assert f'source = "https://github.com/{REPO}/archive' in begin
        assert kept == [cell.get("outputs") for cell in told["cells"]]
        assert json.dumps(sync.shared(told, path.name, sync.repository())) == before


CASES = {  # what lies about -> what pip is asked for
    "nothing": None,
    "an address": f"shotstream_lite[notebooks] @ https://github.com/{REPO}/archive/refs/heads/main.zip",
    "a checkout": "shotstream_lite[notebooks] @ file://",
    "a wheel": "shotstream_lite-0.1.0-py3-none-any.whl",
    "no network": None,
    "installed": None,
}


@pytest.mark.parametrize("case", CASES)
def test_the_first_cell_installs_what_is_near_or_known_and_else_says_what_to_do(case, tmp_path, monkeypatch):
    asked, here = [], tmp_path / "notebooks"
    here.mkdir()
    if case == "a checkout":
        (tmp_path / "pyproject.toml").touch()
    if case == "a wheel":
        (here / "shotstream_lite-0.1.0-py3-none-any.whl").touch()
    known = f"https://github.com/{REPO}/archive/refs/heads/main.zip" if case in ("an address", "no network") else ""
    code = sync.FIRST_CELL.format(source=known, modules='("shotstream_lite",)', extras="notebooks", minutes=1)
    monkeypatch.chdir(here)
    if case != "installed":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = subprocess.CompletedProcess([], returncode=case == "no network")
    monkeypatch.setattr(subprocess, "run", lambda command: asked.append(command[-1]) or done)
    if case in ("nothing", "no network"):
        with pytest.raises(SystemExit, match="Not installed: .*internet.*wheel.*`source`"):
            exec(code, {})
    else:
        exec(code, {})
    assert len(asked) == (case not in ("nothing", "installed"))
    assert CASES[case] is None or CASES[case] in asked[0]


class Links(HTMLParser):
    """What a page links to and loads, the names it has, and its pictures."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links, self.loads, self.names, self.films = set(), set(), set(), 0
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.names.add(given.get("id"))
        self.links |= {given["href"]} if tag == "a" and "href" in given else set()
        self.loads |= {given["src"][:30]} if "src" in given else set()
        self.loads |= {given["href"]} if tag == "link" else set()
        self.films += tag in ("img", "video") and "hidden" not in given


@pytest.fixture(scope="module")
def build():
    for module in ("mistune", "pygments", "latex2mathml"):
        pytest.importorskip(module, reason="building the site needs: pip install --group site")
    import build

    return build


@pytest.mark.parametrize("repo", ["", REPO])
def test_every_link_of_the_site_leads_somewhere_and_nothing_is_fetched(build, repo, tmp_path):
    build.build(tmp_path / "site", repo)
    pages = {path.name: Links(path) for path in (tmp_path / "site").glob("*.html")}
    assert len(pages) == len(sync.notebooks()) + len(build.PAGES)
    for name, page in pages.items():
        assert all(load.startswith("data:") for load in page.loads), name
        for link in page.links:
            target, _, anchor = link.partition("#")
            if not re.match(r"https?:", link):
                assert not target or (tmp_path / "site" / target).exists(), f"{name}: {link}"
                assert not anchor or anchor in pages[target or name].names, f"{name}: {link}"
        launches = [link for link in page.links if "colab.research" in link or "kaggle.com/kernels" in link]
        assert len(launches) == (2 if repo and re.match(r"\d\d_", name) else 0), name
        assert not [link for link in launches if repo not in link]
    for path in sync.notebooks():
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        stored = [output for cell in cells for output in cell.get("outputs", [])]
        pictures = sum("image/png" in output.get("data", {}) for output in stored)
        text = (tmp_path / "site" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert pages[f"{path.stem}.html"].films >= pictures > 0
        assert text.count("<summary>A solution</summary>") == 2 and len(text) < 1_000_000


def test_equations_are_mathml_and_links_move_with_their_page(build):
    page = build.markdown(r"$\theta = 1/6$ and [10](../10_measure_it.ipynb), [x](../rope.py)", "notebooks/s/a.md", REPO)
    assert "<math" in page and 'href="10_measure_it.html"' in page and f"{REPO}/blob/main/notebooks/rope.py" in page
    assert "href" not in build.markdown("[x](../rope.py)", "notebooks/a.md", "")
