"""Scenes of the notebooks: the running story, somebody who returns, and the same scene with another hat."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch

from shotstream_lite.codec import Codec
from shotstream_lite.course.classroom import SEED
from shotstream_lite.footage import Footage, Reel
from shotstream_lite.story import Shot, Story
from shotstream_lite.toybox.captions import global_caption, shot_caption
from shotstream_lite.toybox.dataset import ToyFilms, key_frames, story_of, to_pixels
from shotstream_lite.toybox.reading import KINDS
from shotstream_lite.toybox.renderer import render
from shotstream_lite.toybox.truth import HIDDEN, IN_FRAME, truth
from shotstream_lite.toybox.world import MARKS, SHOT_FRAMES, Character, Place, Take, ToyStory, draw_story

RETURNING_SEED = 2_000_000  # beyond training and held-out stories

_GLOBAL = "A story about a red ball and a blue box, by the sea."
_BALL = Character("ball", "red", hat="party hat", stripe="middle", emblem="square")
_BOX = Character("box", "blue", hat="beanie", stripe="low", emblem="dot")
_BEACH = Place("seaside", landmarks=(1, 3), sun="left", far="tent", flag="down")
# caption, who, camera, action; the ball leaves after shot 3 and comes back in shot 10
_SCRIPT = (
    ("Wide shot: the red ball jumps up and down.", _BALL, "wide", "jump"),
    ("Medium shot: the blue box waves hello.", _BOX, "medium", "wave"),
    ("Close-up: the red ball spins around.", _BALL, "close", "spin"),
    ("The blue box walks to the left, the camera pans.", _BOX, "pan", "walk_left"),
    ("Wide shot: the blue box stands there.", _BOX, "wide", "stand"),
    ("Close-up: the blue box jumps.", _BOX, "close", "jump"),
    ("Medium shot: the blue box spins.", _BOX, "medium", "spin"),
    ("Wide shot: the blue box walks to the right.", _BOX, "wide", "walk_right"),
    ("Close-up: the blue box waves.", _BOX, "close", "wave"),
    ("Close-up: the red ball stands still.", _BALL, "close", "stand"),
)


def running_story(shots: int = 5) -> tuple[ToyStory, Story]:
    """The story of all notebooks, to be drawn and to be told. `shots` from 1 to 10."""
    script = _SCRIPT[:shots]
    takes = [
        Take((who,), _BEACH, camera, action, "none", MARKS[-1 - i % len(MARKS)])
        for i, (_, who, camera, action) in enumerate(script)
    ]
    told = Story(_GLOBAL, tuple(Shot(caption) for caption, *_ in script), seed=SEED)
    return ToyStory((_BALL, _BOX), _BEACH.setting, "warm", tuple(takes)), told


def returning_story(seed: int, away: int = 2) -> tuple[ToyStory, Story]:
    """Somebody wide and near, somebody else for `away` shots, 1 to 8, and the first one back, near and standing."""
    rng = np.random.default_rng(RETURNING_SEED + seed)
    story = draw_story(rng, shots=1)
    one, other, *_ = story.cast
    plan = ((one, "wide", "stand"), (one, "close", "wave"), *((other, *shot) for shot in _MEANWHILE[:away]))
    return _planned(story, (*plan, (one, "close", "stand")), rng)


def windy_story(seed: int, said: bool = True) -> tuple[ToyStory, Story]:
    """The wind takes somebody's hat while we look, somebody else is seen, and the first one is back: near, no hat.

    Args:
        said: whether the caption of the first shot mentions the wind.
    """
    rng = np.random.default_rng(RETURNING_SEED + seed)
    story = draw_story(rng, shots=1)
    one, other, *_ = story.cast
    without = replace(one, hat="none")
    plan = ((one, "medium", "wave"), (other, "medium", "jump"), (without, "close", "stand"))
    story, told = _planned(story, plan, rng, windy=0)
    if not said:
        calm = Shot(shot_caption(story, replace(story.takes[0], event="none"), rng))
        told = replace(told, shots=(calm, *told.shots[1:]))
    return story, told


_MEANWHILE = (
    ("wide", "walk_right"),
    ("medium", "jump"),
    ("wide", "stand"),
    ("close", "wave"),
    ("medium", "spin"),
    ("wide", "walk_left"),
    ("close", "jump"),
    ("medium", "wave"),
)


def _planned(
    story: ToyStory, plan: Sequence[tuple[Character, str, str]], rng: np.random.Generator, windy: int | None = None
) -> tuple[ToyStory, Story]:
    """The story with one character on screen per shot, all in one place, as drawn and as told."""
    place = story.takes[0].place
    takes = tuple(
        Take((who,), place, camera, action, "wind" if shot == windy else "none", MARKS[1])
        for shot, (who, camera, action) in enumerate(plan)
    )
    story = replace(story, home=place.setting, takes=takes)
    return story, Story(global_caption(story, rng), tuple(Shot(shot_caption(story, take, rng)) for take in takes))


def drawn_film(story: ToyStory, frames: int = SHOT_FRAMES) -> list[np.ndarray]:
    """A story as the renderer draws it: uint8 [frames, 128, 224, 3] for each shot."""
    return [render(story, take, frames).numpy() for take in story.takes]


def on_reel(shots: Iterable[np.ndarray]) -> list[Footage]:
    """Film as the pipeline takes its past."""
    reel = Reel()
    return [reel.append(shot) for shot in shots]


def variants(story: ToyStory, index: int) -> dict[str, dict[object, ToyStory]]:
    """The story with every hat that somebody could wear in shot `index`, and so on for all that captions leave out.

    Only what the shot shows is among it: emblems where somebody turns round, sun and flag where the camera is far.
    Of two characters it is the left one's.
    """
    take = story.takes[index]
    seen = truth(story, take, np.arange(SHOT_FRAMES))

    def changed(kind: str, value: object) -> ToyStory:
        if kind == "tint":
            return replace(story, tint=value)
        if kind in ("hat", "stripe", "emblem"):
            other = replace(take, cast=(replace(take.cast[0], **{kind: value}), *take.cast[1:]))
        else:
            other = replace(take, place=replace(take.place, **{kind: value}))
        return replace(story, takes=(*story.takes[:index], other, *story.takes[index + 1 :]))

    shown = [kind for kind in KINDS if (seen[kind] != HIDDEN).any()]
    return {kind: {value: changed(kind, value) for value in IN_FRAME[kind]} for kind in shown}


@torch.no_grad()
def encoded_films(codec: Codec, seeds: Iterable[int], shots: int = 4, frames: int = SHOT_FRAMES) -> ToyFilms:
    """Stories of the training set's kind (held-out ones from `dataset.HELD_OUT_SEED`), encoded here and now."""
    films, keys = ToyFilms([], [], []), key_frames(frames)
    for seed in seeds:
        pixels = [to_pixels(torch.from_numpy(shot)) for shot in drawn_film(story_of(seed, shots), frames)]
        films.seeds.append(seed)
        films.clips.append([codec.encode_clip(shot[None])[0] for shot in pixels])
        films.stills.append([codec.encode_frames(shot[:, keys].transpose(0, 1)) for shot in pixels])
    return films
