"""A film, and what is measured on its pixels alone: does it hold still what should, does it move, how sharp is it, and
are the cuts where the plan has them? (paper sec. 5.1)"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from shotstream_lite.errors import StoryError

Scores = dict[str, np.ndarray]
"""Float [stories, shots, ...] by name, nan where nothing was asked: 1 right, 0 wrong, or what the name says."""


@dataclass(frozen=True)
class Film:
    """A film and what it was meant to show. Shots are uint8 [frames, H, W, 3]; the first `given` ones are real film.

    `original` is what went through a codec to become this one.
    """

    story: Any
    shots: list[np.ndarray]
    given: int = 0
    original: "Film | None" = None


def consistency(features: np.ndarray) -> float:
    """Mean cosine similarity of each frame with the one before and with the first (VBench; paper sec. 5.1).

    Shape: float [frames, features], at least two frames; else nan.
    """
    if len(features) < 2:
        return float("nan")
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    before, first = (unit[1:] * unit[:-1]).sum(1), (unit[1:] * unit[0]).sum(1)
    return float((before + first).mean() / 2)


def is_dynamic(shot: np.ndarray, fps: int = 16) -> float:
    """1 if a shot moves, 0 if it stands: VBench's dynamic degree on Farneback's optical flow, not RAFT's.

    Looked at eight times a second, the fastest twentieth of the picture must move by 6/256 of its shorter side between
    two looks, in a quarter of them.

    Shape: uint8 [frames, H, W, 3]. Raises StoryError when OpenCV, which comes with PySceneDetect, is not installed.
    """
    try:
        import cv2
    except ImportError:
        fix = "pip install 'shotstream_lite[train]'"
        raise StoryError(f"movement is measured by OpenCV, which is not installed: {fix}") from None
    looks = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in shot[:: max(1, round(fps / 8))]]
    enough = 6 * min(shot.shape[1:3]) / 256
    moving = 0
    for before, after in zip(looks, looks[1:], strict=False):
        flow = cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0)
        speeds = np.sort(np.hypot(flow[..., 0], flow[..., 1]), axis=None)
        moving += speeds[-max(1, speeds.size // 20) :].mean() > enough
    return float(moving >= max(1, round((len(looks) - 1) / 4)))


def sharpness(shot: np.ndarray) -> float:
    """Energy of the gradient: the mean square of what neighbouring pixels differ by, across and down together.

    Means little alone; beside real film of the same story less is blur, more is noise. What is averaged over several
    possible pictures, as by a regression, keeps its outlines only half as high and so a quarter of their energy.

    Shape: uint8 [frames, H, W, 3]. Unit: the square of the range from black to white.
    """
    pixels = shot.astype(np.float32) / 255
    return float(sum(np.square(np.diff(pixels, axis=axis)).mean() for axis in (1, 2)))


def psnr(shot: np.ndarray, original: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB. Shape: uint8, both the same."""
    return float(10 * np.log10(255**2 / max(1e-9, np.square(shot.astype(np.float32) - original).mean())))


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
    """Shot Cut Accuracy (HoloCine A.1), in (0, 1]: exp(-NSD).

    NSD is how many frames it takes to turn the found cuts into the planned ones, by film length.
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
