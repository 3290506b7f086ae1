"""How much memory telling a story takes, counted before anything is loaded.

Nothing is guessed from formulas: the very model runs on torch's meta device, where tensors have a size and no content,
and every tensor's bytes are counted while it lives.
"""

import re
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shotstream_lite.codec import Codec, StreamDecoder, latent_frames, tile_spans, to_frames
from shotstream_lite.conditioning import Conditioning
from shotstream_lite.models.configs import checked
from shotstream_lite.models.convert import outline
from shotstream_lite.models.folder import build_text_encoder, cast
from shotstream_lite.models.settings import StreamSettings
from shotstream_lite.rollout import begin_shot
from shotstream_lite.text import REMEMBERED
from shotstream_lite.transformer import ShotStreamTransformer, adopt

GIB = 2**30


@dataclass(frozen=True)
class Need:
    """Bytes, by what they are for.

    transformer, linears: weights of the transformer, and the part of them in the linear layers of its blocks
    codec, text: weights; layer: of the text encoder's largest layer
    encoding: what the text encoder takes while it runs, and the embeddings that are remembered
    still: what encoding one frame takes
    caches: both memories and the caption keys of a shot; turn: the keys of a caption that takes over on the way
    context, chunk: what the context pass and a chunk take while they run
    features: what the decoder remembers from latent to latent; decode: what it takes while it runs
    """

    transformer: int
    linears: int
    codec: int
    text: int
    layer: int
    encoding: int
    still: int
    caches: int
    turn: int
    context: int
    chunk: int
    features: int
    decode: int

    @property
    def working(self) -> int:
        """The most at once beside the weights: a chunk is made or decoded just after its caption was changed, while
        the next shot's caption is encoded by another thread."""
        shot = self.caches + max(self.context, self.turn + self.features + max(self.chunk, self.decode))
        return self.encoding + max(self.still, shot)


def count(configs: Mapping[str, Mapping[str, Any]], settings: StreamSettings, dtype: torch.dtype) -> Need:
    """The memory of a model streaming with `settings`, batch 1; configs of "transformer", "vae" and "text_encoder".

    Raises CheckpointError for a configuration that describes no transformer.
    """
    transformer, codec, text = outlines(configs, dtype)
    linears = [m for m in transformer.blocks.modules() if isinstance(m, nn.Linear)]
    size = (settings.height, settings.width)
    with torch.inference_mode(), LiveBytes() as bytes_:
        tokens = torch.zeros(1, settings.text_tokens, device="meta", dtype=torch.long)
        row = text(tokens).last_hidden_state  # a mask would be looked into, which has no content here
        encoding = bytes_.take_peak() + REMEMBERED * row.numel() * row.element_size()
        codec.encode_frames(torch.empty(1, 3, *size, device="meta"))
        still = bytes_.take_peak()
    features, decode = count_decoding(configs, settings, dtype)
    return Need(
        transformer=weight_bytes(transformer),
        linears=sum(map(weight_bytes, linears)),
        codec=weight_bytes(codec.vae),
        text=weight_bytes(text),
        layer=max(map(weight_bytes, text.encoder.block)),
        encoding=encoding,
        still=still,
        **_shot(transformer, codec, settings, dtype),
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
        for part in (1, frames, frames):  # the first latent, then those that look back at all they can
            mark = decoder.mark() if tiles == 1 else None  # a take can go back by a chunk; tiles' marks wait elsewhere
            pixels = decoder.decode(torch.empty(1, codec.channels, part, tall, wide, device="meta", dtype=dtype))
            to_frames(pixels[0].transpose(0, 1))
        del pixels
        live, peak = bytes_.live, bytes_.take_peak()
        del mark
        return live, peak


def outlines(
    configs: Mapping[str, Mapping[str, Any]], dtype: torch.dtype
) -> tuple[ShotStreamTransformer, Codec, nn.Module]:
    """Transformer, codec and text encoder of configurations on the meta device, without memory for weights.

    Raises CheckpointError for a configuration that describes no transformer.
    """
    transformer = cast(adopt(outline(configs["transformer"])), dtype)
    with torch.device("meta"):
        text = cast(build_text_encoder(configs["text_encoder"]), dtype)
    return transformer.eval(), Codec(outline_codec(configs, dtype)), text.eval()


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


class FusedAttention(TorchFunctionMode):
    """On the meta device attention counts as one kernel that keeps no table of scores, as it is on a device.

    seen: called with its queries, keys and values.
    """

    def __init__(self, seen: Callable[[Tensor, Tensor, Tensor], None] | None = None) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is F.scaled_dot_product_attention and args[0].is_meta:
            if self.seen:
                self.seen(*args[:3])
            return torch.empty_like(args[0])
        return function(*args, **(kwargs or {}))


_CGROUP = {  # limit, use, and what of it caches files; version 2 names no controller
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def host_memory(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> tuple[int, int]:
    """Bytes of the host's memory that are free, and all there are; less where a container's limit holds (cgroup 1, 2).

    What caches files is free: it is given back when it is wanted.
    """
    memory = psutil.virtual_memory()
    free, total = memory.available, memory.total
    with suppress(OSError):  # no Linux
        for line in own.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            controller = next((name for name in controllers.split(",") if name in _CGROUP), None)
            if controller is None:
                continue
            *sizes, files = _CGROUP[controller]
            root, inner = groups / controller, PurePosixPath(path.strip("/"))
            for folder in (root / inner, *(root / outer for outer in inner.parents)):
                with suppress(OSError, ValueError):  # not seen from inside, or no limit ("max")
                    limit, used = (int((folder / name).read_text(encoding="utf-8")) for name in sizes)
                    stat = (folder / "memory.stat").read_text(encoding="utf-8")
                    kept = dict(re.findall(r"^(\w+) (\d+)$", stat, re.MULTILINE))
                    free = min(free, max(0, limit - used + int(kept.get(files, 0))))
                    total = min(total, limit)
    return free, total


class Counting(TorchDispatchMode):
    """Sees every kernel that runs on the meta device while it is entered; attention only as `FusedAttention` does."""

    def __init__(self, attention: Callable[[Tensor, Tensor, Tensor], None] | None = None) -> None:
        super().__init__()
        self._fused = FusedAttention(attention)

    def __enter__(self) -> "Counting":
        self._fused.__enter__()
        return super().__enter__()

    def __exit__(self, *reason: Any) -> None:
        super().__exit__(*reason)
        self._fused.__exit__(*reason)


class LiveBytes(Counting):
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


def _shot(
    transformer: ShotStreamTransformer, codec: Codec, settings: StreamSettings, dtype: torch.dtype
) -> dict[str, int]:
    """Bytes of a shot's caches, of a caption's keys, and of the context pass and the last chunk while they run."""
    size = codec.latent_size(settings.height, settings.width, transformer.config.patch_size[-1])
    length, budget = latent_frames(settings.shot_frames), settings.budget
    frames = min(settings.chunk, length)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta", dtype=dtype)

    with torch.inference_mode(), LiveBytes() as bytes_:
        captions = empty(1, budget + 1, settings.text_tokens, transformer.config.text_dim)
        context = empty(1, codec.channels, budget, *size)
        ids = torch.tensor([*range(budget), *[budget] * length], device="cpu")  # a shot and a caption for each frame
        cache = begin_shot(transformer, Conditioning(captions, ids, context=context), budget)
        of_context, caches = bytes_.take_peak(), bytes_.live
        turn = transformer.caption_keys(captions[:, :1])
        of_turn = max(bytes_.take_peak(), bytes_.live - caches)
        del turn
        bytes_.take_peak()
        transformer.chunk(cache, empty(1, codec.channels, frames, *size), 500.0, length - frames)
        return {"caches": caches, "turn": of_turn, "context": of_context, "chunk": bytes_.take_peak()}


def outline_codec(configs: Mapping[str, Mapping[str, Any]], dtype: torch.dtype) -> AutoencoderKLWan:
    """The codec of a configuration on the meta device, without memory for weights."""
    with torch.device("meta"):
        return cast(AutoencoderKLWan.from_config(checked(configs["vae"], "vae")), dtype)
