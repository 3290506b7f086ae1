"""Makes the README's pictures: `python demos/pictures.py`."""

from dataclasses import replace
from pathlib import Path

import torch

from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.session import StorySession
from shotstream_lite.stills import write_strip
from shotstream_lite.story_files import load_story
from shotstream_lite.toybox.dataset import story_of
from shotstream_lite.toybox.renderer import render

HERE = Path(__file__).parent
PICTURES = HERE / "pictures"


def world(rows: int = 4, columns: int = 4) -> None:
    """Shots of the miniature world as the renderer draws it: a story a row, a frame a shot."""
    stories = [story_of(seed, columns) for seed in range(3, 3 + rows)]
    shots = [torch.cat([render(s, take, 1, start=16) for take in s.takes]).numpy() for s in stories]
    write_strip(shots, PICTURES / "world.png", columns=columns)


def film() -> None:
    """A story as `shotstream tell` tells it: a shot a row, time to the right."""
    story = replace(load_story(HERE / "stories" / "seaside_friends.json"), seed=0)
    session = StorySession.of(ShotStreamPipeline.from_pretrained("toybox"), story)
    for _ in session.tell():
        pass
    write_strip([told.footage.frames() for told in session.shots], PICTURES / "film.png")


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    world()
    film()
