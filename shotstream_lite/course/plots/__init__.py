"""The standing figures of the notebooks, each one function, drawn from live objects."""

# ruff: noqa: F401

from shotstream_lite.course.plots.frames import history, looked_at, pictures, strip
from shotstream_lite.course.plots.inside import attention_budget, clock_faces, mask_and_cache, particles, token_timeline
from shotstream_lite.course.plots.measured import (
    bars,
    compared,
    cuts,
    drift,
    lines,
    memory,
    memory_scorecard,
    score_table,
    training,
)
from shotstream_lite.course.plots.sheet import COLOURS, HATCHES, SHOT_TINTS, Sheet, still
from shotstream_lite.course.plots.whole import system
