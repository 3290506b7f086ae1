"""The miniature world: what can be in a film, and stories drawn from it.

Captions say who (shape, colour), where, how filmed and doing what, and that the wind blows or a bell rings. They never
say what only a memory of earlier shots can know, each kind for one question (`reading.KINDS`): hats, stripes and
emblems of characters, landmarks and sun of a place, the tint of the story's light; what a shot shows only in part (the
emblem when somebody turns round, the thing a pan reveals); and what changes within a shot and stays changed (the wind
takes a hat, the bell raises a flag).
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

SHAPES = ("ball", "box", "cone")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
SETTINGS = ("meadow", "desert", "snow", "city", "seaside")
CAMERAS = ("wide", "medium", "close", "pan")
ACTIONS = ("walk_left", "walk_right", "jump", "spin", "wave", "stand", "meet")
EVENTS = ("none", "wind", "bell")

# What captions never say.
HATS = ("top hat", "party hat", "crown", "beanie", "none")
STRIPES = ("low", "middle", "high")
EMBLEMS = ("dot", "square", "triangle")
TINTS = ("neutral", "warm", "cool")
SUNS = ("left", "right")
LANDMARKS = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))  # the two of four slots that are taken
FAR = ("house", "tent", "tower")  # beyond the right edge of a wide shot: only a pan shows it
FLAGS = ("down", "up")

# What may be asked of a film: what one frame shows, and what only several do. Of two characters "other" is the right
# one; alone there is none.
IN_FRAME = {
    "shape": SHAPES,
    "colour": COLOURS,
    "other shape": (*SHAPES, "nobody"),
    "other colour": (*COLOURS, "nobody"),
    "setting": SETTINGS,
    "hat": HATS,
    "stripe": STRIPES,
    "other hat": HATS,
    "other stripe": STRIPES,
    "emblem": EMBLEMS,
    "tint": TINTS,
    "sun": SUNS,
    "landmarks": LANDMARKS,
    "far": FAR,
    "flag": FLAGS,
}
IN_MOTION = {"camera": CAMERAS, "action": ACTIONS}

FPS = 16
HEIGHT, WIDTH = 128, 224
SHOT_FRAMES = 45  # about three seconds, the usual length: four chunks
LONGEST = 81  # frames of the longest shot that is ever trained

MARKS = (0.55, 0.8, 1.05)  # on the stage; every motion begins with its shot
EVENT_START, EVENT_FRAMES = 14, 14  # when something changes within a shot, and how long it takes
LONGEST_ABSENCE = 12
T = TypeVar("T")


@dataclass(frozen=True)
class Character:
    """Someone in the cast. `shape` and `colour` are written in captions, the rest never."""

    shape: str
    colour: str
    hat: str
    stripe: str
    emblem: str


@dataclass(frozen=True)
class Place:
    """Where a shot happens. Captions name the `setting` only."""

    setting: str
    landmarks: tuple[int, int]
    sun: str
    far: str
    flag: str


@dataclass(frozen=True)
class Take:
    """One shot before it is drawn: who, where, how filmed, doing what, and what changes meanwhile.

    Attributes:
        cast: the characters on screen as they look when the shot begins, the left one first.
        place: as it looks when the shot begins.
        event: "wind" takes the first character's hat, "bell" raises the flag; from then on both stay so.
        x: where the subject stands, one of MARKS (stage units, a picture is 1 high and 1.75 wide at a wide shot).
    """

    cast: tuple[Character, ...]
    place: Place
    camera: str
    action: str
    event: str
    x: float

    @property
    def after(self) -> tuple[tuple[Character, ...], Place]:
        """Cast and place as the shot leaves them."""
        cast, place = self.cast, self.place
        if self.event == "wind":
            cast = (replace(cast[0], hat="none"), *cast[1:])
        elif self.event == "bell":
            place = replace(place, flag="up")
        return cast, place


@dataclass(frozen=True)
class ToyStory:
    """A cast as it looks in the beginning, the usual place, a light, and the shots."""

    cast: tuple[Character, ...]
    home: str
    tint: str
    takes: tuple[Take, ...]


def draw_story(rng: np.random.Generator, shots: int = 12) -> ToyStory:
    """Draws a story: shots cut between characters, some go away for up to twelve shots and come back, places too.

    Args:
        rng: the only source of randomness; the same generator state gives the same story.
        shots: number of shots, at least 1.
    """
    size = int(rng.choice([2, 3, 4], p=[0.5, 0.35, 0.15]))
    looks = rng.permutation([(s, c) for s in SHAPES for c in COLOURS])[:size]
    cast = [Character(str(s), str(c), pick(rng, HATS[:4]), pick(rng, STRIPES), pick(rng, EMBLEMS)) for s, c in looks]
    first_cast = tuple(cast)
    settings = [str(s) for s in rng.permutation(SETTINGS)[:2]]
    places = {s: _draw_place(rng, s) for s in settings}  # a place looks the same whenever the story returns to it
    back = [0] * size  # the first shot in which each may be seen again
    takes: list[Take] = []
    here, before = settings[0], -1
    for shot in range(shots):
        if rng.random() < (0.15 if here == settings[0] else 0.6):
            here = settings[1] if here == settings[0] else settings[0]
        present = [i for i in range(size) if back[i] <= shot] or [int(np.argmin(back))]
        others = [i for i in present if i != before] or present
        subject = before if before in present and rng.random() < 0.25 else int(rng.choice(others))
        beside = [i for i in present if i != subject]
        subjects = (subject, int(rng.choice(beside))) if beside and rng.random() < 0.25 else (subject,)
        take = _draw_take(rng, tuple(cast[i] for i in subjects), places[here])
        takes.append(take)
        after, places[here] = take.after
        for i, who in zip(subjects, after, strict=True):
            cast[i] = who
            if rng.random() < 0.3:
                back[i] = shot + 2 + int(rng.integers(LONGEST_ABSENCE))
        before = subject
    return ToyStory(first_cast, settings[0], pick(rng, TINTS), tuple(takes))


def _draw_place(rng: np.random.Generator, setting: str) -> Place:
    landmarks, sun, far = pick(rng, LANDMARKS), pick(rng, SUNS), pick(rng, FAR)
    return Place(setting, landmarks, sun, far, "up" if rng.random() < 0.25 else "down")


def _draw_take(rng: np.random.Generator, cast: tuple[Character, ...], place: Place) -> Take:
    if len(cast) == 2:
        camera, action = pick(rng, ("wide", "medium")), pick(rng, ("meet", "meet", "jump", "wave", "stand"))
    else:
        camera, action = pick(rng, CAMERAS), pick(rng, ACTIONS[:-1])
    event, chance = "none", rng.random()
    if camera == "wide" and place.flag == "down":
        event = "bell" if chance < 0.25 else "none"
    elif cast[0].hat != "none" and action != "spin" and chance < 0.15:
        event = "wind"
    return Take(cast, place, camera, action, event, float(rng.choice(MARKS)))


def pick(rng: np.random.Generator, options: tuple[T, ...]) -> T:
    """One of some options, each as likely."""
    return options[int(rng.integers(len(options)))]
