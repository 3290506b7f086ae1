"""Held-out stories as films: told by a model, or drawn by the renderer as the ceiling."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from shotstream_lite.bidirectional import load_pipeline
from shotstream_lite.errors import StoryError
from shotstream_lite.models.placement import Plan
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.session import StorySession
from shotstream_lite.story import Shot, Story
from shotstream_lite.toybox.captions import global_caption, shot_caption
from shotstream_lite.toybox.dataset import HELD_OUT_SEED, STORY_SHOTS, TRAIN_SEED, story_of
from shotstream_lite.toybox.renderer import render
from shotstream_lite.toybox.world import ToyStory


@dataclass(frozen=True)
class Film:
    """A film and what it was meant to show. Shots are uint8 [frames, H, W, 3]."""

    story: ToyStory
    shots: list[np.ndarray]


@dataclass(frozen=True)
class ModelSpec:
    """Who tells: a model's transformer under some settings, as the command line names it.

    `name` is `[FOLDER:]WEIGHTS[@SETTING=VALUE,...]`, such as `student`, `student@policy=none` or
    `runs/first-only:student@budget=2`; without a folder it is `preset`. `student@float8=true` keeps its linear layers
    in eight bits (see `placement.Plan`).
    """

    name: str
    preset: str | Path
    weights: str
    settings: dict[str, Any] = field(default_factory=dict)
    float8: bool = False

    @classmethod
    def parse(cls, name: str, preset: str | Path) -> "ModelSpec":
        """Raises StoryError for settings that are no SETTING=VALUE."""
        model, at, wishes = name.partition("@")
        folder, _, weights = model.rpartition(":")
        settings: dict[str, Any] = {}
        for wish in _split(wishes) if at else []:
            key, sign, value = wish.partition("=")
            if not sign or key in settings:
                what = "is there twice" if sign else "is no setting"
                raise StoryError(f"--weights {name}: {wish!r} {what}: write student@budget=2,policy=first")
            try:
                settings[key] = json.loads(value)
            except (ValueError, RecursionError):
                settings[key] = value
        float8 = settings.pop("float8", False)
        if not isinstance(float8, bool):
            raise StoryError(f"--weights {name}: float8 is {float8!r}: write true or false")
        return cls(name, folder or preset, weights, settings, float8)

    def pipeline(self, device: str) -> ShotStreamPipeline:
        """Loads the model, with its settings changed. Raises CheckpointError, and StoryError for a wrong setting."""
        pipeline = load_pipeline(self.preset, self.weights, device, Plan(float8=self.float8))
        try:
            pipeline.settings = pipeline.settings.changed(self.settings)
            pipeline.check(pipeline.settings)
        except ValueError as error:
            raise StoryError(f"--weights {self.name}: {error}") from None
        return pipeline


def held_out_stories(count: int, shots: int) -> list[ToyStory]:
    """Stories no stage was trained on."""
    return [story_of(HELD_OUT_SEED + i, shots) for i in range(count)]


def training_stories(count: int, shots: int) -> list[ToyStory]:
    """How the first stories of training begin; what is told better there was learnt by heart.

    Raises StoryError for more shots than they have.
    """
    if shots > STORY_SHOTS:
        raise StoryError(f"--shots is {shots}: stories of training have {STORY_SHOTS}, write no more")
    stories = [story_of(TRAIN_SEED + i) for i in range(count)]
    return [replace(story, takes=story.takes[:shots]) for story in stories]


def written(story: ToyStory, seed: int) -> Story:
    """The story in words, as a user would have written it; `seed` chooses the words and the noise."""
    rng = np.random.default_rng(seed)
    whole = global_caption(story, rng)
    return Story(whole, tuple(Shot(shot_caption(story, take, rng)) for take in story.takes), seed=seed)


def tell(pipeline: ShotStreamPipeline, story: ToyStory, seed: int) -> Film:
    """The story as a model tells it."""
    session = StorySession.of(pipeline, written(story, seed))
    for _ in session.tell():
        pass
    return Film(story, [told.footage.frames() for told in session.shots])


def generated(pipeline: ShotStreamPipeline, stories: Sequence[ToyStory]) -> Iterator[Film]:
    """Stories as a model tells them, each from the seed of its place."""
    return (tell(pipeline, story, seed) for seed, story in enumerate(stories))


def rendered(stories: Sequence[ToyStory]) -> Iterator[Film]:
    """The stories as the renderer draws them."""
    return (Film(story, [render(story, take) for take in story.takes]) for story in stories)


def _split(wishes: str) -> list[str]:
    """At commas, but not within a list: "steps=[1000,500],budget=2"."""
    parts, depth = [""], 0
    for letter in wishes:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
