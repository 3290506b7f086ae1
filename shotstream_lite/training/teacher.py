"""The bidirectional next-shot teacher: flow matching on [context | noisy target] (paper sec. 4.1)."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from shotstream_lite.conditioning import Conditioning
from shotstream_lite.flow import SigmaTable, add_noise
from shotstream_lite.training.ablations.baselines import ChannelConcat
from shotstream_lite.training.align import aligned, fading
from shotstream_lite.training.batches import Films, FrozenText, drop_captions, embed, step_batch
from shotstream_lite.training.config import NextShotConfig
from shotstream_lite.training.draws import Draws
from shotstream_lite.training.loop import Run
from shotstream_lite.training.samples import Strips
from shotstream_lite.training.weights import initial_model, save_model, save_text, text_of
from shotstream_lite.transformer import ShotStreamTransformer


def flow_error(flow: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of a predicted flow against ``noise - clean``. Shape: [B, C, F, H, W] to [B]."""
    return (flow.float() - (noise - clean)).square().mean(dim=(1, 2, 3, 4))


def teacher_loss(
    transformer: ShotStreamTransformer,
    target: Tensor,
    noise: Tensor,
    rows: Tensor,
    cond: Conditioning,
    table: SigmaTable,
) -> Tensor:
    """Weighted flow-matching loss on the target frames; the clean context carries the target's timestep.

    Without context this trains a plain text-to-video model.

    Shape: target, noise [B, C, F, H, W]; rows [B], rows of `table`; returns a scalar
    """
    rows = rows.cpu()
    noisy = add_noise(target, noise, table.sigmas[rows].to(target))
    error = flow_error(cond.flow(transformer, noisy, table.timesteps[rows]), target, noise)
    return (table.weights[rows].to(error) * error).mean()


def looks_loss(
    transformer: ShotStreamTransformer,
    looks: Tensor,
    noise: Tensor,
    rows: Tensor,
    cond: Conditioning,
    table: SigmaTable,
) -> Tensor:
    """Flow matching on single frames of a shot that share one memory: what to remember is learnt at a fraction of a
    shot's cost. (Not in the paper, whose teacher begins with a model that knows what things look like.)

    They do not see each other, each has its own noise level, and all stand where the shot's first frame does. The
    context sees none of them and is clean, so its timestep is 0, as in the student's global cache.

    Shape: looks, noise [B, C, k, H, W]; rows [B, k]; all else as in `teacher_loss` with k frames
    """
    rows, remembered, count = rows.cpu(), cond.remembered, looks.shape[2]
    noisy = add_noise(looks, noise, table.sigmas[rows].to(looks))
    own = torch.eye(remembered + count, dtype=torch.bool, device="cpu")
    own[:, :remembered] = True
    timesteps = torch.cat([torch.zeros(len(rows), remembered, device="cpu"), table.timesteps[rows]], dim=1)
    positions = torch.tensor([*range(remembered), *[remembered] * count], device="cpu")
    flow = cond.flow(transformer, noisy, timesteps, mask=own, positions=positions)
    error = (flow.float() - (noise - looks)).square().mean(dim=(1, 3, 4))
    return (table.weights[rows].to(error) * error).mean()


OTHERS = 10**9  # steps from here on are drawn for what is learnt along


@dataclass(kw_only=True)
class TeacherConfig(NextShotConfig):
    """How the next-shot teacher is trained."""

    steps: int = 3000
    lr: float = 6e-4
    image_batch: int = 0  # memories of which single frames are learnt along, see `looks_loss`
    looks: int = 4  # frames of each
    drop_caption: float = 0.1  # as released; guidance needs the unconditional case
    bell: bool = False  # weigh noise levels as released; 0 at the noisy end, where a new model learns captions
    trained: Literal["self-attention", "all"] = "self-attention"  # paper Table 3, "only 3D attn" or "full parameters"
    text: bool = False  # the text encoder learns along; for one that is as young as the model
    align: float = 0.0  # as in `BaseConfig`
    align_steps: int = 0
    injection: Literal["frame", "channel"] = "frame"  # how context is given (Table 3): as frames, or as channels
    seed: int = 1


def train_teacher(config: TeacherConfig, films: Films) -> None:
    """Turns the base model in `config.out` into the next-shot teacher."""
    run = Run("teacher", config)
    transformer = initial_model(config, "teacher", "base")
    if config.injection == "channel":
        transformer = ChannelConcat.of(transformer, config.budget)
    attention = [block.attn1 for block in transformer.blocks]
    if config.injection == "channel":  # the entrance of the new channels has to learn as well
        attention.append(transformer.patch_embedding)
    run.trained(transformer, attention if config.trained == "self-attention" else None, config.shard)
    text_encoder, tokenizer = text_of(config)
    text_encoder = run.trained(text_encoder) if config.text else run.frozen(text_encoder)
    align = aligned(run, transformer, films)
    optimizer = run.optimizer(transformer, text_encoder, plain=align)
    table = SigmaTable(config.shift, bell=config.bell)

    def losses_on(draws: Draws, looks: int = 0) -> list[Tensor]:
        """What the flow loses and, where it is asked for, what is seen."""
        batch = step_batch(films, draws, config, looks)
        captions = embed(text_encoder, tokenizer, batch.captions, config.text_tokens)
        flow = (looks_loss if looks else teacher_loss)(
            transformer,
            batch.target,
            draws.normal(*batch.target.shape[1:]),
            draws.index(len(table.sigmas), *[looks] * bool(looks)),
            batch.conditioning(drop_captions(captions, config.drop_caption, draws), config.phase),
            table,
        )
        return [flow, *(heads.loss(batch.origins, config.budget) for heads in align)]

    def train_step(step: int) -> dict[str, float]:
        sorts = {"loss": (run.draws(step), 0)}
        if config.image_batch:
            sorts["loss_image"] = run.draws(OTHERS + step, config.image_batch), config.looks
        metrics: dict[str, float] = defaultdict(float)

        def losses() -> Iterator[Tensor]:
            for name, (whole, looks) in sorts.items():
                for draws in whole.split(config.accumulate):
                    share = len(draws) / len(whole)
                    loss, *seen = losses_on(draws, looks)
                    metrics[name] += share * loss.item()
                    for extra in seen:
                        metrics[f"{name}_seen"] += share * extra.item()
                        loss = loss + config.align * fading(step, config.align_steps) * extra
                    yield share * loss

        _, norm = run.descend(optimizer, losses(), step)
        return metrics | {"grad_norm": norm}

    def save() -> None:
        save_model(transformer, config.out / "teacher", run.main, config)
        if config.text:
            save_text(text_encoder, tokenizer, config.out, run.main)

    text = FrozenText(text_encoder, tokenizer, config.text_tokens)
    strips = Strips(run, transformer, text, config, films)
    parts = ({"text_encoder": text_encoder} if config.text else {}) | ({"align": align[0]} if align else {})
    run.steps(train_step, save, strips, transformer=transformer, optimizer=optimizer, **parts)
