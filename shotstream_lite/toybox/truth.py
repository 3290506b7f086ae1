"""What there is to be seen in each frame of a shot: the right answers to the questions that a probe is asked."""

import numpy as np

from shotstream_lite.toybox.renderer import FAR_X, FLAGPOLE, camera_of, parts_of, paths_of
from shotstream_lite.toybox.world import (
    EVENT_FRAMES,
    EVENT_START,
    EVENTS,
    HEIGHT,
    IN_FRAME,
    IN_MOTION,
    WIDTH,
    Take,
    ToyStory,
)

SAID = ("shape", "colour", "other shape", "other colour", "setting", "camera", "action")  # by captions
TOLD = {name: (IN_FRAME | IN_MOTION)[name] for name in SAID} | {"event": EVENTS}  # and what happens meanwhile
HIDDEN = -1  # the answer is out of the picture, or just changing


def truth(story: ToyStory, take: Take, time: np.ndarray) -> dict[str, np.ndarray]:
    """The right answer to every question at each frame of `time`, int [frames], as an index or HIDDEN."""
    camera = camera_of(take, time)
    centre, half = camera[:, 0], WIDTH / HEIGHT / 2 / camera[:, 2]
    far_view = take.camera in ("wide", "pan")
    since = time >= EVENT_START
    changing = since & (time <= EVENT_START + EVENT_FRAMES)
    windy, rings = take.event == "wind", take.event == "bell"
    found: dict[str, np.ndarray] = {}

    def answer(name: str, value: object, shown: np.ndarray | bool = True, later: str | None = None) -> None:
        """later: what it is once the wind has blown or the bell has rung."""
        options = (IN_FRAME | IN_MOTION)[name]
        right = np.where(since & (later is not None), options.index(later or value), options.index(value))
        found[name] = np.where(shown, right, HIDDEN)

    def in_view(left: float, right: float) -> np.ndarray:
        return far_view & (centre - half < left) & (centre + half > right)

    answer("setting", take.place.setting)
    answer("tint", story.tint)
    for who, (x, _, turn), other in zip(take.cast, paths_of(take, time), ("", "other "), strict=False):
        seen, blown = np.abs(x - centre) < half - 0.05, windy and not other
        answer(f"{other}shape", who.shape, seen)
        answer(f"{other}colour", who.colour, seen)
        answer(f"{other}hat", who.hat, seen & ~(changing & blown), later="none" if blown else None)
        answer(f"{other}stripe", who.stripe, seen)
        if not other:
            answer("emblem", who.emblem, seen & (np.cos(turn) < -0.6))
    if len(take.cast) == 1:
        answer("other shape", "nobody")
        answer("other colour", "nobody")
        found["other hat"] = found["other stripe"] = np.full(len(time), HIDDEN)
    sun_x = 0.22 if take.place.sun == "left" else 1.38
    answer("sun", take.place.sun, in_view(sun_x - 0.05, sun_x + 0.05))
    answer("landmarks", take.place.landmarks, take.camera == "wide")
    answer("far", take.place.far, in_view(FAR_X - 0.1, FAR_X + 0.1))
    flag = in_view(FLAGPOLE, FLAGPOLE + 0.12) & ~(changing & rings)
    answer("flag", take.place.flag, flag, later="up" if rings else None)
    answer("camera", take.camera)
    answer("action", take.action)
    return found


def told(take: Take) -> dict[str, int]:
    """What the caption of a shot says: the answer to every question of TOLD, as an index."""
    said = {"other shape": "nobody", "other colour": "nobody", "setting": take.place.setting}
    for who, prefix in zip(take.cast, ("", "other "), strict=False):
        said |= {f"{prefix}shape": who.shape, f"{prefix}colour": who.colour}
    said |= {"camera": take.camera, "action": take.action, "event": take.event}
    return {name: answers.index(said[name]) for name, answers in TOLD.items()}


def places(take: Take, time: np.ndarray) -> dict[str, np.ndarray]:
    """Where each character's hat and stripe are in the picture, [frames, 2]: down and across, 0 to 1 inside."""
    camera, found = camera_of(take, time), {}
    for who, (x, lift, _), prefix in zip(take.cast, paths_of(take, time), ("", "other "), strict=False):
        across = 0.5 + (x - camera[:, 0]) * camera[:, 2] * HEIGHT / WIDTH
        for thing, height in zip(("hat", "stripe"), parts_of(who, lift), strict=True):
            down = 0.5 + (height - camera[:, 1]) * camera[:, 2]
            found[f"{prefix}{thing}"] = np.stack([down, across], axis=1)
    return found
