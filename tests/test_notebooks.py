"""The notebooks keep their form: what every one must have, checked without running them (nbmake runs them)."""

import json
import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))
LINES, WORDS = 14, 119  # of a code cell, of the text between two: fewer than 15 and 120


@pytest.fixture(params=BOOKS, ids=lambda path: path.stem)
def book(request):
    return nbformat.read(request.param, 4)


def texts(book, kind):
    return [cell for cell in book.cells if cell.cell_type == kind]


def test_a_notebook_is_valid_and_its_cells_keep_their_names(book):
    nbformat.validate(book)
    ids = [cell.id for cell in book.cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"n\d\d-[a-z0-9-]+", name) for name in ids)


def test_it_says_first_what_it_is_for_and_what_it_costs(book):
    title, begin = book.cells[:2]
    assert title.cell_type == "markdown" and title.source.startswith("# ")
    assert all(
        word in title.source for word in ("**You will**", "**Time**", "**Before**", "**In a hurry**", "**Paper**")
    )
    assert "classroom.begin(minutes=" in begin.source and "pip" in begin.source
    minutes = float(re.search(r"minutes=([\d.]+)", begin.source)[1])
    assert minutes <= 5 and f"**Time** {minutes:g} minute" in title.source


def test_it_has_every_part_of_a_lesson(book):
    prose = "\n".join(cell.source for cell in texts(book, "markdown"))
    code = "\n".join(cell.source for cell in texts(book, "code"))
    for part in ("A film that goes wrong", "## Predict", "Build it", "Break it", "Exercise 1", "Exercise 2"):
        assert part in prose, part
    assert "## In the full model" in prose and "**Paper and released code.**" in prose
    assert code.count("my_guess") >= 2, "the guess is asked for, and then nobody looks at it"
    assert "assert_close" in code or "assert " in code
    assert "widgets.Explorer(" in code and "widgets.play(" in code and "plots." in code


def test_cells_are_short(book):
    for cell in texts(book, "code"):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= LINES, f"{cell.id} has {len(lines)} lines"
        assert all(len(line) <= 120 for line in lines), cell.id
    read = 0
    for cell in book.cells:
        read = read + len(cell.source.split()) if cell.cell_type == "markdown" else 0
        assert read <= WORDS, f"{read} words to read before the code that follows {cell.id}"


def test_two_exercises_with_collapsed_solutions(book):
    solutions = [cell for cell in book.cells if "solution" in cell.metadata.get("tags", [])]
    assert len(solutions) == 2
    for cell in solutions:
        assert cell.metadata["jupyter"]["source_hidden"] and cell.source.startswith("# @title A solution")
        assert re.fullmatch(r"check_\w+\(\w+\)", cell.source.splitlines()[-1])


def test_what_is_stored_is_small_and_clean(book, request):
    assert len(json.dumps(book).encode()) < 1_000_000
    for cell in texts(book, "code"):
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            assert output.get("name") != "stderr", f"{cell.id} warns: {output.get('text', '')[:200]}"


CLAIM = re.compile(r"^claim: (.+): (\S+) ([<>]) (\S+)$", flags=re.MULTILINE)
BOUND = re.compile(r"(?:below|above)=([\d.e-]+)")


def test_every_claim_is_kept_by_the_number_stored_with_it(book):
    """Nothing is run: `classroom.claim` has printed each number with its bound, and the bound stands in the cell."""
    claims = 0
    for cell in texts(book, "code"):
        printed = "".join(output.get("text", "") for output in cell.outputs)
        found, asked = CLAIM.findall(printed), cell.source.count("classroom.claim(")
        assert len(found) >= asked, f"{cell.id} claims {asked} times, {len(found)} claims are stored: run it again"
        bounds = {float(bound) for bound in BOUND.findall(cell.source)}
        for what, value, sign, bound in found:
            assert float(value) < float(bound) if sign == "<" else float(value) > float(bound), f"{cell.id}: {what}"
            assert float(bound) in bounds, f"{cell.id} has another bound than was printed: run it again"
        claims += asked
    assert claims, "it claims nothing"


def test_the_map_names_every_notebook():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in BOOKS:
        assert f"({path.name})" in readme, path.name
    for number in range(len(BOOKS)):
        assert re.search(rf"^\| {number:02} ", readme, flags=re.MULTILINE), f"no row for {number:02}"
