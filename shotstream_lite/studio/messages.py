"""What a page is told and shown: frames as JPEG, films as MP4, facts about the machine, and what a shot kept."""

import base64
import functools
import hashlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch import nn

from shotstream_lite.attention import backend_in_use
from shotstream_lite.codec import latent_frames
from shotstream_lite.errors import ShotStreamError, StoryError
from shotstream_lite.film import SMALL, FilmWriter, Footage
from shotstream_lite.measures import PHOTOGRAPHED, TOYBOX, find_cuts
from shotstream_lite.models.memory import host_memory
from shotstream_lite.pipeline import ShotStreamPipeline

TILES = 4  # stills of a shot in the timeline
PIECE = 12  # frames of a strip when a film is played again


def strip(frames: np.ndarray) -> str:
    """As `jpeg`, in base64."""
    return base64.b64encode(jpeg(frames)).decode("ascii")


def jpeg(frames: np.ndarray) -> bytes:
    """uint8 [f, height, width, 3] -> one JPEG, f * height rows. Small pictures keep all of their colour."""
    small = frames.shape[1] < SMALL
    picture = Image.fromarray(frames.reshape(-1, *frames.shape[2:]))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90 if small else 75, subsampling=0 if small else 2)
    return file.getvalue()


def stills(footage: Footage, count: int = TILES) -> str:
    """Some frames of a shot side by side, as `strip` gives them."""
    picked = [footage.frames(i, 1)[0] for i in np.linspace(0, footage.length - 1, count).round().astype(int)]
    return strip(np.concatenate(picked, axis=1)[None])


def strips(footage: Footage) -> list[dict[str, Any]]:
    """A shot as `strip`s of PIECE frames."""
    starts = range(0, footage.length, PIECE)
    pieces = [(start, min(PIECE, footage.length - start)) for start in starts]
    return [{"first": start, "count": count, "jpeg": strip(footage.frames(start, count))} for start, count in pieces]


def frames_digest(footage: Footage) -> str:
    """Twelve letters that say whether two shots are the same, pixel by pixel."""
    return hashlib.sha256(footage.frames()).hexdigest()[:12]


def mp4(shots: Sequence[Footage], fps: int) -> bytes:
    """A film file of some shots."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        with FilmWriter(path, fps) as writer:
            for footage in shots:
                writer.write(footage.frames())
        return path.read_bytes()


def unasked_cuts(footage: Footage, fps: int) -> list[int]:
    """Frames at which a shot is cut though nobody asked for it; none where cuts cannot be looked for."""
    try:
        return find_cuts(footage.frames(), fps, TOYBOX if footage.height < SMALL else PHOTOGRAPHED)
    except StoryError:  # PySceneDetect is not installed
        return []


def first_difference(one: np.ndarray, other: np.ndarray) -> int:
    """The first frame in which two films differ; their common length if none does."""
    common = min(len(one), len(other))
    different = (one[:common] != other[:common]).any(axis=(1, 2, 3))
    return int(different.argmax()) if different.any() else common


@functools.cache
def _probe() -> Any:
    from shotstream_lite.toybox.probe import load_probe

    return load_probe()


def scorecard(pipeline: ShotStreamPipeline, past: Sequence[Footage], takes: Sequence[Footage]) -> list[dict[str, Any]]:
    """What the miniature world's probe reads in some takes of a shot, of the details that no caption names.

    They are compared with the latest earlier shot of the same character; if there is none, only the light is.

    Returns:
        [{"name", "earlier", "read": one a take}], in words; nothing for models the probe was not made for.
    """
    if pipeline.name != "toybox" or not past:
        return []
    from shotstream_lite.toybox.probe import UNCAPTIONED

    read = [_probe().read(footage.frames()) for footage in takes]
    earlier = [_probe().read(footage.frames()) for footage in reversed(past)]
    who = ("shape", "colour")
    same = next((one for one in earlier if all(one[part] == read[0][part] for part in who)), None)
    before, shown = (same, ("hat", "stripe", "tint")) if same else (earlier[0], ("tint",))
    words = {name: [str(value) for value in UNCAPTIONED[name]] for name in shown}
    return [
        {"name": name, "earlier": words[name][before[name]], "read": [words[name][one[name]] for one in read]}
        for name in shown
    ]


def apology(error: Exception) -> str | None:
    """What the visitor is told when a shot failed; None for an error nobody expected."""
    if isinstance(error, ShotStreamError):
        return str(error)
    if isinstance(error, OSError):
        where = f"{tempfile.gettempdir()} ({error.strerror})"
        return f"The shot cannot be kept in {where}: free some space there, or set TMPDIR to another folder."
    return None


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
