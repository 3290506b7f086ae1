"""What is true of the machine and the model: for the page's last line."""

from typing import Any

import psutil
import torch
from torch import nn

from shotstream_lite.attention import backend_in_use
from shotstream_lite.codec import latent_frames
from shotstream_lite.memory import host_memory
from shotstream_lite.pipeline import ShotStreamPipeline


def facts(pipeline: ShotStreamPipeline) -> dict[str, Any]:
    """Model, device, attention, and memory in bytes: used by this program, needed by the model, and there at all."""
    models = (pipeline.transformer, pipeline.codec.vae, pipeline.text.text_encoder)
    used, there = _memory(pipeline.device)
    return {
        "model": pipeline.name,
        "parameters": sum(p.numel() for p in pipeline.transformer.parameters()),
        "device": _device_name(pipeline.device),
        "attention": backend_in_use(pipeline.transformer),
        "memory_used": used,
        "memory_needed": sum(map(_size, models)) + cache_size(pipeline),
        "memory_there": there,
    }


def cache_size(pipeline: ShotStreamPipeline) -> int:
    """Bytes of both memories of a shot of the usual length."""
    settings, config = pipeline.settings, pipeline.transformer.config
    rows, columns = pipeline.transformer.token_grid(*pipeline.codec.latent_size(settings.height, settings.width))
    tokens = (settings.budget + latent_frames(settings.shot_frames)) * rows * columns
    width = config.num_attention_heads * config.attention_head_dim
    return 2 * config.num_layers * tokens * width * pipeline.transformer.dtype.itemsize


def _size(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _memory(device: torch.device) -> tuple[int, int]:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
    return psutil.Process().memory_info().rss, host_memory()[1]


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() != 1)}"
