"""Footage on a reel: the frames of finished shots, kept on disk while their story is told."""

import tempfile
import threading
import weakref
from dataclasses import dataclass

import numpy as np

from shotstream_lite.errors import FilmError
from shotstream_lite.files import writing


class Reel:
    """All footage of one session in one temporary file: a long story's memory stays flat. It goes with its footage."""

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
