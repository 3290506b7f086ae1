"""Exercises of the notebooks 10 to 12: measures, the full model, a live take."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from shotstream_lite.course.exercises.verdict import NotYet, ask_for, checker, expect_number, number
from shotstream_lite.course.scenes import drawn_film
from shotstream_lite.toybox.world import MARKS, Character, Place, Take, ToyStory

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
        expect_number(answer, shots, wanted=wanted, shown=f"{shots} shots without a cut", hints=hints)
    return "a film that never cuts scores above 0.36, whatever its plan: SCA is a compressed scale."


def trial_films(seed: int) -> dict[str, list[np.ndarray]]:
    """A real film of six shots, medium shots of two friends, and cheats made of it; uint8 [45, 128, 224, 3] a shot."""
    rng = np.random.default_rng(seed)
    looks = ((("ball", "red"), ("box", "blue")), (("cone", "green"), ("ball", "purple")))[seed % 2]
    cast = tuple(Character(*look, hat="beanie", stripe="low", emblem="dot") for look in looks)
    place = Place("meadow", (0, 3), "right", far="house", flag="down")
    actions = rng.permutation(("walk_left", "walk_right", "jump") * 2).tolist()
    takes = [Take((cast[who],), place, "medium", actions[i], "none", MARKS[1]) for i, who in enumerate(WHO)]
    real = drawn_film(ToyStory(cast, place.setting, "neutral", tuple(takes)))
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
        shown = {name: f"trial {seed + 1}, {name}," for name in films}
        scores = {name: number(answer, shots, list(WHO), shown=shown[name]) for name, shots in films.items()}
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


@checker
def check_tokens(answer: Callable[[int, int, int], int]) -> str:
    """answer(height, width, frames): tokens of a shot in Wan: 8 pixels a latent, 2 latents a patch, 1 + 4k frames."""
    for height, width, frames in ((16, 16, 1), (480, 832, 81), (720, 1280, 121)):
        area, latents = (height // 16) * (width // 16), (frames - 1) // 4 + 1
        hints = {
            area * 4 * latents: "a patch is 2 by 2 latents",
            area * frames: "four pixel frames share a latent, but for the first",
            area * (frames / 4): "the first frame has a latent of its own",
            area * (frames // 4): "the first frame has a latent of its own",
            area: "that is one latent frame",
            height * width * frames: "those are pixels",
        }
        shown = f"{height} x {width} pixels and {frames} frames"
        expect_number(answer, height, width, frames, wanted=area * latents, shown=shown, hints=hints)
    return "all that grows with the picture, caches, attention and decoding, grows from here."


@checker
def check_waiting(answer: Callable[[Mapping[str, float], float, float], set[str]]) -> str:
    """answer(parts, working, free): names of the parts that wait on the CPU and visit the GPU one at a time.

    What stays, and the larger of `working` (taken while frames are made) and the largest visitor, must fit into `free`.
    As little as possible is to wait, counted in its size.
    """
    full = {"transformer": 2.7, "codec": 0.3, "text encoder": 10.6}
    cases = ((full, 7.0, 40.0), (full, 7.0, 14.0), (full, 3.0, 12.0), ({"a": 4, "b": 5, "c": 6}, 2.0, 12.0))
    for parts, working, free in cases:
        shown = f"parts {dict(parts)}, {working} to work with and {free} free"
        given = ask_for("a set of names", set, answer, parts, working, free, shown=shown)
        if strange := given - set(parts):
            raise NotYet(f"for {shown} you let {sorted(strange, key=str)} wait: give names of the parts")
        taken, wanted = peak(parts, working, given), waiting(parts, working, free)
        if taken > free:
            raise NotYet(f"for {shown} you let {sorted(given) or 'nothing'} wait: that takes {taken:g}, too much")
        least, mine = (sum(parts[name] for name in names) for names in (wanted, given))
        if mine > least + 1e-9:
            raise NotYet(f"for {shown} you let {sorted(given)} wait, {mine:g} in all: {sorted(wanted)} is enough")
    return (
        "placement.choose asks the same question, and knows two more ways out: tiles, and layers that come one by one."
    )


def peak(parts: Mapping[str, float], working: float, wait: set[str]) -> float:
    """What is on the GPU at once, at most."""
    return sum(size for name, size in parts.items() if name not in wait) + max(
        [working, *(parts[name] for name in wait)]
    )


def waiting(parts: Mapping[str, float], working: float, free: float) -> set[str]:
    """The smallest parts that must wait. Raises ValueError if none will do."""
    sets = [set(names) for count in range(len(parts) + 1) for names in combinations(parts, count)]
    fitting = [names for names in sets if peak(parts, working, names) <= free]
    return min(fitting, key=lambda names: sum(parts[name] for name in names))


PIECES = (1, 8, 12, 12, 12)  # frames of each piece of a shot of four chunks


@checker
def check_turn_frame(answer: Callable[[int, int], int]) -> str:
    """answer(made, chunk): the first frame with a new caption, wished for when `made` frames are handed out."""
    for made, chunk in ((1, 3), (9, 3), (10, 3), (21, 3), (33, 3), (6, 1), (18, 5)):
        unit = 4 * chunk
        wanted = -(-(made + 3) // unit) * unit - 3
        hints = {
            made: "the chunk in the making is not made anew: its end has to come first",
            -(-made // unit) * unit: "the first latent is one frame, not four, so chunks end 3 frames earlier",
            wanted + unit: "a chunk that is just through is not made twice: the wish holds at once",
            wanted - unit: "the chunk in the making keeps its caption",
            wanted + 3: "the first latent is one frame, not four",
            wanted + 1: "frames are counted from 0",
        }
        shown = f"{made} frames handed out and chunks of {chunk} latents"
        expect_number(answer, made, chunk, wanted=wanted, shown=shown, hints=hints)
    return "a wish waits for one chunk at most, whatever the length of the shot."


class Rehearsal(Iterator[np.ndarray]):
    """What a director needs of a take, without a model: every frame shows the number of the caption it was made from.

    Attributes: heard: (frame, caption) as they were taken up.
    """

    def __init__(self) -> None:
        self.frames_made, self.heard = 0, []
        self._wanted: str | None = None
        self._pieces = iter(PIECES)

    def turn(self, caption: str) -> None:
        """As `Making.turn`."""
        self._wanted = str(caption)

    def __next__(self) -> np.ndarray:
        length = next(self._pieces)
        if self._wanted is not None and self.frames_made != 1:  # frames 0 to 8 are one chunk
            self.heard.append((self.frames_made, self._wanted))
            self._wanted = None
        self.frames_made += length
        return np.full((length, 2, 2, 3), len(self.heard), np.uint8)


@checker
def check_director(answer: Callable[[Rehearsal, Mapping[int, str]], np.ndarray]) -> str:
    """answer(take, script): the film, uint8 [f, H, W, 3]; script: caption by the frame it is to hold from, if it can.

    Every caption holds from the first chunk that begins at its frame or later; of several for one chunk, the last.
    """
    scripts = ({}, {9: "waves"}, {21: "spins"}, {9: "waves", 21: "spins"}, {10: "jumps"}, {3: "waves", 5: "spins"})
    for script in scripts:
        take, shown = Rehearsal(), f"the script {script}"
        film = ask_for("a film", np.asarray, answer, take, dict(script), shown=shown)
        if film.shape != (sum(PIECES), 2, 2, 3):
            raise NotYet(f"for {shown} your film has shape {film.shape}, the take makes {(sum(PIECES), 2, 2, 3)}")
        wanted: dict[int, str] = {}
        for frame, caption in sorted(script.items()):
            start = next((start for start in (0, 9, 21, 33) if start >= frame), None)
            if start is not None:
                wanted[start] = caption
        if take.heard != list(wanted.items()):
            hint = _hint(take.heard, list(wanted.items()))
            raise NotYet(f"for {shown} the model heard {take.heard}, wanted is {list(wanted.items())}: {hint}")
    return "replace the rehearsal by session.next_shot(...), and direct."


def _hint(heard: list[tuple[int, str]], wanted: list[tuple[int, str]]) -> str:
    if not heard:
        return "call take.turn(caption) while the take runs"
    if len(heard) > len(wanted):
        return "give each wish once"
    if [caption for _, caption in heard] == [caption for _, caption in wanted]:
        early = heard[0][0] < wanted[0][0] or heard[-1][0] < wanted[-1][0]
        return "that is too early: wait until the chunk before is handed out" if early else "that is a chunk too late"
    return "of wishes for one chunk the last one counts, and none may be lost"
