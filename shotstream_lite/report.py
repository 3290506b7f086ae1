"""What a told story cost: the figures that `shotstream tell --json` and `shotstream benchmark --json` write."""

import json
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shotstream_lite.errors import StoryError
from shotstream_lite.files import check_name, write_text
from shotstream_lite.story_files import story_json

if TYPE_CHECKING:  # complaints about a story come before torch is imported
    from shotstream_lite.pipeline import ShotStreamPipeline
    from shotstream_lite.session import StorySession


def story_report(session: "StorySession") -> dict[str, Any]:
    """Speed and seed of every finished shot, and the story so far as it can be told again.

    Units: seconds; fps in pixel frames a second, decoding included. Without a finished shot speeds are None.
    """
    shots = [
        {
            "caption": told.shot.caption,
            "seed": told.shot.seed,
            "frames": told.footage.length,
            "seconds": round(told.seconds, 4),
            "first_frame_seconds": round(told.first_frame_seconds, 4),
            "fps": round(told.footage.length / told.seconds, 2),
        }
        for told in session.shots
    ]
    frames = sum(told.footage.length for told in session.shots)
    return {
        "preset": session.pipeline.name,
        "seed": session.seed,
        "fps": round(frames / sum(told.seconds for told in session.shots), 2) if shots else None,
        "first_frame_seconds": shots[0]["first_frame_seconds"] if shots else None,
        "shots": shots,
        "story": json.loads(story_json(session.story)) if shots else None,
        "machine": machine(session.pipeline),
    }


def summary(report: dict[str, Any], shots: int) -> str:
    """The line `shotstream tell` ends with, for a story of so many shots."""
    stopped = "stopped early, " if report["interrupted"] else ""
    told = f"{stopped}{len(report['shots'])} of {shots} shots, {report['frames']} frames"
    if report["shots"]:
        told += f", {report['fps']:.1f} frames/s, first frame after {report['first_frame_seconds']:.2f} s"
    return f"{told}, seed {report['seed']}"


def machine(pipeline: "ShotStreamPipeline") -> dict[str, Any]:
    """Where figures were measured."""
    import torch

    return {
        "device": str(pipeline.device),
        "threads": torch.get_num_threads(),
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def check_report_path(path: Path, *taken: Path) -> None:
    """Raises StoryError unless a report can be written there; asked before the work starts."""
    check_name(path, "--json")
    if path.resolve() in [other.resolve() for other in taken]:
        raise StoryError(f"--json {path}: is another file of this command: choose another name")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise StoryError(f"--json {path}: cannot be written: name a file in a folder that exists")


def write_report(report: dict[str, Any], path: Path) -> None:
    """Writes a report as JSON. Raises StoryError."""
    write_text(path, json.dumps(report, indent=2) + "\n")


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # Linux alone does not tell `platform`
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
