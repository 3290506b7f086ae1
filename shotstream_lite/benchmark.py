"""`shotstream benchmark`: speed and memory while a long story is told. Every figure in our texts comes from here."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from torch import Tensor
from tqdm import tqdm

from shotstream_lite.codec import latent_frames
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.report import machine
from shotstream_lite.session import StorySession, ToldShot
from shotstream_lite.story import captions

GLOBAL_CAPTION = "A story about a red ball and a blue box, in a meadow."
CAMERAS = ("Wide shot", "Medium shot", "Close-up")
CAST = ("the red ball", "the blue box")
ACTIONS = ("walks left", "jumps", "waves", "spins around", "stands still")

_LOAD = """
import json, sys, time
start = time.perf_counter()
from shotstream_lite.pipeline import ShotStreamPipeline
imported = time.perf_counter()
ShotStreamPipeline.from_pretrained(sys.argv[1])
print(json.dumps([imported - start, time.perf_counter() - imported]))
"""


def caption(number: int) -> str:
    """What happens in shot `number`, in the toybox's words; any number will do."""
    return f"{CAMERAS[number % 3]}: {CAST[number % 2]} {ACTIONS[number % 5]}."


def run(preset: str = "toybox", shots: int = 50) -> dict[str, Any]:
    """Tells a story of so many shots and measures; raises CheckpointError for a preset that is none.

    Units: seconds; fps in pixel frames a second, the median over all shots but the first (the warm-up); MiB.
    `last_to_fifth` compares the seconds of the last three shots with those of shots 4 to 6, by their medians.
    """
    pipeline = ShotStreamPipeline.from_pretrained(preset)
    imported, loaded = _start_seconds(preset)
    session = StorySession(pipeline, GLOBAL_CAPTION, seed=0)
    resident = []
    for number in tqdm(range(shots), desc="shots", unit="shot", disable=None):
        for _ in session.next_shot(caption(number)):
            pass
        resident.append(psutil.Process().memory_info().rss / 2**20)
    seconds = [told.seconds for told in session.shots]
    later = session.shots[1:] or session.shots
    fps = median(told.footage.length / told.seconds for told in later)
    fifth = min(4, shots - 1)
    transformer_fps, codec_fps = _halves(pipeline, session.shots, captions(session.story, shots - 1))
    return {
        "preset": pipeline.name,
        "shots": shots,
        "frames_per_shot": session.settings.shot_frames,
        "import_seconds": round(imported, 2),
        "load_seconds": round(loaded, 2),
        "fps": round(fps, 1),
        "times_real_time": round(fps / session.settings.fps, 2),
        "transformer_fps": round(transformer_fps, 1),
        "codec_fps": round(codec_fps, 1),
        "first_frame_seconds": round(session.shots[0].first_frame_seconds, 3),
        "later_first_frame_seconds": round(median(told.first_frame_seconds for told in later), 3),
        "last_to_fifth": round(median(seconds[-3:]) / median(seconds[max(0, fifth - 1) : fifth + 2]), 3),
        "resident_mib_at_fifth": round(resident[fifth], 1),
        "resident_mib_at_last": round(resident[-1], 1),
        "resident_growth": round(resident[-1] / resident[fifth] - 1, 4),
        "shot_seconds": [round(value, 4) for value in seconds],
        "machine": machine(pipeline),
    }


def render(figures: dict[str, Any]) -> str:
    """The figures as text."""
    f, m = figures, figures["machine"]
    rows = {
        "machine": f"{m['cpu']}, {m['device']}, {m['threads']} threads, {m['system']}, torch {m['torch']}",
        "import and load": f"{f['import_seconds']:.2f} + {f['load_seconds']:.2f} s",
        "frames per second": f"{f['fps']:.1f}, {f['times_real_time']:.2f} times real time",
        "transformer, codec alone": f"{f['transformer_fps']:.1f}, {f['codec_fps']:.1f} frames/s",
        "prompt to first frame": f"{f['first_frame_seconds']:.3f} s, later {f['later_first_frame_seconds']:.3f} s",
        "last shot to fifth": f"{f['last_to_fifth']:.3f} of its time, {100 * f['resident_growth']:+.2f} % memory",
        "resident memory": f"{f['resident_mib_at_fifth']:.0f} MiB, at the last shot {f['resident_mib_at_last']:.0f}",
    }
    title = f"{f['preset']}: {f['shots']} shots of {f['frames_per_shot']} frames"
    return "\n".join([title, *(f"  {name:<26}{value}" for name, value in rows.items())])


def _start_seconds(preset: str) -> tuple[float, float]:
    """Seconds to import and to load, in a fresh process (the files are in the system's cache by now)."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", _LOAD, preset]
    result = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, check=True, stdout=subprocess.PIPE)
    imported, loaded = json.loads(result.stdout)
    return imported, loaded


def _halves(pipeline: ShotStreamPipeline, shots: tuple[ToldShot, ...], lines: list[str]) -> tuple[float, float]:
    """Frames a second of the transformer alone and of the codec alone, making the last shot again."""
    last, past = shots[-1], [told.footage for told in shots[:-1]]
    length = latent_frames(last.footage.length)

    def denoise() -> list[Tensor]:
        chunks = pipeline.latents(lines, past, last.shot.seed, length, pipeline.settings)
        return [chunk.cpu() for chunk in chunks]

    latents = denoise()
    halves = (denoise, lambda: list(pipeline.decoded(latents)))
    return tuple(last.footage.length / _seconds(half) for half in halves)


def _seconds(work: Callable[[], Any], times: int = 3) -> float:
    """The median of a few runs."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return median(taken)
