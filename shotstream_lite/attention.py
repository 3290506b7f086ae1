"""Attention by torch's own function, and which of its kernels is tried first."""

from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from shotstream_lite.errors import CheckpointError

BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
NATIVE = "native"  # torch chooses
HOPPER = (9, 0)


Spans = tuple[tuple[int, int, slice | Tensor], ...]
"""Who attends to whom, group by group: the queries [start, stop) to the keys that a slice or an index picks."""


def attend(attn: nn.Module, query: Tensor, keys: Tensor, values: Tensor, spans: Spans | None = None) -> Tensor:
    """Attention over [B, heads, tokens, head_dim], then the output projection: [B, tokens, dim].

    Keys and values are taken as they lie, so a slice of a cache is never copied. Groups of queries are attended one by
    one: no mask of tokens by tokens is made, and what may not be seen is not computed.

    spans: see `spans`; None: every query attends to every key
    """
    kernel = _two_products if query.is_cpu and query.dtype == torch.bfloat16 else F.scaled_dot_product_attention
    if spans is None:
        out = kernel(query, keys, values)
    else:
        parts = [kernel(query[:, :, a:b], keys[:, :, seen], values[:, :, seen]) for a, b, seen in spans]
        out = torch.cat(parts, dim=2)
    out = out.transpose(1, 2).flatten(2)
    for module in attn.to_out:
        out = module(out)
    return out


def spans(mask: Tensor, tokens: int) -> Spans:
    """A mask over frames, bool [F, F], in tokens: consecutive frames that may see the same are a group.

    Of whole numbers it says how often a frame is seen. Frames that lie together are a slice, which copies nothing.
    Raises ValueError if a frame may attend to none.
    """
    rows, sizes = mask.int().unique_consecutive(dim=0, return_counts=True)
    if not rows.any(1).all():
        raise ValueError("a frame may attend to none: let it attend to itself at least")
    groups = []
    for row, size, stop in zip(rows, sizes.tolist(), accumulate(sizes.tolist()), strict=True):
        frames = torch.arange(len(row), device=row.device).repeat_interleave(row)
        seen = (frames[:, None] * tokens + torch.arange(tokens, device=row.device)).flatten()
        first, last = int(seen[0]), int(seen[-1]) + 1
        seen = slice(first, last) if row.max() == 1 and last - first == len(seen) else seen
        groups.append((tokens * (stop - size), tokens * stop, seen))
    return tuple(groups)


def preferring(backend: str) -> AbstractContextManager:
    """Inside, torch tries the kernel `backend` first and its others where that cannot; for a whole forward.

    An order, and not that kernel alone: torch keeps it for the process, where other threads attend too.
    """
    if backend == NATIVE:
        return nullcontext()
    return sdpa_kernel(list(dict.fromkeys((BACKENDS[backend], *BACKENDS.values()))), set_priority=True)


def _two_products(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention as it is written in books. Backwards in bfloat16, torch's fused kernel for CPUs is far slower."""
    with torch.autocast("cpu", enabled=False):  # it would store the shares in float32; their sums are so anyway
        scores = query * query.shape[-1] ** -0.5 @ keys.to(query.dtype).mT
        return torch.softmax(scores, dim=-1) @ values.to(query.dtype)


def fast_backend(device: torch.device, capability: tuple[int, int] | None = None) -> str:
    """The backend to use on a device: cuDNN from Hopper on, where torch's own first choice may be the slower FA2."""
    if device.type != "cuda":
        return NATIVE
    capability = capability or torch.cuda.get_device_capability(device)
    return "cudnn" if capability >= HOPPER else NATIVE


def use_backend(model: WanTransformer3DModel, name: str) -> None:
    """Makes a transformer try one kernel first. Raises CheckpointError for a name that is none."""
    if name not in (NATIVE, *BACKENDS):
        raise CheckpointError(f"attention backend {name}: write one of {', '.join((NATIVE, *BACKENDS))}")
    model.backend = name


def backend_in_use(model: WanTransformer3DModel) -> str:
    """The name of a transformer's attention backend; if torch chooses, also the kernel it picks."""
    heads, head_dim = model.config.num_attention_heads, model.config.attention_head_dim
    return chosen(model.backend, heads, head_dim, model.device, model.dtype)


def chosen(name: str, heads: int, head_dim: int, device: torch.device, dtype: torch.dtype) -> str:
    """As `backend_in_use`, for attention of so many heads."""
    if name != NATIVE:
        return name
    sample = torch.zeros((1, heads, 256, head_dim), device=device, dtype=dtype)
    return f"{name}: {SDPBackend(torch._fused_sdp_choice(sample, sample, sample)).name.lower()}"
