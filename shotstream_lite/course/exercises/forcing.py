"""Notebook 08: what a step of self-forcing costs, and teacher forcing in one masked pass."""

from collections.abc import Callable

import torch
from torch import Tensor

from shotstream_lite.course.exercises.verdict import NotYet, ask_for, checker, expect_number


@checker
def check_mean_passes(answer: Callable[[int, int], float]) -> str:
    """answer(chunks, steps): passes of the student in one self-forced shot, on average over the exit step."""
    for chunks, steps in ((3, 4), (7, 4), (1, 1), (5, 2)):
        denoise = chunks * (steps + 1) / 2
        wanted = 1 + denoise + chunks - 1
        hints = {
            1 + chunks * steps + chunks - 1: "a chunk stops at its exit step; all steps are run only in use",
            denoise + chunks - 1: "and the pass that fills the global cache?",
            1 + denoise + chunks: "nobody remembers the last chunk: it has no clean pass",
            1 + chunks * (steps - 1) / 2 + chunks - 1: "exit steps count from 0: step 0 is a pass, too",
            1 + denoise: "and the clean passes?",
        }
        hints = {value: why for value, why in hints.items() if abs(value - wanted) > 1e-4}
        shown = f"{chunks} chunks and {steps} steps"
        expect_number(answer, chunks, steps, wanted=wanted, shown=shown, hints=hints)
    return "only one pass a chunk keeps what its gradient needs: that is what makes it fit."


def teacher_forcing_mask(context_frames: int, frames: int, chunk: int) -> Tensor:
    """Who may look at whom in [context | clean shot | noisy shot]: bool [m + 2 F] squared, rows look at columns."""
    number = torch.arange(frames) // chunk + 1
    when = torch.cat((torch.zeros(context_frames, dtype=torch.long), number, number))
    noisy = torch.arange(len(when)) >= context_frames + frames
    earlier = (when[:, None] > when[None, :]) & ~noisy[None, :]
    return earlier | ((when[:, None] == when[None, :]) & (noisy[:, None] == noisy[None, :]))


@checker
def check_teacher_forcing_mask(answer: Callable[[int, int, int], Tensor]) -> str:
    """answer(context_frames, frames, chunk): the mask of `teacher_forcing_mask`."""
    for context, frames, chunk in ((2, 4, 2), (6, 9, 3), (1, 5, 2), (0, 2, 1)):
        wanted = teacher_forcing_mask(context, frames, chunk)
        shown = f"{context} context frames, {frames} frames and chunks of {chunk}"
        given = ask_for("a mask", torch.as_tensor, answer, context, frames, chunk, shown=shown)
        if given.shape != wanted.shape:
            raise NotYet(
                f"for {shown} your mask is {tuple(given.shape)}: the shot is there twice, {tuple(wanted.shape)}"
            )
        wrong = given.bool() != wanted
        if wrong.any():
            row, column = wrong.nonzero()[0].tolist()
            number = torch.arange(frames) // chunk
            looking, seen = (_named(place, context, frames, number) for place in (row, column))
            may = "may look at" if given[row, column] else "may not look at"
            raise NotYet(f"for {shown} in your mask {looking} {may} {seen}{_why(row, column, context, frames, number)}")
    return "one pass trains all chunks, which is why teacher forcing is cheap. Self-forcing has no such mask: why?"


def _named(place: int, context: int, frames: int, number: Tensor) -> str:
    if place < context:
        return f"context frame {place}"
    kind, frame = divmod(place - context, frames)
    return f"{('clean', 'noisy')[kind]} chunk {int(number[frame]) + 1}"


def _why(row: int, column: int, context: int, frames: int, number: Tensor) -> str:
    """What is wrong with this entry of the mask."""
    if row >= context + frames and context <= column < context + frames:
        if number[row - context - frames] == number[column - context]:
            return ": there it can copy its answer"
        return ": the clean past, and only the past, is what it shall learn from"
    if column >= context + frames:
        return ": nobody but the same chunk looks at a noisy one, and that one at all of itself"
    return ": what is remembered never looks ahead, and sees its own past"
