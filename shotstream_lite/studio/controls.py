"""What the page's sliders and switches mean for a shot."""

from collections.abc import Mapping
from typing import Any

from shotstream_lite.history import POLICIES
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.presets import StreamSettings

STEPS = (1, 2, 4, 8)
HISTORIES = [name for name in POLICIES if name != "none"]


def frames_of(seconds: float, fps: int) -> int:
    """The length nearest to so many seconds, in pixel frames: 4k+1."""
    return max(0, round(seconds * fps / 4)) * 4 + 1


def steps_of(count: int, settings: StreamSettings) -> tuple[float, ...]:
    """So many denoising steps: the model's own if it has as many, else evenly spread."""
    if count == len(settings.steps):
        return settings.steps
    return tuple(round(1000 * (count - i) / count, 1) for i in range(count))


def switched(pipeline: ShotStreamPipeline, switches: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a shot that differ from the model's own, as a story records them.

    Args:
        switches: memory and jump (bool), history (policy), budget, steps (how many), weights.
    """
    settings = pipeline.settings
    wanted = {
        "policy": switches["history"] if switches["memory"] else "none",
        "budget": int(switches["budget"]),
        "phase": settings.phase if switches["jump"] else 0.0,
        "steps": list(steps_of(int(switches["steps"]), settings)),
    }
    changes = {key: value for key, value in wanted.items() if value != _plain(getattr(settings, key))}
    if switches["weights"] not in (None, pipeline.weights):
        changes["weights"] = switches["weights"]
    return changes


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
