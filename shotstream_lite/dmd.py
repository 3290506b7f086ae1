"""Distribution matching: the gradient, the generator's loss, the critic's loss (paper sec. 3.1, eq. 5).

First the formulas, on clean latents [B, C, F, H, W] as the score models predict them (released
model/dmd_frameconcat.py); then the two losses of a generated shot.
"""

import torch
from torch import Tensor

from shotstream_lite.conditioning import Conditioning
from shotstream_lite.flow import SigmaTable, add_noise, to_clean, to_flow
from shotstream_lite.transformer import ShotStreamTransformer


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


def score_level(rows: Tensor, table: SigmaTable) -> tuple[Tensor, Tensor]:
    """Timestep (kept in 20..980) and sigma at which the scores look at a shot. Shape: rows [B] to two [B]."""
    timestep = table.timesteps[rows.cpu()].clamp(20, 980)
    return timestep, table.sigma(timestep)


def score(
    transformer: ShotStreamTransformer, noisy: Tensor, level: tuple[Tensor, Tensor], cond: Conditioning
) -> Tensor:
    """What a bidirectional model thinks clean; all frames, the clean context too, carry the same timestep.

    Shape: noisy [B, C, F, H, W]; level: timestep and sigma [B]; returns: like noisy
    """
    timestep, sigma = (t.to(noisy.device) for t in level)
    return to_clean(noisy, cond.flow(transformer, noisy, timestep), sigma)


def generator_loss(
    generated: Tensor,
    real: ShotStreamTransformer,
    fake: ShotStreamTransformer,
    noise: Tensor,
    rows: Tensor,
    cond: Conditioning,
    uncond: Conditioning,
    *,
    guidance: float = 3.0,
    memory_guidance: float = 0.0,
    table: SigmaTable,
) -> Tensor:
    """The distribution-matching loss of a generated shot; no gradient enters the two scores.

    Shape:
        generated, noise: [B, C, F, H, W]; rows: [B], rows of `table`
        cond: with the context the student had; uncond: `cond.unconditional()`
        guidance: of the real score, ``cond + guidance * (cond - uncond)``
        memory_guidance: the same away from a score that sees no history; not in the paper, where it is 0
        returns: scalar, float64
    """
    with torch.no_grad():
        level = score_level(rows, table)
        noisy = add_noise(generated, noise, level[1].to(generated.device))
        fake_x0, cond_x0 = score(fake, noisy, level, cond), score(real, noisy, level, cond)
        real_x0 = guided(cond_x0, score(real, noisy, level, uncond), guidance)
        if memory_guidance and cond.remembered:
            real_x0 = real_x0 + memory_guidance * (cond_x0 - score(real, noisy, level, cond.without_history()))
        grad = dmd_gradient(fake_x0, real_x0, generated)
    return dmd_loss(generated, grad)


def fake_score_loss(
    generated: Tensor, fake: ShotStreamTransformer, noise: Tensor, rows: Tensor, cond: Conditioning, table: SigmaTable
) -> Tensor:
    """The critic's loss on a generated shot: plain flow matching, no gradient to the generator.

    Shape: as in `generator_loss`; returns a scalar.
    """
    generated, level = generated.detach(), score_level(rows, table)
    sigma = level[1].to(generated.device)
    noisy = add_noise(generated, noise, sigma)
    return critic_loss(score(fake, noisy, level, cond), noisy, sigma, generated, noise)
