"""What a film has kept: hats read back without a trained eye, colours and past frames compared.

Reading is done by drawing: the renderer draws a shot once with each hat (stripe, tint, ...), and the drawing nearest to
the film says which one is seen. That needs a character who stands in the middle of a close-up, or a wide shot of a
place; `scenes.returning_story` ends with such a close-up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from shotstream_lite.course.scenes import drawn_film, on_reel, returning_story, variants
from shotstream_lite.footage import Footage
from shotstream_lite.pipeline import Before, ShotStreamPipeline
from shotstream_lite.story import Story, captions
from shotstream_lite.toybox.renderer import render
from shotstream_lite.toybox.world import ToyStory


def read_back(story: ToyStory, index: int, frames: np.ndarray) -> dict[str, bool]:
    """Whether a film of shot `index`, uint8 [f, 128, 224, 3], looks most like the drawing with the right attribute.

    Only the pixels count in which the drawings of an attribute differ.
    """
    right = {}
    for name, (telling, drawings, own) in _drawings(story, index, len(frames)).items():
        distances = [np.square(drawing - frames[telling].astype(np.float32)).mean() for drawing in drawings]
        right[name] = int(np.argmin(distances)) == own
    return right


@lru_cache(maxsize=32)
def _drawings(story: ToyStory, index: int, frames: int) -> dict[str, tuple[np.ndarray, list[np.ndarray], int]]:
    """By attribute: the pixels that tell, what each drawing has there, and which drawing is the right one."""
    asked = {}
    for name, stories in variants(story, index).items():
        films = np.stack([render(other, other.takes[index], frames).numpy() for other in stories.values()])
        telling = films.std(axis=0, dtype=np.float32) > 4
        own = [other.takes[index] == story.takes[index] and other.tint == story.tint for other in stories.values()]
        asked[name] = telling, [film[telling] for film in films], own.index(True)
    return asked


def mixed_up(story: ToyStory, index: int, frames: np.ndarray) -> bool | None:
    """Whether somebody in shot `index` wears the hat and stripe of another one, who was seen before.

    None where both look the same.

    Shape: uint8 [f, 128, 224, 3]
    """
    take = story.takes[index]
    who = take.cast[0]
    seen = [one for before in reversed(story.takes[:index]) for one in before.cast]
    other = next(one for one in seen if (one.shape, one.colour) != (who.shape, who.colour))
    swapped = replace(who, hat=other.hat, stripe=other.stripe)
    if swapped == who:
        return None
    takes = [take, replace(take, cast=(swapped, *take.cast[1:]))]
    drawings = [render(story, one, len(frames)).numpy().astype(np.float32) for one in takes]
    telling = np.std(drawings, axis=0) > 4
    right, wrong = (np.square(drawing - frames)[telling].mean() for drawing in drawings)
    return bool(wrong < right)


@dataclass(frozen=True)
class Returned:
    """The last shot of a returning story as a model tells it: uint8 frames, and which attributes came back right."""

    frames: np.ndarray
    right: dict[str, bool]


def memory_test(
    pipeline: ShotStreamPipeline,
    seeds: Sequence[int],
    frames: int = 9,
    scene: Callable[[int], tuple[ToyStory, Story]] = returning_story,
    before: Before | None = None,
    **settings,
) -> list[Returned]:
    """Who comes back as they were? The model tells the last shot of a story after real film.

    Args:
        seeds: one a story.
        frames: pixel frames told, 4k+1.
        scene: the story of a seed, as drawn and as told.
        before: looks into the cache before each chunk, see `pipeline.Before`.
        settings: changes of the pipeline's settings (policy, phase, budget, ...).
    """
    changed = pipeline.settings.changed(settings)
    found = []
    for seed in seeds:
        story, told = scene(seed)
        past = _past(story)
        pieces = pipeline.shot(
            captions(told, len(past)), past, seed=seed, frames=frames, settings=changed, before=before
        )
        film = np.concatenate(list(pieces))
        found.append(Returned(film, read_back(story, len(past), film)))
    return found


@lru_cache(maxsize=32)
def _past(story: ToyStory) -> list[Footage]:
    """All shots but the last, drawn once: their footage stays the same, and so does what was encoded of it."""
    return on_reel(drawn_film(replace(story, takes=story.takes[:-1])))


def share_right(shots: Sequence[Returned]) -> list[float]:
    """For each shot the share of attributes that came back right."""
    return [float(np.mean(list(shot.right.values()))) for shot in shots]


def forgotten(shots: Sequence[np.ndarray], picked: Sequence[tuple[int, int]]) -> float:
    """How far, on average, a past frame is from the nearest remembered one: root mean square, in grey levels of 255.

    Args:
        shots: uint8 [f, H, W, 3] each; picked: (shot, frame) as from `history.select`, at least one.
    """
    past = np.concatenate([shot[:, ::4, ::4] for shot in shots]).astype(np.float32)
    memory = np.stack([shots[shot][frame, ::4, ::4] for shot, frame in picked]).astype(np.float32)
    distances = [np.sqrt(np.square(frame - memory).mean(axis=(1, 2, 3))).min() for frame in past]
    return float(np.mean(distances))


def colour_distance(shot: np.ndarray, drawn: np.ndarray) -> float:
    """How far the colours of a shot are from those of its drawing, wherever they are: mean grey levels of 255.

    Each channel's values are sorted and compared in order (the earth mover's distance), so that somebody who stands
    or jumps elsewhere costs nothing.

    Shape: uint8 [f, H, W, 3] both, of the same number of frames.
    """
    told, real = (np.sort(frames.reshape(-1, 3), axis=0).astype(np.float32) for frames in (shot, drawn))
    return float(np.abs(told - real).mean())
