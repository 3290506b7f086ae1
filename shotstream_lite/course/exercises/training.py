"""Exercises of the notebooks 05, 08, 09 and 13: distribution matching, self-forcing, drift, the method whole."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor

from shotstream_lite.course.exercises.verdict import NotYet, ask, ask_for, checker, expect_number, pairs
from shotstream_lite.course.plane import two_bumps
from shotstream_lite.history import select

STEPS, POINTS = 400, 300


@checker
def check_normaliser(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """answer(pred_x0, real_x0): what each sample's gradient is divided by, [B, 1, 1, 1, 1]."""
    pred = torch.zeros(2, 2, 1, 1, 2)
    real = torch.tensor([1.0, -1.0, 1.0, -1.0, 10.0, 20.0, -10.0, 0.0]).view(2, 2, 1, 1, 2)
    shown = "two samples whose distances to the teacher are (1, 1, 1, 1) and (10, 20, 10, 0)"
    given = ask_for("a tensor", torch.as_tensor, answer, pred, real, shown=shown).float()
    wanted = torch.tensor([1.0, 10.0])
    if given.numel() == 1:
        raise NotYet(f"for {shown} you give one number, {float(given):.4g}: each sample has its own, here 1 and 10")
    if given.shape != (2, 1, 1, 1, 1):
        raise NotYet(f"for {shown} you give shape {tuple(given.shape)}: keep the dimensions, (2, 1, 1, 1, 1) divides")
    if not torch.allclose(given.flatten(), wanted):
        got = [round(v, 3) for v in given.flatten().tolist()]
        hint = "the mean of the distances, not their sum or root mean square, and without sign"
        raise NotYet(f"for {shown} you give {got}, it is [1.0, 10.0]: {hint}")
    back = ask_for("a tensor", torch.as_tensor, answer, real, pred, shown="prediction and teacher exchanged").float()
    if back.shape != given.shape or not torch.allclose(back, given):
        raise NotYet("with prediction and teacher exchanged you give something else: a distance has no direction")
    return "each sample is measured by its own distance to the teacher."


@checker
def check_particle_step(answer: Callable[[Tensor, float, Tensor, Callable], Tensor]) -> str:
    """answer(points, sigma, noise, teacher): the points after one update; `teacher(noisy, sigma)` is what it sees.

    All points begin on one bump, and shall end as the data does: 70 % left, 30 % right, as wide as the bumps.
    """
    data = two_bumps(left=0.7)
    generator = torch.Generator().manual_seed(0)
    points = data.centres[1] + 0.3 * torch.randn(POINTS, 2, generator=generator)
    for step in range(STEPS):
        sigma = float(torch.rand((), generator=generator) * 0.95 + 0.02)
        noise = torch.randn(POINTS, 2, generator=generator)
        shown = f"update {step + 1} at sigma {sigma:.2f}"
        moved = ask_for("a tensor", torch.as_tensor, answer, points, sigma, noise, data.clean, shown=shown)
        if moved.shape != points.shape or not torch.isfinite(moved).all():
            raise NotYet(f"at {shown} your points have shape {tuple(moved.shape)} or are not finite")
        points = moved.detach()
        if points.abs().max() > 20:
            raise NotYet(
                f"at {shown} a point is {float(points.abs().max()):.0f} away from the middle: is the sign right?"
            )
    side = data.nearest(points)
    left = float((side == 0).float().mean())
    widths = [float((points[side == i] - data.centres[i]).std()) for i in (0, 1) if (side == i).sum() > 1]
    width = sum(widths) / len(widths)
    if width < 0.12:
        raise NotYet(
            f"after {STEPS} updates from a start on the right bump the points of a bump are {width:.2f} wide, the data "
            f"0.30: all run to the middle. Who keeps them apart?"
        )
    if width > 0.6:
        raise NotYet(f"after {STEPS} updates the points of a bump are {width:.2f} wide, the data 0.30: smaller steps?")
    if abs(left - 0.7) > 0.2:
        why = "who keeps them from all going to the larger bump?" if left > 0.7 else "do they hear of the other bump?"
        raise NotYet(
            f"after {STEPS} updates from a start on the right bump {left:.0%} of the points are left, "
            f"70% should be: {why}"
        )
    return f"{left:.0%} of the points went left (70% of the data are there), {width:.2f} wide (the data 0.30)."


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
        shown = f"{chunks} chunks and {steps} steps"
        expect_number(answer, chunks, steps, wanted=wanted, shown=shown, hints=hints)
    return "only one pass a chunk keeps what its gradient needs: that is what makes it fit."


@checker
def check_update_passes(answer: Callable[[int, int, int], float]) -> str:
    """answer(critic_updates, chunks, steps): passes of all models for one update of the student, on average."""
    for updates, chunks, steps in ((5, 7, 4), (3, 2, 2), (0, 3, 4), (1, 1, 1)):
        rollout = 1 + chunks * (steps + 1) / 2 + chunks - 1
        wanted = (updates + 1) * rollout + updates + 3
        hints = {
            updates * rollout + updates + 3: "the student's own update needs a rollout, too",
            rollout + updates + 3: "each update of the critic has a rollout of its own",
            (updates + 1) * (rollout + 1) + updates + 3: "nobody reads the last chunk's clean pass",
            (updates + 1) * (rollout - 1) + updates + 3: "and the pass over the context?",
            (updates + 1) * rollout + updates + 2: "the teacher is asked twice, the critic once",
            (updates + 1) * rollout: "and the passes of teacher and critic?",
            (updates + 1) * (chunks * (steps + 1) + chunks) + updates + 3: "a chunk stops at its exit step",
        }
        shown = f"{updates} critic updates, {chunks} chunks and {steps} steps"
        expect_number(answer, updates, chunks, steps, wanted=wanted, shown=shown, hints=hints)
    return "most of the work is the student's own: self-forcing pays for what use will show it."


@checker
def check_rollout_stream(answer: Callable[..., Iterable]) -> str:
    """answer(denoise, clean, chunks): a generator of films, each handed out before `clean` has written it."""
    shown, done = "a thousand chunks, of which three are asked for", []

    def denoise(chunk: int) -> str:
        done.append(f"denoise {chunk}")
        if chunk > 2:
            raise NotYet(f"for {shown} you make a fourth: a generator makes a chunk when it is asked for")
        return f"film {chunk}"

    def clean(film: str) -> None:
        done.append(f"clean {film}")

    def three() -> list:
        return list(islice(answer(denoise, clean, range(1000)), 3))

    films = ask(three, shown=shown)
    if films != ["film 0", "film 1", "film 2"]:
        raise NotYet(f"for {shown} you give {films!r:.80}: yield what `denoise` returns, in order")
    wanted = ["denoise 0", "clean film 0", "denoise 1", "clean film 1", "denoise 2"]
    if done != wanted:
        why = "the third is cleaned before it is handed out" if len(done) > 5 else "each is cleaned before the next"
        raise NotYet(f"for {shown} you do {', '.join(done)}; it is {', '.join(wanted)}: {why}")
    return "the viewer waits for no clean pass, and the last one is never made."


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


SHOTS, BUDGET, LENGTH = 20, 6, 45
GAIN = 1.0  # of the loop in which policies are tried: what is remembered wrong is told just as wrong


@checker
def check_error_after(answer: Callable[[float, float, int], float]) -> str:
    """answer(fresh, gain, shots): the error of shot number `shots` (from 1), each shot remembering the one before."""
    for fresh, gain, shots in ((1.0, 0.5, 3), (2.0, 1.0, 20), (1.5, 0.9, 20), (1.0, 1.2, 5), (1.0, 0.5, 1)):
        wanted = fresh * sum(gain**i for i in range(shots))
        hints = {
            fresh * gain**shots: "that only carries the first error on; every shot adds its own",
            fresh * shots: "and the gain?",
            fresh * sum(gain**i for i in range(shots + 1)): "that is one shot too many: shot 1 has only its own error",
            fresh * gain * shots: "an old error passes through the gain once for every shot since",
        }
        if gain < 1:
            hints[fresh / (1 - gain)] = "that is where it settles after endlessly many shots"
        shown = f"a fresh error of {fresh:g}, a gain of {gain:g} and shot {shots}"
        expect_number(answer, fresh, gain, shots, wanted=wanted, shown=shown, hints=hints)
    return "below a gain of 1 the error settles, at 1 it grows evenly, above 1 it runs away."


def drift_of(policy: Callable[[Sequence[int], int], Sequence[tuple[int, int]]]) -> list[float]:
    """Error of every shot in the plainest loop: its own fresh error of 1, and the mean of what it remembers."""
    errors: list[float] = []
    for shot in range(SHOTS):
        picked = policy([LENGTH] * shot, BUDGET) if shot else []
        remembered = [errors[index] for index, _ in picked]
        errors.append(1 + GAIN * (sum(remembered) / len(remembered) if remembered else 0))
    return errors


@checker
def check_anchored(answer: Callable[[Sequence[int], int], Sequence[tuple[int, int]]]) -> str:
    """answer(lengths, budget): (shot, frame) pairs, oldest first, from which twenty shots drift half as much."""

    def policy(lengths: Sequence[int], budget: int) -> list[tuple[int, int]]:
        shown = f"{len(lengths)} earlier shots and a budget of {budget}"
        picked = ask_for("a list of pairs (shot, frame)", pairs, answer, lengths, budget, shown=shown)
        if not 1 <= len(picked) <= budget:
            raise NotYet(f"for {shown} you keep {len(picked)} frames: keep 1 to {budget}")
        if any(not (0 <= shot < len(lengths) and 0 <= frame < lengths[shot]) for shot, frame in picked):
            raise NotYet(f"for {shown} you give {picked}: shot and frame count from 0, and both must be there")
        if picked != sorted(picked):
            raise NotYet(f"for {shown} you give {picked}: oldest first, or the model takes old for new")
        if all(shot != len(lengths) - 1 for shot, _ in picked):
            raise NotYet(f"for {shown} nothing of the newest shot is kept: the next could not go on from it")
        return picked

    mine, theirs = drift_of(policy)[-1], drift_of(select)[-1]
    if mine > theirs / 2:
        raise NotYet(
            f"after {SHOTS} shots the error is {mine:.1f}, with dynamic sampling {theirs:.1f}: reach half. "
            f"Which shot has the smallest error of all, and who remembers it?"
        )
    return f"after {SHOTS} shots the error is {mine:.1f}, with dynamic sampling {theirs:.1f}. Who is forgotten instead?"
