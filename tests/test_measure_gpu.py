"""demos/measure_gpu.py rehearsed: every step at tiny sizes on the CPU, and that one which fails stops no other."""

import importlib
import json
import subprocess
from pathlib import Path

import pytest

from shotstream_lite import benchmark

DEMOS = Path(__file__).resolve().parent.parent / "demos"


@pytest.fixture
def measure(monkeypatch):
    monkeypatch.syspath_prepend(str(DEMOS))
    monkeypatch.setattr(benchmark, "_import_seconds", lambda: 1.0)
    return importlib.import_module("measure_gpu")


@pytest.mark.parametrize("step", ["versions", "rates", "toybox", "bench", "profile", "fit", "released"])
def test_a_step_leaves_its_figures(measure, step, tmp_path):
    assert measure.main(tmp_path, (step,), shrink=True, alone=True) == 0
    figures = json.loads((tmp_path / "results.json").read_text())[step]
    assert figures and not [name for name, found in figures.items() if str(found).startswith("failed")]
    if step == "fit":
        assert len(figures) == 2 and all(found["frames"] == 13 for found in figures.values())
    if step == "toybox":
        assert figures["apart"] == {"mean": 0, "largest": 0, "more than 2": 0}


def test_a_step_that_fails_or_takes_too_long_stops_no_other(measure, tmp_path, monkeypatch):
    asked = []

    def run(command, timeout, check):
        asked.append((command[command.index("--steps") + 1], timeout))
        if asked[-1][0] == "rates":
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, int(asked[-1][0] == "toybox"))

    monkeypatch.setattr(subprocess, "run", run)
    assert measure.main(tmp_path, ("versions", "rates", "toybox", "fit"), limit=50) == 1
    assert [name for name, _ in asked] == ["versions", "rates", "toybox", "fit"] and asked[1][1] <= 50
    codes = {step: found["exit code"] for step, found in json.loads((tmp_path / "results.json").read_text()).items()}
    assert codes == {"versions": 0, "rates": 124, "toybox": 1, "fit": 0}
    assert measure.main(tmp_path, ("magic",)) == 2
