"""Notebook 09: how an error grows from shot to shot, and a memory that holds on to the beginning."""

from collections.abc import Callable, Sequence

from shotstream_lite.course.exercises.verdict import NotYet, ask_for, checker, expect_number
from shotstream_lite.history import select

SHOTS, BUDGET, LENGTH = 20, 6, 33
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
        hints = {value: why for value, why in hints.items() if abs(value - wanted) > 1e-4}
        shown = f"a fresh error of {fresh:g}, a gain of {gain:g} and shot {shots}"
        expect_number(answer, fresh, gain, shots, wanted=wanted, shown=shown, hints=hints)
    return "below a gain of 1 the error settles, at 1 it grows evenly, above 1 it runs away."


def drift_of(policy: Callable[[Sequence[int], int], Sequence[tuple[int, int]]], shots: int = SHOTS) -> list[float]:
    """Error of every shot in the plainest loop: its own fresh error of 1, and the mean of what it remembers."""
    errors: list[float] = []
    for shot in range(shots):
        picked = policy([LENGTH] * shot, BUDGET) if shot else []
        remembered = [errors[index] for index, _ in picked]
        errors.append(1 + GAIN * (sum(remembered) / len(remembered) if remembered else 0))
    return errors


@checker
def check_anchored(answer: Callable[[Sequence[int], int], Sequence[tuple[int, int]]]) -> str:
    """answer(lengths, budget): (shot, frame) pairs, oldest first, from which twenty shots drift half as much."""

    def policy(lengths: Sequence[int], budget: int) -> list[tuple[int, int]]:
        shown = f"{len(lengths)} earlier shots and a budget of {budget}"
        picked = ask_for("a list of pairs (shot, frame)", _pairs, answer, lengths, budget, shown=shown)
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


def _pairs(given: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(int(shot), int(frame)) for shot, frame in given]
