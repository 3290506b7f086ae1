"""Frames to a film on disk while they come, and back (H.264 by PyAV)."""

import math
import os
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from shotstream_lite.errors import FilmError, ShotStreamError, reason
from shotstream_lite.files import Part, check_file, remove_left, shown, writing

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
SMALL, COMFORTABLE = 200, 480  # films lower than the first are enlarged to at least the second (pixels)
# A film can be played while it grows: what a killed process leaves, too. It becomes an ordinary file when it ends.
_GROWING = {"movflags": "hybrid_fragmented+frag_keyframe+default_base_moof", "frag_duration": "1000000"}
# Small crisp pictures need few bits anyway: "veryfast" leaves the cores to the model; with "zerolatency" each
# frame goes to the file when it comes.
_X264 = {"crf": "16", "preset": "veryfast", "tune": "zerolatency"}
_ENCODERS = {"libx264": _X264, "libopenh264": {"b": "8M"}, "h264_videotoolbox": {"b": "8M"}, "h264_mf": {"b": "8M"}}
"""Of H.264, by which of them an ffmpeg was built with; the others take bits a second."""


def check_film_path(path: str | Path) -> Path:
    """Raises FilmError unless a film can be written there; ask before the work starts. Writes nothing."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise FilmError(f"{shown(path)}: the name must end in {', '.join(FORMATS)}: rename the film")
    with _writing(path):
        if path.is_dir():
            raise FilmError(f"{path}: is a folder: name a file in it")
        if not path.parent.is_dir():
            raise FilmError(f"{path}: the folder {path.parent} is not there: make it first")
        if path.exists() and not path.is_file():
            raise FilmError(f"{path}: is no regular file: choose another name")
        Part(path).drop()
    h264_encoder()
    return path


def pyav() -> ModuleType:
    """PyAV, imported when a film is written or read: many GPU machines lack it. Raises FilmError without it."""
    try:
        import av
        import av.video.reformatter  # noqa: F401, makes av.video.reformatter
    except ImportError:
        raise FilmError("films need PyAV: pip install av") from None
    return av


def h264_encoder() -> tuple[str, dict[str, str]]:
    """The first of the encoders that this PyAV has, and its options. Raises FilmError if it has none."""
    av = pyav()
    for name, options in _ENCODERS.items():
        with suppress(ValueError):  # PyAV's UnknownCodecError
            av.Codec(name, "w")
            return name, options
    raise FilmError("this PyAV has no H.264 encoder: pip install --force-reinstall --only-binary av av")


class FilmWriter(AbstractContextManager):
    """Writes a film as its frames come; use as a context manager.

    The film grows in a file of its own beside `path` and takes the name when the block ends. If the block is left by
    an error or by Ctrl-C, what is finished is a playable film all the same: under that name if no film had it, else
    under `stopped`; `path` then says where. A block without a frame leaves nothing behind.

    Args:
        path: ends in .mp4, .mov or .mkv.
        fps: frames a second.
        scale: each pixel becomes scale x scale; None enlarges small films (128 x 224 to 512 x 896).
        stopped: where a film goes that was not finished; None: to `path` or, if there is a film, to NAME-stopped.

    Raises FilmError if the path is no good, and when the disk refuses.
    """

    def __init__(
        self, path: str | Path, fps: int = 16, scale: int | None = None, stopped: str | Path | None = None
    ) -> None:
        self.path = check_film_path(path)
        self.fps, self.scale = fps, scale
        self.stopped = Path(stopped) if stopped else self.path
        if not stopped and self.path.exists():
            self.stopped = self.path.with_stem(f"{self.path.stem}-stopped")
        self.frames_written = 0
        self._part: Part | None = None
        self._container: Any = None

    def write(self, frames: np.ndarray) -> None:
        """Appends uint8 frames [f, H, W, 3]; the first ones settle the size. Raises FilmError."""
        frames = np.asarray(frames)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise FilmError(f"{self.path}: frames must be uint8 [f, H, W, 3], not {frames.dtype} {frames.shape}")
        with _writing(self.path):
            for frame in frames:
                if self._container is None:
                    self._open(*frame.shape[:2])
                frame = frame.repeat(self._scale, axis=0).repeat(self._scale, axis=1)
                if frame.shape[:2] != (self._stream.height, self._stream.width):
                    size = f"{self._stream.height // self._scale} x {self._stream.width // self._scale}"
                    raise FilmError(f"{self.path}: all frames must be {size} like the first: start another film")
                _add(self._container, self._stream, frame, self.frames_written)
                self.frames_written += 1

    def close(self) -> None:
        """Finishes the film and gives it its name. Nothing happens if no frame was written."""
        if self._container is not None:
            with _writing(self.path):
                self._container.mux(self._stream.encode())
                self._container.close()
                self._part.keep()
                self._container = self._part = None

    def stop(self) -> bool:
        """Makes a film of what is finished, see `stopped`; whether there is one."""
        if self._part is None:
            return False
        kept = False
        with suppress(OSError):
            try:
                if self.frames_written and self._container is not None:
                    self._container.mux(self._stream.encode())
                    self._container.close()
            except (pyav().FFmpegError, OSError):  # the disk is full
                with suppress(pyav().FFmpegError, OSError):
                    self._container.close()
                _cut_to_fragments(self._part.path)
            self.frames_written = _frames_of(self._part.path)
            if self.frames_written:
                self._part.keep(self.stopped)
                self.path, kept = self.stopped, True
        self._part.drop()
        self._container = self._part = None
        return kept

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self.close()
                return
            except FilmError as refused:
                error = refused
        if not self.stop():
            self.frames_written = 0
        elif isinstance(error, ShotStreamError):
            raise type(error)(f"{error}; {self.path} holds what is finished") from None
        if kind is None:
            raise error

    def _open(self, height: int, width: int) -> None:
        self._scale = self.scale or default_scale(height, width)
        if height * self._scale % 2 or width * self._scale % 2:
            raise FilmError(f"{self.path}: H.264 needs even sides, not {height} x {width}: use an even scale")
        remove_left(self.path)
        self._part = Part(self.path)
        kind = FORMATS[self.path.suffix.lower()]
        growing = _GROWING if kind != "matroska" else {}
        self._container = pyav().open(str(self._part.path), "w", format=kind, container_options=growing)
        self._stream = _begin(self._container, self.fps, height * self._scale, width * self._scale)


class FilmStream:
    """A film as bytes while it is made: an MP4 in fragments, one a frame, each sent when the next frame comes."""

    def __init__(self, fps: int, height: int, width: int) -> None:
        self._file = _Sent()
        options = {"movflags": "empty_moov+default_base_moof+frag_every_frame"}
        self._container = pyav().open(self._file, "w", format="mp4", container_options=options)
        self._stream, self._frames = _begin(self._container, fps, height, width), 0

    def write(self, frames: np.ndarray) -> bytes:
        """What is to be sent after these frames, uint8 [f, height, width, 3]."""
        for frame in frames:
            _add(self._container, self._stream, frame, self._frames)
            self._frames += 1
        return self._file.take()

    def close(self) -> bytes:
        """The rest, the last frame among it."""
        if self._frames:
            self._container.mux(self._stream.encode())
        self._container.close()
        return self._file.take()


class _Sent:
    """A file that can be written to its end only."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def take(self) -> bytes:
        """What was written since the last call."""
        data, self._data = bytes(self._data), bytearray()
        return data


def _begin(container: Any, fps: int, height: int, width: int) -> Any:
    """A new stream of pictures in H.264."""
    encoder, options = h264_encoder()
    stream = container.add_stream(encoder, rate=fps, options=options)
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    # Say how YUV becomes RGB: players guess otherwise, and the colours shift.
    colours = pyav().video.reformatter
    stream.codec_context.colorspace = colours.Colorspace.ITU709
    stream.codec_context.color_primaries = colours.ColorPrimaries.BT709
    stream.codec_context.color_trc = colours.ColorTrc.BT709
    return stream


def _add(container: Any, stream: Any, frame: np.ndarray, number: int) -> None:
    picture = pyav().VideoFrame.from_ndarray(frame, format="rgb24")
    picture = picture.reformat(format="yuv420p", dst_colorspace=pyav().video.reformatter.Colorspace.ITU709)
    picture.pts = number
    container.mux(stream.encode(picture))


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    with writing(path, FilmError):
        try:
            yield
        except pyav().FFmpegError as error:  # some of them are no OSError
            raise OSError(error.errno, error.strerror) from None


def _cut_to_fragments(path: Path) -> None:
    """Cuts off the fragment that the disk cut short (ISO 14496-12: a box is its size and its name first), if whole
    ones come before it."""
    with open(path, "r+b") as file:
        size, start, whole = os.path.getsize(path), 0, 0
        while start + 8 <= size:
            file.seek(start)
            length, name = struct.unpack(">I4s", file.read(8))
            start += max(length, 8)
            whole = start if name == b"mdat" and start <= size else whole
        if whole:
            file.truncate(whole)


def _frames_of(path: Path) -> int:
    """Frames in a film that was not finished: one more than were counted if Ctrl-C came between, fewer if the disk was
    full; 0 if the first cannot be read."""
    with suppress(pyav().FFmpegError, OSError, IndexError), pyav().open(str(path)) as container:
        if next(container.decode(video=0), None) is not None:
            container.seek(0)
            return sum(packet.size > 0 for packet in container.demux(video=0))
    return 0


def default_scale(height: int, width: int) -> int:
    """The enlargement of a film: 1 from SMALL rows on, else to COMFORTABLE or more; even for odd sides."""
    scale = 1 if height >= SMALL else math.ceil(COMFORTABLE / height)
    return scale + scale % 2 if height % 2 or width % 2 else scale


def read_film(path: str | Path) -> np.ndarray:
    """All frames of a film, uint8 [f, H, W, 3], in the size they were written with (scale included)."""
    check_file(path, error=FilmError)
    try:
        with pyav().open(os.path.abspath(path)) as container:  # or ffmpeg takes a name with a colon for an address
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    except (pyav().FFmpegError, OSError, IndexError, ValueError) as error:
        raise FilmError(f"{shown(path)}: not a film that can be read ({reason(error)}): check the name") from None
