"""Held-out stories as films: told by a model, or drawn by the renderer as the ceiling."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.session import StorySession
from shotstream_lite.story import Shot, Story
from shotstream_lite.toybox.captions import global_caption, shot_caption
from shotstream_lite.toybox.dataset import HELD_OUT_SEED, story_of
from shotstream_lite.toybox.renderer import render
from shotstream_lite.toybox.world import ToyStory


@dataclass(frozen=True)
class Film:
    """A film and what it was meant to show. Shots are uint8 [frames, H, W, 3]."""

    story: ToyStory
    shots: list[np.ndarray]


def held_out_stories(count: int, shots: int) -> list[ToyStory]:
    """Stories no stage was trained on."""
    return [story_of(HELD_OUT_SEED + i, shots) for i in range(count)]


def written(story: ToyStory, seed: int) -> Story:
    """The story in words, as a user would have written it; `seed` chooses the words and the noise."""
    rng = np.random.default_rng(seed)
    whole = global_caption(story, rng)
    return Story(whole, tuple(Shot(shot_caption(story, take, rng)) for take in story.takes), seed=seed)


def told(pipeline: ShotStreamPipeline, stories: list[ToyStory]) -> Iterator[Film]:
    """The stories as a model tells them."""
    for seed, story in enumerate(tqdm(stories, desc="tell", unit="story")):
        session = StorySession.of(pipeline, written(story, seed))
        for _ in session.tell():
            pass
        yield Film(story, [told.footage.frames() for told in session.shots])


def drawn(stories: list[ToyStory]) -> Iterator[Film]:
    """The stories as the renderer draws them."""
    for story in stories:
        yield Film(story, [render(story, take) for take in story.takes])
