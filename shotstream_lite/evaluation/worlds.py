"""The editions of the miniature world that can be measured, each in its own questions and by its own probe."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shotstream_lite.errors import StoryError
from shotstream_lite.measures import Scores
from shotstream_lite.toybox import captions as first_captions
from shotstream_lite.toybox import dataset as first_dataset
from shotstream_lite.toybox import probe as first_probe
from shotstream_lite.toybox import reading as first_reading
from shotstream_lite.toybox import renderer as first_renderer
from shotstream_lite.toybox import world as first
from shotstream_lite.toybox import captions, dataset, probe, reading, renderer, world


@dataclass(frozen=True)
class World:
    """What an evaluation must know of an edition.

    Attributes:
        frames: of a shot, if nothing else is said.
        shots: of a story of training.
        words: of a story and of a shot, functions of (story, [take,] generator).
        measure: a film's scores, from it, the probe and its frames a second.
    """

    size: tuple[int, int]
    fps: int
    frames: int
    shots: int
    story_of: Callable[[int, int], Any]
    words: tuple[Callable[..., str], Callable[..., str]]
    render: Callable[..., np.ndarray]
    probe: Path
    load_probe: Callable[[Path], Any]
    measure: Callable[..., Scores]


FIRST = World(
    (first.HEIGHT, first.WIDTH),
    first.FPS,
    first.SHOT_FRAMES,
    first_dataset.STORY_SHOTS,
    first_dataset.story_of,
    (first_captions.global_caption, first_captions.shot_caption),
    lambda story, take, frames: first_renderer.render(story, take, frames),
    first_probe.PROBE_FILE,
    first_probe.load_probe,
    first_reading.measure,
)
SECOND = World(
    (world.HEIGHT, world.WIDTH),
    world.FPS,
    world.SHOT_FRAMES,
    dataset.STORY_SHOTS,
    dataset.story_of,
    (captions.global_caption, captions.shot_caption),
    lambda story, take, frames: renderer.render(story, take, frames).numpy(),
    probe.PROBE_FILE,
    probe.load_probe,
    reading.measure,
)


def world_of(story: object) -> World:
    """The edition that a drawn story is of."""
    return SECOND if isinstance(story, world.ToyStory) else FIRST


def world_of_size(sizes: Mapping[str, tuple[int, int]]) -> World:
    """The edition of films of one size. Raises StoryError if there is none, or if models (by name) differ in it."""
    for edition in (FIRST, SECOND):
        if set(sizes.values()) <= {edition.size}:
            return edition
    known = " or ".join(f"{h} x {w}" for h, w in (FIRST.size, SECOND.size))
    odd = next((n for n, size in sizes.items() if size != next(iter(sizes.values()))), next(iter(sizes)))
    height, width = sizes[odd]
    fix = "measure such films with --films and real encoders"
    raise StoryError(f"--weights {odd}: makes {height} x {width}, the probe reads {known}, one at a time: {fix}")
