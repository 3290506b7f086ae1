"""What the probe reads in a film against what was asked, and against what the film itself showed before."""

from collections.abc import Iterable

import numpy as np

from shotstream_lite.evaluation.films import Film
from shotstream_lite.toybox.probe import SAID, UNSAID, Probe, truth

Scores = dict[str, list[float]]
"""For every question one entry a shot: 1 right, 0 wrong."""


def prompt_following(films: Iterable[Film], probe: Probe) -> tuple[Scores, Scores]:
    """Reads every shot once.

    Returns:
        said: is what the caption asked for there (paper: text alignment); "character" is shape and colour together.
        carried: does an unmentioned attribute equal what the probe read when the same character (hat, stripe) or place
        (landmarks, sun) was last seen, or in the shot before (tint)? Only where there was a last time.
    """
    said: Scores = {name: [] for name in (*SAID, "character")}
    carried: Scores = {name: [] for name in UNSAID}
    for film in films:
        seen: dict[tuple, int] = {}
        for take, shot in zip(film.story.takes, film.shots, strict=True):
            asked, read = truth(film.story, take), probe.read(shot)
            for name in SAID:
                said[name].append(float(read[name] == asked[name]))
            said["character"].append(said["shape"][-1] * said["colour"][-1])
            owner = {"hat": take.subjects[0], "stripe": take.subjects[0], "tint": "light"}
            for name in UNSAID:
                key = (name, owner.get(name, take.place.setting))
                if key in seen:
                    carried[name].append(float(read[name] == seen[key]))
                seen[key] = read[name]
    return said, carried


def interval(values: list[float], draws: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """Mean and its 95 % bootstrap interval."""
    if not values:
        return float("nan"), float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = rng.choice(values, (draws, len(values))).mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(np.mean(values)), float(low), float(high)


def table(columns: dict[str, tuple[Scores, Scores]]) -> str:
    """Text table: a row a question, a column a kind of film, in per cent with intervals."""
    lines = ["question          " + "".join(f"{name:>22}" for name in columns)]
    for part, title in ((0, "said in captions"), (1, "carried across cuts, never said")):
        lines.append(title)
        for name in next(iter(columns.values()))[part]:
            cells = []
            for scores in columns.values():
                mean, low, high = interval(scores[part][name])
                cells.append(f"{100 * mean:5.1f} [{100 * low:5.1f}, {100 * high:5.1f}]".rjust(22))
            lines.append(f"  {name:<16}" + "".join(cells))
    return "\n".join(lines)
