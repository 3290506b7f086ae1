"""demos/measure_gpu.py rehearsed: every step at tiny sizes on the CPU, and that one which fails stops no other."""

import importlib
import json
import subprocess
import sys
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
    measure.STEPS[step][0](measure.Measurement(tmp_path, shrink=True, step=step))
    figures = json.loads((tmp_path / "results.json").read_text())[step]
    assert figures and not [name for name, found in figures.items() if str(found).startswith("failed")]
    if step == "fit":
        assert len(figures) == 2 and all(found["frames"] == 13 for found in figures.values())
    if step == "toybox":
        assert figures["apart"] == {"mean": 0, "largest": 0, "more than 2": 0}


def test_a_step_that_fails_or_takes_too_long_stops_no_other(measure, tmp_path, monkeypatch):
    steps = {"rates": (measure.rates, 1), "toybox": (sys.exit, 60), "versions": (measure.versions, 60)}
    monkeypatch.setattr(measure, "STEPS", steps)
    assert measure.main(tmp_path, tuple(steps), limit=130) == 1
    codes = {step: found["exit code"] for step, found in json.loads((tmp_path / "results.json").read_text()).items()}
    assert codes["rates"] < 0 and codes["toybox"] > 0 and codes["versions"] == 0


def test_all_steps_together_take_no_longer_than_the_limit(measure, tmp_path):
    assert measure.main(tmp_path, ("versions",), limit=1) == 1
    assert json.loads((tmp_path / "results.json").read_text())["versions"]["exit code"] < 0


def test_the_command_as_it_is_written(tmp_path):
    command = [sys.executable, str(DEMOS / "measure_gpu.py"), str(tmp_path), "--shrink", "--steps"]
    assert subprocess.run([*command, "magic"], check=False).returncode == 2
    assert subprocess.run([*command, "versions"], check=False).returncode == 0
    figures = json.loads((tmp_path / "results.json").read_text())["versions"]
    assert figures["exit code"] == 0 and "torch" in figures["packages"]
