"""How much memory telling a story takes, counted before anything is loaded.

Nothing is guessed from formulas: the very model runs on torch's meta device, where tensors have a size and no content,
and every tensor's bytes are counted while it lives.
"""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shotstream_lite.codec import Codec, StreamDecoder, latent_frames, tile_spans
from shotstream_lite.convert import outline
from shotstream_lite.presets import StreamSettings, build_text_encoder, cast
from shotstream_lite.rollout import begin_shot
from shotstream_lite.transformer import adopt

GIB = 2**30


@dataclass(frozen=True)
class Need:
    """Bytes, by what they are for.

    transformer, linears: weights of the transformer, and the part of them in the linear layers of its blocks
    codec, text: weights
    caches: both memories and the caption keys of a shot
    context, chunk: what the context pass and a chunk take while they run
    features: what the decoder remembers from latent to latent; decode: what it takes while it runs
    """

    transformer: int
    linears: int
    codec: int
    text: int
    caches: int
    context: int
    chunk: int
    features: int
    decode: int


def count(configs: Mapping[str, Mapping[str, Any]], settings: StreamSettings, dtype: torch.dtype) -> Need:
    """The memory of a model streaming with `settings`, batch 1; configs of "transformer", "vae" and "text_encoder".

    Raises CheckpointError for a configuration that describes no transformer.
    """
    transformer = cast(adopt(outline(configs["transformer"])), dtype)
    vae = outline_codec(configs, dtype)
    with torch.device("meta"):
        text = build_text_encoder(configs["text_encoder"])
    linears = [m for m in transformer.blocks.modules() if isinstance(m, nn.Linear)]
    caches, context, chunk = _shot(transformer, Codec(vae), settings, dtype)
    features, decode = count_decoding(configs, settings, dtype)
    return Need(
        transformer=weight_bytes(transformer),
        linears=sum(map(weight_bytes, linears)),
        codec=weight_bytes(vae),
        text=sum(p.numel() for p in text.parameters()) * dtype.itemsize,
        caches=caches,
        context=context,
        chunk=chunk,
        features=features,
        decode=decode,
    )


def count_decoding(
    configs: Mapping[str, Mapping[str, Any]], settings: StreamSettings, dtype: torch.dtype, tiles: int = 1
) -> tuple[int, int]:
    """Bytes of what the decoder remembers of one tile, and of what it takes above that while it runs (see `Codec`)."""
    codec = Codec(outline_codec(configs, dtype))
    height, width = codec.latent_size(settings.height, settings.width)
    tall, wide = (max(stop - start for start, stop in tile_spans(size, tiles)) for size in (height, width))
    frames = min(settings.chunk, latent_frames(settings.shot_frames))
    with torch.inference_mode(), LiveBytes() as bytes_:
        decoder = StreamDecoder(codec.vae)
        for part in (1, frames):  # the first latent, then those that look back at it
            decoder.decode(torch.empty(1, codec.channels, part, tall, wide, device="meta", dtype=dtype))
        return bytes_.live, bytes_.take_peak()


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all meta tensors made inside: `live` now, `peak` at most."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self._add(tensor.untyped_storage())
        self.peak = max(self.peak, self.live)
        return out

    def take_peak(self) -> int:
        """The most there was at once above what is there now; counting starts again."""
        above, self.peak = self.peak - self.live, self.live
        return above

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.live += size
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _shot(transformer: nn.Module, codec: Codec, settings: StreamSettings, dtype: torch.dtype) -> tuple[int, int, int]:
    """Bytes of a shot's caches, and of its context pass and a chunk while they run."""
    size = codec.latent_size(settings.height, settings.width, transformer.config.patch_size[-1])
    length, budget, chunk = latent_frames(settings.shot_frames), settings.budget, settings.chunk
    rows = (settings.text_tokens, transformer.config.text_dim)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta", dtype=dtype)

    with torch.inference_mode(), LiveBytes() as bytes_:
        captions, context = empty(1, budget + 1, *rows), empty(1, codec.channels, budget, *size)
        cache = begin_shot(
            transformer,
            context,
            [0] * budget,
            1,
            captions,
            length,
            caption_ids=list(range(budget + 1)),
            budget=budget,
            phase=settings.phase,
        )
        of_context, caches = bytes_.take_peak(), bytes_.live
        frames = min(chunk, length)
        transformer.chunk(cache, empty(1, codec.channels, frames, *size), 500.0, length - frames)
        return caches, of_context, bytes_.take_peak()


def outline_codec(configs: Mapping[str, Mapping[str, Any]], dtype: torch.dtype) -> AutoencoderKLWan:
    """The codec of a configuration on the meta device, without memory for weights."""
    with torch.device("meta"):
        return cast(AutoencoderKLWan.from_config(dict(configs["vae"])), dtype)
