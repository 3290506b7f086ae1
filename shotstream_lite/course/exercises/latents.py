"""Notebook 01: lengths, and what captions leave open."""

import math
from collections.abc import Callable

import numpy as np

from shotstream_lite.course.classroom import running_story, variants
from shotstream_lite.course.exercises.verdict import NotYet, ask_for, checker, expect_number
from shotstream_lite.toybox.renderer import render
from shotstream_lite.toybox.world import ToyStory


@checker
def check_frame_count(answer: Callable[[float, int], int]) -> str:
    """answer(seconds, fps): the fewest frames, one more than a multiple of 4, that last at least so long."""
    for seconds, fps in ((2.0, 16), (1.0, 16), (0.05, 16), (5.0, 16), (2.0625, 16), (0.75, 24)):
        needed = math.ceil(seconds * fps - 1e-9)
        wanted = -(-(needed - 1) // 4) * 4 + 1
        hints = {
            needed: f"{needed} frames last long enough, but are not 4k+1",
            wanted - 4: "that is too short: round up",
            wanted + 4: "4 fewer would do",
        }
        expect_number(answer, seconds, fps, wanted=wanted, shown=f"{seconds} s at {fps} frames a second", hints=hints)
    return "every length is 4k+1 and long enough."


def open_pixels(story: ToyStory, index: int) -> dict[str, np.ndarray]:
    """For each attribute that captions leave out, the pixels it can change in shot `index`. Shape: bool [H, W]."""
    own = render(story, story.takes[index])
    changed = {}
    for name, stories in variants(story, index).items():
        films = [render(other, other.takes[index]) for other in stories.values()]
        changed[name] = np.any([(film != own).any(axis=(0, 3)) for film in films], axis=0)
    return changed


@checker
def check_open_pixels(answer: Callable[[ToyStory, int], np.ndarray]) -> str:
    """answer(story, index): bool [H, W], the pixels of a shot that its caption does not settle."""
    story, _ = running_story()
    for index in (2, 0):
        shown = f"shot {index + 1} of the running story"
        mask = ask_for("an array", np.asarray, answer, story, index, shown=shown)
        by_name = open_pixels(story, index)
        truth = np.any(list(by_name.values()), axis=0)
        if mask.shape != truth.shape:
            raise NotYet(f"for {shown} your mask has shape {mask.shape}, a frame has {truth.shape}")
        mask = mask.astype(bool)
        for name, pixels in by_name.items():
            if missed := np.argwhere(pixels & ~mask).tolist():
                row, column = missed[0]
                raise NotYet(
                    f"for {shown} you say captions settle the pixel in row {row}, column {column}, but another {name} "
                    f"changes it in some frame ({len(missed)} such pixels)"
                )
        if surplus := np.argwhere(mask & ~truth).tolist():
            row, column = surplus[0]
            raise NotYet(
                f"for {shown} you call the pixel in row {row}, column {column} open, but nothing that captions leave "
                f"out changes it ({len(surplus)} such pixels)"
            )
    return "those pixels are what memory is for."
