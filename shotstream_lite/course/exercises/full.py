"""Notebook 11: how many tokens a shot has, and which parts of a model wait outside the GPU."""

from collections.abc import Callable, Mapping
from itertools import combinations

from shotstream_lite.course.exercises.verdict import NotYet, ask_for, checker, expect_number


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
    return "fit.choose asks the same question, and knows two more ways out: tiles, and layers that come one by one."


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
