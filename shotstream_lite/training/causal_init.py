"""Causal initialisation: the student regresses the teacher's ODE trajectories (paper supplement sec. 9).

One masked joint pass over [context | shot] stands for the chunk-by-chunk rollout: a chunk sees the context,
the chunks before it and itself, and has its own noise level.
"""

import torch
from torch import Tensor

from shotstream_lite.flow import TIMESTEPS, SigmaTable, to_clean
from shotstream_lite.transformer import ShotStreamTransformer, causal_mask, with_context


def chunk_levels(levels: Tensor, chunk: int) -> Tensor:
    """Every frame of a chunk takes the level drawn for its first frame. Shape: [B, F] to [B, F]."""
    frames = torch.arange(levels.shape[1], device=levels.device)
    return levels[:, frames // chunk * chunk]


def at_levels(trajectory: Tensor, levels: Tensor) -> Tensor:
    """Each frame of a trajectory at its own level.

    Shape: trajectory [B, S, C, F, H, W], levels [B, F], returns [B, C, F, H, W]
    """
    batch, frames = levels.shape
    rows, columns = torch.arange(batch)[:, None], torch.arange(frames)[None, :]
    return trajectory.transpose(2, 3)[rows, levels.cpu(), columns].transpose(1, 2)


def frame_timesteps(levels: Tensor, sigmas: Tensor, context_frames: int) -> Tensor:
    """Timesteps over [context | shot]; the student's context is at 0. Shape: [B, F] to [B, m + F]."""
    timesteps = (sigmas * TIMESTEPS).to(levels.device)[levels]
    return torch.cat((timesteps.new_zeros(len(levels), context_frames), timesteps), dim=1)


def predict_clean(
    transformer: ShotStreamTransformer,
    latents: Tensor,
    timestep: Tensor,
    captions: Tensor,
    shot_ids: Tensor,
    *,
    context_frames: int,
    chunk: int,
    caption_ids: Tensor | None = None,
    table: SigmaTable,
) -> Tensor:
    """Clean latents of all frames from one masked joint pass; sigma is that of the table's nearest row.

    Shape:
        latents: [B, C, m + F, H, W], context first; timestep: [B, m + F]; returns: like latents
    """
    mask = causal_mask(context_frames, latents.shape[2] - context_frames, chunk)
    flow = transformer.joint(latents, timestep, captions, shot_ids, caption_ids=caption_ids, mask=mask)
    return to_clean(latents, flow, table.sigma(timestep))


def frame_error(pred_x0: Tensor, clean: Tensor) -> Tensor:
    """Mean squared error of each frame. Shape: [B, C, F, H, W] to [B, F]."""
    return (pred_x0 - clean).square().mean(dim=(1, 3, 4))


def causal_init_loss(
    transformer: ShotStreamTransformer,
    trajectory: Tensor,
    levels: Tensor,
    sigmas: Tensor,
    captions: Tensor,
    shot_ids: Tensor,
    *,
    context: Tensor | None = None,
    chunk: int = 3,
    caption_ids: Tensor | None = None,
    table: SigmaTable,
) -> Tensor:
    """Regression of the clean end of the trajectory from one of its states, over the frames that are noisy.

    Shape:
        trajectory: [B, S, C, F, H, W], the teacher's latents at `sigmas`, the last of them clean
        levels: [B, F] which state a frame is at, drawn per frame; a chunk uses the one of its first frame
        sigmas: [S], falling, the last 0 (``few_step((1000, 740, 500, 260, 0))``)
        context: [B, C, m, H, W]; shot_ids, caption_ids: over [context | shot]
        returns: scalar
    """
    context_frames = 0 if context is None else context.shape[2]
    levels = chunk_levels(levels, chunk)
    timestep = frame_timesteps(levels, sigmas, context_frames)
    clean = predict_clean(
        transformer,
        with_context(context, at_levels(trajectory, levels)),
        timestep,
        captions,
        shot_ids,
        context_frames=context_frames,
        chunk=chunk,
        caption_ids=caption_ids,
        table=table,
    )
    error = frame_error(clean[:, :, context_frames:], trajectory[:, -1])
    noisy = (timestep[:, context_frames:] > 0).to(error)
    return (error * noisy).sum() / noisy.sum().clamp(min=1)
