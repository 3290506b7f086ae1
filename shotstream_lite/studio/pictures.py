"""Frames as the page wants them: one JPEG with all frames of a piece under each other, as text."""

import base64
import hashlib
import io

import numpy as np
from PIL import Image

from shotstream_lite.film import SMALL
from shotstream_lite.reel import Footage

TILES = 4  # stills of a shot in the timeline


def strip(frames: np.ndarray) -> str:
    """uint8 [f, height, width, 3] -> base64 of one JPEG, f * height rows. Small pictures keep all of their colour."""
    small = frames.shape[1] < SMALL
    picture = Image.fromarray(frames.reshape(-1, *frames.shape[2:]))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90 if small else 75, subsampling=0 if small else 2)
    return base64.b64encode(file.getvalue()).decode("ascii")


def stills(footage: Footage) -> str:
    """`TILES` frames of a shot side by side, as `strip` gives them."""
    picked = [footage.frames(i, 1)[0] for i in np.linspace(0, footage.length - 1, TILES).round().astype(int)]
    return strip(np.concatenate(picked, axis=1)[None])


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two films in one, uint8 [f, height, 2 * width + 2, 3]; the shorter one waits on its last frame."""
    longest = max(len(left), len(right))
    films = [np.pad(film, ((0, longest - len(film)), (0, 0), (0, 0), (0, 0)), mode="edge") for film in (left, right)]
    seam = np.zeros_like(films[0][:, :, :2])
    return np.concatenate([films[0], seam, films[1]], axis=2)


def fingerprint(footage: Footage) -> str:
    """Twelve letters that say whether two shots are the same, pixel by pixel."""
    return hashlib.sha256(footage.frames()).hexdigest()[:12]
