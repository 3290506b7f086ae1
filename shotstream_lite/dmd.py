"""Distribution matching: the gradient, the generator's loss, the critic's loss (paper sec. 3.1, eq. 5).

Formulas only, on clean latents [B, C, F, H, W] as the score models predict them (released
model/dmd_frameconcat.py).
"""

import torch
from torch import Tensor

from shotstream_lite.flow import to_flow


def guided(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """``cond + scale * (cond - uncond)``, as released: scale 3 is guidance 4 in the usual convention."""
    return cond + scale * (cond - uncond)


def dmd_normalizer(pred_x0: Tensor, real_x0: Tensor) -> Tensor:
    """Mean distance of each sample from what the real score sees in it. Shape: [B, 1, 1, 1, 1]."""
    return (pred_x0 - real_x0).abs().mean(dim=(1, 2, 3, 4), keepdim=True)


def dmd_gradient(fake_x0: Tensor, real_x0: Tensor, pred_x0: Tensor) -> Tensor:
    """Direction from the data to the generator's distribution, ``(fake - real) / normalizer``, nan made 0."""
    return torch.nan_to_num((fake_x0 - real_x0) / dmd_normalizer(pred_x0, real_x0))


def dmd_loss(pred_x0: Tensor, grad: Tensor) -> Tensor:
    """``0.5 * mean((x - stopgrad(x - grad))^2)`` in float64; its derivative by x is ``grad / numel``."""
    target = (pred_x0.double() - grad.double()).detach()
    return 0.5 * (pred_x0.double() - target).square().mean()


def critic_loss(fake_x0: Tensor, noisy: Tensor, sigma: Tensor, generated: Tensor, noise: Tensor) -> Tensor:
    """Flow-matching loss of the fake score on generated latents, without timestep weight.

    Shape: fake_x0, noisy, generated, noise [B, C, F, H, W]; sigma scalar or [B].
    """
    return (to_flow(noisy, fake_x0, sigma) - (noise - generated)).square().mean()
