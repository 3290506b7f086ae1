"""Attention by torch's own function, and which of its kernels is tried first."""

from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate, pairwise

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
TILE = 128  # queries that a block of a GPU's threads takes
LONG = 8192  # keys; with fewer, two halves win less than laying them together costs


Spans = tuple[tuple[int, int, tuple[slice, ...]], ...]
"""Who attends to whom, group by group: the queries [start, stop) to the keys in some slices, one behind the other."""


def attend(attn: nn.Module, query: Tensor, keys: Tensor, values: Tensor, spans: Spans | None = None) -> Tensor:
    """Attention over [B, heads, tokens, head_dim], then the output projection: [B, tokens, dim].

    Keys and values are taken as they lie, so a slice of a cache is never copied. Groups of queries are attended one by
    one: no mask of tokens by tokens is made, and what may not be seen is not computed.

    spans: see `spans`; None: every query attends to every key
    """
    kernel = _two_products if query.is_cpu and query.dtype == torch.bfloat16 else F.scaled_dot_product_attention
    if spans is None:
        if halves_pay(query, keys, getattr(attn, "processors", 0)):
            out = getattr(attn, "merge", merged)(*in_halves(query, keys, values))  # or what that was compiled to
        else:
            out = kernel(query, keys, values)
    else:
        parts = [kernel(query[:, :, a:b], _picked(keys, seen), _picked(values, seen)) for a, b, seen in spans]
        out = torch.cat(parts, dim=2)
    out = out.transpose(1, 2).flatten(2)
    for module in attn.to_out:
        out = module(out)
    return out


def _picked(memory: Tensor, seen: tuple[slice, ...]) -> Tensor:
    """One slice is copied nowhere; several are laid together, whose gradient is far cheaper than that of an index."""
    parts = [memory[:, :, part] for part in seen]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def busy(query: Tensor, processors: int, parts: int = 1) -> float:
    """The share of a GPU's processors at work in attention with its keys cut into so many parts.

    Blocks of TILE queries are worked off in waves; the last wave leaves the processors idle that it has no block for.
    """
    blocks = parts * query.shape[:-2].numel() * -(-query.shape[-2] // TILE)
    return blocks / (-(-blocks // processors) * processors)


def halves_pay(query: Tensor, keys: Tensor, processors: int) -> bool:
    """Whether `in_halves` is worth it on a GPU of so many processors; 0: never."""
    if not processors or torch.is_grad_enabled() or len(keys) > 1 or keys.shape[2] % 2 or keys.shape[2] < LONG:
        return False
    return busy(query, processors, 2) > 1.05 * busy(query, processors)


def in_halves(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of one sample to both halves of its keys in one call: twice as many blocks, half as long.

    The halves lie side by side as a batch, without a copy of keys and values.

    Shape:
        returns: what each half finds, [2, heads, tokens, head_dim], and its log of summed exponentials
    """
    (keys, values) = (memory[0].unflatten(1, (2, -1)).transpose(0, 1) for memory in (keys, values))
    query = query.transpose(1, 2).expand(2, -1, -1, -1).contiguous().transpose(1, 2)  # laid out as a product leaves it
    if query.is_cpu:
        found, logs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, keys, values)
    else:
        found, logs, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(query, keys, values, None, True)
    return found, logs.view(query.shape[:-1])


def merged(found: Tensor, logs: Tensor) -> Tensor:
    """One attention of two halves' (see `in_halves`): each counts by its exponentials (Liu et al. 2023, ring
    attention)."""
    share = torch.sigmoid(logs[0] - logs[1]).unsqueeze(-1)
    return torch.lerp(found[1], found[0], share.type_as(found)).unsqueeze(0)


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
        frames = torch.arange(len(row)).repeat_interleave(row.cpu()).tolist()
        breaks = [0, *(i for i in range(1, len(frames)) if frames[i] != frames[i - 1] + 1), len(frames)]
        seen = tuple(slice(tokens * frames[i], tokens * (frames[j - 1] + 1)) for i, j in pairwise(breaks))
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


def use_backend(model: WanTransformer3DModel, name: str, processors: int = 0) -> None:
    """Makes a transformer try one kernel first. Raises CheckpointError for a name that is none.

    processors: of the GPU; where cuDNN attends, long keys are cut in two if that keeps more of them busy.
    """
    if name not in (NATIVE, *BACKENDS):
        raise CheckpointError(f"attention backend {name}: write one of {', '.join((NATIVE, *BACKENDS))}")
    model.backend = name
    for block in model.blocks:
        block.attn1.processors = processors if name == "cudnn" else 0


def processors(model: WanTransformer3DModel, device: torch.device) -> int:
    """How many blocks of threads a GPU has at work at once; 0 where cuDNN cannot attend for this model."""
    if device.type != "cuda" or model.dtype not in (torch.bfloat16, torch.float16):
        return 0
    shape = (1, model.config.num_attention_heads, 256, model.config.attention_head_dim)
    sample = torch.zeros(shape, device=device, dtype=model.dtype)
    asked = torch.backends.cuda.SDPAParams(sample, sample, sample, None, 0.0, False, False)
    able = torch.backends.cuda.can_use_cudnn_attention(asked)
    return torch.cuda.get_device_properties(device).multi_processor_count if able else 0


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
