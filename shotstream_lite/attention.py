"""The attention kernel: diffusers' dispatcher, which one it uses, and which one is fast where."""

import logging
import os
from contextlib import contextmanager

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry, dispatch_attention_fn
from diffusers.utils.constants import DIFFUSERS_ATTN_BACKEND
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from shotstream_lite.convert import CheckpointError

HOPPER = (9, 0)


def attend(attn: nn.Module, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention over [B, heads, tokens, head_dim], then the output projection: [B, tokens, dim].

    mask: bool [1, 1, tokens, keys], True where a query may attend
    """
    if query.is_cpu and query.dtype == torch.bfloat16:
        out = _two_products(query, keys, values, mask)
    else:
        heads_last = (x.transpose(1, 2) for x in (query, keys, values))
        out = dispatch_attention_fn(*heads_last, attn_mask=mask, backend=attn.processor._attention_backend).flatten(2)
    for module in attn.to_out:
        out = module(out)
    return out


def _two_products(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention as it is written in books. Backwards in bfloat16, torch's fused kernel for CPUs is far slower."""
    with torch.autocast("cpu", enabled=False):  # it would store the shares in float32; their sums are so anyway
        scores = query * query.shape[-1] ** -0.5 @ keys.to(query.dtype).mT
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return (torch.softmax(scores, dim=-1) @ values.to(query.dtype)).transpose(1, 2).flatten(2)


def fast_backend(device: torch.device, capability: tuple[int, int] | None = None) -> str:
    """The backend to use on a device: cuDNN from Hopper on, where torch's own first choice is the slower FA2.

    What the user asked for by diffusers' environment variable goes first.
    """
    if "DIFFUSERS_ATTN_BACKEND" in os.environ or device.type != "cuda":
        return DIFFUSERS_ATTN_BACKEND
    capability = capability or torch.cuda.get_device_capability(device)
    return "_native_cudnn" if capability >= HOPPER else "native"


def use_backend(model: WanTransformer3DModel, name: str) -> None:
    """Makes a transformer use one of diffusers' attention backends. Raises CheckpointError if it is not to be had."""
    with _quiet():
        try:
            model.set_attention_backend(name)
        except (ValueError, RuntimeError, ImportError) as error:
            raise CheckpointError(f"attention backend {name}: {str(error).splitlines()[0]}: use native") from None
        # diffusers also makes it everybody's; a teacher and a toybox in the same process have their own.
        _AttentionBackendRegistry.set_active_backend(AttentionBackendName(DIFFUSERS_ATTN_BACKEND))


def backend_in_use(model: WanTransformer3DModel) -> str:
    """The name of a transformer's attention backend; for torch's own also the kernel it picks."""
    chosen = model.blocks[0].attn1.processor._attention_backend or DIFFUSERS_ATTN_BACKEND
    name = AttentionBackendName(chosen).value
    if name != AttentionBackendName.NATIVE.value:
        return name
    size = (1, model.config.num_attention_heads, 256, model.config.attention_head_dim)
    sample = torch.zeros(size, device=model.device, dtype=model.dtype)
    return f"{name}: {SDPBackend(torch._fused_sdp_choice(sample, sample, sample)).name.lower()}"


@contextmanager
def _quiet():
    logger = logging.getLogger("diffusers.models.modeling_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
