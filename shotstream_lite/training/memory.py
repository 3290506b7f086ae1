"""The memory a stage takes on each process, counted on the meta device before anything is loaded."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shotstream_lite.codec import Codec
from shotstream_lite.conditioning import Conditioning
from shotstream_lite.dmd import fake_score_loss, generator_loss
from shotstream_lite.flow import SigmaTable, euler_sigmas, few_step
from shotstream_lite.models.configs import read_config
from shotstream_lite.models.convert import outline
from shotstream_lite.models.folder import build_text_encoder, cast
from shotstream_lite.models.memory import GIB, LiveBytes, outline_codec
from shotstream_lite.rollout import begin_shot, chunk_sizes, joint_states
from shotstream_lite.training.batches import Films, shortest
from shotstream_lite.training.causal_init import CausalInitConfig, causal_init_loss
from shotstream_lite.training.config import NextShot
from shotstream_lite.training.inter_shot import InterShotConfig
from shotstream_lite.training.intra_shot import DistillationConfig, IntraShotConfig, self_forcing
from shotstream_lite.training.ode_pairs import OdePairsConfig
from shotstream_lite.training.teacher import TeacherConfig, teacher_loss
from shotstream_lite.training.weights import add_lora, folder_with, initial_weights
from shotstream_lite.transformer import adopt

BEFORE = {
    TeacherConfig: ("teacher", "base"),
    OdePairsConfig: ("teacher", "teacher"),
    CausalInitConfig: ("causal-init", "teacher"),
    IntraShotConfig: ("intra-shot", "causal-init"),
}
"""What a stage starts from, as in `initial_weights`."""
CARD = 80 * 10**9  # bytes of the GPU that is planned for where there is none


@dataclass(frozen=True)
class TrainingNeed:
    """Bytes on each process: of weights, of gradients and optimizer, and of what the largest update keeps meanwhile."""

    weights: int
    learning: int
    update: int

    @property
    def total(self) -> int:
        return self.weights + self.learning + self.update

    def __str__(self) -> str:
        parts = {"weights": self.weights, "gradients and optimizer": self.learning, "an update": self.update}
        sizes = ", ".join(f"{part} {size / GIB:.1f}" for part, size in parts.items())
        return f"needs about {self.total / GIB:.1f} GiB on each process ({sizes})"


def what_it_takes(config: NextShot, films: Films, processes: int | None = None, card: int | None = None) -> str:
    """In words: `count_training`, whether a GPU of `card` bytes (by default the one there is, or CARD) has it, and if
    not, the least change of options that helps. Raises CheckpointError."""
    if processes is None:  # pairs are made by each
        processes = 1 if isinstance(config, OdePairsConfig) else int(os.environ.get("WORLD_SIZE", 1))
    need, gpu = count_training(config, films, processes), torch.cuda.is_available()
    card = card or (torch.cuda.mem_get_info()[1] if gpu else CARD)
    if need.total <= 0.95 * card:
        return f"{need}" if gpu else f"{need}: fits a GPU of {card / 1e9:.0f} GB"
    each = config.batch // processes
    parts = [n for n in range(2, each + 1) if each % n == 0 and n > getattr(config, "accumulate", each)]
    tries: list[dict[str, Any]] = [{"accumulate": n} for n in parts]
    if not getattr(config, "checkpointing", True):
        tries += [{"checkpointing": True}] + [{"checkpointing": True} | more for more in tries]
    if isinstance(config, OdePairsConfig):
        tries = [{"batch": n} for n in range(config.batch - 1, 0, -1)]
    for changes in tries:
        less = count_training(replace(config, **changes), films, processes)
        if less.total <= 0.95 * card:
            options = " ".join(f"--{name}" if on is True else f"--{name} {on}" for name, on in changes.items())
            return f"{need}, more than a GPU of {card / 1e9:.0f} GB has: with {options} about {less.total / GIB:.1f}"
    return f"{need}, more than a GPU of {card / 1e9:.0f} GB has: start it on more of them with accelerate launch"


def count_training(config: NextShot, films: Films, processes: int) -> TrainingNeed:
    """What teacher or student take while they are trained, and the teacher while its paths are drawn.

    Not counted: kernels' workspaces. Raises CheckpointError if a part is missing.
    """
    paths = isinstance(config, OdePairsConfig)
    split = False if paths else torch.cuda.is_available() if config.shard is None else config.shard
    shards = processes if split else 1
    samples = max(1, config.batch // processes // getattr(config, "accumulate", 1))
    folder, stage = initial_weights(config, *(BEFORE.get(type(config)) or ("inter-shot", config.begin)))
    description = read_config(folder / stage / "config.json", "transformer")
    model = _Model(config, description)
    reader = folder_with(config, "text_encoder") / "text_encoder"
    with torch.device("meta"):
        text = build_text_encoder(read_config(reader / "config.json", "text_encoder"))
    text_bytes = 4 * sum(p.numel() for p in text.parameters())

    def updates(layers: int) -> list[int]:
        return _updates(_Model(config, description | {"num_layers": layers}), config, films, samples)

    # All blocks take the same: two shallow models tell what a deep one takes.
    deep = max(0, model.transformer.config.num_layers - 3)
    three = updates(model.transformer.config.num_layers - deep)
    update = max(b + deep * (b - a) for a, b in zip(updates(2) if deep else three, three, strict=True))
    distils, narrow = isinstance(config, DistillationConfig), 2 if config.precision == "bf16" else 1
    learners, learns_text = 0 if paths else 1 + distils, getattr(config, "text", False)
    weights = learners * model.weights // shards + (distils or paths) * model.weights // narrow
    weights += text_bytes if learns_text else text_bytes // narrow
    # Of models that learn in turn one has gradients at a time.
    learning = (1 + 2 * learners) * model.learning // shards + learns_text * 3 * text_bytes
    whole = learners * model.weights if shards > 1 else 0  # a split model is gathered while it computes
    casts = model.weights // 2 if config.precision == "bf16" else 0  # kept for the backward pass
    update += whole + casts
    if isinstance(config, InterShotConfig):
        update = max(update, _decoding(config, films))
    return TrainingNeed(weights, learning, update)


class _Model:
    """An outline of the transformer as it computes; the bytes of its float32 weights and of those that learn."""

    def __init__(self, config: NextShot, description: dict) -> None:
        self.transformer = adopt(outline(description)).train().requires_grad_(False)
        self.weights = 4 * sum(p.numel() for p in self.transformer.parameters())
        learns = [self.transformer]
        if isinstance(config, InterShotConfig):
            with torch.device("meta"):
                learns = add_lora(self.transformer, config)
        elif isinstance(config, TeacherConfig) and config.trained == "self-attention":
            learns = [block.attn1 for block in self.transformer.blocks]
        elif isinstance(config, OdePairsConfig):
            learns = []
        for module in learns:
            module.requires_grad_(True)
        parameters = [p for p in self.transformer.parameters() if p.requires_grad]
        self.learning = 4 * sum(p.numel() for p in parameters)
        for parameter in parameters:  # gradients are counted by themselves
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        if getattr(config, "checkpointing", False):
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


def _updates(model: _Model, config: NextShot, films: Films, samples: int) -> list[int]:
    """Bytes that each sort of update of a stage takes, on batches without content of the films' size."""
    channels, _, *size = films.clip(0, 0).shape
    frames, transformer = max(config.lengths, default=shortest(films)), model.transformer
    blank = partial(torch.empty, device="meta")
    context = blank(samples, channels, config.budget, *size)
    captions = blank(samples, 2, config.text_tokens, transformer.config.text_dim)
    ids = torch.tensor([0] * config.budget + [1] * frames).expand(samples, -1)
    cond, table = Conditioning(captions, ids, ids, context), SigmaTable(config.shift)
    rows = torch.zeros(samples, dtype=torch.long)

    def shots(number: int) -> list[Tensor]:
        return [blank(samples, channels, frames, *size) for _ in range(number)]

    def teacher() -> None:
        teacher_loss(transformer, *shots(2), rows, cond, table).backward()

    def paths() -> None:
        (noise,), sigmas = shots(1), euler_sigmas(1, config.shift)
        for _ in joint_states(transformer, noise, cond, sigmas, uncond=cond.unconditional()):
            pass

    def causal_init() -> None:
        sigmas, levels = few_step((*config.student_steps, 0), config.shift), torch.zeros(samples, frames).long()
        path = torch.stack(shots(len(sigmas)), dim=1)
        causal_init_loss(transformer, path, levels, sigmas, cond, table, config.chunk).backward()

    def student() -> None:
        sigmas, chunks = few_step(config.student_steps, config.shift), chunk_sizes(frames, config.chunk)
        cache = begin_shot(transformer, cond, config.budget)
        made, (noise,) = self_forcing(transformer, cache, blank, sigmas, chunks, 0, table), shots(1)
        scores = (transformer, transformer, noise, rows, cond, cond.unconditional())
        generator_loss(made, *scores, table=table).backward()

    def critic() -> None:  # its rollout takes less than the student's
        made, noise = shots(2)
        fake_score_loss(made, transformer, noise, rows, cond, table).backward()

    counted, of = [], {TeacherConfig: [teacher], OdePairsConfig: [paths], CausalInitConfig: [causal_init]}
    for update in of.get(type(config), [student, critic]):
        with _counted() as bytes_:
            update()
            counted.append(bytes_.peak)
    return counted


def _decoding(config: InterShotConfig, films: Films) -> int:
    """Of one shot to pixels, the codec's weights included."""
    parts = {"vae": read_config(folder_with(config, "vae") / "vae" / "config.json", "vae")}
    codec, shot = outline_codec(parts, torch.float32), films.clip(0, 0)
    with LiveBytes() as bytes_:
        Codec(codec).decode(torch.empty(1, *shot.shape, device="meta"))
        return bytes_.peak + sum(4 * p.numel() for p in codec.parameters())
