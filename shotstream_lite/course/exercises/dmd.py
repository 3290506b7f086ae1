"""Notebook 05: the normaliser, and a generator that covers both bumps."""

from collections.abc import Callable

import torch
from torch import Tensor

from shotstream_lite.course.exercises.verdict import NotYet, ask_for, checker
from shotstream_lite.course.plane import two_bumps

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
    if not torch.allclose(torch.as_tensor(answer(real, pred)).flatten().float(), wanted):
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
