"""Flow matching: shifted noise levels, noising, and the way between flow and clean latents (paper sec. 3).

``noisy = (1 - sigma) * clean + sigma * noise`` and ``flow = noise - clean``; sigma is in [0, 1] and the
timestep the network reads is ``1000 * sigma``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

TIMESTEPS = 1000
FEW_STEPS = (1000, 740, 500, 260)
"""The student's four steps before the shift (released configuration, ``denoising_step_list``)."""


def shift_sigmas(sigmas: Tensor, shift: float) -> Tensor:
    """Push noise levels towards 1: ``shift * s / (1 + (shift - 1) * s)``; shift 1 changes nothing."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def euler_sigmas(steps: int, shift: float = 8.0) -> Tensor:
    """Noise levels of an Euler sampler: `steps` values falling from 1, then 0. Shape: [steps + 1]."""
    return shift_sigmas(torch.linspace(1, 0, steps + 1, dtype=torch.float32, device="cpu"), shift)


def few_step(raw: Sequence[int] = FEW_STEPS, shift: float = 8.0) -> Tensor:
    """The student's noise levels, from raw steps (1000 pure noise, 0 clean). Shape: [len(raw)].

    The released list (1000, 740, 500, 260) becomes 1, .958, .889, .738 at shift 8.
    """
    return euler_sigmas(TIMESTEPS, shift)[[TIMESTEPS - step for step in raw]]


class SigmaTable:
    """The 1000 training noise levels: sigma, timestep and loss weight by row, and the look-up by timestep.

    Rows fall from sigma 1; there is no row for 0, so timestep 0 finds the last one (.00794 at shift 8).
    The weights, of mean 1, are the bell around timestep 500 of the released teacher training. It is 0 at both ends: a
    model that still has to learn what captions mean learns it at the noisy end, and weighs all alike (`bell=False`).
    """

    def __init__(self, shift: float = 8.0, bell: bool = True) -> None:
        self.sigmas = euler_sigmas(TIMESTEPS, shift)[:-1]
        self.timesteps = self.sigmas * TIMESTEPS
        curve = torch.ones_like(self.sigmas)
        if bell:
            curve = torch.exp(-2 * ((self.timesteps - TIMESTEPS / 2) / TIMESTEPS) ** 2)
            curve = curve - curve.min()
        self.weights = curve * (TIMESTEPS / curve.sum())

    def nearest(self, timestep: Tensor) -> Tensor:
        """The row whose timestep is nearest, for `timestep` (0..1000) of any shape."""
        distance = self.timesteps.to(timestep.device) - timestep[..., None].float()
        return distance.abs().argmin(dim=-1)

    def sigma(self, timestep: Tensor) -> Tensor:
        """Sigma of the nearest row, of the shape of `timestep`."""
        return self.sigmas.to(timestep.device)[self.nearest(timestep)]


def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """``(1 - sigma) * clean + sigma * noise``. Shape: latents [B, C, F, H, W]; sigma [], [B] or [B, F]."""
    sigma = per_frame(sigma, clean)
    return (1 - sigma) * clean + sigma * noise


def to_clean(noisy: Tensor, flow: Tensor, sigma: Tensor | float) -> Tensor:
    """The clean latents a flow points at, ``noisy - sigma * flow``, in float64 and cast back to `noisy`."""
    return (noisy.double() - per_frame(sigma, noisy).double() * flow.double()).type_as(noisy)


def to_flow(noisy: Tensor, clean: Tensor, sigma: Tensor | float) -> Tensor:
    """The flow that points at `clean`, ``(noisy - clean) / sigma``, in float64 and cast back to `noisy`."""
    return ((noisy.double() - clean.double()) / per_frame(sigma, noisy).double()).type_as(noisy)


def per_frame(value: Tensor | float, latents: Tensor) -> Tensor:
    """A value for all, per sample [B] or per frame [B, F], made to broadcast over [B, C, F, H, W]."""
    if not isinstance(value, Tensor):
        return torch.tensor(value, dtype=torch.float32, device="cpu")
    return value if value.ndim == 0 else value.to(latents.device).view(len(value), 1, -1, 1, 1)
