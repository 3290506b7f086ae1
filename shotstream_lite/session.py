"""A story being told: the next shot, a retake, a step back, a branch; saved so that it can be told again exactly."""

import copy
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.presets import StreamSettings
from shotstream_lite.reel import Footage, Reel
from shotstream_lite.story import Shot, Story, StoryError, captions, check_shot, load_story, save_story


@dataclass(frozen=True, eq=False)
class ToldShot:
    """A finished shot: what was asked (caption, frames, seed all set), its footage, and how long it took (seconds)."""

    shot: Shot
    footage: Footage
    first_frame_seconds: float
    seconds: float


class StorySession:
    """One story in the making, on one pipeline.

    Args:
        global_caption: what holds for the whole story.
        seed: where the seeds of shots without one are drawn from; None for a story nobody has seen yet.
        settings: changes of the pipeline's settings by name, saved with the story.

    Raises:
        StoryError: a caption, seed or setting that is no good.
    """

    def __init__(
        self,
        pipeline: ShotStreamPipeline,
        global_caption: str,
        seed: int | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.settings = pipeline.settings.changed(settings or {})
        pipeline.check(self.settings)
        self.seed = random.randrange(2**32) if seed is None else seed
        self._plan = Story(global_caption, seed=self.seed)
        self._seeds = random.Random(self.seed)
        self._reel = Reel()
        self.shots: list[ToldShot] = []
        self.script: tuple[Shot, ...] = ()  # shots still to be told by `tell`

    @property
    def story(self) -> Story:
        """What has been told, with every seed; telling it again gives the same film."""
        settings = self.pipeline.settings.changes(self.settings)
        return replace(self._plan, shots=tuple(told.shot for told in self.shots), settings=settings)

    def next_shot(self, caption: str, frames: int | None = None, seed: int | None = None) -> Iterator[np.ndarray]:
        """Tells one more shot.

        The input is checked at once; frames are made as the iterator is asked for them. The shot joins the story
        when the iterator is through; one that is left early leaves no trace.

        Args:
            frames: pixel frames, 4k+1; None for the settings' usual length.
            seed: None for the next of the session's own.

        Yields:
            uint8 [f, height, width, 3], see `ShotStreamPipeline.shot`.

        Raises:
            StoryError: a caption, length or seed that is no good, or a caption too long for the model.
        """
        seed = self._seeds.randrange(2**32) if seed is None else seed
        return self._tell(tuple(self.shots), Shot(caption, frames or self.settings.shot_frames, seed))

    def retake(
        self,
        number: int | None = None,
        caption: str | None = None,
        frames: int | None = None,
        seed: int | None = None,
    ) -> Iterator[np.ndarray]:
        """Tells shot `number` (from 1; None for the last) once more, with another seed, caption or length.

        Earlier shots stay as they are. The old take and all later shots, which remembered it, go when the new one is
        through.
        """
        number = len(self.shots) if number is None else number
        if not 1 <= number <= len(self.shots):
            raise StoryError(f"there is no shot {number} to take again: the story has {len(self.shots)}")
        old = self.shots[number - 1].shot
        seed = self._seeds.randrange(2**32) if seed is None else seed
        return self._tell(tuple(self.shots[: number - 1]), Shot(caption or old.caption, frames or old.frames, seed))

    def undo(self) -> ToldShot:
        """Takes the last shot back and returns it. Raises StoryError when there is none."""
        if not self.shots:
            raise StoryError("there is nothing to undo: the story has no shots")
        return self.shots.pop()

    def branch(self) -> "StorySession":
        """A second version of the story from here on: shares the shots told so far and nothing after."""
        other = copy.copy(self)
        other.shots = list(self.shots)
        other._seeds = random.Random(self._seeds.randrange(2**32))
        return other

    def film(self) -> np.ndarray:
        """All frames told so far, uint8 [frames, height, width, 3]."""
        shape = (0, self.settings.height, self.settings.width, 3)
        return np.concatenate([np.zeros(shape, np.uint8), *(told.footage.frames() for told in self.shots)])

    def save(self, path: str | Path) -> None:
        """Writes the story with its seeds in the released format and our additions. Raises StoryError."""
        save_story(self.story, path)

    @classmethod
    def load(cls, pipeline: ShotStreamPipeline, path: str | Path) -> "StorySession":
        """A session about to tell a saved story again: see `tell`."""
        return cls.of(pipeline, load_story(path))

    @classmethod
    def of(cls, pipeline: ShotStreamPipeline, story: Story) -> "StorySession":
        """A session about to tell a written story. Every caption is checked now, before the first frame is made."""
        session = cls(pipeline, story.global_caption, story.seed, dict(story.settings))
        pipeline.text.check(captions(story, len(story.shots) - 1))
        session.script = story.shots
        return session

    def tell(self) -> Iterator[np.ndarray]:
        """Tells what the script still holds, shot after shot; yields pieces of film as `next_shot` does."""
        while self.script:
            shot = self.script[0]
            yield from self.next_shot(shot.caption, shot.frames, shot.seed)
            self.script = self.script[1:]

    def _tell(self, past: tuple[ToldShot, ...], shot: Shot) -> Iterator[np.ndarray]:
        check_shot(shot, f"shot{len(past) + 1}")
        plan = replace(self._plan, shots=(*(told.shot for told in past), shot))
        lines = captions(plan, len(past))
        self.pipeline.text.check(lines[-1:])
        return self._record(past, shot, lines, self.settings)

    def _record(
        self, past: tuple[ToldShot, ...], shot: Shot, lines: list[str], settings: StreamSettings
    ) -> Iterator[np.ndarray]:
        began = time.perf_counter()
        pieces: list[np.ndarray] = []
        busy = first = 0.0
        footage = [told.footage for told in past]
        for frames in self.pipeline.shot(lines, footage, seed=shot.seed, frames=shot.frames, settings=settings):
            busy += time.perf_counter() - began
            first = first or busy
            pieces.append(frames)
            yield frames
            began = time.perf_counter()  # what the listener does with the frames is not our time
        self.shots = [*past, ToldShot(shot, self._reel.append(np.concatenate(pieces)), first, busy)]
