"""What the user writes: a story of shots, and what the model reads of it.

Every complaint about bad input is a `StoryError` of one line that names the field and how to fix it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shotstream_lite.errors import StoryError, kind

MAX_WORDS = 500  # the text encoder reads 512 tokens, and no word is less than one
MAX_CHARACTERS = 5000  # the same limit for writing that puts no spaces between words
MAX_FRAMES = 961  # a minute at 16 frames a second; a longer story is told in more shots
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class CaptionChange:
    """A new caption in the middle of a shot, from pixel frame `frame` on: the first one of some chunk."""

    frame: int
    caption: str


@dataclass(frozen=True)
class Shot:
    """What is seen, for how many pixel frames (4k+1), from which seed; None lets the teller choose.

    `turns` change the caption on the way, earliest first. `settings` are kept as written and understood by whoever
    tells the story; they hold for this shot only.
    """

    caption: str
    frames: int | None = None
    seed: int | None = None
    turns: tuple[CaptionChange, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """A picture of one's own, remembered from the beginning as a frame of an earlier shot: a PNG, and what it shows."""

    caption: str
    png: bytes


@dataclass(frozen=True)
class Story:
    """A global caption (who, where), its shots, and what is needed to tell it again exactly.

    `settings` is kept as written and understood by whoever tells the story (height, policy, ...).
    `remembered` are pictures that stand before the first shot. `unread` names what its file holds besides. Raises
    StoryError when a caption, frame count or seed is no good. A story not yet told has no shots.
    """

    global_caption: str
    shots: tuple[Shot, ...] = ()
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = field(default=(), compare=False)
    remembered: tuple[Picture, ...] = ()

    def __post_init__(self) -> None:
        check_caption(self.global_caption, "global_caption")
        _check_seed(self.seed, "seed")
        object.__setattr__(self, "shots", tuple(self.shots))
        for number, shot in enumerate(self.shots, start=1):
            check_shot(shot, f"shot{number}")
        for number, picture in enumerate(self.remembered, start=1):
            check_caption(picture.caption, f"the caption of picture {number}")


Lines = str | tuple[tuple[int, str], ...]
"""What the model reads in a shot: one caption, or several, each with the first pixel frame it is for."""


def captions(story: Story, last: int) -> list[Lines]:
    """The captions the model reads for shots 0..last: the global one, "shot{i}:" from zero, the shot's own.

    Nothing stands between the three parts (released utils/dataset.py).
    """
    return [_lines(f"{story.global_caption}shot{i}:", shot) for i, shot in enumerate(story.shots[: last + 1])]


def _lines(opening: str, shot: Shot) -> Lines:
    turns = tuple((turn.frame, opening + turn.caption) for turn in shot.turns)
    return ((0, opening + shot.caption), *turns) if turns else opening + shot.caption


def line_at(lines: Lines, frame: int) -> str:
    """What the model reads for pixel frame `frame` of a shot."""
    if isinstance(lines, str):
        return lines
    return next(text for first, text in reversed(lines) if first <= frame)


def every_line(lines: Lines) -> list[str]:
    """All the model reads in a shot, in order."""
    return [lines] if isinstance(lines, str) else [text for _, text in lines]


def check_shot(shot: Shot, name: str) -> None:
    """Raises StoryError if the caption, the frames or the seed of the shot called `name` cannot be told."""
    check_caption(shot.caption, name)
    check_frames(shot.frames, f"frames of {name}")
    _check_seed(shot.seed, f"seed of {name}")
    before, end = -1, shot.frames or MAX_FRAMES
    for turn in shot.turns:
        check_caption(turn.caption, f"a turn of {name}")
        if not is_whole(turn.frame) or not before < turn.frame < end:
            got = turn.frame if is_whole(turn.frame) and abs(turn.frame) < 10**9 else kind(turn.frame)
            raise StoryError(f"turns of {name}: frame is {got}: write rising frames from 0 to {end - 1}")
        before = turn.frame
    if not isinstance(shot.settings, Mapping):
        raise StoryError(f"shot_settings of {name} is {kind(shot.settings)}: write an object or null")


def check_caption(caption: Any, name: str) -> None:
    """Raises StoryError unless `caption` is text of 1..MAX_WORDS words and at most MAX_CHARACTERS letters."""
    if not isinstance(caption, str):
        raise StoryError(f"{name} is {kind(caption)}: write a text in quotes")
    if not caption.strip():
        raise StoryError(f"{name} is empty: say in a sentence what is seen")
    words = len(caption.split())
    if words > MAX_WORDS:
        raise StoryError(f"{name} has {words} words, at most {MAX_WORDS} fit: shorten it or make more shots")
    if len(caption) > MAX_CHARACTERS:
        raise StoryError(f"{name} has {len(caption)} characters, at most {MAX_CHARACTERS} fit: shorten it")
    if re.search("[\ud800-\udfff]", caption):
        raise StoryError(f"{name} holds half of a two-part character (\\ud800 to \\udfff): write all of it")


def check_frames(frames: Any, name: str) -> None:
    """Raises StoryError unless `frames` is None or 4k+1 within 1..MAX_FRAMES (a latent holds four frames)."""
    if frames is None:
        return
    if not is_whole(frames):
        raise StoryError(f"{name} is {kind(frames)}: write a whole number such as 45")
    if not 1 <= frames <= MAX_FRAMES:
        raise StoryError(f"{name} is {frames}: write 1, 5, 9, ... up to {MAX_FRAMES}, such as 45")
    if frames % 4 != 1:
        low = (frames - 1) // 4 * 4 + 1
        raise StoryError(f"{name} is {frames}, not one more than a multiple of 4: write {low} or {low + 4}")


def _check_seed(seed: Any, name: str) -> None:
    if seed is not None and not (is_whole(seed) and 0 <= seed <= MAX_SEED):
        got = str(seed)[:24] if is_whole(seed) else kind(seed)
        raise StoryError(f"{name} is {got}: write a whole number from 0 to {MAX_SEED}, or leave it out")


def is_whole(value: Any) -> bool:
    """A whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)
