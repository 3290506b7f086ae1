"""Notebook 07: the angle between two frames, and a phase for long stories."""

import math
from collections.abc import Callable

from shotstream_lite.course.exercises.verdict import NotYet, checker, expect_number, number
from shotstream_lite.rope import SHOT_PHASE

SHOTS = 100


@checker
def check_relative_angle(answer: Callable[[float, int, int, int], float]) -> str:
    """answer(frames_apart, shots_apart, pair, pairs): radians a query is turned against a key, in one temporal pair."""
    for frames, shots, pair, pairs in ((4, 0, 1, 6), (3, 1, 0, 6), (7, 2, 5, 6), (10, 3, 11, 22)):
        frequency = 10000 ** (-pair / pairs)
        wanted = frames * frequency + shots * SHOT_PHASE
        hints = {
            (frames + shots * SHOT_PHASE) * frequency: "the phase is added to the angle, not to the position",
            frames * frequency - shots * SHOT_PHASE: "later shots are turned further, not back",
            frames * frequency: "and the cuts between them?",
            frames * 10000 ** (-2 * pair / pairs) + shots * SHOT_PHASE: "the exponent counts pairs, not channels",
        }
        if pair == 0:
            del hints[(frames + shots * SHOT_PHASE) * frequency]
        shown = f"{frames} frames and {shots} shots apart, pair {pair} of {pairs}"
        expect_number(answer, frames, shots, pair, pairs, wanted=wanted, shown=shown, hints=hints)
    return "the same extra turn at every frequency: no shift of the position does that."


@checker
def check_phase_schedule(answer: Callable[[int], float]) -> str:
    """answer(shots_apart): radians between two shots so far apart, for stories of up to 100 shots.

    One shot apart is what the model knows (1/6); farther shots are never nearer; the six that can be remembered are
    told apart; and no angle passes pi, from where it comes round again.
    """
    angles = [number(answer, n, shown=f"{n} shots apart") for n in range(SHOTS + 1)]
    if abs(angles[0]) > 1e-9:
        raise NotYet(f"for 0 shots apart you give {angles[0]:.4g}: within a shot nothing is turned, write 0")
    if abs(angles[1] - SHOT_PHASE) > 1e-6:
        raise NotYet(f"for 1 shot apart you give {angles[1]:.4g}: the model was trained with 1/6 = {SHOT_PHASE:.4f}")
    for n in range(1, SHOTS + 1):
        if angles[n] > math.pi:
            raise NotYet(
                f"for {n} shots apart you give {angles[n]:.3f}, beyond pi: a shot farther away then looks nearer again"
            )
        if angles[n] < angles[n - 1] - 1e-9:
            raise NotYet(f"for {n} shots apart you give {angles[n]:.3f}, less than {angles[n - 1]:.3f} for {n - 1}")
    for n in range(2, 7):
        if angles[n] - angles[n - 1] < 0.02:
            step = angles[n] - angles[n - 1]
            raise NotYet(f"for {n} shots apart you add only {step:.3f} to {n - 1}: six remembered shots look alike")
    return f"100 shots stay in order, the last at {angles[-1]:.2f} radians."
