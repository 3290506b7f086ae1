"""Notebook 12: from which frame on a wish holds, and a director who keeps to a script."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from shotstream_lite.course.exercises.verdict import NotYet, ask_for, checker, expect_number

PIECES = (1, 8, 12, 12)  # frames a piece of a shot of three chunks


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
        """As `Take.turn`."""
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
            start = next((start for start in (0, 9, 21) if start >= frame), None)
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
