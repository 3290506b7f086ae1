"""A story being told: the next shot, a retake, a step back, a branch; saved so that it can be told again exactly."""

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shotstream_lite.errors import StoryError
from shotstream_lite.footage import Footage, Reel
from shotstream_lite.making import Making
from shotstream_lite.models.settings import StreamSettings
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.stills import read_picture, write_picture
from shotstream_lite.story import (
    CaptionChange,
    Picture,
    Shot,
    Story,
    captions,
    check_caption,
    check_shot,
    every_line,
    is_whole,
)
from shotstream_lite.story_files import load_story, save_story

OF_ONE_SHOT = ("policy", "budget", "phase", "own_captions", "steps", "shift", "chunk", "weights", "keep")
"""What may change from shot to shot: settings of the stream, which of the model's transformers tells, and how many of
the frames are kept."""


@dataclass(frozen=True, eq=False)
class ToldShot:
    """A finished shot: what was asked (caption, frames, seed all set), its footage, and how long it took (seconds).

    `model_seconds` is the part of `seconds` before the codec.
    """

    shot: Shot
    footage: Footage
    first_frame_seconds: float
    seconds: float
    model_seconds: float = 0.0


class StorySession:
    """One story in the making, on one pipeline.

    Args:
        global_caption: what holds for the whole story.
        seed: where the seeds of shots without one come from; None for a story nobody has seen yet.
        settings: changes of the pipeline's settings by name, saved with the story.
        reel: where the frames are kept, if not on a reel of its own.

    Raises:
        StoryError: a caption, seed or setting that is no good. CodecError: a size that does not fit the model.
    """

    def __init__(
        self,
        pipeline: ShotStreamPipeline,
        global_caption: str,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
        reel: Reel | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.settings = pipeline.settings.changed(settings or {})
        pipeline.check(self.settings)
        self.seed = random.getrandbits(32) if seed is None else seed
        self._plan = Story(global_caption, seed=self.seed)
        self.directed = False  # a chunk nobody saw may be made anew, see `Making.turn`
        self._reel = reel or Reel()
        self.remembered: tuple[ToldShot, ...] = ()  # pictures of one's own, as shots of one frame
        self.shots: tuple[ToldShot, ...] = ()
        self.script: tuple[Shot, ...] = ()  # shots still to be told by `tell`

    @property
    def story(self) -> Story:
        """What has been told, with every seed; telling it again gives the same film."""
        settings = self.pipeline.settings.changes(self.settings)
        shown = ((told.shot.caption, told.footage.frames()[0]) for told in self.remembered)
        pictures = tuple(Picture(caption, write_picture(frame)) for caption, frame in shown)
        shots = tuple(told.shot for told in self.shots)
        return replace(self._plan, shots=shots, settings=settings, remembered=pictures)

    def remember(self, picture: bytes | str | Path, caption: str) -> None:
        """A picture of one's own is remembered as the frame of an earlier shot would be, with its caption.

        It stands before the first shot, takes its share of the budget, and is forgotten as early shots are. It is cut
        and scaled to fill the frame, and saved with the story.

        Args:
            picture: a file, or its bytes.

        Raises:
            StoryError: no picture, no caption, or a caption too long for the model.
        """
        number = len(self.remembered)
        check_caption(caption, "the picture's caption")
        self.pipeline.text.check([f"{self._plan.global_caption}shot{number}:{caption}"], first=number)
        frame = read_picture(picture, self.settings.height, self.settings.width)
        self.remembered = (*self.remembered, ToldShot(Shot(caption, 1), self._reel.append(frame[None]), 0.0, 0.0))

    def next_shot(
        self,
        caption: str,
        frames: int | None = None,
        seed: int | None = None,
        turns: Sequence[CaptionChange] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> Making:
        """Tells one more shot.

        The input is checked at once; frames are made as the take is asked for them. The shot joins the story when
        the take is through; one that is left early leaves no trace.

        Args:
            frames: pixel frames, 4k+1; None for the settings' usual length.
            seed: None for the one that follows the last shot's.
            turns: captions that follow on the way; `Making.turn` gives one while the shot is made.
            settings: what is different in this shot only, see OF_ONE_SHOT; saved with the story.

        Yields:
            uint8 [f, height, width, 3], see `ShotStreamPipeline.shot`.

        Raises:
            StoryError: a caption, length or seed that is no good, or a caption too long for the model; while frames
                are made, if the session's shots were changed meanwhile.
        """
        frames = self.settings.shot_frames if frames is None else frames
        before = self.shots[-1].shot.seed if self.shots else self.seed
        seed = following_seed(before) if seed is None else seed
        return self._tell(self.shots, Shot(caption, frames, seed, tuple(turns), dict(settings or {})))

    def retake(
        self,
        number: int | None = None,
        caption: str | None = None,
        frames: int | None = None,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Making:
        """Tells shot `number` (from 1; None for the last) once more, with another seed, caption, length or settings.

        A new caption replaces the old one and its turns. Earlier shots stay as they are. The old take and all later
        shots, which remembered it, go when the new one is through. Yields and raises as `next_shot`.
        """
        number = len(self.shots) if number is None else number
        if not 1 <= number <= len(self.shots):
            raise StoryError(f"there is no shot {number} to take again: the story has {len(self.shots)}")
        old = self.shots[number - 1].shot
        wishes = {"caption": caption, "frames": frames, "seed": other_seed(old.seed) if seed is None else seed}
        settings = {k: v for k, v in old.settings.items() if k != "keep"} if settings is None else dict(settings)
        wishes |= {"turns": None if caption is None else (), "settings": settings}
        shot = replace(old, **{name: value for name, value in wishes.items() if value is not None})
        if is_whole(frames):  # of a shorter shot, the turns that it still reaches
            shot = replace(shot, turns=tuple(turn for turn in shot.turns if turn.frame < frames))
        return self._tell(self.shots[: number - 1], shot)

    def undo(self) -> ToldShot:
        """Takes the last shot back and returns it. Raises StoryError when there is none."""
        if not self.shots:
            raise StoryError("there is nothing to undo: the story has no shots")
        *rest, last = self.shots
        self.shots = tuple(rest)
        return last

    def branch(self) -> "StorySession":
        """A second version of the story from here on: shares the shots told so far and nothing after.

        The same caption gives the same next shot in both; ask for another seed, or retake, to see another.
        """
        return copy.copy(self)

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
        session = cls(pipeline, story.global_caption, story.seed, story.settings)
        for picture in story.remembered:
            session.remember(picture.png, picture.caption)
        for number, lines in enumerate(captions(story, len(story.shots)), start=1):
            shot = story.shots[number - 1]
            check_shot(replace(shot, frames=shot.frames or session.settings.shot_frames), f"shot{number}")
            session._of_one_shot(shot.settings, f"shot{number}")
            for line in every_line(lines):
                pipeline.text.check([line], first=number)
        session.script = story.shots
        return session

    def given(self, shots: Sequence[np.ndarray]) -> None:
        """The script's first shots are there already, uint8 [frames, H, W, 3] each: film from elsewhere to go on from.

        They are remembered as told shots are; a saved story has their captions only and tells them itself.
        """
        for shot, frames in zip(self.script, shots, strict=False):
            whole = replace(shot, frames=len(frames), seed=self.seed)
            self.shots = (*self.shots, ToldShot(whole, self._reel.append(frames), 0.0, 0.0))
        self.script = self.script[len(shots) :]

    def tell(self) -> Iterator[np.ndarray]:
        """Tells what the script still holds, shot after shot; yields pieces of film as `next_shot` does."""
        while self.script:
            shot, *later = self.script
            take = self.next_shot(shot.caption, shot.frames, shot.seed, shot.turns, shot.settings)
            if later:
                take.follow(later[0].caption)
            yield from take
            self.script = self.script[1:]

    def _tell(self, past: tuple[ToldShot, ...], shot: Shot) -> Making:
        number = len(past) + 1
        name = f"shot{number}"
        check_shot(shot, name)
        weights, settings = self._of_one_shot(shot.settings, name)
        before = (*self.remembered, *past)
        story = replace(self._plan, shots=(*(told.shot for told in before), shot))
        for line in every_line(captions(story, len(before))[-1]):
            self.pipeline.text.check([line], first=number)
        told = self.shots
        pipeline = self.pipeline if weights is None else self.pipeline.with_weights(weights)

        def finish(take: Making, frames: np.ndarray) -> None:
            if self.shots is not told:
                raise StoryError("the story's shots changed while this one was made: ask for it again")
            footage = self._reel.append(frames)
            take.look_back([*(told.footage for told in before), footage])
            seconds = take.first_frame_seconds, take.seconds, take.model_seconds
            self.shots = (*past, ToldShot(take.shot, footage, *seconds))

        keep = shot.settings.get("keep")
        if keep is not None and (not is_whole(keep) or not 1 <= keep <= shot.frames):
            raise StoryError(f"settings of {name}: keep is {keep!r}: write how many of its {shot.frames} frames stay")
        footage = [told.footage for told in before]
        return Making(pipeline, story, number, footage, settings, finish, keep, self.directed)

    def _of_one_shot(self, changes: Mapping[str, Any], name: str) -> tuple[str | None, StreamSettings]:
        """Whose weights tell the shot called `name` (None: the session's), and how; nothing is loaded yet.

        Raises StoryError, and CheckpointError for unknown weights.
        """
        changes = dict(changes)
        for key in set(changes) - set(OF_ONE_SHOT):
            raise StoryError(f"settings of {name}: {key!r} is not one shot's: write one of {', '.join(OF_ONE_SHOT)}")
        changes.pop("keep", None)
        weights = changes.pop("weights", None)
        if weights is not None:
            self.pipeline.check_weights(weights)
        return weights, self.settings.changed(changes)


def other_seed(seed: int) -> int:
    """The seed of another take of a shot; never that of the shot that follows."""
    return random.Random(f"another take of {seed}").getrandbits(32)


def following_seed(seed: int) -> int:
    """The seed after this one: a session needs no dice of its own, and what is undone or left early leaves no trace."""
    return random.Random(seed).getrandbits(32)
