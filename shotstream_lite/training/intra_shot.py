"""Distillation by self-forcing: distribution matching on the student's own rollout (paper sec. 3.1, eq. 5).

Within a shot the context comes from ground truth; across shots (`inter_shot`) from the student's own earlier
shots, with the same losses.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from shotstream_lite.cache import ShotCache
from shotstream_lite.dmd import critic_loss, dmd_gradient, dmd_loss, guided
from shotstream_lite.flow import SigmaTable, add_noise, few_step, to_clean
from shotstream_lite.presets import load_text, load_transformer
from shotstream_lite.rollout import Noise, begin_shot, rollout
from shotstream_lite.toybox.dataset import LatentFilms, NextShotBatch, next_shot_batch
from shotstream_lite.training.captions import embed
from shotstream_lite.training.loop import Checkpoint, descend, learning_rate, run_steps, step_generator
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
    steps = rollout(transformer, cache, noise, sigmas, chunks, exit_step=exit_step, clean_sigma=table.sigmas[-1])
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


@dataclass
class IntraShotConfig:
    """How the student is distilled within a shot. Two time-scales as in the paper: five critic updates to one."""

    out: Path
    steps: int = 900  # critic and generator updates together
    batch: int = 8
    lr: float = 4e-5
    critic_lr: float = 1.5e-4
    critic_updates: int = 5  # to each update of the generator
    guidance: float = 1.0  # of the real score, cond + guidance * (cond - uncond); the released 3 burns colours here
    shift: float = 3.0
    chunk: int = 3
    drop_context: float = 0.1
    seed: int = 3


def train_intra_shot(config: IntraShotConfig, films: LatentFilms) -> None:
    """Distils the teacher in `config.out` into the causal-init student on its own rollouts over true history."""
    student = load_transformer(config.out, "causal-init").requires_grad_(True)
    real, fake = load_transformer(config.out, "teacher"), load_transformer(config.out, "teacher").requires_grad_(True)
    text_encoder, tokenizer = load_text(config.out)
    # As released: no momentum, since what the gradient points at moves (betas written as floats for torch).
    optimizer = torch.optim.AdamW(student.parameters(), lr=config.lr, betas=(0.0, 0.999), weight_decay=0.01)
    critic = torch.optim.AdamW(fake.parameters(), lr=config.critic_lr, betas=(0.0, 0.999), weight_decay=0.01)
    table, sigmas = SigmaTable(config.shift), few_step(shift=config.shift)

    def train_step(step: int) -> dict[str, float]:
        generator = step_generator(config.seed, step)
        batch = next_shot_batch(films, config.batch, generator, drop_context=config.drop_context)
        with torch.no_grad():
            captions = embed(text_encoder, tokenizer, batch.captions)
        updates_student = step % (config.critic_updates + 1) == config.critic_updates
        with torch.set_grad_enabled(updates_student):
            shot = rollout_batch(student, batch, captions, sigmas, config.chunk, table, generator)
        scored = {
            "noise": torch.randn(shot.shape, generator=generator),
            "rows": torch.randint(len(table.sigmas), (config.batch,), generator=generator),
            "captions": captions,
            "shot_ids": batch.shot_ids,
            "context": batch.context,
            "caption_ids": batch.caption_ids,
            "table": table,
        }
        if not updates_student:
            loss = fake_score_loss(shot, fake, **scored)
            descend(critic, loss, learning_rate(step, config.steps, config.critic_lr, floor=0.3))
            return {"critic": loss.item(), "std": shot.std().item()}
        uncond = torch.zeros_like(captions[:, :1])
        loss = generator_loss(shot, real, fake, uncond=uncond, guidance=config.guidance, **scored)
        norm = descend(optimizer, loss, learning_rate(step, config.steps, config.lr, floor=0.3))
        return {"generator": loss.item(), "grad_norm": norm}

    checkpoint = Checkpoint(
        config.out / "intra-shot.pt", student=student, fake=fake, optimizer=optimizer, critic=critic
    )
    run_steps(
        "intra-shot",
        config.steps,
        train_step,
        checkpoint,
        on_save=lambda step: student.save_pretrained(config.out / "intra-shot"),
    )


def rollout_batch(
    student: ShotStreamTransformer,
    batch: NextShotBatch,
    captions: Tensor,
    sigmas: Tensor,
    chunk: int,
    table: SigmaTable,
    generator: torch.Generator,
) -> Tensor:
    """The student's own shots for a batch, all stopped at one random step. Shape: [B, C, F, H, W]."""
    frames, remembered = batch.target.shape[2], batch.context.shape[2]
    cache = begin_shot(
        student,
        batch.context,
        batch.shot_ids[:, :remembered],
        batch.shot_ids[:, -1],
        captions,
        frames,
        caption_ids=batch.caption_ids[:, : remembered + 1],
        budget=remembered,
    )
    exit_step = int(torch.randint(len(sigmas), (1,), generator=generator))
    sizes = [min(chunk, frames - start) for start in range(0, frames, chunk)]
    return self_forcing(
        student, cache, lambda shape: torch.randn(shape, generator=generator), sigmas, sizes, exit_step, table
    )
