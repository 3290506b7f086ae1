"""Frames as a page can show them: JPEG, films as MP4; and what can be said of them by looking."""

import base64
import hashlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shotstream_lite.errors import StoryError
from shotstream_lite.film import SMALL, FilmWriter
from shotstream_lite.footage import Footage
from shotstream_lite.measures import PHOTOGRAPHED, TOYBOX, find_cuts

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
