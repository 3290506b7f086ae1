"""What a page is told while shots are made: JSON objects with a `kind`, see `static` for who listens."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shotstream_lite.codec import latent_frames
from shotstream_lite.errors import ShotStreamError
from shotstream_lite.film import FilmWriter
from shotstream_lite.history import select
from shotstream_lite.reel import Footage
from shotstream_lite.studio.pictures import strip
from shotstream_lite.take import Take

PIECE = 12  # frames of a message when a film is played again


def begin(number: int, take: Take, place: int, past: Sequence[Footage]) -> dict[str, Any]:
    """Take `number` of this studio begins; it is shot `place` (from 1) and remembers frames of the past."""
    settings = take.settings
    picked = select([footage.length for footage in past], settings.budget, settings.policy)
    return {
        "kind": "begin",
        "take": number,
        "shot": place,
        "caption": take.shot.caption,
        "seed": str(take.shot.seed),
        "frames": take.shot.frames,
        "latents": latent_frames(take.shot.frames),
        "chunk": settings.chunk,
        "empty": 0 if past else settings.budget,
        "context": [
            {"shot": shot + 1, "frame": frame, "picture": strip(past[shot].frames(frame, 1))} for shot, frame in picked
        ],
        "settings": dict(take.shot.settings),
    }


def frames_of(number: int, take: Take, frames: np.ndarray) -> dict[str, Any]:
    """The frames a take just gave, uint8 [f, height, width, 3], and what its latest chunk looked at."""
    return _frames(number, take.frames_made - len(frames), frames) | {
        "whole": chunk_is_whole(take),
        "caption": take.caption,
        "shares": None if take.shares is None else [round(share, 5) for share in take.shares.tolist()],
    }


def chunk_is_whole(take: Take) -> bool:
    """The take has given all frames of its latest chunk."""
    return take.frames_made == take.shot.frames or latent_frames(take.frames_made) % take.settings.chunk == 0


def again(films: Iterable[np.ndarray], number: int) -> Iterator[dict[str, Any]]:
    """Films that are there already, piece by piece."""
    first = 0
    for film in films:
        for frames in np.split(film, range(PIECE, len(film), PIECE)):
            yield _frames(number, first, frames) | {"whole": True}
            first += len(frames)


def _frames(number: int, first: int, frames: np.ndarray) -> dict[str, Any]:
    count, height, width, _ = frames.shape
    picture = {"count": count, "height": height, "width": width, "jpeg": strip(frames)}
    return {"kind": "frames", "take": number, "first": first, **picture}


def mp4(shots: Sequence[Footage], fps: int) -> bytes:
    """A film file of some shots."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        with FilmWriter(path, fps) as writer:
            for footage in shots:
                writer.write(footage.frames())
        return path.read_bytes()


def unknown_words(unknown: Sequence[tuple[str, Sequence[str]]], most: int = 6) -> str:
    """A sentence for the words a model does not know, each with the nearest it knows."""
    named = [f"“{word}”" + (f" (nearest: {', '.join(near[:2])})" if near else "") for word, near in unknown[:most]]
    return "The model does not know " + ", ".join(named) + ". It tells the rest."


def apology(error: Exception) -> str | None:
    """What the visitor is told when a shot failed; None for an error nobody expected."""
    if isinstance(error, ShotStreamError):
        return str(error)
    return None
