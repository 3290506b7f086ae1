"""What a film has kept: hats read back without a trained eye, colours and past frames compared.

Reading is done by drawing: the renderer draws a shot once with each hat (stripe, tint, ...), and the drawing nearest to
the film says which one is seen. That needs a character who stands in the middle of a close-up, or a wide shot of a
place; `scenes.returning_story` ends with such a close-up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from shotstream_lite.course.scenes import drawn_film, on_reel, returning_story, variants
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.story import captions
from shotstream_lite.toybox.renderer import render
from shotstream_lite.toybox.world import ToyStory


def read_back(story: ToyStory, index: int, frames: np.ndarray) -> dict[str, bool]:
    """Whether a film of shot `index`, uint8 [f, 128, 224, 3], looks most like the drawing with the right attribute.

    Only the pixels count in which the drawings of an attribute differ.
    """
    own = _drawn(story, index, len(frames))
    right = {}
    for name, stories in variants(story, index).items():
        drawings = [_drawn(other, index, len(frames)) for other in stories.values()]
        telling = np.std(drawings, axis=0) > 4
        distances = [np.square(drawing - frames)[telling].mean() for drawing in drawings]
        right[name] = bool(np.array_equal(drawings[int(np.argmin(distances))], own))
    return right


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


def memory_test(pipeline: ShotStreamPipeline, seeds: Sequence[int], frames: int = 9, **settings) -> list[Returned]:
    """Who comes back as they were? The model tells the last shot of returning stories after real film.

    Args:
        seeds: one a story.
        frames: pixel frames told, 4k+1.
        settings: changes of the pipeline's settings (policy, phase, budget, ...).
    """
    changed = pipeline.settings.changed(settings)
    found = []
    for seed in seeds:
        story, told = returning_story(seed)
        past = on_reel(drawn_film(replace(story, takes=story.takes[:-1])))
        lines = captions(told, len(past))
        film = np.concatenate(list(pipeline.shot(lines, past, seed=seed, frames=frames, settings=changed)))
        found.append(Returned(film, read_back(story, len(past), film)))
    return found


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


def _drawn(story: ToyStory, index: int, frames: int) -> np.ndarray:
    return render(story, story.takes[index], frames).numpy().astype(np.float32)
