"""Attention by torch's own function, and which of its kernels is tried first."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from shotstream_lite.convert import CheckpointError

BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
NATIVE = "native"  # torch chooses
HOPPER = (9, 0)


def attend(attn: nn.Module, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention over [B, heads, tokens, head_dim], then the output projection: [B, tokens, dim].

    Keys and values are taken as they lie, so a slice of a cache is never copied.

    mask: bool [1, 1, tokens, keys], True where a query may attend
    """
    if query.is_cpu and query.dtype == torch.bfloat16:
        out = _two_products(query, keys, values, mask)
    else:
        out = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    out = out.transpose(1, 2).flatten(2)
    for module in attn.to_out:
        out = module(out)
    return out


def preferring(backend: str) -> AbstractContextManager:
    """Inside, torch tries the kernel `backend` first and its others where that cannot; for a whole forward.

    An order, and not that kernel alone: torch keeps it for the process, where other threads attend too.
    """
    if backend == NATIVE:
        return nullcontext()
    return sdpa_kernel(list(dict.fromkeys((BACKENDS[backend], *BACKENDS.values()))), set_priority=True)


def _two_products(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention as it is written in books. Backwards in bfloat16, torch's fused kernel for CPUs is far slower."""
    with torch.autocast("cpu", enabled=False):  # it would store the shares in float32; their sums are so anyway
        scores = query * query.shape[-1] ** -0.5 @ keys.to(query.dtype).mT
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
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
    name = model.backend
    if name != NATIVE:
        return name
    size = (1, model.config.num_attention_heads, 256, model.config.attention_head_dim)
    sample = torch.zeros(size, device=model.device, dtype=model.dtype)
    return f"{name}: {SDPBackend(torch._fused_sdp_choice(sample, sample, sample)).name.lower()}"
