"""The miniature world: what can be in a film, and stories drawn from it.

Half of a story is written in its captions (shape, colour, setting, camera, action). The other half never is: hats,
stripes, the places of landmarks and sun, the tint of the light. Only a memory of earlier shots can carry those
across a cut, which is what makes the memory measurable.
"""

from dataclasses import dataclass, field

import numpy as np

SHAPES = ("ball", "box", "cone")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
SETTINGS = ("meadow", "desert", "snow", "city", "seaside")
CAMERAS = ("wide", "medium", "close", "pan")
ACTIONS = ("walk_left", "walk_right", "jump", "spin", "wave", "stand", "meet")

# What captions never say.
HATS = ("top hat", "party hat", "crown", "beanie")
STRIPES = ("low", "middle", "high")
TINTS = ("neutral", "warm", "cool")
SUNS = ("left", "right")
LANDMARK_SLOTS = 4  # two of them are taken in every place

FPS = 16
HEIGHT, WIDTH = 64, 96
SHOT_FRAMES = 33


@dataclass(frozen=True)
class Character:
    """Someone in the cast. `shape` and `colour` are written in captions, `hat` and `stripe` never."""

    shape: str
    colour: str
    hat: str
    stripe: str


@dataclass(frozen=True)
class Place:
    """Where a shot happens. Captions name the `setting`; `landmarks` (slots taken) and `sun` are left out."""

    setting: str
    landmarks: tuple[int, int]
    sun: str


@dataclass(frozen=True)
class Take:
    """One shot before it is drawn: who (indices into the cast), where, how filmed, doing what.

    `x` is where the subject stands (stage units, the stage is 1.5 wide) and `beat` where its motion starts, in [0, 1).
    """

    subjects: tuple[int, ...]
    place: Place
    camera: str
    action: str
    x: float
    beat: float


@dataclass(frozen=True)
class ToyStory:
    """A cast, a light, and the shots they play in."""

    cast: tuple[Character, ...]
    tint: str
    takes: tuple[Take, ...] = field(default=())


def draw_story(rng: np.random.Generator, shots: int = 4) -> ToyStory:
    """Draws a story whose shots cut between characters and bring one back after an absence.

    Args:
        rng: the only source of randomness; the same generator state gives the same story.
        shots: number of shots, at least 1.
    """
    size = int(rng.choice([2, 3], p=[0.7, 0.3]))
    looks = rng.permutation([(s, c) for s in SHAPES for c in COLOURS])[:size]
    cast = tuple(Character(str(s), str(c), _pick(rng, HATS), _pick(rng, STRIPES)) for s, c in looks)
    places = {s: _draw_place(rng, s) for s in SETTINGS}  # a place looks the same whenever the story returns to it
    home = _pick(rng, SETTINGS)
    who = _draw_order(rng, size, shots)
    takes: list[Take] = []
    for subject in who:
        away = rng.random() < 0.1
        place = places[_pick(rng, SETTINGS)] if away else places[home]
        take = _draw_take(rng, subject, size, place)
        while takes and _jump_cut(takes[-1], take):
            take = _draw_take(rng, subject, size, place)
        takes.append(take)
    return ToyStory(cast, _pick(rng, TINTS), tuple(takes))


def _draw_place(rng: np.random.Generator, setting: str) -> Place:
    slots = sorted(int(s) for s in rng.permutation(LANDMARK_SLOTS)[:2])
    return Place(setting, (slots[0], slots[1]), _pick(rng, SUNS))


def _draw_order(rng: np.random.Generator, size: int, shots: int) -> list[int]:
    """Cuts go to another character more often than not, so that somebody is always coming back."""
    order = [int(rng.integers(size))]
    while len(order) < shots:
        others = [i for i in range(size) if i != order[-1]]
        order.append(order[-1] if rng.random() < 0.25 else int(rng.choice(others)))
    return order


def _jump_cut(before: Take, after: Take) -> bool:
    """Nobody sees a cut between two shots of the same subjects, in the same place, from the same distance."""
    framed = [(set(take.subjects), take.place, take.camera) for take in (before, after)]
    return framed[0] == framed[1]


def _draw_take(rng: np.random.Generator, subject: int, size: int, place: Place) -> Take:
    camera = _pick(rng, CAMERAS)
    action = _pick(rng, ACTIONS[:-1])
    subjects: tuple[int, ...] = (subject,)
    if rng.random() < 0.12:
        other = int(rng.choice([i for i in range(size) if i != subject]))
        subjects, action, camera = (subject, other), "meet", "wide"
    return Take(subjects, place, camera, action, float(rng.uniform(0.5, 1.0)), float(rng.random()))


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]
