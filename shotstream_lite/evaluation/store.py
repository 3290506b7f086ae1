"""Where told films and their scores are kept, so that an interrupted evaluation goes on where it stopped."""

import hashlib
import os
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shotstream_lite.errors import StoryError, about
from shotstream_lite.evaluation.films import Film, ModelSpec
from shotstream_lite.files import whole_file, writing
from shotstream_lite.film import FilmWriter, read_film
from shotstream_lite.measures import Scores
from shotstream_lite.models.folder import model_folder

SCALE = 2
MEASURES = 2  # raised whenever more is measured of a film, so that scores of before are not taken for whole


def check_folder(folder: Path, option: str) -> None:
    """Makes the folder. Raises StoryError if it cannot be written to."""
    with about(option), writing(folder, StoryError):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise StoryError(f"{option} {folder}: cannot be written to: choose another folder")


def stacked(parts: Sequence[Scores]) -> Scores:
    """The scores of films together, [films, shots, ...]."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def scores_key(spec: ModelSpec, probe: Path, *stories: int) -> str:
    """Changes with all that scores come from: weights, probe, settings, and what says which stories are told how."""
    folder = model_folder(spec.preset)
    mine = "transformer" if spec.weights == "student" else spec.weights
    parts = [folder / part for part in (mine, "vae", "text_encoder")]
    files = [path for part in parts for path in sorted(part.glob("*.safetensors"))]
    return made_by([*files, folder / "stream.json", probe], spec.weights, sorted(spec.settings.items()), *stories)


def made_by(files: Iterable[Path], *what: Any) -> str:
    """Changes with the contents of files, of those that are there, and with what else scores come from."""
    digest = hashlib.sha256(repr((MEASURES, *what)).encode())
    for path in files:
        if path.is_file():
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


class Kept:
    """The films of one model in a folder: `story-0000.npz` with its scores, and `story-0000.mp4` to look at.

    Scores of other weights, another probe or another seed are not taken for these: the film is told again.
    """

    def __init__(self, folder: Path, name: str, made_by: str) -> None:
        self.folder = folder / re.sub(r"[^\w.=@,-]+", "_", name)
        self.made_by = made_by

    def load(self, number: int) -> Scores | None:
        """The scores of a story's film, or None if it has to be told."""
        try:
            with np.load(self._path(number, ".npz"), allow_pickle=False) as file:
                scores = dict(file)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None
        return scores if str(scores.pop("made_by", "")) == self.made_by else None

    def save(self, number: int, film: Film, scores: Scores, fps: int) -> None:
        """Keeps a film and its scores; the scores last, so that what has scores is whole."""
        self.folder.mkdir(exist_ok=True)
        with FilmWriter(self._path(number, ".mp4"), fps, SCALE) as writer:
            for shot in film.shots:
                writer.write(shot)
        with whole_file(self._path(number, ".npz")) as part, open(part, "wb") as file:
            np.savez(file, made_by=self.made_by, **scores)

    def shots(self, number: int, lengths: list[int]) -> list[np.ndarray]:
        """The kept film in its shots, for looking at: H.264 is not exact."""
        frames = read_film(self._path(number, ".mp4"))[:, ::SCALE, ::SCALE]
        return np.split(frames, np.cumsum(lengths)[:-1])

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"story-{number:04d}{suffix}"
