"""Held-out stories as films: told by a model, or drawn by the renderer as the ceiling."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shotstream_lite.codec import to_frames, to_pixels
from shotstream_lite.errors import StoryError
from shotstream_lite.measures import Film
from shotstream_lite.models.placement import Plan
from shotstream_lite.models.settings import StreamSettings
from shotstream_lite.pipeline import WHOLE_SHOTS, ShotStreamPipeline, load_pipeline
from shotstream_lite.rivals.joint import KINDS
from shotstream_lite.rivals.streams import STREAMS
from shotstream_lite.rivals.telling import RivalPipeline
from shotstream_lite.session import StorySession
from shotstream_lite.story import Shot, Story
from shotstream_lite.toybox.captions import global_caption, shot_caption
from shotstream_lite.toybox.dataset import HELD_OUT_SEED, STORY_SHOTS, TRAIN_SEED, story_of
from shotstream_lite.toybox.renderer import render
from shotstream_lite.toybox.world import HEIGHT, SHOT_FRAMES, WIDTH, ToyStory

CODEC = "codec"  # as the name of weights: real film through the codec and back
OWN_MEMORY = {"policy", "budget", "phase", "own_captions", "chunk"}  # what a rival answers in its own way


@dataclass(frozen=True)
class ModelSpec:
    """Who tells: a model's transformer under some settings, as the command line names it.

    `name` is `[FOLDER:]WEIGHTS[@SETTING=VALUE,...]`, such as `student`, `student@policy=none` or
    `runs/first-only:student@budget=2`; without a folder it is `preset`. `student@float8=true` keeps its linear layers
    in eight bits (see `placement.Plan`), `student@rival=longlive` tells by the rule of a rival that streams.
    """

    name: str
    preset: str | Path
    weights: str
    settings: dict[str, Any] = field(default_factory=dict)
    float8: bool = False
    rival: str = ""  # a key of `rivals.streams.STREAMS`

    @classmethod
    def parse(cls, name: str, preset: str | Path) -> "ModelSpec":
        """Raises StoryError for settings that are no SETTING=VALUE."""
        model, at, wishes = name.partition("@")
        folder, _, weights = model.rpartition(":")
        settings: dict[str, Any] = {}
        # At commas, but not within a list: "steps=[1000,500],budget=2".
        for wish in re.split(r",(?![^[]*\])", wishes) if at else []:
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
        rival = settings.pop("rival", "")
        if rival and (why := _unfit(rival, weights, settings)):
            raise StoryError(f"--weights {name}: {why}")
        return cls(name, folder or preset, weights, settings, float8, rival)

    def pipeline(self, device: str) -> ShotStreamPipeline:
        """Loads the model, with its settings changed. Raises CheckpointError, and StoryError for a wrong setting."""
        weights = "student" if self.weights == CODEC else self.weights
        pipeline = load_pipeline(self.preset, weights, device, Plan(float8=self.float8))
        try:
            pipeline.settings = pipeline.settings.changed(self.settings)
            pipeline.check(pipeline.settings)
            pipeline = RivalPipeline.of(pipeline, self.rival) if self.rival else pipeline
        except ValueError as error:
            raise StoryError(f"--weights {self.name}: {error}") from None
        return pipeline


def _unfit(rival: Any, weights: str, settings: Mapping[str, Any]) -> str:
    """Why a model does not tell as a rival; "" if it does."""
    if rival in (*KINDS, "keyframes"):
        what = f"{rival} knows every caption before the first frame and makes all shots at once, so it cannot stream"
        return f"{what}: choose one of {', '.join(STREAMS)}"
    if rival not in list(STREAMS):
        return f"{rival!r} is no rival that streams: choose one of {', '.join(STREAMS)}"
    if weights in WHOLE_SHOTS:
        return f"{rival} makes chunks, {weights} makes whole shots: write student"
    odd = sorted(OWN_MEMORY & settings.keys())
    return f"{odd[0]} is the method's own, {rival} remembers in its way: leave it out" if odd else ""


def check_films(settings: Mapping[str, StreamSettings]) -> None:
    """Raises StoryError if a model, by name, does not make what the probe reads, or shots of another length."""
    frames = next(iter(settings.values())).shot_frames
    for name, own in settings.items():
        if (own.height, own.width) != (HEIGHT, WIDTH):
            size, fix = f"{own.height} x {own.width}", "measure such films with --films and real encoders"
            raise StoryError(f"--weights {name}: makes {size}, the probe reads {HEIGHT} x {WIDTH}: {fix}")
        if own.shot_frames != frames:
            fix = "they are held against the same real film, measure them apart"
            raise StoryError(f"--weights {name}: makes shots of {own.shot_frames} frames, the first {frames}: {fix}")


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
    """The drawn story in words, as a user would have written it; `seed` chooses the words and the noise."""
    rng = np.random.default_rng(seed)
    told = global_caption(story, rng)
    return Story(told, tuple(Shot(shot_caption(story, take, rng)) for take in story.takes), seed=seed)


def told(pipeline: ShotStreamPipeline, story: ToyStory, seed: int, given: int = 0) -> StorySession:
    """The story as a model tells it, after `given` shots of real film, with what it took."""
    session = StorySession.of(pipeline, written(story, seed))
    real = rendered_film(replace(story, takes=story.takes[:given]), session.settings.shot_frames)
    session.given(real.shots)
    for _ in session.tell():
        pass
    return session


def tell(pipeline: ShotStreamPipeline, story: ToyStory, seed: int, given: int = 0) -> Film:
    """The same as a film to be measured."""
    return Film(story, [shot.footage.frames() for shot in told(pipeline, story, seed, given).shots], given)


def rendered_film(story: ToyStory, frames: int = SHOT_FRAMES) -> Film:
    """The story as the renderer draws it, `frames` a shot."""
    return Film(story, [render(story, take, frames).numpy() for take in story.takes])


def coded(pipeline: ShotStreamPipeline, film: Film) -> Film:
    """A film through a model's codec and back: what the model's own could at best look like."""
    clips = [to_pixels(torch.from_numpy(shot.copy())).transpose(0, 1)[None] for shot in film.shots]
    decoded = (pipeline.codec.decode(pipeline.codec.encode_clip(clip)) for clip in clips)
    shots = [to_frames(pixels[0].transpose(0, 1).cpu()).numpy() for pixels in decoded]
    return replace(film, shots=shots, original=film)
