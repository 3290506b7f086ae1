"""What a page may ask for, checked: one visitor's wishes must not keep the device from the others."""

import re
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from shotstream_lite.errors import StoryError
from shotstream_lite.history import POLICIES
from shotstream_lite.models.settings import StreamSettings
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.story import MAX_SEED, Shot, Story, is_whole
from shotstream_lite.story_files import parse_stories
from shotstream_lite.text import knows_words_only
from shotstream_lite.toybox import world
from shotstream_lite.toybox.captions import ACTION_WORDS, EVENT_WORDS, WORDS

MAX_FILE = 500_000  # characters of a story file
MAX_SHOTS, MAX_TAKES = 100, 12  # of a story, of a shot
MAX_QUEUE = 12
MAX_STEPS, MAX_BUDGET, MAX_CHUNK = 16, 24, 8
STEPS = (1, 2, 4, 8)

WITHOUT: dict[str, tuple[str, dict[str, Any]]] = {
    "memory": ("without the memory of earlier shots", {"policy": "none"}),
    "jump": ("without the jump at the cut", {"phase": 0.0}),
    "captions": ("without the right captions for what is remembered", {"own_captions": False}),
    "steps": ("without three of the four steps", {"steps": [1000.0]}),
    "stage 2": ("without the second stage of distillation", {"weights": "intra-shot"}),
}
"""The lessons: what can be taken away from a shot, how that is called, and the settings that do it."""


def lessons(pipeline: ShotStreamPipeline) -> dict[str, str]:
    """The lessons this model can give: {key: what to call it}."""
    there = pipeline.streaming_weights
    return {
        key: name
        for key, (name, settings) in WITHOUT.items()
        if settings.get("weights", pipeline.weights) in (*there, pipeline.weights)
    }


def frames_of(seconds: Any, settings: StreamSettings) -> int | None:
    """The length nearest to so many seconds, in pixel frames (4k+1); None, until it is cut, stays None."""
    if seconds is None:
        return None
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds < 1e6:
        raise StoryError("the length is no number of seconds: write one, or let the shot roll until you cut")
    frames = round(seconds * settings.fps / 4) * 4 + 1
    check_length(frames, settings, "frames")
    return frames


def check_length(frames: int | None, settings: StreamSettings, name: str) -> None:
    """Raises StoryError for a shot longer than the model was trained on."""
    most = settings.longest_shot
    if frames is not None and frames > most:
        seconds = f"{most / settings.fps:.1f} seconds"
        raise StoryError(f"{name} is {frames}, this model was trained on {most} at most ({seconds}): make more shots")


def seen_of(value: Any) -> tuple[int, int] | None:
    """(take, frames of it) that a page says it has shown; None for anything else."""
    whole = isinstance(value, list) and len(value) == 2 and all(type(one) is int and 0 <= one < 10**9 for one in value)
    return (value[0], value[1]) if whole else None


def seed_of(text: Any) -> int | None:
    """The seed that was typed; None for nothing. Raises StoryError."""
    text = str(text if text is not None else "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > MAX_SEED:
        raise StoryError(f"the seed is {text[:24]!r}: write a whole number from 0 on, or leave it empty for a new one")
    return int(text)


def switched(pipeline: ShotStreamPipeline, switches: Any) -> dict[str, Any] | None:
    """The settings of a shot that differ from the model's own, as a story records them; None if nothing is said.

    Args:
        switches: any of memory and jump (bool), history (policy), budget, steps (how many), weights.
    """
    if not isinstance(switches, Mapping):
        return None if switches is None else {}
    settings, changes = pipeline.settings, {}
    if switches.get("memory") is False:
        changes["policy"] = "none"
    elif switches.get("history") in POLICIES:
        changes["policy"] = switches["history"]
    if switches.get("jump") is False:
        changes["phase"] = 0.0
    if is_whole(switches.get("budget")):
        changes["budget"] = max(1, min(switches["budget"], MAX_BUDGET))
    count = switches.get("steps")
    if is_whole(count) and 1 <= count <= MAX_STEPS and count != len(settings.steps):  # if as many, the model's own
        changes["steps"] = [round(1000 * (count - i) / count, 1) for i in range(count)]
    differs = settings.changes(settings.changed(changes))
    weights = switches.get("weights")
    return differs | ({"weights": weights} if isinstance(weights, str) and weights != pipeline.weights else {})


def read_story(text: Any, settings: StreamSettings, name: str = "story") -> Story:
    """A story file's text as a story this page can tell. Raises StoryError, one line."""
    if not isinstance(text, str) or len(text) > MAX_FILE:
        raise StoryError(f"{name}: is no story file of at most {MAX_FILE} characters: choose another")
    story, *more = parse_stories(text, name)
    if more:
        raise StoryError(f"{name}: holds {1 + len(more)} stories: take them apart with `shotstream story convert`")
    if len(story.shots) > MAX_SHOTS:
        raise StoryError(f"{name}: has {len(story.shots)} shots, this page tells {MAX_SHOTS}: cut the rest")
    picture = {key: story.settings[key] for key in ("height", "width", "fps") if key in story.settings}
    if any(getattr(settings, key) != value for key, value in picture.items()):
        size = f"{settings.height} x {settings.width} pixels at {settings.fps} frames a second"
        raise StoryError(f"{name}: settings: this page shows {size}: use `shotstream tell` for others")
    for number, shot in enumerate(story.shots, start=1):
        check_limits(shot, story.settings, settings, f"{name}: shot{number}")
    return story


def check_limits(shot: Shot, of_story: Mapping[str, Any], settings: StreamSettings, name: str) -> None:
    """Raises StoryError for a shot that would take longer, or more memory, than this page allows."""
    check_length(shot.frames, settings, f"{name}: frames")
    wishes = {key: value for key, value in {**of_story, **shot.settings}.items() if key not in ("weights", "keep")}
    changed = settings.changed(wishes)
    check_length(changed.shot_frames, settings, f"{name}: shot_frames")
    limits = {"steps": MAX_STEPS, "budget": MAX_BUDGET, "chunk": MAX_CHUNK}
    for what, most in limits.items():
        value = len(changed.steps) if what == "steps" else getattr(changed, what)
        if value > most:
            raise StoryError(f"{name}: {value} {what}, this page allows {most}: write fewer")


def check_fit(pipeline: ShotStreamPipeline, story: str, shot: Shot) -> None:
    """Raises StoryError for captions longer than the model reads, CheckpointError for weights that it has not."""
    for caption in (shot.caption, *(turn.caption for turn in shot.turns)):
        pipeline.text.check([f"{story}shot0:{caption}"])
    if shot.settings.get("weights") is not None:
        pipeline.check_weights(shot.settings["weights"])


def file_name(name: Any) -> str:
    """What a visitor's file may be called in a sentence."""
    return re.sub(r"[^\w.\- ]", "", str(name))[:60] or "story"


# What the page offers to say

KINDS = {
    "who": world.SHAPES,
    "colour": world.COLOURS,
    "where": world.SETTINGS,
    "camera": world.CAMERAS,
    "does": world.ACTIONS,
    "happens": tuple(EVENT_WORDS),
}
SAID = WORDS | {action: tuple(does for does, *_ in forms) for action, forms in ACTION_WORDS.items()} | EVENT_WORDS
SMALL_WORLD = {
    "story": "A story about a red ball and a blue box, by the sea.",
    "shots": (
        "Wide shot: the red ball jumps up and down.",
        "Medium shot: the blue box waves hello.",
        "Close-up: the red ball spins around.",
        "Medium shot: the red ball waves. The wind blows.",
        "Wide shot: the red ball and the blue box meet.",
        "A bell rings. Wide shot: the blue box jumps.",
        "In the snow, the green cone walks to the left, wide shot.",
    ),
}
WHOLE_WORLD = {
    "story": "A young woman in a red raincoat and her grey cat travel along the coast in an old green van.",
    "shots": (
        "Wide shot: the green van rolls along a cliff road above the sea, morning light.",
        "Close-up: the grey cat watches gulls through the windscreen.",
        "Medium shot: the woman in the red raincoat parks and steps out into the wind.",
        "The same scene as a watercolour painting.",
        "A fisherman with a white beard waves to them from the pier.",
    ),
}


def known_phrases(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[str]]:
    """Phrases by kind, for tokenizers that know single words only; nothing for those that spell any word."""
    if not knows_words_only(tokenizer):
        return {}
    known = set(tokenizer.get_vocab())
    phrases = {kind: dict.fromkeys(p for value in values for p in SAID[value]) for kind, values in KINDS.items()}
    return {kind: [p for p in said if set(p.replace("-", " ").split()) <= known] for kind, said in phrases.items()}


def examples(tokenizer: PreTrainedTokenizerBase) -> dict:
    """A story to begin with, and shots for it."""
    return SMALL_WORLD if known_phrases(tokenizer) else WHOLE_WORLD


def unknown_words(pipeline: ShotStreamPipeline, text: str, most: int = 6) -> str | None:
    """A sentence for the words a model does not know, each with the nearest it knows; None if it knows them all."""
    found = pipeline.text.unknown_words(text)
    unknown = [(word, near) for word, near in found if any(map(str.isalnum, word))]
    named = [f"“{word}”" + (f" (nearest: {', '.join(near[:2])})" if near else "") for word, near in unknown[:most]]
    return f"The model does not know {', '.join(named)}. It tells the rest." if named else None
