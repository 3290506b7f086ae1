"""Scores to figures: the five dimensions of the paper with their intervals, as JSON and as a table."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from shotstream_lite.evaluation.run import REAL, Evaluation, measure_all
from shotstream_lite.evaluation.statistics import FrechetSpace, Interval, as_json, change, interval, ratio
from shotstream_lite.measures import Scores
from shotstream_lite.toybox.reading import ASKED, CHUNKS, EVENTS, GAPS, KINDS, WORN, with_sums

FRECHET = "Fréchet distance"
"""To real film of the same stories, as a share of its spread; 0 for real film itself."""
KEPT = "kept since first seen (never said)"
PASSED = "passed on to a newcomer (never asked for)"
DIMENSIONS = {
    "prompt following": {name: f"said/{name}" for name in (*ASKED, *EVENTS)},
    "what the caption before asked for": {name: f"bleed/{name}" for name in ASKED},
    PASSED: {name: f"passed/{name}" for name in WORN},
    "within a shot": {
        "shape, all frames": "steady/shape",
        "hat, all frames": "steady/hat",
        **{f"identity, chunk {n}": f"chunk/identity {n}" for n in range(2, CHUNKS + 1)},
    },
    KEPT: {name: f"kept/{name}" for name in (*KINDS, "all", "all, by chance", *GAPS, "changed before")},
    "transition control": {"SCA": "cuts/SCA"},
    "quality": {name: f"quality/{name}" for name in ("dynamic degree", "sharpness", "PSNR, dB")},
}
SHARES = {"kept": (KEPT, "all"), "sharpness": ("quality", "sharpness")}
DRIFT = ("said/character", "said/action", "kept/all", *(f"kept/{kind}" for kind in KINDS))


def evaluate(evaluation: Evaluation) -> tuple[dict[str, Any], str] | None:
    """Measures; the figures for JSON and the table in words, or None in all processes but the first."""
    columns = measure_all(evaluation)
    if columns is None:
        return None
    report = figures(columns)
    said = {name: getattr(evaluation, name) for name in ("stories", "shots", "seed")}
    return said | {"films": as_json(report)}, table(report, evaluation.stories, evaluation.shots)


def figures(columns: Mapping[str, Scores]) -> dict[str, Any]:
    """Everything the table shows and more, ready for JSON: {kind of film: {"figures", "of real film", "by shot"}}.

    Every figure is (mean, low, high): see `statistics`. "of real film" is the share of what real film of the same
    stories scores, which is the most the probe can read: its own error is in both.
    """
    columns = {kind: with_sums(scores) for kind, scores in columns.items()}
    real = columns[REAL]
    space = FrechetSpace(real["features"])
    report = {}
    for kind, scores in columns.items():
        by_name = {d: {n: interval(scores[key]) for n, key in names.items()} for d, names in DIMENSIONS.items()}
        of_real = {d: {n: ratio(scores[k], real[k]) for n, k in names.items()} for d, names in DIMENSIONS.items()}
        by_name["quality"][FRECHET] = space.distance(scores["features"], real["features"])
        report[kind] = {"figures": by_name, "of real film": of_real, "by shot": _by_shot(scores, real, space)}
    return report


def table(report: Mapping[str, Any], stories: int, shots: int) -> str:
    """The report for reading: scores in per cent, a column a kind of film, then the course over the shots."""
    width = max(24, *(len(kind) + 2 for kind in report))
    lines = [f"{stories} held-out stories of {shots} shots; per cent [95 % interval, stories resampled]"]
    lines.append(f"{REAL} is the ceiling: what it lacks of 100 is the probe's own error, or the detector's")
    lines.append("distances: per cent of the spread of real film, 0 is best")
    lines.append(" " * 22 + "".join(f"{kind:>{width}}" for kind in report))
    for dimension, names in next(iter(report.values()))["figures"].items():
        lines.append(dimension)
        for name in names:
            unit = 1 if name.endswith("dB") else 100
            cells = [_cell(column["figures"][dimension][name], unit=unit) for column in report.values()]
            lines.append(f"  {name:<20}" + "".join(f"{cell:>{width}}" for cell in cells))
    lines.append("share of what real film scores")
    for label, (dimension, name) in SHARES.items():
        cells = [_cell(column["of real film"][dimension][name]) for column in report.values()]
        lines.append(f"  {label:<20}" + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join(lines + (_drift(report, shots) if shots > 1 else []))


def _by_shot(scores: Scores, real: Scores, space: FrechetSpace) -> dict[str, Any]:
    """Each score at every shot, and how far a straight line through them rises from the first shot to the last."""
    report = {}
    for key in DRIFT:
        values = scores[key]
        report[key] = {"shots": [interval(values[:, [s]]) for s in range(values.shape[1])], "change": change(values)}
    by_shot, rise = space.change(scores["features"], real["features"])
    return report | {FRECHET: {"shots": by_shot, "change": rise}}


def _drift(report: Mapping[str, Any], shots: int) -> list[str]:
    lines = ["by shot, and the change from the first to the last along a straight line"]
    lines.append(" " * 36 + "".join(f"{shot:>6}" for shot in range(1, shots + 1)) + f"{'change':>22}")
    for name in next(iter(report.values()))["by shot"]:
        lines.append(name)
        for kind, column in report.items():
            course = column["by shot"][name]
            means = "".join(f"{_number(at.mean):>6}" for at in course["shots"])
            lines.append(f"  {kind:<34}{means}{_cell(course['change'], '+'):>22}")
    return lines


def _cell(figure: Interval, sign: str = "", unit: float = 100) -> str:
    if np.isnan(figure.mean):
        return "-"
    mean, low, high = (_number(value, sign, unit) for value in figure)
    return f"{mean} [{low}, {high}]"


def _number(value: float, sign: str = "", unit: float = 100) -> str:
    """With one decimal; per cent unless the unit is another."""
    shown = round(unit * value, 1) + 0.0  # + 0.0: no "-0.0"
    return "-" if np.isnan(value) else f"{shown:{sign}.1f}"
