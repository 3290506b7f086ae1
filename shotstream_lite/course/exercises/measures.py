"""Notebook 10: what a film without cuts scores, and a metric that no cheat on the list fools."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from shotstream_lite.course.exercises.verdict import NotYet, checker, expect_number, number
from shotstream_lite.toybox.renderer import render
from shotstream_lite.toybox.world import Character, Place, Take, ToyStory

WHO = (0, 1, 0, 1, 1, 0)
"""Who is seen in each shot of the films a metric is tried on."""


@checker
def check_no_cuts(answer: Callable[[int], float]) -> str:
    """answer(shots): the SCA of a film that should have so many equal shots and has not a single cut."""
    for shots in (5, 2, 1, 20):
        wanted = math.exp(-(shots - 1) / shots)
        hints = {
            0.0: "SCA is never 0: exp(-x) is above it",
            math.exp(-(shots - 1)): "a missed cut costs one shot's length, as a share of the film",
            math.exp(-1.0): "a film of n shots has n - 1 cuts to miss",
            1 - (shots - 1) / shots: "that is 1 - NSD; SCA is exp(-NSD)",
        }
        hints = {value: why for value, why in hints.items() if abs(value - wanted) > 1e-4}
        expect_number(answer, shots, wanted=wanted, shown=f"{shots} shots without a cut", hints=hints)
    return "a film that never cuts scores above 0.36, whatever its plan: SCA is a compressed scale."


def trial_films(seed: int) -> dict[str, list[np.ndarray]]:
    """A real film of six shots, medium shots of two friends, and cheats made of it; uint8 [33, 64, 96, 3] a shot."""
    rng = np.random.default_rng(seed)
    looks = ((("ball", "red"), ("box", "blue")), (("cone", "green"), ("ball", "purple")))[seed % 2]
    cast = tuple(Character(*look, hat="beanie", stripe="low") for look in looks)
    place = Place("meadow", (0, 3), "right")
    actions = rng.permutation(("walk_left", "walk_right", "jump") * 2).tolist()
    takes = tuple(Take((who,), place, "medium", actions[i], 0.75, 0.1 * i) for i, who in enumerate(WHO))
    story = ToyStory(cast, "neutral", takes)
    real = [render(story, take) for take in takes]
    still = [shot[:1].repeat(len(shot), axis=0) for shot in real]
    shaken = [np.stack([np.roll(frame, rng.integers(-3, 4, 2), (0, 1)) for frame in shot]) for shot in still]
    return {
        "real film": real,
        "every shot stands still": still,
        "still shots, shaken": shaken,
        "the first shot again and again": [real[0]] * len(real),
        "the two friends mixed up": [real[i] for i in (0, 2, 1, 3, 5, 4)],
    }


@checker
def check_metric(answer: Callable[[Sequence[np.ndarray], Sequence[int]], float]) -> str:
    """answer(shots, who): a number, higher for better films; `who` says who should be seen in each shot.

    Real film must score above every cheat, on every trial.
    """
    least = math.inf
    for seed in range(3):
        films = trial_films(seed)
        scores = {}
        for name, shots in films.items():
            scores[name] = number(answer, shots, list(WHO), shown=f"trial {seed + 1}, {name}")
            if not math.isfinite(scores[name]):
                raise NotYet(f"for trial {seed + 1}, {name}, you give {scores[name]}: a finite number is needed")
        real = scores.pop("real film")
        worst = max(scores, key=scores.get)
        if scores[worst] >= real:
            verb = "does as well as" if scores[worst] == real else "beats"
            raise NotYet(
                f"for trial {seed + 1} a film {verb} the real one ({scores[worst]:.3g} to {real:.3g}): {worst}. "
                f"What should be there that it lacks?"
            )
        least = min(least, real - scores[worst])
    return f"real film leads by at least {least:.3g} of your units. Now invent the cheat that fools your neighbour's."
