"""A release, as `python -m build` makes it: fit for every system, and the wheel tells a story far from the checkout."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from shotstream_lite.film import read_film

ROOT = Path(__file__).resolve().parent.parent
# What the `shotstream` script does, on every system.
SHOTSTREAM = """
import sys
from importlib.metadata import distribution
(script,) = distribution("shotstream_lite").entry_points
sys.exit(script.load()())
"""


# Never part of a repository.
LEFT = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "venv", "runs", "data", "films", "*.mp4"
)
RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{i}" for name in ("com", "lpt") for i in range(10))}


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    """The folder of a source release and of the wheel built from it."""
    base = tmp_path_factory.mktemp("release")
    shutil.copytree(ROOT, base / "source", ignore=LEFT)  # a build leaves folders beside what it builds
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", base / "dist", base / "source"], base)
    shutil.rmtree(base / "source")
    return base / "dist"


@pytest.fixture(scope="module")
def installed(release) -> Path:
    """A folder into which the wheel is installed, without what it depends on: that is here already."""
    (wheel,) = release.glob("*.whl")
    site = release.parent / "site"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run([*pip, "install", "--no-deps", "--target", site, wheel], release)
    return site


def run(command: list, folder: Path, **variables: str) -> str:
    result = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_wheel_tells_a_story(installed, tmp_path):
    story = {"global_caption": "A red ball in a meadow.", "shot1": "Wide shot: the red ball jumps."}
    (tmp_path / "story.json").write_text(json.dumps(story | {"frames": 9}), encoding="utf-8")
    here = {"PYTHONPATH": str(installed)}
    module = run([sys.executable, "-c", "import shotstream_lite as s; print(s.__file__)"], tmp_path, **here)
    assert Path(module.strip()).is_relative_to(installed)
    run([sys.executable, "-c", SHOTSTREAM, "tell", "story.json", "-o", "film.mp4"], tmp_path, **here)
    assert len(read_film(tmp_path / "film.mp4")) == 9


def unfit(names: list[str]) -> list[str]:
    """Those that some system cannot hold: reserved by Windows, too long below a deep folder, or two that differ in case
    alone."""
    bad = {name for name in names if len(name) > 120 or not name.isascii() or set('<>:"|?*\\') & set(name)}
    bad |= {
        n
        for n in names
        for part in PurePosixPath(n).parts
        if part.lower().split(".")[0] in RESERVED or part[-1] in ". "
    }
    lower = [name.lower() for name in names]
    return sorted(bad | {name for name in names if lower.count(name.lower()) > 1})


def test_a_release_fits_every_system_and_holds_no_pictures_of_notebooks(release):
    (wheel,), (source,) = release.glob("*.whl"), release.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        wheel_names = file.namelist()
        assert not [one.filename for one in file.infolist() if one.external_attr >> 28 == 0o12]  # links
    with tarfile.open(source) as file:
        source_names = [one.name for one in file.getmembers() if not one.isdir()]
        assert all(one.isfile() or one.isdir() for one in file.getmembers())
    assert not unfit(wheel_names) and not unfit(source_names)
    assert any(name.endswith("weights/toybox/transformer/config.json") for name in wheel_names)
    assert not [name for name in (*wheel_names, *source_names) if name.endswith((".ipynb", ".pyc"))]
    inside = {name.split("/", 1)[1] for name in source_names}
    assert {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "pyproject.toml"} <= inside
    assert {name for name in wheel_names if name.startswith("shotstream_lite/")} <= inside
    assert not [name for name in inside if name.startswith(("tests/", "demos/"))]


def test_the_repository_fits_every_system():
    """It can be cloned on Windows: no links, no names that differ in case alone."""
    if not (ROOT / ".git").exists():
        pytest.skip("no clone")
    lines = run(["git", "ls-files", "--stage"], ROOT).splitlines()
    assert {line[:6] for line in lines} <= {"100644", "100755"}
    assert not unfit([line.partition("\t")[2] for line in lines])
    assert unfit(["a:b", "aux.py", "x/Con", "a.py", "A.py", "é", "dot."]) == sorted(
        ["a:b", "aux.py", "x/Con", "a.py", "A.py", "é", "dot."]
    )
