"""The `shotstream` command. What a subcommand needs is imported when it runs, so that complaints come at once."""

import json
import platform
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from shotstream_lite.story import Story, StoryError, load_stories

BAD_INPUT = 2
INTERRUPTED = 130


@dataclass
class Tell:
    """Tell a story: STORY.json in, a film out, frames written as they are made."""

    story: tyro.conf.Positional[Path]
    """Story file: JSON with global_caption, shot1, shot2, ..."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Film to write (.mp4, .mov or .mkv); by default the story's name with .mp4, in this folder."""
    preset: str = "toybox"
    """Model: a preset, or a folder that holds one."""
    weights: str = "student"
    """Which of the model's transformers tells the story: student or causal-init."""
    seed: int | None = None
    """Draws the noise of all shots; by default the seeds in the story, or 0."""
    frames: int | None = None
    """Pixel frames of shots that do not say: 1, 5, 9, ..."""
    height: int | None = None
    """Height of the film in pixels, if not what the model was trained on."""
    width: int | None = None
    """Width of the film in pixels, if not what the model was trained on."""
    json: Path | None = None
    """Report to write: seeds, seconds, frames per second, and the story as it can be told again."""


@dataclass
class Parity:
    """Compare our numbers with recorded numbers of the released implementation."""

    folder: tyro.conf.Positional[Path]
    """Folder of golden vectors (config.json and safetensors files)."""


@dataclass
class Benchmark:
    """Measure speed and memory while a long story is told."""

    preset: str = "toybox"
    """Model: a preset, or a folder that holds one."""
    shots: int = 50
    """Shots of the story."""
    json: Path | None = None
    """File for the figures."""


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns 0, 1 for a failed comparison, 2 for bad input, 130 for Ctrl-C."""
    commands = {"tell": Tell, "parity": Parity, "benchmark": Benchmark}
    command = tyro.extras.subcommand_cli_from_dict(
        commands, prog="shotstream", description="Streaming multi-shot video generation.", args=arguments
    )
    try:
        return {Tell: tell, Parity: parity, Benchmark: benchmark}[type(command)](command)
    except ValueError as error:
        # StoryError, FilmError, CodecError, CheckpointError, ParityError: one line that says what to mend.
        if not getattr(type(error), "__module__", "").startswith("shotstream_lite"):
            raise
        print(f"shotstream: {error}", file=sys.stderr)
        return BAD_INPUT


def tell(command: Tell) -> int:
    """Tells the story of a file."""
    story = _read_story(command)
    from shotstream_lite.film import FilmWriter, check_film_path

    output = check_film_path(command.output or Path(command.story.with_suffix(".mp4").name))
    if command.json:
        _check_writable(command.json)
    began = time.perf_counter()
    from tqdm import tqdm

    from shotstream_lite.pipeline import ShotStreamPipeline
    from shotstream_lite.session import StorySession

    pipeline = ShotStreamPipeline.from_pretrained(command.preset, command.weights)
    session = StorySession.of(pipeline, story)
    loaded = time.perf_counter() - began
    _name_unknown_words(pipeline, story)
    total = sum(shot.frames or session.settings.shot_frames for shot in story.shots)
    interrupted = False
    film = FilmWriter(output, session.settings.fps)
    with film, tqdm(total=total, unit="frame", desc="shot 1", disable=None) as bar:
        try:
            for frames in session.tell():
                film.write(frames)
                bar.set_description(f"shot {min(len(session.shots) + 1, len(story.shots))}", refresh=False)
                bar.update(len(frames))
        except KeyboardInterrupt:
            interrupted = True
    report = _report(session, film.frames_written, loaded) | {"film": str(output), "interrupted": interrupted}
    if command.json:
        command.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if not film.frames_written:
        print("shotstream: stopped before the first frame, no film written", file=sys.stderr)
        return INTERRUPTED
    stopped = "stopped early, " if interrupted else ""
    print(
        f"{output}: {stopped}{len(session.shots)} of {len(story.shots)} shots, {film.frames_written} frames; "
        f"{report['fps']:.1f} frames/s, first frame after {report['first_frame_seconds']:.2f} s, seed {session.seed}"
    )
    return INTERRUPTED if interrupted else 0


def parity(command: Parity) -> int:
    """Prints a row for each recorded result; 1 if any is further off than the tolerance."""
    from shotstream_lite.parity import TOLERANCE, render, run

    rows = run(command.folder)
    print(render(rows))
    return 0 if all(row.error <= TOLERANCE for row in rows) else 1


def benchmark(command: Benchmark) -> int:
    """Prints the figures and writes them if asked."""
    if command.json:
        _check_writable(command.json)
    from shotstream_lite.benchmark import render, run

    figures = run(command.preset, command.shots)
    print(render(figures))
    if command.json:
        command.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


def _read_story(command: Tell) -> Story:
    """The story with the command line's wishes in it."""
    stories = load_stories(command.story)
    if len(stories) != 1:
        raise StoryError(f"{command.story}: holds {len(stories)} stories: tell them with demos/batch.py")
    story = stories[0]
    if command.seed is not None:
        shots = tuple(replace(shot, seed=None) for shot in story.shots)
        story = replace(story, seed=command.seed, shots=shots)
    elif story.seed is None:
        story = replace(story, seed=0)
    wishes = {"shot_frames": command.frames, "height": command.height, "width": command.width}
    wishes = {name: value for name, value in wishes.items() if value is not None}
    return replace(story, settings={**story.settings, **wishes})


def _name_unknown_words(pipeline, story: Story) -> None:
    text = " ".join([story.global_caption, *(shot.caption for shot in story.shots)])
    for word, near in pipeline.text.unknown_words(text):
        mean = f", did you mean {' or '.join(near)}?" if near else ""
        print(f"shotstream: the model does not know the word {word!r}{mean}", file=sys.stderr)


def _report(session, frames: int, load_seconds: float) -> dict:
    import torch

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
    made = sum(shot["frames"] for shot in shots)
    seconds = sum(shot["seconds"] for shot in shots)
    from shotstream_lite.story import story_json

    return {
        "preset": session.pipeline.name,
        "frames": frames,
        "fps": round(made / seconds, 2) if seconds else 0.0,
        "first_frame_seconds": shots[0]["first_frame_seconds"] if shots else 0.0,
        "load_seconds": round(load_seconds, 2),
        "shots": shots,
        "story": json.loads(story_json(session.story)) if shots else None,
        "device": str(session.pipeline.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _check_writable(path: Path) -> None:
    if path.is_dir() or not path.parent.is_dir():
        raise StoryError(f"{path}: cannot be written there: name a file in a folder that exists")


if __name__ == "__main__":
    sys.exit(main())
