"""The memory a stage takes on each process, counted on the meta device before anything is loaded."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from shotstream_lite.dmd import fake_score_loss, generator_loss
from shotstream_lite.flow import SigmaTable, few_step
from shotstream_lite.models.configs import read_config
from shotstream_lite.models.convert import outline
from shotstream_lite.models.folder import build_text_encoder, cast
from shotstream_lite.models.memory import GIB, LiveBytes
from shotstream_lite.rollout import begin_shot, chunk_sizes
from shotstream_lite.training.batches import Films, shortest
from shotstream_lite.training.causal_init import CausalInitConfig, causal_init_loss
from shotstream_lite.training.config import NextShotConfig
from shotstream_lite.training.inter_shot import InterShotConfig
from shotstream_lite.training.intra_shot import DistillationConfig, self_forcing
from shotstream_lite.training.teacher import TeacherConfig, teacher_loss
from shotstream_lite.training.weights import add_lora, folder_with, initial_weights
from shotstream_lite.transformer import adopt

BEFORE = {TeacherConfig: ("teacher", "base"), CausalInitConfig: ("causal-init", "teacher")}


@dataclass(frozen=True)
class TrainingNeed:
    """Bytes on each process: of weights, of gradients and optimizer, and of what the largest update keeps meanwhile."""

    weights: int
    learning: int
    update: int

    @property
    def total(self) -> int:
        return self.weights + self.learning + self.update

    def line(self, stage: str) -> str:
        """For people."""
        parts = {"weights": self.weights, "gradients and optimizer": self.learning, "an update": self.update}
        sizes = ", ".join(f"{part} {size / GIB:.1f}" for part, size in parts.items())
        return f"{stage} needs about {self.total / GIB:.1f} GiB on each process ({sizes})"


def count_training(config: NextShotConfig, films: Films, processes: int | None = None) -> TrainingNeed:
    """What teacher or student take while they are trained.

    Not counted: kernels' workspaces, and the codec where a stage decodes. Raises CheckpointError if a part is missing.
    """
    processes = processes or int(os.environ.get("WORLD_SIZE", 1))
    shards = processes if processes > 1 and (torch.cuda.is_available() if config.shard is None else config.shard) else 1
    samples = max(1, config.batch // processes // config.accumulate)
    if isinstance(config, (TeacherConfig, CausalInitConfig)):
        home = initial_weights(config, *BEFORE[type(config)])
    else:
        stage = "inter-shot" if isinstance(config, InterShotConfig) else "intra-shot"
        home = initial_weights(config, stage, getattr(config, "begin", "causal-init"))
    model = _Model(config, read_config(home[0] / home[1] / "config.json", "transformer"))
    with torch.device("meta"):
        text = build_text_encoder(
            read_config(folder_with(config, "text_encoder") / "text_encoder" / "config.json", "text_encoder")
        )
    text_bytes = 4 * sum(p.numel() for p in text.parameters())
    update = max(loss_bytes(model, config, films, samples) for loss_bytes in _updates(config))
    models = 3 if isinstance(config, DistillationConfig) else 1
    learners = 2 if isinstance(config, DistillationConfig) else 1
    weights, learning = models * model.weights // shards + text_bytes, learners * 3 * model.learning // shards
    whole = model.weights if shards > 1 else 0  # a split model is gathered while it computes
    casts = model.weights // 2 if config.precision == "bf16" else 0  # kept for the backward pass
    if getattr(config, "text", False):
        learning += 3 * text_bytes
    return TrainingNeed(weights, learning, update + whole + casts)


class _Model:
    """An outline of the transformer as it computes; the bytes of its float32 weights and of those that learn."""

    def __init__(self, config: NextShotConfig, description: dict) -> None:
        self.transformer = adopt(outline(description)).train().requires_grad_(False)
        self.weights = 4 * sum(p.numel() for p in self.transformer.parameters())
        learns = [self.transformer]
        if isinstance(config, InterShotConfig):
            with torch.device("meta"):
                learns = add_lora(self.transformer, config)
        elif isinstance(config, TeacherConfig) and config.trained == "self-attention":
            learns = [block.attn1 for block in self.transformer.blocks]
        for module in learns:
            module.requires_grad_(True)
        parameters = [p for p in self.transformer.parameters() if p.requires_grad]
        self.learning = 4 * sum(p.numel() for p in parameters)
        for parameter in parameters:  # gradients are counted by themselves
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        if config.checkpointing:
            self.transformer.enable_gradient_checkpointing()
        if config.precision == "bf16":
            cast(self.transformer, torch.bfloat16)


class _Kernel(torch.autograd.Function):
    """What a fused attention kernel keeps for its backward pass: what it was given and what it made."""

    @staticmethod
    def forward(ctx, *inputs: Tensor) -> Tensor:
        out = torch.empty_like(inputs[0])
        ctx.save_for_backward(*inputs, out)
        return out

    @staticmethod
    def backward(ctx, _: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(saved) for saved in ctx.saved_tensors[:3])


@contextmanager
def _counted() -> Iterator[LiveBytes]:
    """`LiveBytes` that knows attention in a backward pass too, where a mode of torch's functions does not reach."""
    kernel = F.scaled_dot_product_attention

    def attention(query: Tensor, *rest: Tensor, **options) -> Tensor:
        return _Kernel.apply(query, *rest[:2]) if query.is_meta else kernel(query, *rest, **options)

    F.scaled_dot_product_attention = attention
    try:
        with LiveBytes() as bytes_:
            yield bytes_
    finally:
        F.scaled_dot_product_attention = kernel


def _updates(config: NextShotConfig) -> list:
    if isinstance(config, TeacherConfig):
        return [_teacher]
    return [_causal_init] if isinstance(config, CausalInitConfig) else [_student, _critic]


def _teacher(model: _Model, config: TeacherConfig, films: Films, samples: int) -> int:
    told = _told(model, config, films, samples)
    with _counted() as bytes_:
        loss = teacher_loss(model.transformer, *told.shots(2), told.rows, told.captions, told.ids, **told.options)
        loss.backward()
        return bytes_.peak


def _causal_init(model: _Model, config: CausalInitConfig, films: Films, samples: int) -> int:
    told, sigmas = _told(model, config, films, samples), few_step((*config.student_steps, 0), config.shift)
    levels = torch.zeros(samples, told.frames, dtype=torch.long)
    with _counted() as bytes_:
        path = torch.stack([*told.shots(len(sigmas))], dim=1)
        arguments = (path, levels, sigmas, told.captions, told.ids)
        causal_init_loss(model.transformer, *arguments, chunk=config.chunk, **told.options).backward()
        return bytes_.peak


def _student(model: _Model, config: DistillationConfig, films: Films, samples: int) -> int:
    told = _told(model, config, films, samples)
    with _counted() as bytes_:
        shots, (noise,) = _rolled(model, config, told), told.shots(1)
        scores = (model.transformer, model.transformer, noise, told.rows, told.captions, told.captions[:, :1], told.ids)
        generator_loss(shots, *scores, **told.options).backward()
        return bytes_.peak


def _critic(model: _Model, config: DistillationConfig, films: Films, samples: int) -> int:
    told = _told(model, config, films, samples)
    with _counted() as bytes_:
        with torch.no_grad():
            shots = _rolled(model, config, told)
        arguments = (*told.shots(1), told.rows, told.captions, told.ids)
        fake_score_loss(shots, model.transformer, *arguments, **told.options).backward()
        return bytes_.peak


def _rolled(model: _Model, config: DistillationConfig, told: "_Told") -> Tensor:
    cache = begin_shot(
        model.transformer,
        told.context,
        told.ids[:, : config.budget],
        told.ids[:, -1],
        told.captions,
        told.frames,
        caption_ids=told.ids[:, : config.budget + 1],
        budget=config.budget,
    )
    sigmas, chunks = few_step(config.student_steps, config.shift), chunk_sizes(told.frames, config.chunk)
    noise = lambda shape: torch.empty(shape, device="meta")  # noqa: E731
    return self_forcing(model.transformer, cache, noise, sigmas, chunks, len(sigmas) - 1, told.table)


class _Told:
    """A batch without content, of the films' size."""

    def __init__(self, config: NextShotConfig, films: Films, samples: int, text_dim: int) -> None:
        channels, _, *size = films.clip(0, 0).shape
        self.frames = max(config.lengths, default=shortest(films))
        self.shape = (samples, channels, self.frames, *size)
        self.context = torch.empty(samples, channels, config.budget, *size, device="meta")
        self.captions = torch.empty(samples, 2, config.text_tokens, text_dim, device="meta")
        self.ids = torch.tensor([0] * config.budget + [1] * self.frames).expand(samples, -1)
        self.rows, self.table = torch.zeros(samples, dtype=torch.long), SigmaTable(config.shift)
        self.options = {"context": self.context, "caption_ids": self.ids, "table": self.table}

    def shots(self, number: int) -> list[Tensor]:
        return [torch.empty(self.shape, device="meta") for _ in range(number)]


def _told(model: _Model, config: NextShotConfig, films: Films, samples: int) -> _Told:
    return _Told(config, films, samples, model.transformer.config.text_dim)
