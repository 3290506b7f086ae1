"""What a page is told: its messages, and the box where they wait until the page has them."""

import asyncio
import functools
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil
import torch

from shotstream_lite.attention import backend_in_use
from shotstream_lite.codec import latent_frames
from shotstream_lite.errors import ShotStreamError
from shotstream_lite.footage import Footage
from shotstream_lite.history import select
from shotstream_lite.making import Making
from shotstream_lite.models.memory import host_memory, weight_bytes
from shotstream_lite.models.settings import StreamSettings
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.studio import pictures
from shotstream_lite.studio.timeline import Take

HOLD = 15.0  # seconds a page's request waits for news
READ = 9  # frames on either side of a cut that are read
UNREAD = 200  # messages a page may leave unread; then they are dropped, and it is told everything anew


class Outbox:
    """Messages for one page, numbered, kept until the page says that it has them: a line that breaks loses nothing."""

    def __init__(self) -> None:
        self._messages: deque[tuple[int, dict[str, Any]]] = deque()
        self._count = 0
        self._lock = threading.Lock()
        self._wake: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def put(self, message: dict[str, Any]) -> None:
        """Adds a message and wakes the page's request. Of those that say how things are, only the latest stays."""
        with self._lock:
            if message["kind"] in ("story", "place"):
                self._messages = deque(m for m in self._messages if m[1]["kind"] != message["kind"])
            self._count += 1
            self._messages.append((self._count, message))
            wake = self._wake
        if wake and not wake[0].is_closed():
            wake[0].call_soon_threadsafe(wake[1].set)

    @property
    def full(self) -> bool:
        """The page reads nothing."""
        return len(self._messages) > UNREAD

    def after(self, number: int) -> list[tuple[int, dict[str, Any]]]:
        """What comes after message `number`; the ones up to there are dropped."""
        with self._lock:
            while self._messages and self._messages[0][0] <= number:
                self._messages.popleft()
            return list(self._messages)

    def clear(self) -> None:
        with self._lock:
            self._messages.clear()

    async def wait(self, number: int, seconds: float) -> list[tuple[int, dict[str, Any]]]:
        """As `after`, as soon as there is something; nothing after so many seconds."""
        event = asyncio.Event()
        with self._lock:
            previous, self._wake = self._wake, (asyncio.get_running_loop(), event)
        if previous and not previous[0].is_closed():
            previous[0].call_soon_threadsafe(previous[1].set)  # a page that lost its request asks anew
        found = self.after(number)
        if not found:
            try:
                await asyncio.wait_for(event.wait(), seconds)
            except TimeoutError:
                return []
            found = self.after(number)
        return found


def begin(take: Take, settings: StreamSettings) -> dict[str, Any]:
    """A take is being made, or is played again."""
    past = take.past or ()
    settings = settings.changed({k: v for k, v in take.shot.settings.items() if k not in ("keep", "weights")})
    return {
        "kind": "begin",
        "take": take.id,
        "shot": len(past) + 1 - sum(one.picture for one in past),
        "caption": take.shot.caption,
        "note": take.note,
        "rolling": take.rolling,
        "aside": take.aside,
        "frames": take.shot.frames,
        "latents": latent_frames(take.shot.frames),
        "chunk": settings.chunk,
        "empty": 0 if past or take.context is None else settings.budget,
        "context": take.context or [],
    }


def remembered(take: Take, settings: StreamSettings) -> list[dict[str, Any]]:
    """The frames of earlier shots that a take sees: [{"shot", "frame", "picture"}]; pictures come before shot 1."""
    past, captions = [one.told.footage for one in take.past], [one.shot.caption for one in (*take.past, take)]
    lengths, given = [footage.length for footage in past], sum(one.picture for one in take.past)
    return [
        {"shot": shot + 1 - given, "frame": frame, "picture": pictures.strip(past[shot].frames(frame, 1))}
        for shot, frame in select(lengths, settings.budget, settings.policy, captions)
    ]


def look(making: Making, frames: np.ndarray) -> dict[str, Any]:
    """Which frames these are, what they were made from, and how much of each stored frame they looked at."""
    shares = None if making.shares is None else [round(share, 4) for share in making.shares.tolist()]
    first = making.frames_made - len(frames)
    return {"first": first, "count": len(frames), "caption": making.caption, "shares": shares}


def compare(pipeline: ShotStreamPipeline, one: Take, other: Take) -> dict[str, Any]:
    """Two takes side by side, from where they differ, with what each kept of the shots before."""
    films = [take.told.footage for take in (one, other)]
    before = [take.told.footage for take in one.past or () if take.told and not take.picture]
    labels = ["as told" if not take.note else take.note for take in (one, other)]
    if labels[0] == labels[1]:
        labels = [f"seed {take.shot.seed}" for take in (one, other)]
    return {
        "kind": "compare",
        "takes": [one.id, other.id],
        "labels": labels,
        "from": pictures.first_difference(*(film.frames() for film in films)),
        "card": scorecard(pipeline, before, films),
    }


def scorecard(pipeline: ShotStreamPipeline, past: Sequence[Footage], takes: Sequence[Footage]) -> list[dict[str, Any]]:
    """What the miniature world's probe reads in some takes of a shot, of the details that no caption names.

    They are compared with the latest earlier shot of the same character; if there is none, only the light is. What the
    wind changes in mid-shot is no mistake: takes are read where they begin, the earlier shot where it ends.

    Returns:
        [{"name", "earlier", "read": one a take}], in words; nothing for models the probe was not made for.
    """
    if pipeline.name != "toybox" or not past:
        return []
    read = [_answers(footage.frames(0, min(READ, footage.length))) for footage in takes]
    earlier = [_answers(footage.frames(max(0, footage.length - READ))) for footage in reversed(past)]
    who = ("shape", "colour")
    same = next((one for one in earlier if all(one[part] == read[0][part] for part in who)), None)
    before, shown = (same, ("hat", "stripe", "tint")) if same else (earlier[0], ("tint",))
    return [{"name": name, "earlier": before[name], "read": [one[name] for one in read]} for name in shown]


@torch.inference_mode()
def _answers(frames: np.ndarray) -> dict[str, str]:
    """What the probe reads in some frames together, by question."""
    from shotstream_lite.toybox.truth import IN_FRAME

    probe = _probe()
    logits = probe.stills(probe.features(torch.tensor(frames)))
    return {name: str(IN_FRAME[name][int(some.log_softmax(1).mean(0).argmax())]) for name, some in logits.items()}


@functools.cache
def _probe() -> Any:
    from shotstream_lite.toybox.probe import PROBE_FILE, load_probe

    return load_probe(PROBE_FILE)


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
        "memory_needed": sum(map(weight_bytes, models)) + cache_size(pipeline),
        "memory_there": there,
    }


def cache_size(pipeline: ShotStreamPipeline) -> int:
    """Bytes of both memories of a shot of the usual length."""
    settings, config = pipeline.settings, pipeline.transformer.config
    rows, columns = pipeline.transformer.token_grid(*pipeline.codec.latent_size(settings.height, settings.width))
    tokens = (settings.budget + latent_frames(settings.shot_frames)) * rows * columns
    width = config.num_attention_heads * config.attention_head_dim
    return 2 * config.num_layers * tokens * width * pipeline.transformer.dtype.itemsize


def _memory(device: torch.device) -> tuple[int, int]:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
    return psutil.Process().memory_info().rss, host_memory()[1]


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() != 1)}"
