"""Causal initialisation: the student regresses the teacher's ODE trajectories (paper supplement sec. 9).

One masked joint pass over [context | shot] stands for the chunk-by-chunk rollout: a chunk sees the context,
the chunks before it and itself, and has its own noise level.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from shotstream_lite.conditioning import Conditioning
from shotstream_lite.flow import TIMESTEPS, SigmaTable, add_noise, few_step, to_clean
from shotstream_lite.training.ablations.baselines import LearntCut
from shotstream_lite.training.batches import Films, FrozenText, NextShotBatch, step_batch
from shotstream_lite.training.config import StudentConfig
from shotstream_lite.training.draws import Draws
from shotstream_lite.training.loop import Run
from shotstream_lite.training.ode_pairs import draw_pairs, find_pairs
from shotstream_lite.training.samples import Strips
from shotstream_lite.training.weights import initial_model, save_model, text_of
from shotstream_lite.transformer import ShotStreamTransformer, causal_mask


def chunk_levels(levels: Tensor, chunk: int) -> Tensor:
    """Every frame of a chunk takes the level drawn for its first frame. Shape: [B, F] to [B, F]."""
    frames = torch.arange(levels.shape[1], device=levels.device)
    return levels[:, frames // chunk * chunk]


def at_levels(trajectory: Tensor, levels: Tensor) -> Tensor:
    """Each frame of a trajectory at its own level.

    Shape: trajectory [B, S, C, F, H, W], levels [B, F], returns [B, C, F, H, W]
    """
    batch, frames = levels.shape
    rows, columns = torch.arange(batch, device="cpu")[:, None], torch.arange(frames, device="cpu")[None, :]
    return trajectory.transpose(2, 3)[rows, levels.cpu(), columns].transpose(1, 2)


def frame_timesteps(levels: Tensor, sigmas: Tensor, context_frames: int) -> Tensor:
    """Timesteps over [context | shot]; the student's context is at 0. Shape: [B, F] to [B, m + F]."""
    timesteps = (sigmas * TIMESTEPS).to(levels.device)[levels]
    return torch.cat((timesteps.new_zeros(len(levels), context_frames), timesteps), dim=1)


def frame_error(pred_x0: Tensor, clean: Tensor) -> Tensor:
    """Mean squared error of each frame. Shape: [B, C, F, H, W] to [B, F]."""
    return (pred_x0 - clean).square().mean(dim=(1, 3, 4))


def causal_init_loss(
    transformer: ShotStreamTransformer,
    trajectory: Tensor,
    levels: Tensor,
    sigmas: Tensor,
    cond: Conditioning,
    table: SigmaTable,
    chunk: int = 3,
    frames: Tensor | None = None,
) -> Tensor:
    """Regression of the clean end of the trajectory from one of its states, over the frames that are noisy.

    Shape:
        trajectory: [B, S, C, F, H, W], the teacher's latents at `sigmas`, the last of them clean
        levels: [B, F] which state a frame is at, drawn per frame; a chunk uses the one of its first frame
        sigmas: [S], falling, the last 0 (``few_step((1000, 740, 500, 260, 0))``)
        table: a flow becomes clean latents with the sigma of its nearest row
        frames: the number of noisy frames to divide by, where this is a part of a batch; None: those that are here
        returns: scalar
    """
    levels, mask = chunk_levels(levels, chunk), causal_mask(cond.remembered, levels.shape[1], chunk)
    latents, timestep = at_levels(trajectory, levels), frame_timesteps(levels, sigmas, cond.remembered)
    flow = cond.flow(transformer, latents, timestep, mask=mask)
    timestep = timestep[:, cond.remembered :]
    error = frame_error(to_clean(latents, flow, table.sigma(timestep)), trajectory[:, -1])
    noisy = (timestep > 0).to(error)
    return (error * noisy).sum() / (noisy.sum() if frames is None else frames).clamp(min=1)


@dataclass(kw_only=True)
class CausalInitConfig(StudentConfig):
    """How the causal student is initialised."""

    steps: int = 800
    lr: float = 2e-4
    trajectories: Literal["film", "teacher"] = "film"  # real shots noised, or the teacher's from `train ode-pairs`
    seed: int = 2


def train_causal_init(config: CausalInitConfig, films: Films) -> None:
    """Turns the teacher in `config.out` into a causal student that is right in outline and blurred in detail.

    The paper regresses the ends of the teacher's ODE paths (`--trajectories teacher`, after `shotstream train
    ode-pairs`). By default a path is a real shot at the student's noise levels: regression gives the mean of what may
    follow either way, and fifty guided teacher steps a shot are saved.
    """
    run = Run("causal-init", config)
    transformer = initial_model(config, "causal-init", "teacher")
    teacher = transformer if config.start is None else None
    pairs = find_pairs(config, teacher) if config.trajectories == "teacher" else None
    transformer = run.trained(LearntCut.of(config, transformer), shard=config.shard)
    text = run.frozen(FrozenText(*text_of(config), config.text_tokens))
    optimizer = run.optimizer(transformer)
    table = SigmaTable(config.shift)
    sigmas = few_step((*config.student_steps, 0), config.shift)

    def drawn(draws: Draws) -> tuple[NextShotBatch, Tensor, Tensor]:
        if pairs:
            batch, trajectory = draw_pairs(pairs, draws)
        else:
            batch = step_batch(films, draws, config)
            noise = draws.normal(*batch.target.shape[1:])
            trajectory = torch.stack([add_noise(batch.target, noise, sigma) for sigma in sigmas], dim=1)
        return batch, trajectory, draws.index(len(sigmas), trajectory.shape[3])

    def train_step(step: int) -> dict[str, float]:
        parts = [drawn(draws) for draws in run.draws(step).split(config.accumulate)]
        noisy = sum((sigmas[chunk_levels(levels, config.chunk)] > 0).sum() for *_, levels in parts)
        frames = run.accelerator.reduce(noisy.float().to(run.device), "mean")

        def loss_on(batch: NextShotBatch, trajectory: Tensor, levels: Tensor) -> Tensor:
            cond = batch.conditioning(text(batch.captions), config.phase)
            return causal_init_loss(transformer, trajectory, levels, sigmas, cond, table, config.chunk, frames)

        loss, norm = run.descend(optimizer, (loss_on(*part) for part in parts), step)
        return {"loss": loss, "grad_norm": norm}

    run.steps(
        train_step,
        lambda: save_model(transformer, config.out / "causal-init", run.main, config),
        Strips(run, transformer, text, config, films),
        transformer=transformer,
        optimizer=optimizer,
    )
