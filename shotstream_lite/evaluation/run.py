"""`shotstream evaluate`: held-out stories told by several models and drawn by the renderer, and what is read there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn
from tqdm import tqdm

from shotstream_lite.distributed import Share
from shotstream_lite.errors import StoryError
from shotstream_lite.evaluation.films import (
    CODEC,
    Film,
    ModelSpec,
    check_size,
    coded,
    held_out_stories,
    rendered_film,
    tell,
    training_stories,
    written,
)
from shotstream_lite.evaluation.pictures import contact_sheet, stills, write_sheet
from shotstream_lite.evaluation.store import Kept, check_folder, scores_key
from shotstream_lite.measures import Scores
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.toybox.probe import PROBE_FILE, load_probe
from shotstream_lite.toybox.reading import measure
from shotstream_lite.toybox.world import FPS, ToyStory

REAL = "real film"


@dataclass(frozen=True)
class Evaluation:
    """What is measured: so many stories of so many shots, told by each of `specs` from `seed` on.

    They are held-out ones, or, if `seen`, those of training. The first `given` shots are real film. `probe` is the
    shipped one or another file.
    """

    specs: tuple[ModelSpec, ...]
    stories: int
    shots: int
    seed: int = 0
    seen: bool = False
    given: int = 0
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
    share = Share()
    pipelines = {spec.name: spec.pipeline(share.device) for spec in evaluation.specs}
    check_size({name: (p.settings.height, p.settings.width) for name, p in pipelines.items()})
    probe, stories = load_probe(evaluation.probe), evaluation.plots()
    mine = share.mine(evaluation.stories)
    columns, shown = {}, {number: {} for number in mine}
    for name in (REAL, *pipelines):
        maker = _Maker(evaluation, name, pipelines, probe)
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

    def __init__(
        self, evaluation: Evaluation, name: str, pipelines: Mapping[str, ShotStreamPipeline], probe: nn.Module
    ) -> None:
        self.evaluation, self.pipeline, self.probe = evaluation, pipelines.get(name), probe
        self.frames = (self.pipeline or next(iter(pipelines.values()))).settings.shot_frames
        self.spec = next((spec for spec in evaluation.specs if spec.name == name), None)
        self.kept: Kept | None = None
        if self.spec and evaluation.keep:
            which = evaluation.seed, evaluation.shots, evaluation.seen, evaluation.given
            self.kept = Kept(evaluation.keep, name, scores_key(self.spec, evaluation.probe, *which))

    def film(self, number: int, story: ToyStory) -> tuple[Scores, list[np.ndarray] | None]:
        """The scores of a story's film, and stills of its shots if there are to be pictures."""
        scores = self.kept.load(number) if self.kept else None
        if scores is not None:
            lengths = [self.frames] * len(story.takes)
            return scores, stills(self.kept.shots(number, lengths)) if self.evaluation.pictures else None
        film = self._make(story, self.evaluation.story_seed(number))
        fps = self.pipeline.settings.fps if self.pipeline else FPS
        scores = measure(film, self.probe, fps)
        if self.kept:
            self.kept.save(number, film, scores, fps)
        return scores, stills(film.shots) if self.evaluation.pictures else None

    def _make(self, story: ToyStory, seed: int) -> Film:
        if self.spec is None or self.spec.weights == CODEC:
            film = replace(rendered_film(story, self.frames), given=self.evaluation.given)
            return film if self.spec is None else coded(self.pipeline, film)
        return tell(self.pipeline, story, seed, self.evaluation.given)


def model_specs(names: Sequence[str], preset: str | Path) -> tuple[ModelSpec, ...]:
    """Who tells, from the command line's names."""
    return tuple(ModelSpec.parse(name, preset) for name in names)
