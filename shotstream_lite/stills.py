"""Single pictures: read and written, and strips of a film's stills."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from shotstream_lite.errors import FilmError, StoryError, reason
from shotstream_lite.files import MEBIBYTE, check_file, whole_file
from shotstream_lite.footage import Footage

MAX_PIXELS = 50_000_000  # of a picture that is read
STILL = 120  # rows of a still on a contact sheet, at least


def read_picture(picture: bytes | str | Path, height: int, width: int) -> np.ndarray:
    """A picture, a file or its bytes, cut and scaled to fill a frame: uint8 [height, width, 3]. Raises StoryError."""
    source = io.BytesIO(picture) if isinstance(picture, bytes) else check_file(picture, 64 * MEBIBYTE)
    try:
        with Image.open(source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise StoryError(f"the picture is {image.width} x {image.height}: make it smaller")
            return np.array(ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (width, height)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, StoryError):
            raise
        name = "the picture" if isinstance(picture, bytes) else picture
        raise StoryError(f"{name}: is no picture that can be read ({reason(error)}): give a PNG or JPEG") from None


def write_picture(frame: np.ndarray) -> bytes:
    """A frame, uint8 [height, width, 3], as a PNG."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG")
    return file.getvalue()


def film_strip(shots: Sequence[np.ndarray], columns: int = 6, gap: int = 2) -> np.ndarray:
    """A picture of a film: a row a shot, `columns` stills spread over its time, white lines of `gap` pixels.

    Args:
        shots: uint8 [f, H, W, 3] each, of one size and of any length.

    Returns:
        uint8 [rows, columns, 3].
    """
    height, width = shots[0].shape[1:3]
    strip = np.full((len(shots) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for row, shot in enumerate(shots):
        for column, index in enumerate(np.linspace(0, len(shot) - 1, columns).round().astype(int)):
            top, left = row * (height + gap), column * (width + gap)
            strip[top : top + height, left : left + width] = shot[index]
    return strip


def write_sheet(shots: Sequence[Footage], path: str | Path, columns: int = 6) -> None:
    """A contact sheet of told shots, as `write_strip`; small pictures are enlarged. Only the stills are read."""
    stills = [np.linspace(0, shot.length - 1, columns).round().astype(int).tolist() for shot in shots]
    picked = [np.concatenate([shot.frames(i, 1) for i in row]) for shot, row in zip(shots, stills, strict=True)]
    write_strip(picked, path, columns, scale=math.ceil(STILL / shots[0].height))


def write_strip(shots: Sequence[np.ndarray], path: str | Path, columns: int = 6, scale: int = 1) -> None:
    """Saves `film_strip` as a PNG, each pixel scale x scale, whole or not at all. Raises FilmError if it cannot."""
    strip = film_strip(shots, columns).repeat(scale, axis=0).repeat(scale, axis=1)
    with whole_file(path, FilmError) as part:
        Image.fromarray(strip).save(part, "PNG")
