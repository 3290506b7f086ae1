"""What there is to be seen in each frame of a shot: the right answers to the questions that a probe is asked."""

import numpy as np

from shotstream_lite.toybox2.renderer import FAR_X, FLAGPOLE, camera_of, paths_of
from shotstream_lite.toybox2.world import (
    ACTIONS,
    CAMERAS,
    COLOURS,
    EMBLEMS,
    EVENT_FRAMES,
    EVENT_START,
    FAR,
    FLAGS,
    HATS,
    HEIGHT,
    LANDMARKS,
    SETTINGS,
    SHAPES,
    STRIPES,
    SUNS,
    TINTS,
    WIDTH,
    Take,
    ToyStory,
)

# What one frame shows, and what only several do. Of two characters "other" is the right one; alone there is none.
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
HIDDEN = -1  # the answer is out of the picture, or just changing


def truth(story: ToyStory, take: Take, time: np.ndarray) -> dict[str, np.ndarray]:
    """The right answer to every question at each frame of `time`, int [frames], as an index or HIDDEN."""
    camera = camera_of(take, time)
    centre, half = camera[:, 0], WIDTH / HEIGHT / 2 / camera[:, 2]
    far_view = take.camera in ("wide", "pan")
    lost = (take.event == "wind") & (time >= EVENT_START)
    changing = (take.event != "none") & (time >= EVENT_START) & (time <= EVENT_START + EVENT_FRAMES)
    whole = np.ones(len(time), bool)

    def index(options: tuple, value: object, shown: np.ndarray | bool = True) -> np.ndarray:
        return np.where(whole & shown, options.index(value), HIDDEN)

    def in_view(left: float, right: float) -> np.ndarray:
        return far_view & (centre - half < left) & (centre + half > right)

    answers = {"setting": index(SETTINGS, take.place.setting), "tint": index(TINTS, story.tint)}
    for who, (x, _, turn), prefix in zip(take.cast, paths_of(take, time), ("", "other "), strict=False):
        seen = np.abs(x - centre) < half - 0.05
        hat = np.where(lost & (prefix == ""), HATS.index("none"), HATS.index(who.hat))
        answers |= {
            f"{prefix}shape": index(SHAPES, who.shape, seen),
            f"{prefix}colour": index(COLOURS, who.colour, seen),
            f"{prefix}hat": np.where(seen & ~(changing & (take.event == "wind") & (prefix == "")), hat, HIDDEN),
            f"{prefix}stripe": index(STRIPES, who.stripe, seen),
        }
        if prefix == "":
            answers["emblem"] = index(EMBLEMS, who.emblem, seen & (np.cos(turn) < -0.6))
    if len(take.cast) == 1:
        answers["other shape"] = index(IN_FRAME["other shape"], "nobody")
        answers["other colour"] = index(IN_FRAME["other colour"], "nobody")
        answers["other hat"] = answers["other stripe"] = np.full(len(time), HIDDEN)
    sun_x = 0.22 if take.place.sun == "left" else 1.38
    flag = np.where((take.event == "bell") & (time >= EVENT_START), FLAGS.index("up"), FLAGS.index(take.place.flag))
    return answers | {
        "sun": index(SUNS, take.place.sun, in_view(sun_x - 0.05, sun_x + 0.05)),
        "landmarks": index(LANDMARKS, take.place.landmarks, take.camera == "wide"),
        "far": index(FAR, take.place.far, in_view(FAR_X - 0.1, FAR_X + 0.1)),
        "flag": np.where(in_view(FLAGPOLE, FLAGPOLE + 0.12) & ~(changing & (take.event == "bell")), flag, HIDDEN),
        "camera": index(CAMERAS, take.camera),
        "action": index(ACTIONS, take.action),
    }
