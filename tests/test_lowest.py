"""The lowest versions that pyproject.toml allows are those that .ci/lowest installs and runs the tests with."""

import re
import tomllib
from pathlib import Path

from packaging.version import Version

ROOT = Path(__file__).parent.parent
# Not run at their lowest: torch 2.8 is offered with CUDA only, gigabytes of it; the others are tools.
UNTESTED = {"torch", "setuptools", "ruff", "playwright"}


def test_the_lower_bounds_are_those_that_are_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / ".ci" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["studio"], *extras["train"], *extras["test"]]
    bounds = dict(match.groups() for line in wanted if (match := re.match(r"([\w.-]+)>=([\w.]+)", line)))
    for name in bounds.keys() - UNTESTED:
        assert Version(pinned.get(name, "0")) == Version(bounds[name]), f"{name}: change both, then run .ci/lowest"


def test_the_test_extra_brings_what_every_other_one_does():
    """So that CI installs once. A person reads notebooks in jupyterlab; nbmake runs them without it."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    others = {*extras["notebooks"], *extras["studio"], *extras["train"]}
    assert others <= set(extras["test"])
