"""What was measured: scores, their intervals and their course, cuts, memory needed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from shotstream_lite.course.plots.sheet import COLOURS, HATCHES, MARKS, SHOT_TINTS, Sheet, drawn, legend_above, subplots
from shotstream_lite.evaluation.statistics import interval


@drawn
def memory_scorecard(shots: Mapping[str, Mapping[str, bool | None]]) -> Sheet:
    """Which unmentioned attributes came through the cut, shot by shot; None is not to be seen in that shot.

    Args:
        shots: by the name of the shot (or of the run), attribute to right or wrong.
    """
    attributes = list(dict.fromkeys(name for seen in shots.values() for name in seen))
    figure, axis = subplots(figsize=(2.6 + 1.5 * len(shots), 1.0 + 0.62 * len(attributes)))
    looks = {
        True: ("#0072B2", "white", "✓"),
        False: ("#f4d9cc", "#8a3000", "✗"),
        None: ("#f2f2f2", "#777777", "–"),
    }
    for column, seen in enumerate(shots.values()):
        for row, name in enumerate(attributes):
            fill, ink, mark = looks[seen.get(name)]
            axis.add_patch(Rectangle((column, row), 1, 1, fc=fill, ec="white", lw=3))
            axis.text(column + 0.5, row + 0.5, mark, color=ink, ha="center", va="center", fontsize=20)
    axis.set(xlim=(0, len(shots)), ylim=(len(attributes), 0))
    axis.set_xticks(np.arange(len(shots)) + 0.5, list(shots))
    axis.set_yticks(np.arange(len(attributes)) + 0.5, attributes)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


@drawn
def drift(
    curves: Mapping[str, Sequence[Sequence[float]]],
    x: Sequence[float] | None = None,
    xlabel: str = "shot",
    ylabel: str = "quality",
    chance: float | None = None,
) -> Sheet:
    """Quality by shot (or by whatever is turned), mean and 95 % bootstrap interval of many films.

    Args:
        curves: by name, for each place on the x axis the values of all films; chance: what blind guessing would get.
    """
    figure, axis = subplots(figsize=(9, 4.6))
    for number, (name, values) in enumerate(curves.items()):
        where = list(range(1, len(values) + 1)) if x is None else list(x)
        mean, low, high = np.array([_mean_and_interval(v) for v in values]).T
        colour = COLOURS.get(name, list(COLOURS.values())[number % len(COLOURS)])
        errors = (np.maximum(0, mean - low), np.maximum(0, high - mean))
        axis.errorbar(where, mean, errors, color=colour, marker=MARKS[number % 6], ms=8, capsize=4, label=name)
    if chance is not None:
        axis.axhline(chance, color="#555555", ls=":", lw=2, label="blind guess")
    if x is None:  # shots and chunks are counted
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel=xlabel, ylabel=ylabel)
    legend_above(figure, axis)
    return figure


@drawn
def lines(
    x: Sequence[float] | Tensor, curves: Mapping[str, Sequence[float] | Tensor], xlabel: str, ylabel: str
) -> Sheet:
    """Plain curves over one axis, told apart by colour and marker; a later one lies thinner on those before it."""
    figure, axis = subplots(figsize=(9, 4.2))
    every = max(1, len(x) // 10)
    for number, (name, values) in enumerate(curves.items()):
        colour = COLOURS.get(name, list(COLOURS.values())[number % len(COLOURS)])
        wider = 5 * (len(curves) - 1 - number) / len(curves)  # so that curves of one height are all seen
        size = {"lw": 2.5 + wider, "ms": 7 + wider}
        axis.plot(x, values, color=colour, marker=MARKS[number % 6], markevery=every, label=name, **size)
    if all(float(value).is_integer() for value in x):  # shots, chunks and steps are counted
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel=xlabel, ylabel=ylabel)
    legend_above(figure, axis)
    return figure


LOGGED = ("loss", "loss_image", "generator", "critic", "std")


@drawn
def training(logs: Mapping[str, Path]) -> Sheet:
    """What stages logged on the way, a panel a stage: its losses, and how far the student's latents spread.

    Args:
        logs: by the name of the stage, the file STAGE.jsonl of a run folder or training.jsonl of shipped weights.
    """
    figure, axes = subplots(1, len(logs), figsize=(3.6 * len(logs), 3.8), squeeze=False)
    for axis, (stage, path) in zip(axes[0], logs.items(), strict=True):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for name, colour in zip(LOGGED, COLOURS.values(), strict=False):
            told = [(row["step"], row[name]) for row in rows if name in row]
            if told:
                axis.plot(*zip(*told, strict=True), color=colour, label=name)
        axis.set(title=stage, xlabel="step", ylim=(0, None))
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.legend()
    return figure


@drawn
def bars(scores: Mapping[str, Sequence[float]], ylabel: str, chance: float | None = None) -> Sheet:
    """One bar a variant with its 95 % bootstrap interval, over single values of 0..1 or any other unit."""
    figure, axis = subplots(figsize=(max(6, 1.7 * len(scores)), 4.2))
    mean, low, high = np.array([_mean_and_interval(v) for v in scores.values()]).T
    palette = list(COLOURS.values())
    colours = [COLOURS.get(name, palette[i % len(palette)]) for i, name in enumerate(scores)]
    errors = (np.maximum(0, mean - low), np.maximum(0, high - mean))
    axis.bar(range(len(scores)), mean, color=colours, hatch=list(HATCHES[: len(scores)]), ec="white")
    axis.errorbar(range(len(scores)), mean, errors, fmt="none", ecolor="#222222", capsize=6)
    if chance is not None:
        axis.axhline(chance, color="#555555", ls=":", lw=2)
        axis.text(1.01, chance, "blind\nguess", transform=axis.get_yaxis_transform(), va="center", color="#333333")
    axis.set_xticks(range(len(scores)), list(scores))
    axis.set_ylabel(ylabel)
    return figure


@drawn
def score_table(rows: Mapping[str, Mapping[str, float]], reference: str) -> Sheet:
    """Scores of 0..1, a row a kind of film, a column a measure; what reaches the film `reference` is framed.

    nan is not asked and left empty.
    """
    columns = list(rows[reference])
    figure, axis = subplots(figsize=(3.4 + 1.6 * len(columns), 1.2 + 0.55 * len(rows)))
    axis.imshow([list(row.values()) for row in rows.values()], cmap="Blues", vmin=0, vmax=1.4, aspect="auto")
    for line, (name, row) in enumerate(rows.items()):
        for column, (measure, value) in enumerate(row.items()):
            axis.text(column, line, "" if np.isnan(value) else f"{value:.2f}", ha="center", va="center")
            if name != reference and value >= rows[reference][measure]:
                box = Rectangle((column - 0.46, line - 0.42), 0.92, 0.84, fill=False, ec=COLOURS["student"], lw=4)
                axis.add_patch(box)
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), list(rows))
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


@drawn
def compared(
    rows: Mapping[str, Mapping[str, Mapping[str, float | None]]], title: str = "", differences: bool = False
) -> Sheet:
    """Rows of a table as points with their intervals, a column a score; the band is the interval of the first row.

    A hollow point lies outside that band with its whole interval: a difference that can be told from luck.

    Args:
        rows: by name and score {"mean", "low", "high"}; without a mean nothing was asked
        differences: they go to both sides of 0, every score as far as it needs; shares go from 0 to 1
    """
    first, *_ = rows.values()
    figure, axes = subplots(1, len(first), sharey=True, squeeze=False, figsize=(13, 1.7 + 0.42 * len(rows)))
    for axis, name in zip(axes[0], first, strict=True):
        band = first[name]
        given = [abs(scores[name][end] or 0) for scores in rows.values() for end in ("low", "high")]
        reach = max(1, np.ceil(10 * max(given))) / 10
        if band["mean"] is not None:
            axis.axvspan(band["low"], band["high"], color=SHOT_TINTS[0], lw=1.5)  # without width it is still a line
        for place, scores in enumerate(rows.values()):
            score = scores[name]
            if score["mean"] is None:
                continue
            apart = score["low"] > band["high"] or score["high"] < band["low"]
            look = {"color": COLOURS["student" if apart else "global cache"], "mfc": "white" if apart else None}
            around = [[score["mean"] - score["low"]], [score["high"] - score["mean"]]]
            axis.errorbar(score["mean"], place, xerr=around, fmt="o", ms=9, capsize=4, **look)
        axis.set_title(name)
        low, high = (-reach, reach) if differences else (0, 1)
        margin = 0.03 * (high - low)
        axis.set_xlim(low - margin, high + margin)
        axis.set_xticks([low, (low + high) / 2, high], [f"{low:g}", "0" if differences else "", f"{high:g}"])
        axis.grid(axis="y", color="#eeeeee")
    axes[0, 0].set_yticks(range(len(rows)), list(rows))
    axes[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure


@drawn
def cuts(planned: Sequence[int], found: Sequence[int], frames: int, title: str) -> Sheet:
    """A film as a bar, the planned cuts above and the found ones below; frames are counted from 0."""
    figure, axis = subplots(figsize=(11, 2.4))
    axis.add_patch(Rectangle((0, 0), frames, 1, fc="#eeeeee", ec="none"))
    axis.vlines(planned, 0.5, 1, color=COLOURS["global cache"], lw=6)
    axis.vlines(found, 0, 0.5, color=COLOURS["student"], lw=6, ls=(0, (0.6, 0.3)))
    axis.set(xlim=(0, frames), ylim=(0, 1), xlabel="frame")
    axis.set_yticks([0.25, 0.75], ["found", "planned"])
    axis.set_title(title, loc="left")
    return figure


@drawn
def memory(needs: Mapping[str, Mapping[str, float]], free: float | None = None) -> Sheet:
    """What models or ways to place one take: a bar each, a colour a part, in GiB; `free` is what there is."""
    figure, axis = subplots(figsize=(11, 2.2 + 0.6 * len(needs)))
    parts = list(dict.fromkeys(part for need in needs.values() for part in need))
    palette = list(COLOURS.values())
    left = np.zeros(len(needs))
    for i, part in enumerate(parts):
        sizes = np.array([need.get(part, 0.0) for need in needs.values()])
        look = {"color": palette[i % len(palette)], "hatch": HATCHES[i % len(HATCHES)]}
        axis.barh(range(len(needs)), sizes, left=left, ec="white", label=part, **look)
        left += sizes
    for row, total in enumerate(left):
        axis.text(total, row, f" {total:.3g}", va="center")
    if free is not None:
        axis.axvline(free, color="#222222", ls=":", label="free now")
    axis.set(xlabel="GiB", xlim=(0, 1.12 * max(*left, free or 0)))
    axis.set_yticks(range(len(needs)), list(needs))
    axis.invert_yaxis()
    legend_above(figure, axis)
    return figure


def _mean_and_interval(values: Sequence[float]) -> tuple[float, float, float]:
    return tuple(interval(np.asarray(values, dtype=float)[:, None]))
