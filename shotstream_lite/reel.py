"""Footage on disk: a long story keeps its frames, and its memory stays flat."""

import io
import tempfile
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from shotstream_lite.errors import FilmError, StoryError, reason
from shotstream_lite.files import MEBIBYTE, check_file, writing

MAX_PIXELS = 50_000_000  # of a picture that is read


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


class Reel:
    """All footage of one session in one temporary file, which goes when the last piece of footage does."""

    def __init__(self) -> None:
        with writing("the folder for temporary files", FilmError, "set TMPDIR to one that can be written to"):
            self._file = tempfile.TemporaryFile()  # noqa: SIM115, lives as long as the reel
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()

    def append(self, frames: np.ndarray) -> "Footage":
        """Stores the frames of a shot, uint8 [frames, height, width, 3]."""
        with self._lock, writing(tempfile.gettempdir(), FilmError, "make room there, or set TMPDIR to another folder"):
            offset = self._file.seek(0, 2)
            self._file.write(np.ascontiguousarray(frames).data)
            self._file.flush()
        return Footage(self, offset, len(frames), frames.shape[1], frames.shape[2])

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`."""
        with self._lock:
            self._file.seek(offset)
            return self._file.read(size)


@dataclass(frozen=True, eq=False)
class Footage:
    """A finished shot on a reel. Equal only to itself, so it can stand as the key of what was made from it."""

    reel: Reel
    offset: int
    length: int
    height: int
    width: int

    def frames(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """Some or all frames, uint8 [count, height, width, 3]."""
        count = self.length - start if count is None else count
        size = self.height * self.width * 3
        data = self.reel.read(self.offset + start * size, count * size)
        return np.frombuffer(data, np.uint8).reshape(count, self.height, self.width, 3)
