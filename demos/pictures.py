"""Makes the README's pictures: `python demos/pictures.py`."""

from dataclasses import replace
from pathlib import Path

import torch

from shotstream_lite.course import plots
from shotstream_lite.models.folder import PRESETS
from shotstream_lite.pipeline import ShotStreamPipeline, load_pipeline
from shotstream_lite.session import StorySession
from shotstream_lite.stills import write_strip
from shotstream_lite.story_files import load_story
from shotstream_lite.toybox.dataset import story_of
from shotstream_lite.toybox.renderer import render
from shotstream_lite.training.ship import LOG

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


STAGES = {"base": "base", "teacher": "teacher", "causal-init": "causal-init", "intra-shot": "intra-shot"}
STAGES |= {"inter-shot": "student"}


def training() -> None:
    """How the shipped weights were trained: what each stage logged, and the third shot of one story by each."""
    folders = STAGES | {"inter-shot": "transformer"}
    logs = {stage: PRESETS["toybox"] / folder / LOG for stage, folder in folders.items()}
    (PICTURES / "training.png").write_bytes(plots.training(logs).png())
    story, films = replace(load_story(HERE / "stories" / "seaside_friends.json"), seed=0), {}
    for stage, weights in STAGES.items():
        session = StorySession.of(load_pipeline("toybox", weights), replace(story, shots=story.shots[:3]))
        for _ in session.tell():
            pass
        films[stage] = session.shots[-1].footage.frames()
    (PICTURES / "stages.png").write_bytes(plots.strip(films, columns=5).png())


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    world()
    film()
    training()
