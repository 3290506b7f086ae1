"""The `shotstream` command. What a subcommand needs is imported when it runs, so that complaints come at once."""

import importlib.util
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from shotstream_lite.report import check_report_path, story_report, summary, write_report
from shotstream_lite.story import Story, StoryError, check_frames
from shotstream_lite.story_files import load_stories

if TYPE_CHECKING:
    from shotstream_lite.fit import Plan
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
    """Which of the model's transformers tells the story: student, intra-shot, causal-init, teacher or base."""
    seed: int | None = None
    """Draws the noise of all shots; by default the seeds in the story, or 0."""
    frames: int | None = None
    """Pixel frames of shots that do not say: 1, 5, 9, ..."""
    height: int | None = None
    """Height of the film in pixels, if not what the model was trained on."""
    width: int | None = None
    """Width of the film in pixels, if not what the model was trained on."""
    device: str | None = None
    """Where to work: cpu, cuda, cuda:1, ...; by default a GPU for large pictures, if there is one."""
    float8: bool = False
    """Keep the transformer's linear layers in eight bits: less memory, a little less exact."""
    json: Path | None = None
    """Report to write: seeds, seconds, frames per second, and the story as it can be told again."""


@dataclass
class Evaluate:
    """Measure films in the paper's five dimensions: held-out stories told by models, or full-size films in a folder.

    To split the work over processes: accelerate launch --multi_gpu -m shotstream_lite.cli evaluate ..., or torchrun.
    """

    preset: str = "toybox"
    """Model: a preset, or a folder that holds one."""
    weights: tuple[str, ...] = ("student",)
    """Whose films to compare: [FOLDER:]WEIGHTS[@SETTING=VALUE,...], such as student teacher student@policy=none."""
    stories: int = 20
    """Held-out stories."""
    shots: int = 5
    """Shots of each."""
    seed: int = 0
    """Draws the words of the captions and the noise of the films."""
    seen: bool = False
    """Tell stories of training instead; what is better there was learnt by heart."""
    keep: Path | None = None
    """Folder for told films and their scores; an evaluation that was stopped goes on from there."""
    pictures: Path | None = None
    """Folder for contact sheets, a story each: real film beside what the models made of it."""
    films: Path | None = None
    """Folder of full-size films (NAME.mp4 beside its story NAME.json) to measure instead, with real encoders."""
    dino: str | None = None
    """DINOv2 for --films: a folder, or a name on the hub."""
    clip: str | None = None
    """CLIP or X-CLIP for --films: a folder, or a name on the hub."""
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
    weights: str = "student"
    """Who tells: student, intra-shot, causal-init, teacher, base."""
    shots: int = 50
    """Shots of the story."""
    device: str | None = None
    """Where to work: cpu, cuda, cuda:1, ...; by default a GPU for large pictures, if there is one."""
    random_weights: bool = False
    """Measure a model of the preset's sizes that knows nothing, and download nothing."""
    compile: bool = False
    """Compile the transformer's blocks and the codec's norms first (the first shots then take longer)."""
    float8: bool = False
    """Keep the transformer's linear layers in eight bits: less memory, a little less exact."""
    json: Path | None = None
    """File for the figures."""


@dataclass
class Convert:
    """Write released weights as a folder that this library and stock diffusers read."""

    source: tyro.conf.Positional[str]
    """A preset (wan-1.3b): the whole model; or a released checkpoint (.pt, .pth, .safetensors): its transformer."""
    target: tyro.conf.Positional[Path]
    """Folder to write; it must be new."""
    weights: tuple[str, ...] = ("student",)
    """Which transformers of a preset: student, intra-shot, causal-init, teacher, base."""
    lora: Path | None = None
    """A checkpoint of the inter-shot stage (generator_lora), to be merged into the student."""
    config: Path | None = None
    """config.json of a checkpoint's transformer, in diffusers' names or Wan's; by default that of wan-1.3b."""


@dataclass
class Studio:
    """Open the studio: a page on which a film is directed shot by shot while it plays."""

    preset: str = "toybox"
    """Model: a preset, or a folder that holds one."""
    weights: str = "student"
    """Which of the model's transformers tells: student or causal-init."""
    port: int | None = None
    """Port of the page; by default the first free one from 7860 on."""
    host: str = "127.0.0.1"
    """Who can reach the page: 127.0.0.1 this machine only, 0.0.0.0 everybody who can reach this machine."""
    share: bool = False
    """Also make a public link, through Gradio's tunnel."""
    open: bool = False
    """Open the page in the browser."""


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns 0, 1 for a failed comparison, 2 for bad input, 130 for Ctrl-C."""
    # Read when torch comes: threads that spin while they wait crawl as soon as anything else wants their core.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["train"]:  # its stages are many, and come with torch
            from shotstream_lite.training.recipe import main as train

            return train(arguments[1:])
        commands = {"tell": Tell, "studio": Studio, "evaluate": Evaluate, "benchmark": Benchmark, "parity": Parity}
        commands |= {"convert": Convert}
        about = "Streaming multi-shot video generation. To train it: shotstream train --help"
        command = tyro.extras.subcommand_cli_from_dict(commands, prog="shotstream", description=about, args=arguments)
        runs = {Tell: tell, Studio: studio, Evaluate: evaluate, Benchmark: benchmark, Parity: parity, Convert: convert}
        return runs[type(command)](command)
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

    wishes = _wishes(command)
    pipeline = load_pipeline(command.preset, command.weights, *_place(command, {**story.settings, **wishes}))
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


def studio(command: Studio) -> int:
    """Opens the page and stays until Ctrl-C."""
    if command.port is not None and not 1 <= command.port <= 65535:
        raise StoryError(f"--port is {command.port}: write a number from 1 to 65535, or leave it out")
    if importlib.util.find_spec("gradio") is None:
        raise StoryError("the studio needs Gradio: pip install 'shotstream_lite[studio]'")
    from shotstream_lite.studio import launch

    options = {"server_name": command.host, "server_port": command.port, "share": command.share}
    try:
        launch(command.preset, command.weights, inbrowser=command.open, **options)
    except OSError as error:
        raise StoryError(f"the page cannot be opened ({error}): choose another --port or --host") from None
    return 0


def evaluate(command: Evaluate) -> int:
    """Prints the table and writes the figures if asked."""
    for name in ("stories", "shots"):
        if getattr(command, name) < 1:
            raise StoryError(f"--{name} is {getattr(command, name)}: write 1 or more")
    if command.json:
        check_report_path(command.json)
    if importlib.util.find_spec("scenedetect") is None:
        raise StoryError("to evaluate needs PySceneDetect: pip install 'shotstream_lite[train]'")
    if command.films:
        from shotstream_lite.evaluation.folder import run_on_films

        result = run_on_films(command.films, command.dino, command.clip)
    else:
        from shotstream_lite.evaluation.report import run
        from shotstream_lite.evaluation.run import Evaluation, tellers

        who = tellers(command.weights, command.preset)
        options = {name: getattr(command, name) for name in ("stories", "shots", "seed", "seen", "keep", "pictures")}
        result = run(Evaluation(who, **options))
    if result is None:  # one of several processes; the first one reports
        return 0
    figures, table = result
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
    if command.random_weights and command.weights != "student":
        raise StoryError(f"--weights {command.weights}: --random-weights makes a student only, leave one of them out")
    if command.json:
        check_report_path(command.json)
    from shotstream_lite.benchmark import render, run

    device, plan = _place(command, {}, download=not command.random_weights)
    figures = run(command.preset, command.shots, device, plan, command.random_weights, command.compile, command.weights)
    print(render(figures))
    if command.json:
        write_report(figures, command.json)
    return 0


def convert(command: Convert) -> int:
    """Writes the folder and says where it is."""
    from shotstream_lite.convert import CheckpointError, convert_transformer
    from shotstream_lite.presets import PRESETS, find_folder
    from shotstream_lite.released import read_config, read_release

    if Path(command.source).suffix in (".pt", ".pth", ".safetensors"):
        config = read_config(command.config or PRESETS["wan-1.3b"] / "transformer" / "config.json")
        convert_transformer(Path(command.source), command.target, config, command.lora)
    else:
        folder = find_folder(command.source)
        release = read_release(folder)
        if release is None:
            raise CheckpointError(f"preset {command.source}: is in diffusers' format already: use {folder}")
        release.write(command.target, command.weights, folder / "stream.json", command.lora)
    print(command.target)
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

    wishes = _wishes(command)
    with _in("command line"):
        pipeline.check(pipeline.settings.changed(wishes))
    with _in(command.story):
        return StorySession.of(pipeline, replace(story, settings={**story.settings, **wishes}))


def _wishes(command: Tell) -> dict[str, int]:
    """The settings asked for on the command line."""
    wishes = {"shot_frames": command.frames, "height": command.height, "width": command.width}
    return {name: value for name, value in wishes.items() if value is not None}


def _place(command: Tell | Benchmark, changes: dict[str, Any], download: bool = True) -> "tuple[str, Plan]":
    """The device, and how the model fits there; for a large one that is said before it is loaded."""
    from shotstream_lite.fit import check_device, choose, default_device
    from shotstream_lite.presets import find_folder, load_settings

    settings = load_settings(find_folder(command.preset))
    device = check_device(command.device) if command.device else default_device(settings)
    try:
        settings.changed(changes)
    except StoryError:  # said later, with the name of the file it stands in
        changes = {}
    fit = choose(command.preset, device, changes, download, command.float8)
    if fit.need:
        print(f"shotstream: {fit.line(command.preset, device)}", file=sys.stderr)
    return device, fit.plan


def _name_unknown_words(pipeline: "ShotStreamPipeline", story: Story) -> None:
    text = " ".join([story.global_caption, *(shot.caption for shot in story.shots)])
    for word, near in pipeline.text.unknown_words(text):
        mean = f", did you mean {' or '.join(near)}?" if near else ""
        print(f"shotstream: the model does not know the word {word!r}{mean}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
