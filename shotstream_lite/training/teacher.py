"""The bidirectional next-shot teacher: flow matching on [context | noisy target] (paper sec. 4.1)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from shotstream_lite.flow import SigmaTable, add_noise
from shotstream_lite.presets import load_text, load_transformer
from shotstream_lite.toybox.dataset import LatentFilms, next_shot_batch
from shotstream_lite.training.captions import drop_captions, embed
from shotstream_lite.training.loop import Checkpoint, descend, learning_rate, run_steps, step_generator
from shotstream_lite.transformer import ShotStreamTransformer, with_context


def flow_error(flow: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of a predicted flow against ``noise - clean``. Shape: [B, C, F, H, W] to [B]."""
    return (flow.float() - (noise - clean)).square().mean(dim=(1, 2, 3, 4))


def teacher_loss(
    transformer: ShotStreamTransformer,
    target: Tensor,
    noise: Tensor,
    rows: Tensor,
    captions: Tensor,
    shot_ids: Tensor,
    *,
    context: Tensor | None = None,
    caption_ids: Tensor | None = None,
    table: SigmaTable,
) -> Tensor:
    """Weighted flow-matching loss on the target frames; the clean context carries the target's timestep.

    Without context this trains a plain text-to-video model.

    Shape:
        target, noise: [B, C, F, H, W]; context: [B, C, m, H, W]
        rows: [B], rows of `table`; captions: [B, n, text_tokens, text_dim]
        shot_ids, caption_ids: [m + F] or [B, m + F], over [context | target]
        returns: scalar
    """
    rows = rows.cpu()
    seen = with_context(context, add_noise(target, noise, table.sigmas[rows].to(target)))
    flow = transformer.joint(seen, table.timesteps[rows], captions, shot_ids, caption_ids=caption_ids)
    error = flow_error(flow[:, :, -target.shape[2] :], target, noise)
    return (table.weights[rows].to(error) * error).mean()


@dataclass
class TeacherConfig:
    """How the next-shot teacher is trained."""

    out: Path
    steps: int = 3000
    batch: int = 16
    lr: float = 6e-4
    shift: float = 3.0
    drop_context: float = 0.1  # paper supplement; such a shot is told like a first one
    drop_caption: float = 0.1
    trained: Literal["self-attention", "all"] = "self-attention"  # paper Table 3, "only 3D attn" or "full parameters"
    seed: int = 1


def train_teacher(config: TeacherConfig, films: LatentFilms) -> None:
    """Turns the base model in `config.out` into the next-shot teacher."""
    transformer = load_transformer(config.out, "base")
    text_encoder, tokenizer = load_text(config.out)
    trained = transformer.blocks if config.trained == "all" else [block.attn1 for block in transformer.blocks]
    parameters = [p.requires_grad_(True) for module in trained for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, betas=(0.9, 0.99), weight_decay=0.01)
    table = SigmaTable(config.shift, bell=False)

    def train_step(step: int) -> dict[str, float]:
        generator = step_generator(config.seed, step)
        batch = next_shot_batch(films, config.batch, generator, drop_context=config.drop_context)
        with torch.no_grad():
            captions = embed(text_encoder, tokenizer, batch.captions)
        rows = torch.randint(len(table.sigmas), (config.batch,), generator=generator)
        loss = teacher_loss(
            transformer,
            batch.target,
            torch.randn(batch.target.shape, generator=generator),
            rows,
            drop_captions(captions, config.drop_caption, generator),
            batch.shot_ids,
            context=batch.context,
            caption_ids=batch.caption_ids,
            table=table,
        )
        norm = descend(optimizer, loss, learning_rate(step, config.steps, config.lr))
        return {"loss": loss.item(), "grad_norm": norm}

    checkpoint = Checkpoint(config.out / "teacher.pt", transformer=transformer, optimizer=optimizer)
    run_steps(
        "teacher",
        config.steps,
        train_step,
        checkpoint,
        on_save=lambda step: transformer.save_pretrained(config.out / "teacher"),
    )
