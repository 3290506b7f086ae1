"""A film, and measures that need no story: does it hold still what should, does it move at all, how sharp is it?"""

from dataclasses import dataclass
from typing import Any

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
