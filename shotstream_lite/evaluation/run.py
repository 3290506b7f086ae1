"""`shotstream evaluate`: held-out stories told by several models and drawn by the renderer, and what is read there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

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
from shotstream_lite.evaluation.store import Kept, check_folder, scores_key, stacked
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
    probe = load_probe(evaluation.probe)
    stories = (training_stories if evaluation.seen else held_out_stories)(evaluation.stories, evaluation.shots)
    mine = share.mine(evaluation.stories)
    columns, shown = {}, {number: {} for number in mine}
    for spec in (None, *evaluation.specs):
        name = spec.name if spec else REAL
        pipeline = pipelines.get(name) or next(iter(pipelines.values()))
        frames, fps = pipeline.settings.shot_frames, pipeline.settings.fps if spec else FPS
        kept, parts = _kept(evaluation, spec) if spec and evaluation.keep else None, []
        for number in tqdm(mine, desc=name, unit="story", disable=None if share.first else True):
            scores, film = kept.load(number) if kept else None, None
            if scores is None:
                film = _film(evaluation, spec, pipeline, number, stories[number])
                scores = measure(film, probe, fps)
                if kept:
                    kept.save(number, film, scores, fps)
            if evaluation.pictures:
                shots = film.shots if film else kept.shots(number, [frames] * evaluation.shots)
                shown[number][name] = stills(shots)
            parts.append(scores)
        columns[name] = stacked(share.gather(parts))
    if evaluation.pictures:
        for number, films in shown.items():
            captions = [shot.caption for shot in written(stories[number], evaluation.story_seed(number)).shots]
            write_sheet(contact_sheet(captions, films), evaluation.pictures / f"story-{number:04d}.png")
    return columns if share.first else None


def _kept(evaluation: Evaluation, spec: ModelSpec) -> Kept:
    which = evaluation.seed, evaluation.shots, evaluation.seen, evaluation.given
    return Kept(evaluation.keep, spec.name, scores_key(spec, evaluation.probe, *which))


def _film(
    evaluation: Evaluation, spec: ModelSpec | None, pipeline: ShotStreamPipeline, number: int, story: ToyStory
) -> Film:
    """A story as a model tells it, or as real film if there is none."""
    if spec and spec.weights != CODEC:
        return tell(pipeline, story, evaluation.story_seed(number), evaluation.given)
    film = replace(rendered_film(story, pipeline.settings.shot_frames), given=evaluation.given)
    return coded(pipeline, film) if spec else film


def model_specs(names: Sequence[str], preset: str | Path) -> tuple[ModelSpec, ...]:
    """Who tells, from the command line's names."""
    return tuple(ModelSpec.parse(name, preset) for name in names)
