"""How a model streams: the settings it was made for, and what a story may change of them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from shotstream_lite.errors import CheckpointError, StoryError
from shotstream_lite.files import MEBIBYTE, read_json, shown
from shotstream_lite.flow import FEW_STEPS
from shotstream_lite.history import POLICIES
from shotstream_lite.models.configs import AGAIN, Rule, whole
from shotstream_lite.rope import SHOT_PHASE
from shotstream_lite.story import check_frames

MAX_STEPS = 100  # a chunk; the teacher takes 50
_OF_THE_MODEL = {"text_tokens", "guidance", "negative_prompt", "longest"}  # fixed when it was trained


@dataclass(frozen=True)
class StreamSettings:
    """How a model streams. What a story changes of it is saved with the story.

    Units: height, width in pixels; shot_frames in pixel frames (4k+1), and so longest, the longest shot of its training
    (None: no longer than shot_frames); chunk, budget in latent frames; steps before the shift, 1000 being pure noise;
    phase in radians a shot. The teacher alone is guided, away from negative_prompt; an empty one is an embedding of
    zeros. own_captions: remembered frames read the caption they were made with, not that of the shot that remembers
    them.
    """

    height: int = 128
    width: int = 224
    fps: int = 16
    shot_frames: int = 45
    longest: int | None = None
    chunk: int = 3
    budget: int = 6
    policy: str = "dynamic"
    phase: float = SHOT_PHASE
    own_captions: bool = True
    steps: tuple[int, ...] = FEW_STEPS
    shift: float = 3.0
    text_tokens: int = 64
    guidance: float = 2.0
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        check_frames(self.shot_frames, "settings: shot_frames")
        check_frames(self.longest, "settings: longest")
        for name, rule in _RULES.items():
            value = getattr(self, name)
            if not rule.fits(value):
                raise StoryError(f"settings: {name} is {shown(repr(value))}: write {rule.words}")
        object.__setattr__(self, "steps", tuple(self.steps))

    @property
    def longest_shot(self) -> int:
        """Pixel frames of the longest shot the model has seen; longer ones may fall apart."""
        return max(self.shot_frames, self.longest or 0)

    def changed(self, changes: Mapping[str, Any]) -> "StreamSettings":
        """These settings with what a story may change of them. Raises StoryError for a wrong name or value."""
        known = [f.name for f in fields(self) if f.name not in _OF_THE_MODEL]
        for name in changes:
            if name not in known:
                raise StoryError(f"settings: {shown(repr(name))} is unknown: write one of {', '.join(known)}")
        return replace(self, **changes)

    def changes(self, other: "StreamSettings") -> dict[str, Any]:
        """What differs in `other`, as JSON can hold it."""
        mine, theirs = asdict(self), asdict(other)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in theirs.items() if v != mine[k]}


def load_settings(folder: Path) -> StreamSettings:
    """The settings a model was made for. Raises CheckpointError."""
    path = folder / "stream.json"
    data = read_json(path, MEBIBYTE, CheckpointError, AGAIN)
    try:
        return StreamSettings(**data)
    except (StoryError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def save_settings(settings: StreamSettings, folder: Path) -> None:
    """Writes stream.json."""
    (folder / "stream.json").write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6  # no nan either


def _fall(steps: Any) -> bool:
    if not isinstance(steps, list | tuple) or not 0 < len(steps) <= MAX_STEPS or not all(map(_is_number, steps)):
        return False
    return steps[0] == 1000 and steps[-1] > 0 and all(a > b for a, b in pairwise(steps))


_RULES = {
    **dict.fromkeys(("height", "width"), whole(1, 8192)),
    **dict.fromkeys(("fps", "chunk"), whole(1, 240)),
    "budget": whole(0, 64),
    "text_tokens": whole(1, 4096),
    "policy": Rule(lambda value: value in list(POLICIES), f"one of {', '.join(POLICIES)}"),
    "own_captions": Rule(lambda value: isinstance(value, bool), "true or false"),
    "phase": Rule(_is_number, "a number of radians"),
    "shift": Rule(lambda value: _is_number(value) and value > 0, "a number above 0"),
    "guidance": Rule(_is_number, "a number"),
    "negative_prompt": Rule(lambda value: isinstance(value, str), "a text"),
    "steps": Rule(_fall, f"a list of at most {MAX_STEPS} falling numbers, 1000 first, all above 0"),
}
