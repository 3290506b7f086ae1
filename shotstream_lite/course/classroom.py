"""What all notebooks share: how they begin, the running story, and a shot read back without a trained eye.

Reading is done by drawing: the renderer draws a shot once with each hat (stripe, tint, ...), and the drawing nearest to
the film says which one is seen. That needs a character who stands in the middle of a close-up, or a wide shot of a
place; `returning_story` ends with such a close-up.
"""

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import diffusers
import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache
from IPython import get_ipython
from torch import Tensor

import shotstream_lite
from shotstream_lite.cache import ShotCache, attention_shares
from shotstream_lite.codec import Codec
from shotstream_lite.errors import CheckpointError
from shotstream_lite.footage import Footage, Reel
from shotstream_lite.models.folder import find_folder
from shotstream_lite.models.placement import Plan, choose
from shotstream_lite.models.released import MODELS, Release, read_release
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.story import Shot, Story, captions
from shotstream_lite.toybox.captions import global_caption, shot_caption
from shotstream_lite.toybox.dataset import KEY_FRAMES, LatentFilms, story_of, to_pixels
from shotstream_lite.toybox.renderer import render
from shotstream_lite.toybox.world import (
    HATS,
    LANDMARK_SLOTS,
    STRIPES,
    SUNS,
    TINTS,
    Character,
    Place,
    Take,
    ToyStory,
    draw_story,
)
from shotstream_lite.transformer import ShotStreamTransformer, after_attention, before_attention

SEED = 7
"""Of every notebook, unless it says otherwise."""

RETURNING_SEED = 2_000_000  # beyond training and held-out stories

_GLOBAL = "A story about a red ball and a blue box, by the sea."
_BALL = Character("ball", "red", hat="party hat", stripe="middle")
_BOX = Character("box", "blue", hat="beanie", stripe="low")
_BEACH = Place("seaside", landmarks=(1, 3), sun="left")
# caption, who, camera, action; the ball leaves after shot 3 and comes back in shot 10
_SCRIPT = (
    ("Wide shot: the red ball jumps up and down.", (0,), "wide", "jump"),
    ("Medium shot: the blue box waves hello.", (1,), "medium", "wave"),
    ("Close-up: the red ball spins around.", (0,), "close", "spin"),
    ("The blue box walks to the left, the camera pans.", (1,), "pan", "walk_left"),
    ("Wide shot: the blue box stands there.", (1,), "wide", "stand"),
    ("Close-up: the blue box jumps.", (1,), "close", "jump"),
    ("Medium shot: the blue box spins.", (1,), "medium", "spin"),
    ("Wide shot: the blue box walks to the right.", (1,), "wide", "walk_right"),
    ("Close-up: the blue box waves.", (1,), "close", "wave"),
    ("Close-up: the red ball stands still.", (0,), "close", "stand"),
)


def fast() -> bool:
    """Whether a notebook shall only show that it runs (SHOTSTREAM_FAST=1): fewer steps and films, the same cells."""
    return os.environ.get("SHOTSTREAM_FAST") == "1"


def begin(minutes: float, seed: int = SEED) -> None:
    """Prints versions, device, seed, and how long the notebook takes on two cores."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    print(f"shotstream_lite {shotstream_lite.__version__}, Python {platform.python_version()}, ", end="")
    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}")
    print(f"device: {device} (the toybox works on the CPU); seed: {seed}")
    less = ", less now: SHOTSTREAM_FAST is set" if fast() else ""
    print(f"about {minutes:g} minute{'s' * (minutes != 1)} on two cores{less}")


def claim(what: str, value: float | Tensor, *, below: float | None = None, above: float | None = None) -> None:
    """Prints what a notebook says of a number it has computed, with the bound that the number keeps; give one bound.

    `tests/test_notebooks.py` reads these lines in what is stored, so no sentence can say more than was measured.
    Raises AssertionError if the number does not keep its bound; not in a fast run, which measures too little.
    """
    sign, bound = ("<", below) if above is None else (">", above)
    line = f"claim: {what}: {float(value):.3g} {sign} {bound:g}"
    print(line)
    if not fast() and not (value < bound if above is None else value > bound):
        raise AssertionError(f"{line} does not hold: the text beside it says too much")


def is_interactive() -> bool:
    """Whether somebody can type into this notebook; False in runs by nbconvert or nbmake, and outside notebooks."""
    kernel = getattr(get_ipython(), "kernel", None)
    return bool(kernel and kernel.get_parent().get("content", {}).get("allow_stdin"))


@dataclass(frozen=True)
class Full:
    """The model that notebook 11 takes, the device it goes to, how it is placed there, and why, in a sentence."""

    preset: str
    device: str
    plan: Plan | None
    why: str


def full_model(fetch: bool = False) -> Full:
    """The full model if there is a GPU it fits into and its weights are here, or may be fetched; else the toybox."""
    if not torch.cuda.is_available():
        return Full("toybox", "cpu", None, "there is no GPU here: the same cells run on the toybox")
    release = read_release(find_folder("wan-1.3b"))
    try:
        fit = choose("wan-1.3b", "cuda", download=fetch)
        if not fetch and not _at_hand(release):
            fix = f"set fetch = True, or {MODELS} to their folder"
            return Full("toybox", "cpu", None, f"the released weights are not here: {fix}; now it is the toybox")
        release.require()
    except CheckpointError as error:
        return Full("toybox", "cpu", None, f"{error}; now it is the toybox")
    return Full("wan-1.3b", "cuda", fit.plan, fit.line("wan-1.3b", "cuda"))


def _at_hand(release: Release) -> bool:
    """Whether the student's checkpoint is on this machine; nothing is fetched."""
    if os.environ.get(MODELS):
        return (Path(os.environ[MODELS]) / release.weights.split("/")[-1] / release.checkpoints["student"]).is_file()
    return isinstance(try_to_load_from_cache(release.weights, release.checkpoints["student"]), str)


def running_story(shots: int = 5) -> tuple[ToyStory, Story]:
    """The story of all notebooks, to be drawn and to be told. `shots` from 1 to 10."""
    script = _SCRIPT[:shots]
    takes = [
        Take(who, _BEACH, camera, action, x=0.6 + 0.03 * i, beat=0.1 * i)
        for i, (_, who, camera, action) in enumerate(script)
    ]
    told = Story(_GLOBAL, tuple(Shot(caption) for caption, *_ in script), seed=SEED)
    return ToyStory((_BALL, _BOX), "warm", tuple(takes)), told


def drawn_film(story: ToyStory) -> list[np.ndarray]:
    """A story as the renderer draws it: uint8 [33, 64, 96, 3] a shot."""
    return [render(story, take) for take in story.takes]


def on_reel(shots: Iterable[np.ndarray]) -> list[Footage]:
    """Film as the pipeline takes its past."""
    reel = Reel()
    return [reel.append(shot) for shot in shots]


def returning_story(seed: int) -> tuple[ToyStory, Story]:
    """Five shots: somebody wide and near, somebody else wide and near, and the first one back, near and standing."""
    rng = np.random.default_rng(RETURNING_SEED + seed)
    story = draw_story(rng, shots=1)
    place = story.takes[0].place
    plan = ((0, "wide", "stand"), (0, "close", "wave"), (1, "wide", "walk_right"), (1, "medium", "jump"))
    takes = [Take((who,), place, camera, action, 0.75, 0.0) for who, camera, action in (*plan, (0, "close", "stand"))]
    story = replace(story, takes=tuple(takes))
    return story, Story(global_caption(story, rng), tuple(Shot(shot_caption(story, take, rng)) for take in takes))


def variants(story: ToyStory, index: int) -> dict[str, dict[object, ToyStory]]:
    """For each attribute that captions leave out, the story with every value it could have in shot `index`.

    Sun and landmarks are only there for cameras that show the whole place.
    """
    take = story.takes[index]
    who = take.subjects[0]

    def looking(**change: str) -> ToyStory:
        cast = [replace(someone, **change) if i == who else someone for i, someone in enumerate(story.cast)]
        return replace(story, cast=tuple(cast))

    def placed(**change) -> ToyStory:
        takes = list(story.takes)
        takes[index] = replace(take, place=replace(take.place, **change))
        return replace(story, takes=tuple(takes))

    found: dict[str, dict[object, ToyStory]] = {
        "hat": {hat: looking(hat=hat) for hat in HATS},
        "stripe": {stripe: looking(stripe=stripe) for stripe in STRIPES},
        "tint": {tint: replace(story, tint=tint) for tint in TINTS},
    }
    if take.camera in ("wide", "pan"):
        found["sun"] = {sun: placed(sun=sun) for sun in SUNS}
        found["landmarks"] = {slots: placed(landmarks=slots) for slots in combinations(range(LANDMARK_SLOTS), 2)}
    return found


def read_back(story: ToyStory, index: int, frames: np.ndarray) -> dict[str, bool]:
    """Whether a film of shot `index`, uint8 [f, 64, 96, 3], looks most like the drawing with the right attribute.

    Only the pixels count in which the drawings of an attribute differ.
    """
    own = render(story, story.takes[index], len(frames))
    right = {}
    for name, stories in variants(story, index).items():
        drawings = [render(other, other.takes[index], len(frames)).astype(np.float32) for other in stories.values()]
        telling = np.std(drawings, axis=0) > 4
        distances = [np.square(drawing - frames)[telling].mean() for drawing in drawings]
        right[name] = bool(np.array_equal(drawings[int(np.argmin(distances))], own))
    return right


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
        past = on_reel(drawn_film(story)[:-1])
        lines = captions(told, len(past))
        film = np.concatenate(list(pipeline.shot(lines, past, seed=seed, frames=frames, settings=changed)))
        found.append(Returned(film, read_back(story, len(past), film)))
    return found


def forgotten(shots: Sequence[np.ndarray], picked: Sequence[tuple[int, int]]) -> float:
    """How far, on average, a past frame is from the nearest remembered one: root mean square, in grey levels of 255.

    Args:
        shots: uint8 [f, H, W, 3] each; picked: (shot, frame) as from `history.select`, at least one.
    """
    past = np.concatenate([shot[:, ::2, ::2] for shot in shots]).astype(np.float32)
    memory = np.stack([shots[shot][frame, ::2, ::2] for shot, frame in picked]).astype(np.float32)
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


@dataclass
class RecordingCache(ShotCache):
    """A cache that notes how each head of the latest pass spent its attention, made by `RecordingCache(**vars(cache))`.

    `heads` holds by layer float32 [heads, frames], which sum to one along the frames.
    """

    heads: dict[int, Tensor] = field(default_factory=dict)

    def append_kv(
        self, tokens: slice, layer: int, keys: Tensor, values: Tensor, query: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `ShotCache.append_kv`."""
        everything = super().append_kv(tokens, layer, keys, values, query)
        by_head = zip(query.split(1, dim=1), everything[0].split(1, dim=1), strict=True)
        self.heads[layer] = torch.stack([attention_shares(q, k, self.frame_tokens) for q, k in by_head])
        return everything


def encoded_films(codec: Codec, seeds: Iterable[int], shots: int = 4) -> LatentFilms:
    """Stories of the training set's kind (held-out ones from `dataset.HELD_OUT_SEED`), encoded here and now."""
    seeds = list(seeds)
    clips, stills = [], []
    with torch.no_grad():
        for seed in seeds:
            pixels = to_pixels(np.stack(drawn_film(story_of(seed, shots))))
            clips.append(codec.encode_clip(pixels))
            keys = pixels[:, :, list(KEY_FRAMES)].transpose(1, 2)
            stills.append(codec.encode_frames(keys.flatten(0, 1)).unflatten(0, keys.shape[:2]))
    return LatentFilms(torch.tensor(seeds), torch.stack(clips), torch.stack(stills))


@torch.no_grad()
def attention_maps(model: ShotStreamTransformer, *inputs: Tensor, **options) -> Tensor:
    """Who looked at whom in one pass of `model.joint`, which says what the inputs are; of the first sample, unmasked.

    Shape: returns float32 [layers, heads, tokens, tokens], rows sum to one
    """
    maps = []

    def noted(*given) -> tuple[Tensor, Tensor, Tensor]:
        query, keys, values = before_attention(*given)
        logits = query[0].float() @ keys[0].float().mT * query.shape[-1] ** -0.5
        maps.append(logits.softmax(-1))
        return query, keys, values

    usual, model.halves = model.halves, (noted, after_attention)
    try:
        model.joint(*inputs, **options)
    finally:
        model.halves = usual
    return torch.stack(maps)


def mixed_up(story: ToyStory, index: int, frames: np.ndarray) -> bool | None:
    """Whether somebody in shot `index`, uint8 [f, 64, 96, 3], rather wears hat and stripe of somebody who is not there.

    Read by drawing, as in `read_back`. None if the two wear the same.
    """
    take = story.takes[index]
    who = take.subjects[0]
    other = next(someone for i, someone in enumerate(story.cast) if i not in take.subjects)
    swapped = replace(story.cast[who], hat=other.hat, stripe=other.stripe)
    if swapped == story.cast[who]:
        return None
    mixed = replace(story, cast=tuple(swapped if i == who else someone for i, someone in enumerate(story.cast)))
    drawings = [render(one, take, len(frames)).astype(np.float32) for one in (story, mixed)]
    telling = np.std(drawings, axis=0) > 4
    right, wrong = (np.square(drawing - frames)[telling].mean() for drawing in drawings)
    return bool(wrong < right)
