"""`shotstream evaluate`: held-out stories told by several models and drawn by the renderer, and what is read there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from shotstream_lite.distributed import Share
from shotstream_lite.errors import StoryError
from shotstream_lite.evaluation.films import Film, ModelSpec, held_out_stories, tell, training_stories, written
from shotstream_lite.evaluation.pictures import contact_sheet, stills, write_sheet
from shotstream_lite.evaluation.reading import Scores, measure
from shotstream_lite.evaluation.store import Kept, check_folder, fingerprint
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.toybox.probe import PROBE_FILE, Probe, load_probe
from shotstream_lite.toybox.renderer import render
from shotstream_lite.toybox.world import FPS, HEIGHT, WIDTH, ToyStory

REAL = "real film"


@dataclass(frozen=True)
class Evaluation:
    """What is measured: so many stories of so many shots, told by each of `specs` from `seed` on.

    They are held-out ones, or, if `seen`, those of training.
    """

    specs: tuple[ModelSpec, ...]
    stories: int
    shots: int
    seed: int = 0
    seen: bool = False
    keep: Path | None = None
    pictures: Path | None = None
    probe: Path = PROBE_FILE

    def __post_init__(self) -> None:
        names = [spec.name for spec in self.specs]
        made = [replace(spec, name="") for spec in self.specs]
        for name, what in zip(names, made, strict=True):
            if made.count(what) > 1:
                raise StoryError(f"--weights names {name} twice: name it once")
        for option in ("keep", "pictures"):
            if getattr(self, option):
                check_folder(getattr(self, option), f"--{option}")

    def plots(self) -> list[ToyStory]:
        """The stories. Raises StoryError if training had none of so many shots."""
        return (training_stories if self.seen else held_out_stories)(self.stories, self.shots)

    def story_seed(self, number: int) -> int:
        """Words and noise of a story."""
        return self.seed * 1_000_000 + number


def measure_all(evaluation: Evaluation) -> dict[str, Scores] | None:
    """Tells and reads everything, this process's share of it if there are several.

    Real film comes first; it is drawn as often as a model tells, and is the ceiling of every score.

    Returns:
        by kind of film its scores, [stories, shots, ...]; None in all processes but the first, which reports.

    Raises:
        CheckpointError and StoryError for a model, a setting or the probe that is no good, before anything is told.
    """
    share, probe, stories = Share(), load_probe(evaluation.probe), evaluation.plots()
    pipelines = {spec.name: spec.pipeline(share.device) for spec in evaluation.specs}
    for name, pipeline in pipelines.items():
        size = pipeline.settings.height, pipeline.settings.width
        if size != (HEIGHT, WIDTH):
            fix = "measure such films with --films and real encoders"
            raise StoryError(
                f"--weights {name}: makes {size[0]} x {size[1]}, the probe reads {HEIGHT} x {WIDTH}: {fix}"
            )
    mine = share.mine(evaluation.stories)
    columns, shown = {}, {number: {} for number in mine}
    for name in (REAL, *pipelines):
        maker = _Maker(evaluation, name, pipelines.get(name), probe)
        parts = []
        for number in tqdm(mine, desc=name, unit="story", disable=None if share.first else True):
            scores, shown[number][name] = maker.film(number, stories[number])
            parts.append(scores)
        gathered = share.gather(parts)
        columns[name] = {key: np.concatenate([part[key] for part in gathered]) for key in gathered[0]}
    if evaluation.pictures:
        for number, films in shown.items():
            captions = [shot.caption for shot in written(stories[number], evaluation.story_seed(number)).shots]
            write_sheet(contact_sheet(captions, films), evaluation.pictures / f"story-{number:04d}.png")
    return columns if share.first else None


class _Maker:
    """Makes the films of one kind and measures them, or takes them from where they are kept."""

    def __init__(self, evaluation: Evaluation, name: str, pipeline: ShotStreamPipeline | None, probe: Probe) -> None:
        self.evaluation, self.pipeline, self.probe = evaluation, pipeline, probe
        self.kept: Kept | None = None
        if pipeline and evaluation.keep:
            spec = next(spec for spec in evaluation.specs if spec.name == name)
            made_by = fingerprint(spec, evaluation.probe, evaluation.seed, evaluation.shots, evaluation.seen)
            self.kept = Kept(evaluation.keep, name, made_by)

    def film(self, number: int, story: ToyStory) -> tuple[Scores, list[np.ndarray] | None]:
        """The scores of a story's film, and stills of its shots if there are to be pictures."""
        scores = self.kept.load(number) if self.kept else None
        if scores is not None:
            lengths = [self.pipeline.settings.shot_frames] * len(story.takes)
            return scores, stills(self.kept.shots(number, lengths)) if self.evaluation.pictures else None
        if self.pipeline:
            film = tell(self.pipeline, story, self.evaluation.story_seed(number))
        else:
            film = Film(story, [render(story, take) for take in story.takes])
        fps = self.pipeline.settings.fps if self.pipeline else FPS
        scores = measure(film, self.probe, fps)
        if self.kept:
            self.kept.save(number, film, scores, fps)
        return scores, stills(film.shots) if self.evaluation.pictures else None


def model_specs(names: Sequence[str], preset: str | Path) -> tuple[ModelSpec, ...]:
    """Who tells, from the command line's names."""
    return tuple(ModelSpec.parse(name, preset) for name in names)
