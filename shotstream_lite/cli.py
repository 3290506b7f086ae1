"""The `shotstream` command. What a subcommand needs is imported when it runs, so that complaints come at once."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from shotstream_lite.report import check_report_path, story_report, summary, write_report
from shotstream_lite.story import Story, StoryError, check_frames, load_stories

if TYPE_CHECKING:
    from shotstream_lite.pipeline import ShotStreamPipeline
    from shotstream_lite.session import StorySession

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
    """Which of the model's transformers tells the story: student, causal-init, teacher or base."""
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
class Evaluate:
    """Measure films of held-out stories: what was asked, and what was carried across cuts."""

    preset: str = "toybox"
    """Model: a preset, or a folder that holds one."""
    weights: tuple[str, ...] = ("student",)
    """Which of the model's transformers to compare: student, causal-init, teacher, base."""
    stories: int = 20
    """Held-out stories."""
    shots: int = 5
    """Shots of each."""
    json: Path | None = None
    """File for the figures."""


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
    # Read when torch comes: threads that spin while they wait crawl as soon as anything else wants their core.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["train"]:  # its stages are many, and come with torch
            from shotstream_lite.training.recipe import main as train

            return train(arguments[1:])
        commands = {"tell": Tell, "evaluate": Evaluate, "benchmark": Benchmark, "parity": Parity}
        about = "Streaming multi-shot video generation. To train it: shotstream train --help"
        command = tyro.extras.subcommand_cli_from_dict(commands, prog="shotstream", description=about, args=arguments)
        run = {Tell: tell, Evaluate: evaluate, Benchmark: benchmark, Parity: parity}[type(command)]
        return run(command)
    except ValueError as error:
        if not _is_complaint(error):
            raise
        print(f"shotstream: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("shotstream: stopped", file=sys.stderr)
        return INTERRUPTED


def tell(command: Tell) -> int:
    """Tells the story of a file."""
    story = _read_story(command)
    from shotstream_lite.film import FilmWriter, check_film_path

    output = check_film_path(command.output or Path(command.story.with_suffix(".mp4").name))
    if command.json:
        check_report_path(command.json, command.story, output)
    began = time.perf_counter()
    from tqdm import tqdm

    from shotstream_lite.bidirectional import load_pipeline

    pipeline = load_pipeline(command.preset, command.weights)
    session = _open_session(pipeline, story, command)
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
    if not film.frames_written:
        print("shotstream: stopped before the first frame, no film written", file=sys.stderr)
        return INTERRUPTED
    report = {"film": str(output), "frames": film.frames_written, "interrupted": interrupted}
    report |= story_report(session) | {"load_seconds": round(loaded, 2)}
    if command.json:
        write_report(report, command.json)
    print(f"{output}: {summary(report, len(story.shots))}")
    return INTERRUPTED if interrupted else 0


def evaluate(command: Evaluate) -> int:
    """Prints the table and writes the figures if asked."""
    for name in ("stories", "shots"):
        if getattr(command, name) < 1:
            raise StoryError(f"--{name} is {getattr(command, name)}: write 1 or more")
    if command.json:
        check_report_path(command.json)
    from shotstream_lite.evaluation.report import run

    figures, table = run(command.preset, command.weights, command.stories, command.shots)
    print(table)
    if command.json:
        write_report(figures, command.json)
    return 0


def parity(command: Parity) -> int:
    """Prints a row for each recorded result; 1 if any is further off than the tolerance."""
    from shotstream_lite.parity import render, run

    rows = run(command.folder)
    print(render(rows))
    return 0 if all(row.passed for row in rows) else 1


def benchmark(command: Benchmark) -> int:
    """Prints the figures and writes them if asked."""
    if command.shots < 1:
        raise StoryError(f"--shots is {command.shots}: write 1 or more")
    if command.json:
        check_report_path(command.json)
    from shotstream_lite.benchmark import render, run

    figures = run(command.preset, command.shots)
    print(render(figures))
    if command.json:
        write_report(figures, command.json)
    return 0


def _is_complaint(error: ValueError) -> bool:
    """StoryError, FilmError, CodecError, CheckpointError, ParityError: one line that says what to mend."""
    return type(error).__module__.startswith("shotstream_lite.")


@contextmanager
def _in(place: str | Path) -> Iterator[None]:
    """Puts the file or the option before a complaint."""
    try:
        yield
    except ValueError as error:
        if not _is_complaint(error):
            raise
        raise StoryError(f"{place}: {error}") from None


def _read_story(command: Tell) -> Story:
    """The story to be told, checked as far as that goes without a model."""
    stories = load_stories(command.story)
    if len(stories) != 1:
        raise StoryError(f"{command.story}: holds {len(stories)} stories: tell them with demos/batch.py")
    story = stories[0]
    check_frames(command.frames, "--frames")
    with _in("--seed"):
        if command.seed is None:
            return replace(story, seed=story.seed or 0)
        return replace(story, seed=command.seed, shots=[replace(shot, seed=None) for shot in story.shots])


def _open_session(pipeline: "ShotStreamPipeline", story: Story, command: Tell) -> "StorySession":
    """A session with the command line's wishes; complaints say where the wish came from."""
    from shotstream_lite.session import StorySession

    wishes = {"shot_frames": command.frames, "height": command.height, "width": command.width}
    wishes = {name: value for name, value in wishes.items() if value is not None}
    with _in("command line"):
        pipeline.check(pipeline.settings.changed(wishes))
    with _in(command.story):
        return StorySession.of(pipeline, replace(story, settings={**story.settings, **wishes}))


def _name_unknown_words(pipeline: "ShotStreamPipeline", story: Story) -> None:
    text = " ".join([story.global_caption, *(shot.caption for shot in story.shots)])
    for word, near in pipeline.text.unknown_words(text):
        mean = f", did you mean {' or '.join(near)}?" if near else ""
        print(f"shotstream: the model does not know the word {word!r}{mean}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
