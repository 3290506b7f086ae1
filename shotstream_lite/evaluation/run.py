"""`shotstream evaluate`: held-out stories told by several models and drawn by the renderer, what is read there, and the
five dimensions of the paper that come of it, with their intervals, as JSON and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from shotstream_lite.distributed import Share
from shotstream_lite.errors import StoryError
from shotstream_lite.evaluation.films import (
    CODEC,
    Film,
    ModelSpec,
    check_films,
    coded,
    held_out_stories,
    rendered_film,
    tell,
    training_stories,
    written,
)
from shotstream_lite.evaluation.pictures import contact_sheet, stills, write_sheet
from shotstream_lite.evaluation.statistics import FrechetSpace, Interval, as_json, change, interval, ratio
from shotstream_lite.evaluation.store import Kept, check_folder, scores_key, stacked
from shotstream_lite.measures import Scores
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.toybox.probe import PROBE_FILE, load_probe
from shotstream_lite.toybox.reading import ASKED, CHUNKS, EVENTS, GAPS, KINDS, WORN, measure, with_sums
from shotstream_lite.toybox.world import FPS, ToyStory

REAL = "real film"
FRECHET = "Fréchet distance"
"""To real film of the same stories, as a share of its spread; 0 for real film itself."""
KEPT = "kept since first seen (never said)"
PASSED = "passed on to a newcomer (never asked for)"
DIMENSIONS = {
    "prompt following": {name: f"said/{name}" for name in (*ASKED, *EVENTS)},
    "what the caption before asked for": {name: f"bleed/{name}" for name in ASKED},
    PASSED: {name: f"passed/{name}" for name in WORN},
    "within a shot": {
        "shape, all frames": "steady/shape",
        "hat, all frames": "steady/hat",
        **{f"identity, chunk {n}": f"chunk/identity {n}" for n in range(2, CHUNKS + 1)},
    },
    KEPT: {name: f"kept/{name}" for name in (*KINDS, "all", "all, by chance", *GAPS, "changed before")},
    "transition control": {"SCA": "cuts/SCA"},
    "quality": {name: f"quality/{name}" for name in ("dynamic degree", "sharpness", "PSNR, dB")},
}
SHARES = {"kept": (KEPT, "all"), "sharpness": ("quality", "sharpness")}
DRIFT = ("said/character", "said/action", "kept/all", *(f"kept/{kind}" for kind in KINDS))


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
    check_films({name: pipeline.settings for name, pipeline in pipelines.items()})
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


def evaluate(evaluation: Evaluation) -> tuple[dict[str, Any], str] | None:
    """Measures; the figures for JSON and the table in words, or None in all processes but the first."""
    columns = measure_all(evaluation)
    if columns is None:
        return None
    report = figures(columns)
    said = {name: getattr(evaluation, name) for name in ("stories", "shots", "seed")}
    return said | {"films": as_json(report)}, table(report, evaluation.stories, evaluation.shots)


def figures(columns: Mapping[str, Scores]) -> dict[str, Any]:
    """Everything the table shows and more, ready for JSON: {kind of film: {"figures", "of real film", "by shot"}}.

    Every figure is (mean, low, high): see `statistics`. "of real film" is the share of what real film of the same
    stories scores, which is the most the probe can read: its own error is in both.
    """
    columns = {kind: with_sums(scores) for kind, scores in columns.items()}
    real = columns[REAL]
    space = FrechetSpace(real["features"])
    report = {}
    for kind, scores in columns.items():
        by_name = {d: {n: interval(scores[key]) for n, key in names.items()} for d, names in DIMENSIONS.items()}
        of_real = {d: {n: ratio(scores[k], real[k]) for n, k in names.items()} for d, names in DIMENSIONS.items()}
        by_name["quality"][FRECHET] = space.distance(scores["features"], real["features"])
        report[kind] = {"figures": by_name, "of real film": of_real, "by shot": _by_shot(scores, real, space)}
    return report


def table(report: Mapping[str, Any], stories: int, shots: int) -> str:
    """The report for reading: scores in per cent, a column a kind of film, then the course over the shots."""
    width = max(24, *(len(kind) + 2 for kind in report))
    lines = [f"{stories} held-out stories of {shots} shots; per cent [95 % interval, stories resampled]"]
    lines.append(f"{REAL} is the ceiling: what it lacks of 100 is the probe's own error, or the detector's")
    lines.append("distances: per cent of the spread of real film, 0 is best")
    lines.append(" " * 22 + "".join(f"{kind:>{width}}" for kind in report))
    for dimension, names in next(iter(report.values()))["figures"].items():
        lines.append(dimension)
        for name in names:
            unit = 1 if name.endswith("dB") else 100
            cells = [_cell(column["figures"][dimension][name], unit=unit) for column in report.values()]
            lines.append(f"  {name:<20}" + "".join(f"{cell:>{width}}" for cell in cells))
    lines.append("share of what real film scores")
    for label, (dimension, name) in SHARES.items():
        cells = [_cell(column["of real film"][dimension][name]) for column in report.values()]
        lines.append(f"  {label:<20}" + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join(lines + (_drift(report, shots) if shots > 1 else []))


def _by_shot(scores: Scores, real: Scores, space: FrechetSpace) -> dict[str, Any]:
    """Each score at every shot, and how far a straight line through them rises from the first shot to the last."""
    report = {}
    for key in DRIFT:
        values = scores[key]
        report[key] = {"shots": [interval(values[:, [s]]) for s in range(values.shape[1])], "change": change(values)}
    by_shot, rise = space.change(scores["features"], real["features"])
    return report | {FRECHET: {"shots": by_shot, "change": rise}}


def _drift(report: Mapping[str, Any], shots: int) -> list[str]:
    lines = ["by shot, and the change from the first to the last along a straight line"]
    lines.append(" " * 36 + "".join(f"{shot:>6}" for shot in range(1, shots + 1)) + f"{'change':>22}")
    for name in next(iter(report.values()))["by shot"]:
        lines.append(name)
        for kind, column in report.items():
            course = column["by shot"][name]
            means = "".join(f"{_number(at.mean):>6}" for at in course["shots"])
            lines.append(f"  {kind:<34}{means}{_cell(course['change'], '+'):>22}")
    return lines


def _cell(figure: Interval, sign: str = "", unit: float = 100) -> str:
    if np.isnan(figure.mean):
        return "-"
    mean, low, high = (_number(value, sign, unit) for value in figure)
    return f"{mean} [{low}, {high}]"


def _number(value: float, sign: str = "", unit: float = 100) -> str:
    """With one decimal; per cent unless the unit is another."""
    shown = round(unit * value, 1) + 0.0  # + 0.0: no "-0.0"
    return "-" if np.isnan(value) else f"{shown:{sign}.1f}"
