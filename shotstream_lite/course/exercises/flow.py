"""Notebook 02: the shift turned back, and a better sampler."""

from collections.abc import Callable

import torch
from torch import Tensor

from shotstream_lite.course.exercises.verdict import NotYet, ask, ask_for, checker, expect_number
from shotstream_lite.flow import shift_sigmas


@checker
def check_unshift(answer: Callable[[float, float], float]) -> str:
    """answer(sigma, shift): the noise level that `shift_sigmas` turned into sigma."""
    for raw, shift in ((0.5, 3.0), (0.25, 8.0), (1.0, 8.0), (0.0, 3.0), (0.9, 1.0)):
        sigma = float(shift_sigmas(torch.tensor(raw, dtype=torch.float64), shift))
        hints = {
            shift * sigma / (1 + (shift - 1) * sigma): "you shifted a second time instead of back",
            sigma / shift: "the denominator of the shift matters too",
            sigma / (shift + (shift - 1) * sigma): "look at the sign in your denominator",
        }
        shown = f"sigma {sigma:.4f} and shift {shift:g}"
        expect_number(answer, sigma, shift, wanted=raw, shown=shown, hints=hints)
    return "shifting and your function undo each other."


@checker
def check_heun(answer: Callable[[Callable, Tensor, float, float], Tensor]) -> str:
    """answer(flow, latents, sigma, following): the latents at noise level `following`, by Heun's method.

    `flow(latents, sigma)` is the model.
    """
    start = torch.tensor([[1.0, -0.5, 2.0]], dtype=torch.float64)
    calls: list[tuple[Tensor, float]] = []

    def flow(latents: Tensor, sigma: float) -> Tensor:
        calls.append((latents, float(sigma)))
        return latents * float(sigma)

    shown = "one step from sigma 1 to 0.5 with flow = latents * sigma"
    given = ask_for("a tensor", torch.as_tensor, answer, flow, start, 1.0, 0.5, shown=shown)
    euler = start - 0.5 * flow(start, 1.0)
    heun = start - 0.25 * (flow(start, 1.0) + flow(euler, 0.5))
    if given.shape != start.shape:
        raise NotYet(f"for {shown} you give shape {tuple(given.shape)}, the latents have {tuple(start.shape)}")
    wrong = {
        "that is Euler's step: look again from where it lands, and go by the mean of both flows": euler,
        "both flows are at sigma 1: the second belongs to the level where the step lands": start
        - 0.25 * (flow(start, 1.0) + flow(euler, 1.0)),
        "you walk away from the data: a step is (following - sigma) * flow": start
        + 0.25 * (flow(start, 1.0) + flow(start + 0.5 * flow(start, 1.0), 0.5)),
        "you take the flow where the step lands alone: Heun takes the mean of both ends": start
        - 0.5 * flow(euler, 0.5),
    }
    if not torch.allclose(given.double(), heun, atol=1e-9):
        why = next((why for why, value in wrong.items() if torch.allclose(given.double(), value)), "")
        raise NotYet(f"for {shown} you give {_short(given)}, Heun gives {_short(heun)}" + (f" ({why})" if why else ""))
    errors = []
    for steps in (16, 32):
        latents, levels = start, torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
        for sigma, following in zip(levels[:-1], levels[1:], strict=True):
            latents = ask(answer, flow, latents, sigma, following, shown=f"a step of {steps}")
        errors.append(float((latents - start * torch.tensor(-0.5).exp()).abs().max()))
    ratio = errors[0] / max(errors[1], 1e-12)
    if ratio < 3.2:
        raise NotYet(f"twice the steps make your error {ratio:.1f} times smaller; of second order it would be about 4")
    return f"twice the steps, {ratio:.1f} times less error: second order."


def _short(values: Tensor) -> str:
    return "[" + ", ".join(f"{v:.4f}" for v in values.flatten().tolist()) + "]"
