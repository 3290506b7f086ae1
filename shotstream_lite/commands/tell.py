"""`shotstream tell`: a story file in, a film out."""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from shotstream_lite.commands.common import INTERRUPTED, place
from shotstream_lite.errors import StoryError, about
from shotstream_lite.report import check_report_path, story_report, summary, write_report
from shotstream_lite.story import Story, check_frames
from shotstream_lite.story_files import load_stories

if TYPE_CHECKING:
    from shotstream_lite.pipeline import ShotStreamPipeline
    from shotstream_lite.session import StorySession


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

    def run(self) -> int:
        """Tells the story of a file."""
        story = _read_story(self)
        from shotstream_lite.film import FilmWriter, check_film_path

        output = check_film_path(self.output or Path(self.story.with_suffix(".mp4").name))
        if self.json:
            check_report_path(self.json, self.story, output)
        began = time.perf_counter()
        from tqdm import tqdm

        from shotstream_lite.bidirectional import load_pipeline

        where = place(self.preset, self.device, self.float8, {**story.settings, **_wishes(self)})
        pipeline = load_pipeline(self.preset, self.weights, *where)
        session = _open_session(pipeline, story, self)
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
        if self.json:
            write_report(report, self.json)
        print(f"{output}: {summary(report, len(story.shots))}")
        return INTERRUPTED if interrupted else 0


def _read_story(command: Tell) -> Story:
    """The story to be told, checked as far as that goes without a model."""
    stories = load_stories(command.story)
    if len(stories) != 1:
        raise StoryError(f"{command.story}: holds {len(stories)} stories: tell them with demos/batch.py")
    story = stories[0]
    check_frames(command.frames, "--frames")
    with about("--seed"):
        if command.seed is None:
            return replace(story, seed=story.seed or 0)
        return replace(story, seed=command.seed, shots=[replace(shot, seed=None) for shot in story.shots])


def _open_session(pipeline: "ShotStreamPipeline", story: Story, command: Tell) -> "StorySession":
    """A session with the command line's wishes; complaints say where the wish came from."""
    from shotstream_lite.session import StorySession

    wishes = _wishes(command)
    with about("command line"):
        pipeline.check(pipeline.settings.changed(wishes))
    with about(command.story):
        return StorySession.of(pipeline, replace(story, settings={**story.settings, **wishes}))


def _wishes(command: Tell) -> dict[str, int]:
    """The settings asked for on the command line."""
    wishes = {"shot_frames": command.frames, "height": command.height, "width": command.width}
    return {name: value for name, value in wishes.items() if value is not None}


def _name_unknown_words(pipeline: "ShotStreamPipeline", story: Story) -> None:
    text = " ".join([story.global_caption, *(shot.caption for shot in story.shots)])
    for word, near in pipeline.text.unknown_words(text):
        mean = f", did you mean {' or '.join(near)}?" if near else ""
        print(f"shotstream: the model does not know the word {word!r}{mean}", file=sys.stderr)
