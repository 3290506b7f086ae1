"""Frames to a film on disk while they come, and back: H.264 by PyAV, and a strip of stills as a picture."""

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
from PIL import Image

from shotstream_lite.errors import FilmError

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
SMALL, COMFORTABLE = 200, 480  # films lower than the first are enlarged to at least the second (pixels)
# Small crisp pictures need few bits anyway: "veryfast" leaves the cores to the model; with "zerolatency" each
# frame goes to the file when it comes.
_X264 = {"crf": "16", "preset": "veryfast", "tune": "zerolatency"}


def check_film_path(path: str | Path) -> Path:
    """Raises FilmError unless a film can be written there; ask before the work starts. Writes nothing."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise FilmError(f"{path}: the name must end in {', '.join(FORMATS)}: rename the film")
    if path.is_dir():
        raise FilmError(f"{path}: is a folder: name a file in it")
    if not path.parent.is_dir():
        raise FilmError(f"{path}: the folder {path.parent} is not there: make it first")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise FilmError(f"{path}: the folder cannot be written to ({error.strerror}): choose another") from None
    return path


def pyav() -> ModuleType:
    """PyAV, imported when a film is written or read: many GPU machines lack it. Raises FilmError without it."""
    try:
        import av
        import av.video.reformatter
    except ImportError:
        raise FilmError("films need PyAV: pip install av") from None
    return av


class FilmWriter:
    """Writes a film as its frames come; use as a context manager.

    The film grows in `<name>.part` and takes its name when the block ends, also by Ctrl-C: what is finished
    is then a playable film. An error in the block, or a block without a frame, leaves nothing behind and an
    existing film as it was.

    Args:
        path: ends in .mp4, .mov or .mkv.
        fps: frames a second.
        scale: each pixel becomes scale x scale; None enlarges small films (64 x 96 to 512 x 768).

    Raises FilmError if the path is no good, and when the disk refuses.
    """

    def __init__(self, path: str | Path, fps: int = 16, scale: int | None = None) -> None:
        self.path = check_film_path(path)
        self.fps, self.scale = fps, scale
        self.frames_written = 0
        self._part = self.path.with_name(self.path.name + ".part")
        self._container: Any = None

    def __enter__(self) -> "FilmWriter":
        return self

    def write(self, frames: np.ndarray) -> None:
        """Appends uint8 frames [f, H, W, 3]; the first ones settle the size. Raises FilmError."""
        frames = np.asarray(frames)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise FilmError(f"{self.path}: frames must be uint8 [f, H, W, 3], not {frames.dtype} {frames.shape}")
        try:
            for frame in frames:
                self._write_one(frame)
        except pyav().FFmpegError as error:
            raise FilmError(f"{self.path}: cannot be written ({error.strerror}): is the disk full?") from None

    def close(self) -> None:
        """Finishes the film and gives it its name. Nothing happens if no frame was written."""
        if self._container is None:
            return
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
            os.replace(self._part, self.path)
        except (pyav().FFmpegError, OSError) as error:
            raise FilmError(f"{self.path}: cannot be finished ({error.strerror}): see {self._part}") from None
        finally:
            self._container = None

    def discard(self) -> None:
        """Drops what was written; a film that was there before stays."""
        if self._container is not None:
            self._container.close()
            self._container = None
        self._part.unlink(missing_ok=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, Exception):
            self.discard()
        else:  # the end, or Ctrl-C
            self.close()

    def _write_one(self, frame: np.ndarray) -> None:
        if self._container is None:
            self._open(*frame.shape[:2])
        frame = frame.repeat(self._scale, axis=0).repeat(self._scale, axis=1)
        if frame.shape[:2] != (self._stream.height, self._stream.width):
            size = f"{self._stream.height // self._scale} x {self._stream.width // self._scale}"
            raise FilmError(f"{self.path}: all frames must be {size} like the first: start another film")
        picture = pyav().VideoFrame.from_ndarray(frame, format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace=pyav().video.reformatter.Colorspace.ITU709)
        picture.pts = self.frames_written
        self._container.mux(self._stream.encode(picture))
        self.frames_written += 1

    def _open(self, height: int, width: int) -> None:
        self._scale = self.scale or default_scale(height, width)
        if height * self._scale % 2 or width * self._scale % 2:
            raise FilmError(f"{self.path}: H.264 needs even sides, not {height} x {width}: use an even scale")
        self._container = pyav().open(str(self._part), "w", format=FORMATS[self.path.suffix.lower()])
        self._stream = self._container.add_stream("libx264", rate=self.fps, options=_X264)
        self._stream.height, self._stream.width = height * self._scale, width * self._scale
        self._stream.pix_fmt = "yuv420p"
        # Say how YUV becomes RGB: players guess otherwise, and the colours shift.
        self._stream.codec_context.colorspace = pyav().video.reformatter.Colorspace.ITU709
        self._stream.codec_context.color_primaries = pyav().video.reformatter.ColorPrimaries.BT709
        self._stream.codec_context.color_trc = pyav().video.reformatter.ColorTrc.BT709


def default_scale(height: int, width: int) -> int:
    """The enlargement of a film: 1 from SMALL rows on, else to COMFORTABLE or more; even for odd sides."""
    scale = 1 if height >= SMALL else math.ceil(COMFORTABLE / height)
    return scale + scale % 2 if height % 2 or width % 2 else scale


def read_film(path: str | Path) -> np.ndarray:
    """All frames of a film, uint8 [f, H, W, 3], in the size they were written with (scale included)."""
    try:
        with pyav().open(str(path)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    except (pyav().FFmpegError, OSError, IndexError, ValueError) as error:
        raise FilmError(f"{path}: not a film that can be read ({error}): check the name") from None


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


def write_strip(shots: Sequence[np.ndarray], path: str | Path, columns: int = 6, scale: int = 1) -> None:
    """Saves `film_strip` as a picture (.png), each pixel scale x scale. Raises FilmError if it cannot."""
    strip = film_strip(shots, columns).repeat(scale, axis=0).repeat(scale, axis=1)
    try:
        Image.fromarray(strip).save(path)
    except (OSError, ValueError) as error:
        raise FilmError(f"{path}: the picture cannot be written ({error}): choose another name") from None
