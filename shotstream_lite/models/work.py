"""`shotstream benchmark --count`: what a shot asks of a GPU, counted and not measured, and the seconds that would mean.

The very model runs on torch's meta device, where tensors have a size and no content. Every kernel's arithmetic and
traffic are counted; it takes as long as the slower of the two at the rates of a card, and no shorter than its launch.
"""

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from shotstream_lite.attention import TILE, busy, fast_backend, use_backend
from shotstream_lite.codec import Codec, latent_frames, pixel_frames, to_frames
from shotstream_lite.conditioning import Conditioning
from shotstream_lite.flow import few_step
from shotstream_lite.models.codec_kernels import compile_norms, for_gpu
from shotstream_lite.models.convert import outline
from shotstream_lite.models.folder import cast
from shotstream_lite.models.memory import Counting, outline_codec
from shotstream_lite.models.settings import StreamSettings
from shotstream_lite.rollout import begin_shot, chunk_sizes, rollout
from shotstream_lite.tiny import TinyDecoder
from shotstream_lite.transformer import adopt, compile_halves
from shotstream_lite.transformer import for_gpu as transformer_for_gpu

LINEAR, ATTENTION, CONVOLUTION, REST = "linear layers", "attention", "convolutions", "everything else"
ROW = "{:<38}{:>9}{:>9}{:>10}{:>9}"


@dataclass(frozen=True)
class Card:
    """What a card is assumed to reach in bfloat16, not what its sheet promises: FLOP/s by kind, bytes/s, s a launch.

    attention: on long sequences while all processors are at work; see `Work` for what is taken off
    capability: as CUDA numbers it
    """

    linear: float
    attention: float
    convolution: float
    memory: float
    processors: int
    capability: tuple[int, int]
    launch: float = 6e-6


CARDS = {
    "H100": Card(600e12, 607e12, 330e12, 2.6e12, 132, (9, 0)),
    "H200": Card(600e12, 607e12, 330e12, 3.8e12, 132, (9, 0)),
    "A100": Card(240e12, 231e12, 130e12, 1.5e12, 108, (8, 0)),
    "RTX 4090": Card(150e12, 161e12, 90e12, 0.85e12, 128, (8, 9)),
}
FORMULAS = {
    **flop_registry,
    torch.ops.aten._addmm_activation: lambda bias, *factors, use_gelu, out_val: flop_registry[torch.ops.aten.addmm](
        bias, *factors, out_val=out_val
    ),
}
ATTENDS = torch.ops.aten._scaled_dot_product_cudnn_attention


class Work(Counting):
    """Counts kernels while it is entered: `parts` has FLOP, bytes, launches and seconds, by what they belong to.

    Attention is as fast as the card is busy (see `attention.busy`), and every block of it begins and ends once: that
    takes as long as TILE more keys. In functions that went through `fused`, what happens between two products of
    matrices counts as one kernel: it reads what it did not make itself, and writes what is still wanted when it ends.
    """

    def __init__(self, card: Card) -> None:
        super().__init__(self._attend)
        self.card, self.component = card, ""
        self.parts: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])
        self._read: dict[int, int] | None = None  # of the kernel being fused, by storage; None outside of such
        self._made: dict[int, tuple[weakref.ref, int]] = {}

    @property
    def seconds(self) -> float:
        return sum(part[3] for part in self.parts.values())

    def fused(self, function: Callable, **options: Any) -> Callable:
        """Stands for `torch.compile`."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._read = {}
            try:
                return function(*args, **kwargs)
            finally:
                self._flush()
                self._read = None

        return call

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = function(*args, **(kwargs or {}))
        read, made = (_storages(tree) for tree in ((args, kwargs), out))
        packet = function._overloadpacket
        if packet is ATTENDS:
            self._attend(*args[:3])
        elif packet in FORMULAS:
            self._flush()
            flops = FORMULAS[packet](*args, **(kwargs or {}), out_val=out)
            kind = CONVOLUTION if packet is torch.ops.aten.convolution else LINEAR
            self._kernel(kind, flops, sum(size for _, size in (*read.values(), *made.values())))
        elif function._schema.is_mutable or made.keys() - read.keys():  # no view
            if "empty" in str(packet):
                return out
            if self._read is None:
                self._kernel(REST, 0, sum(size for _, size in (*read.values(), *made.values())))
            else:
                for key, (_, size) in read.items():
                    if key not in self._made:
                        self._read[key] = max(size, self._read.get(key, 0))
                self._made |= {key: found for key, found in made.items() if key not in self._read}
        return out

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor) -> None:
        self._flush()
        flops = 4 * query.shape[:-1].numel() * keys.shape[-2] * query.shape[-1]
        at_work = busy(query, self.card.processors) / (1 + TILE / keys.shape[-2])
        self._kernel(ATTENTION, flops, 2 * _bytes(query) + _bytes(keys) + _bytes(values), at_work)

    def _flush(self) -> None:
        """Ends the kernel being fused."""
        if self._read:
            written = [size for alive, size in self._made.values() if alive() is not None]
            self._kernel(REST, 0, sum(self._read.values()) + sum(written))
        if self._read is not None:
            self._read, self._made = {}, {}

    def _kernel(self, kind: str, flops: float, moved: float, at_work: float = 1.0) -> None:
        rates = {LINEAR: self.card.linear, ATTENTION: self.card.attention, CONVOLUTION: self.card.convolution}
        seconds = max(flops / at_work / rates.get(kind, float("inf")), moved / self.card.memory, self.card.launch)
        part = self.parts[self.component, kind]
        for index, amount in enumerate((flops, moved, 1, seconds)):
            part[index] += amount


def count_shot(
    configs: Mapping[str, Mapping[str, Any]],
    settings: StreamSettings,
    card: str = "H100",
    compiled: bool = False,
    tiny: bool = False,
) -> dict[str, Any]:
    """The work of a shot that has a past, in bfloat16, from its context pass to frames as bytes, by part.

    The captions and the stills it remembers are encoded while the shot before ends. All blocks are the same: those of
    one are counted and multiplied. compiled: as `shotstream benchmark --compile`; tiny: with a decoder of
    taew2_1.safetensors' size.
    """
    layers = configs["transformer"]["num_layers"]
    runs = [_denoise(configs, settings, CARDS[card], compiled, few) for few in (1, 2)]
    both = zip(*runs, strict=True)
    parts, first = ({key: a + (b - a) * (layers - 1) for key, a, b in _pairs(*which)} for which in both)
    decoded, first_latent = _decode(configs, settings, CARDS[card], compiled, tiny)
    seconds = {"transformer": 0.0, "codec": 0.0}
    rows: dict[str, dict[str, float]] = defaultdict(dict)
    for (component, kind, index), amount in sorted((parts | decoded).items()):
        rows[f"{component}: {kind}"][("flop", "bytes", "launches", "seconds")[index]] = amount
        seconds[component] += amount * (index == 3)
    frames = pixel_frames(latent_frames(settings.shot_frames))
    return {
        "card": card,
        "compiled": compiled,
        "tiny": tiny,
        "rates": vars(CARDS[card]),
        "parts": dict(rows),
        "transformer_fps": frames / seconds["transformer"],
        "codec_seconds": seconds["codec"],
        "fps": frames / sum(seconds.values()),
        "first_frame_seconds": sum(amount for key, amount in first.items() if key[2] == 3) + first_latent,
    }


def report_text(name: str, counted: Mapping[str, Any]) -> str:
    """The figures as text."""
    r = counted["rates"]
    rates = ", ".join(f"{part} {r[part] / 1e12:.0f}" for part in ("linear", "attention", "convolution"))
    how = ", compiled" * counted["compiled"] + ", tiny decoder" * counted["tiny"]
    lines = [
        f"{name}: a shot on {counted['card']}{how}, counted and not measured",
        f"assumed: {rates} TFLOP/s, {r['memory'] / 1e12:.1f} TB/s, {r['launch'] * 1e6:.0f} us a launch",
        ROW.format("", "TFLOP", "GB", "launches", "seconds"),
    ]
    for part, w in counted["parts"].items():
        numbers = f"{w['flop'] / 1e12:.1f}", f"{w['bytes'] / 1e9:.0f}", f"{w['launches']:.0f}", f"{w['seconds']:.2f}"
        lines.append(ROW.format(part, *numbers))
    lines += [
        f"transformer alone {counted['transformer_fps']:.1f} frames/s, codec {counted['codec_seconds']:.2f} s, "
        f"end to end {counted['fps']:.1f} frames/s, first frame {counted['first_frame_seconds']:.2f} s"
    ]
    return "\n".join(lines)


def _denoise(configs: Mapping, settings: StreamSettings, card: Card, compiled: bool, layers: int) -> tuple[dict, dict]:
    """The transformer's work in a shot with so many blocks, and the part of it before the first chunk is clean."""
    transformer = cast(adopt(outline({**configs["transformer"], "num_layers": layers})), torch.bfloat16).eval()
    codec = Codec(outline_codec(configs, torch.bfloat16))
    size = codec.latent_size(settings.height, settings.width, transformer.config.patch_size[-1])
    length, budget = latent_frames(settings.shot_frames), settings.budget

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta", dtype=torch.bfloat16)

    work, first = Work(card), None
    work.component = "transformer"
    with torch.no_grad(), work, _counted_as_compiled(work, compiled):
        transformer_for_gpu(transformer)
        use_backend(transformer, fast_backend(torch.device("cuda"), card.capability), card.processors)
        if compiled:
            compile_halves(transformer)
        captions = empty(1, budget + 1, settings.text_tokens, transformer.config.text_dim)
        ids = torch.tensor([*range(budget), *[budget] * length], device="cpu")  # a shot and a caption for each frame
        context = empty(1, codec.channels, budget, *size)
        cache = begin_shot(transformer, Conditioning(captions, ids, context=context), budget)
        steps, sizes = few_step(settings.steps, settings.shift), chunk_sizes(length, settings.chunk)
        for _ in rollout(transformer, cache, lambda shape: empty(*shape), steps, sizes):
            first = first or _flat(work)
    return _flat(work), first


def _decode(configs: Mapping, settings: StreamSettings, card: Card, compiled: bool, tiny: bool) -> tuple[dict, float]:
    """The codec's work in a shot, and the seconds of its first latent; from the third on latents cost the same."""
    codec = Codec(outline_codec(configs, torch.bfloat16))
    for_gpu(codec.vae)
    if tiny:
        with torch.device("meta"):
            codec.tiny = TinyDecoder(codec.channels, patch=codec.spatial_factor // 8).bfloat16()
    size, length = codec.latent_size(settings.height, settings.width), latent_frames(settings.shot_frames)
    work, after = Work(card), []
    work.component = "codec"
    with torch.no_grad(), work, _counted_as_compiled(work, compiled):
        if compiled:
            compile_norms(codec.vae)
        stream = codec.stream()
        for _ in range(min(length, 3)):
            latent = torch.empty(1, codec.channels, 1, *size, device="meta", dtype=torch.bfloat16)
            to_frames(stream.decode(latent)[0].transpose(0, 1))
            after.append(_flat(work))
    rest = max(0, length - 3)
    total = {key: last + (last - before) * rest for key, before, last in _pairs(after[-2 % len(after)], after[-1])}
    return total, sum(amount for key, amount in after[0].items() if key[2] == 3)


@contextmanager
def _counted_as_compiled(work: Work, compiled: bool) -> Iterator[None]:
    with patch.object(torch, "compile", work.fused if compiled else torch.compile):
        yield


def _flat(work: Work) -> dict[tuple[str, str, int], float]:
    return {(*key, index): amount for key, part in work.parts.items() for index, amount in enumerate(part)}


def _pairs(a: Mapping, b: Mapping) -> Iterator[tuple[Any, float, float]]:
    return ((key, a.get(key, 0.0), b.get(key, 0.0)) for key in {**a, **b})


def _storages(tree: Any) -> dict[int, tuple[weakref.ref, int]]:
    """The storages of tensors with their bytes, by identity."""
    found: dict[int, tuple[weakref.ref, int]] = {}
    for tensor in tree_leaves(tree):
        if isinstance(tensor, Tensor) and tensor.is_meta:
            storage = tensor.untyped_storage()
            known = found.get(storage._cdata, (None, 0))[1]
            found[storage._cdata] = weakref.ref(storage), max(known, _bytes(tensor))
    return found


def _bytes(tensor: Tensor) -> int:
    """What reading it moves: an expanded side is read once."""
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    return torch.Size(side for side, stride in sides if stride).numel() * tensor.element_size()
