"""Transition control: are the cuts where the plan has them? (paper sec. 5.1, Shot Cut Accuracy of HoloCine A.1)"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from shotstream_lite.errors import StoryError


class Eye(NamedTuple):
    """How PySceneDetect's AdaptiveDetector looks at a film.

    Frames are shrunk to `width` pixels by area; a cut changes the picture `ratio` times as much as the two frames on
    either side do, by at least `change` grey levels, and `shortest` frames after the last one.
    """

    width: int
    ratio: float
    change: float
    shortest: int


PHOTOGRAPHED = Eye(256, 3.0, 15.0, 15)
"""PySceneDetect's defaults, at about the width it shrinks films to."""
TOYBOX = Eye(24, 2.5, 5.0, 8)
"""Chosen on real film of training stories: as drawn, with noise, and through the codec. Two shots in one place may
differ by as little as 5 grey levels where a pan changes by 14 a frame, so no fixed threshold parts them; the ratio to
the neighbours does. Shrinking keeps cuts and averages noise and small movement away. At a ratio of 2 the codec's rhythm
of four frames looks like cuts, at 3 cuts into pans go missing."""


def find_cuts(film: Iterable[np.ndarray], fps: int = 16, eye: Eye = TOYBOX) -> list[int]:
    """First frames of all shots but the first.

    Shape: uint8 [H, W, 3] a frame. Raises StoryError when PySceneDetect is not installed.
    """
    try:
        import cv2
        from scenedetect import AdaptiveDetector, FrameTimecode
    except ImportError:
        fix = "pip install 'shotstream_lite[train]'"
        raise StoryError(f"cuts are found by PySceneDetect, which is not installed: {fix}") from None
    detector = AdaptiveDetector(adaptive_threshold=eye.ratio, min_content_val=eye.change, min_scene_len=eye.shortest)
    found = []
    for number, frame in enumerate(film):
        height, width = frame.shape[:2]
        size = min(eye.width, width), max(1, round(height * min(eye.width, width) / width))
        small = cv2.resize(np.ascontiguousarray(frame[..., ::-1]), size, interpolation=cv2.INTER_AREA)
        found += detector.process_frame(FrameTimecode(number, float(fps)), small)
    return sorted(cut.frame_num for cut in found)


def planned_cuts(lengths: Sequence[int]) -> list[int]:
    """Where shots of these lengths begin, the first one left out."""
    return list(accumulate(lengths))[:-1]


def shot_cut_accuracy(found: Sequence[int], planned: Sequence[int], frames: int) -> float:
    """SCA = exp(-NSD), in (0, 1]: NSD is how many frames it takes to turn the found cuts into the planned ones, by film
    length.

    Moving a cut costs the frames it is moved. The paper does not say what a missed or an extra one costs; here it is
    the mean length of a planned shot, so that n shots without any cut have NSD = (n - 1) / n. Cuts are matched in order
    so that the sum is least (an edit distance).
    """
    price = frames / (len(planned) + 1)
    costs = np.add.outer(np.arange(len(found) + 1), np.arange(len(planned) + 1)) * price
    for i, cut in enumerate(found):
        for j, wanted in enumerate(planned):
            moved = costs[i, j] + abs(cut - wanted)
            costs[i + 1, j + 1] = min(moved, costs[i, j + 1] + price, costs[i + 1, j] + price)
    return float(np.exp(-costs[-1, -1] / frames))
