"""`shotstream tell`: a story file in, a film out; a table or a folder of stories in, a folder of films out."""

import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from shotstream_lite.commands.common import BAD_INPUT, INTERRUPTED, place
from shotstream_lite.errors import CheckpointError, ShotStreamError, StoryError, about
from shotstream_lite.files import check_file, remove_left, writing
from shotstream_lite.report import check_report_path, story_report, summary, write_report
from shotstream_lite.story import Story, check_frames
from shotstream_lite.story_files import load_stories

if TYPE_CHECKING:
    from shotstream_lite.pipeline import ShotStreamPipeline
    from shotstream_lite.session import StorySession


@dataclass
class Tell:
    """Tell a story: STORY.json in, a film out, frames written as they are made.

    Many stories, a CSV table or a folder of story files, become a folder of films. Those that are there are skipped, so
    the same command goes on where it was stopped.
    """

    story: tyro.conf.Positional[Path]
    """Story file: JSON with global_caption, shot1, shot2, ..., or a text with a shot a line (.txt); or many stories: a
    table (.csv), lines of prompts (.jsonl), a folder."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Film to write (.mp4, .mov or .mkv), or folder for many; by default the story's name, in this folder."""
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
    remember: list[str] = field(default_factory=list)
    """PICTURE=CAPTION: pictures of your own, remembered from the first shot on as frames of earlier shots would be."""
    tiny_decoder: Path | None = None
    """File of a tiny decoder, such as taew2_1.safetensors: much faster, a little less exact."""
    subtitles: bool = False
    """Put the captions into the film, as a subtitle track and a chapter a shot."""
    sheet: bool = False
    """Also write a contact sheet beside the film: NAME.png, a row a shot."""
    json: Path | None = None
    """Report to write: seeds, seconds, frames per second, and the story as it can be told again."""

    def run(self) -> int:
        """Tells the stories of a file or a folder."""
        check_frames(self.frames, "--frames")
        self._pictures()
        stories, bad = self._read()
        if not stories:
            return BAD_INPUT
        many = os.path.isdir(self.story) or len(stories) > 1
        films = self._films(stories, many)
        if self.tiny_decoder:
            check_file(self.tiny_decoder, error=CheckpointError)
        if sys.stderr.isatty():
            print(f"shotstream: loading {self.preset} ...", file=sys.stderr)
        began = time.perf_counter()
        from shotstream_lite.pipeline import load_pipeline
        from shotstream_lite.rivals.telling import offer_rivals

        first = next(iter(stories.values()))
        where = place(self.preset, self.device, self.float8, {**first.settings, **self._wishes()})
        pipeline = load_pipeline(self.preset, self.weights, *where)
        offer_rivals(pipeline)  # a story of the studio's may ask for them
        if self.tiny_decoder:
            from shotstream_lite.models.folder import load_tiny

            pipeline.codec.tiny = load_tiny(self.tiny_decoder, pipeline.codec)
        loaded = time.perf_counter() - began
        for (name, story), film in zip(stories.items(), films, strict=True):
            if many and film.exists():
                print(f"{film}: is there already", flush=True)
                continue
            try:
                if not self._tell(pipeline, self._session(pipeline, story, name), film, many, loaded):
                    return INTERRUPTED
            except ShotStreamError as error:
                if not many:
                    raise
                bad = _say(error)
        return BAD_INPUT if bad else 0

    def _tell(
        self, pipeline: "ShotStreamPipeline", session: "StorySession", path: Path, many: bool, loaded: float
    ) -> bool:
        """Makes one film; False if it was stopped. Raises ShotStreamError; what is finished is a film then, too."""
        from tqdm import tqdm

        from shotstream_lite.film import FilmWriter
        from shotstream_lite.stills import write_sheet
        from shotstream_lite.subtitles import write_captions

        shots = session.script
        _warn(pipeline, session)
        for part in remove_left(path):
            _say(f"{part}: left by a command that was killed, removed")
        total = sum(shot.frames or session.settings.shot_frames for shot in shots)
        interrupted = False
        unfinished = path.with_stem(f"{path.stem}-stopped")
        film = FilmWriter(path, session.settings.fps, stopped=unfinished if many else None)
        try:
            with film, tqdm(total=total, unit="frame", desc="shot 1", disable=None) as bar:
                for frames in session.tell():
                    film.write(frames)
                    bar.set_description(f"shot {min(len(session.shots) + 1, len(shots))}", refresh=False)
                    bar.update(len(frames))
        except KeyboardInterrupt:
            interrupted = True
        if not film.frames_written:
            _say("stopped before the first frame, no film written")
            return False
        if many and not interrupted:
            unfinished.unlink(missing_ok=True)
        if self.subtitles:
            write_captions(film.path, session.shots, session.settings.fps)
        if self.sheet and session.shots:
            write_sheet([told.footage for told in session.shots], film.path.with_suffix(".png"))
        report = {"film": str(film.path), "frames": film.frames_written, "interrupted": interrupted}
        report |= story_report(session) | {"load_seconds": round(loaded, 2)}
        if self.json:
            write_report(report, self.json)
        print(f"{film.path}: {summary(report, len(shots))}", flush=True)
        return not interrupted

    def _read(self) -> tuple[dict[str, Story], bool]:
        """The stories by their file, checked as far as that goes without a model; and whether some are bad."""
        files = sorted(self.story.glob("*.json")) if os.path.isdir(self.story) else [self.story]
        if not files:
            raise StoryError(f"{self.story}: holds no stories (*.json): name a story, or a folder of stories")
        found, bad = {}, False
        for file in files:
            try:
                stories = load_stories(file)
            except ShotStreamError as error:
                if not os.path.isdir(self.story):
                    raise
                bad = _say(error)
                continue
            for number, story in enumerate(stories, start=1):
                name = str(file) if len(stories) == 1 else f"{file.with_suffix('')}-{number:03d}{file.suffix}"
                if story.unread:
                    more = f" and {len(story.unread) - 5} more" if len(story.unread) > 5 else ""
                    _say(f"{name}: {', '.join(story.unread[:5])}{more}: no key of a story, passed over")
                found[name] = self._seeded(story)
        return found, bad

    def _seeded(self, story: Story) -> Story:
        with about("--seed"):
            if self.seed is None:
                return replace(story, seed=story.seed or 0)
            return replace(story, seed=self.seed, shots=[replace(shot, seed=None) for shot in story.shots])

    def _films(self, stories: Iterable[str], many: bool) -> list[Path]:
        """Where the films go. Raises FilmError and StoryError if they, or the report, cannot be written there."""
        from shotstream_lite.film import FORMATS, check_film_path

        if not many:
            films = [check_film_path(self.output or Path(self.story.with_suffix(".mp4").name))]
        elif self.json:
            raise StoryError(f"--json {self.json}: reports on one film, {self.story} holds many: leave it out")
        else:
            folder = self.output or Path(self.story.resolve().stem)
            if folder.suffix.lower() in FORMATS:
                raise StoryError(f"-o {folder}: {self.story} holds many stories: name a folder for their films")
            with writing(folder, StoryError):
                folder.mkdir(parents=True, exist_ok=True)
            films = [check_film_path(folder / f"{Path(name).stem}.mp4") for name in stories]
        if self.sheet and (sheet := next((film for film in films if film.with_suffix(".png").is_dir()), None)):
            raise StoryError(f"--sheet: {sheet.with_suffix('.png')} is a folder: choose another name for the film")
        if self.json:
            check_report_path(self.json, self.story, *films)
        return films

    def _session(self, pipeline: "ShotStreamPipeline", story: Story, name: str) -> "StorySession":
        """A session with the command line's wishes; complaints say where the wish came from."""
        from shotstream_lite.session import StorySession

        wishes = self._wishes()
        with about("command line"):
            pipeline.check(pipeline.settings.changed(wishes))
        with about(name):
            session = StorySession.of(pipeline, replace(story, settings={**story.settings, **wishes}))
        with about("--remember"):
            for picture, caption in self._pictures():
                session.remember(picture, caption)
        return session

    def _pictures(self) -> list[tuple[Path, str]]:
        """The pictures to be remembered, each with its caption."""
        pairs = [text.partition("=")[::2] for text in self.remember]
        for path, caption in pairs:
            if not caption.strip():
                raise StoryError(f"--remember {path}: says no caption: write PICTURE=CAPTION, say what is seen on it")
            with about("--remember"):
                check_file(path)
        return [(Path(path), caption) for path, caption in pairs]

    def _wishes(self) -> dict[str, int]:
        """The settings asked for on the command line."""
        wishes = {"shot_frames": self.frames, "height": self.height, "width": self.width}
        return {name: value for name, value in wishes.items() if value is not None}


def _warn(pipeline: "ShotStreamPipeline", session: "StorySession") -> None:
    """Names the words that the model does not know, and the shots that are longer than any it was trained on."""
    text = " ".join([session.story.global_caption, *(shot.caption for shot in session.script)])
    for word, near in pipeline.text.unknown_words(text):
        mean = f", did you mean {' or '.join(near)}?" if near else ""
        _say(f"the model does not know the word {word!r}{mean}")
    most = pipeline.settings.longest_shot
    lengths = [shot.frames or session.settings.shot_frames for shot in session.script]
    for number, frames in enumerate(lengths, start=1):
        if frames > most:
            _say(f"shot{number} has {frames} frames, the model was trained on {most} at most: it may fall apart")


def _say(what: object) -> bool:
    print(f"shotstream: {what}", file=sys.stderr)
    return True
