"""A built wheel carries the toybox's weights and tells a story far from the checkout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

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


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder into which the wheel is installed, without what it depends on: that is here already."""
    base = tmp_path_factory.mktemp("wheel")
    source = base / "source"  # built from a copy: a build leaves folders beside what it builds
    shutil.copytree(ROOT / "shotstream_lite", source / "shotstream_lite", ignore=shutil.ignore_patterns("*.pyc"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", base, source], base)
    (wheel,) = base.glob("*.whl")
    run([*pip, "install", "--no-deps", "--target", base / "site", wheel], base)
    shutil.rmtree(source)
    return base / "site"


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
