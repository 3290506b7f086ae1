"""Causal initialisation: the student regresses the teacher's ODE trajectories (paper supplement sec. 9).

One masked joint pass over [context | shot] stands for the chunk-by-chunk rollout: a chunk sees the context,
the chunks before it and itself, and has its own noise level.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from shotstream_lite.flow import FEW_STEPS, TIMESTEPS, SigmaTable, add_noise, few_step, to_clean
from shotstream_lite.presets import load_text, load_transformer
from shotstream_lite.toybox.dataset import LatentFilms, next_shot_batch
from shotstream_lite.training.captions import embed
from shotstream_lite.training.loop import Checkpoint, descend, learning_rate, run_steps, step_generator
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


@dataclass
class CausalInitConfig:
    """How the causal student is initialised."""

    out: Path
    steps: int = 800
    batch: int = 16
    lr: float = 2e-4
    shift: float = 3.0
    chunk: int = 3
    drop_context: float = 0.1
    seed: int = 2


def train_causal_init(config: CausalInitConfig, films: LatentFilms) -> None:
    """Turns the teacher in `config.out` into a causal student that is right in outline and blurred in detail.

    A trajectory here is a real shot at the student's noise levels, not a teacher's ODE path as in the paper: regression
    gives the mean of what may follow either way, and fifty guided teacher steps a shot are saved.
    """
    transformer = load_transformer(config.out, "teacher").requires_grad_(True)
    text_encoder, tokenizer = load_text(config.out)
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=0.01)
    table = SigmaTable(config.shift)
    sigmas = few_step((*FEW_STEPS, 0), config.shift)

    def train_step(step: int) -> dict[str, float]:
        generator = step_generator(config.seed, step)
        batch = next_shot_batch(films, config.batch, generator, drop_context=config.drop_context)
        with torch.no_grad():
            captions = embed(text_encoder, tokenizer, batch.captions)
        noise = torch.randn(batch.target.shape, generator=generator)
        trajectory = torch.stack([add_noise(batch.target, noise, sigma) for sigma in sigmas], dim=1)
        loss = causal_init_loss(
            transformer,
            trajectory,
            torch.randint(len(sigmas), (config.batch, batch.target.shape[2]), generator=generator),
            sigmas,
            captions,
            batch.shot_ids,
            context=batch.context,
            chunk=config.chunk,
            caption_ids=batch.caption_ids,
            table=table,
        )
        norm = descend(optimizer, loss, learning_rate(step, config.steps, config.lr))
        return {"loss": loss.item(), "grad_norm": norm}

    checkpoint = Checkpoint(config.out / "causal-init.pt", transformer=transformer, optimizer=optimizer)
    run_steps(
        "causal-init",
        config.steps,
        train_step,
        checkpoint,
        on_save=lambda step: transformer.save_pretrained(config.out / "causal-init"),
    )
