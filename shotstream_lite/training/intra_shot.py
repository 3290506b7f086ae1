"""Distillation by self-forcing: distribution matching on the student's own rollout (paper sec. 3.1, eq. 5).

Within a shot the context comes from ground truth; across shots (`inter_shot`) from the student's own earlier
shots, with the same losses.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from shotstream_lite.cache import ShotCache
from shotstream_lite.dmd import critic_loss, dmd_gradient, dmd_loss, guided
from shotstream_lite.flow import SigmaTable, add_noise, to_clean
from shotstream_lite.rollout import Noise, rollout
from shotstream_lite.transformer import ShotStreamTransformer, with_context


def self_forcing(
    transformer: ShotStreamTransformer,
    cache: ShotCache,
    noise: Noise,
    sigmas: Tensor,
    chunks: Iterable[int],
    exit_step: int,
    table: SigmaTable,
) -> Tensor:
    """A whole shot by the student's own rollout, every chunk stopped at `exit_step`.

    The same rollout as inference, but for the noise of the table's last row (.00794) on the clean pass.
    Gradient, if enabled, flows through the exit steps. Shape: [B, C, F, H, W].
    """
    steps = rollout(
        transformer, cache, noise, sigmas, chunks, exit_step=exit_step, clean_sigma=table.sigmas[-1]
    )
    return torch.cat(list(steps), dim=2)


def score_level(rows: Tensor, table: SigmaTable) -> tuple[Tensor, Tensor]:
    """Timestep (kept in 20..980) and sigma at which the scores look at a shot. Shape: rows [B] to two [B]."""
    timestep = table.timesteps[rows.cpu()].clamp(20, 980)
    return timestep, table.sigma(timestep)


def score(
    transformer: ShotStreamTransformer,
    noisy: Tensor,
    level: tuple[Tensor, Tensor],
    captions: Tensor,
    shot_ids: Tensor,
    caption_ids: Tensor | None = None,
) -> Tensor:
    """What a bidirectional model thinks clean; all frames, the clean context too, carry the same timestep.

    Shape: noisy [B, C, m + F, H, W], context first; level: timestep and sigma [B]; returns: like noisy
    """
    timestep, sigma = level
    flow = transformer.joint(noisy, timestep.to(noisy.device), captions, shot_ids, caption_ids=caption_ids)
    return to_clean(noisy, flow, sigma.to(noisy.device))


def generator_loss(
    generated: Tensor,
    real: ShotStreamTransformer,
    fake: ShotStreamTransformer,
    noise: Tensor,
    rows: Tensor,
    captions: Tensor,
    uncond: Tensor,
    shot_ids: Tensor,
    *,
    context: Tensor | None = None,
    caption_ids: Tensor | None = None,
    guidance: float = 3.0,
    table: SigmaTable,
) -> Tensor:
    """The distribution-matching loss of a generated shot; no gradient enters the two scores.

    Shape:
        generated, noise: [B, C, F, H, W]; context: [B, C, m, H, W], the one the student had
        rows: [B], rows of `table`
        captions: [B, n, text_tokens, text_dim]; uncond: [B, 1, text_tokens, text_dim]
        shot_ids, caption_ids: over [context | shot]
        guidance: of the real score, ``cond + guidance * (cond - uncond)``
        returns: scalar, float64
    """
    with torch.no_grad():
        level = score_level(rows, table)
        noisy = with_context(context, add_noise(generated, noise, level[1].to(generated.device)))
        fake_x0 = score(fake, noisy, level, captions, shot_ids, caption_ids)
        real_x0 = guided(
            score(real, noisy, level, captions, shot_ids, caption_ids),
            score(real, noisy, level, uncond, shot_ids),
            guidance,
        )
        shot = slice(-generated.shape[2], None)
        grad = dmd_gradient(fake_x0[:, :, shot], real_x0[:, :, shot], generated)
    return dmd_loss(generated, grad)


def fake_score_loss(
    generated: Tensor,
    fake: ShotStreamTransformer,
    noise: Tensor,
    rows: Tensor,
    captions: Tensor,
    shot_ids: Tensor,
    *,
    context: Tensor | None = None,
    caption_ids: Tensor | None = None,
    table: SigmaTable,
) -> Tensor:
    """The critic's loss on a generated shot: plain flow matching, no gradient to the generator.

    Shape: as in `generator_loss`; returns a scalar.
    """
    generated = generated.detach()
    level = score_level(rows, table)
    sigma = level[1].to(generated.device)
    noisy = add_noise(generated, noise, sigma)
    fake_x0 = score(fake, with_context(context, noisy), level, captions, shot_ids, caption_ids)
    return critic_loss(fake_x0[:, :, -generated.shape[2] :], noisy, sigma, generated, noise)
