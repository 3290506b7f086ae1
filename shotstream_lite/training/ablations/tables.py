"""`shotstream train tables`: trains and measures every row of the tables.

Teachers begin as the run's finished teacher and get used to the row's change: a young teacher hardly looks back, so it
could not show what else to look at, and its students would all be alike. Where the question is how a base model learns
to look back (channel concat, all parameters), they begin as that, and so does the "ours" beside them. Rows share
whatever they have in common: a stage with the same settings after the same stages is trained once. All share one short
budget. What is finished is kept; a stopped command goes on where it was.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from shotstream_lite.distributed import Share
from shotstream_lite.errors import CheckpointError
from shotstream_lite.evaluation.films import Film, check_films, held_out_stories, rendered_film, tell, written
from shotstream_lite.evaluation.run import DIMENSIONS, KEPT, PASSED, REAL, figures
from shotstream_lite.evaluation.statistics import as_json, difference
from shotstream_lite.evaluation.store import stacked
from shotstream_lite.files import read_json, write_text
from shotstream_lite.pipeline import ShotStreamPipeline, TeacherPipeline
from shotstream_lite.rivals.cost import COUNTED, costs
from shotstream_lite.rivals.streams import STREAMS
from shotstream_lite.rivals.telling import RivalPipeline, tell_from_keyframes, tell_jointly
from shotstream_lite.text import CaptionEncoder
from shotstream_lite.toybox import reading
from shotstream_lite.toybox.probe import PROBE_FILE, load_probe
from shotstream_lite.toybox.world import ToyStory
from shotstream_lite.training.ablations.baselines import ChannelConcat, LearntCut
from shotstream_lite.training.ablations.rivals import (
    RivalDistilConfig,
    RivalFlowConfig,
    RivalInitConfig,
    as_configured,
    train_rival_distil,
    train_rival_flow,
    train_rival_init,
)
from shotstream_lite.training.ablations.rows import ROWS, Row
from shotstream_lite.training.causal_init import CausalInitConfig, train_causal_init
from shotstream_lite.training.config import NextShotConfig, RunConfig, check_settings
from shotstream_lite.training.films import films_of
from shotstream_lite.training.inter_shot import InterShotConfig, train_inter_shot
from shotstream_lite.training.intra_shot import IntraShotConfig, train_intra_shot
from shotstream_lite.training.loop import processes
from shotstream_lite.training.presets import RECIPES
from shotstream_lite.training.samples import stream_settings
from shotstream_lite.training.teacher import TeacherConfig, train_teacher
from shotstream_lite.training.weights import codec_of, earlier, text_of

CHAIN = {
    "teacher": (TeacherConfig, train_teacher),
    "causal-init": (CausalInitConfig, train_causal_init),
    "intra-shot": (IntraShotConfig, train_intra_shot),
    "inter-shot": (InterShotConfig, train_inter_shot),
    "rival-init": (RivalInitConfig, train_rival_init),
    "rival-distil": (RivalDistilConfig, train_rival_distil),
    "rival-flow": (RivalFlowConfig, train_rival_flow),
}
AS = {"rival-init": "causal-init", "rival-distil": "intra-shot"}
AS |= dict.fromkeys(("teacher", "rival-flow"), "causal-init")  # the preset's own teacher is a beginner's, for hours
"""Whose recipe a row's stage follows, if not its own."""
COSTS = ("seconds a shot", *COUNTED)
"""Of rivals, see `cost.costs`."""
BUDGET = Path("tables", "budget.json")
"""What makes a row the row it is, kept in the run for `compare`."""
PLACES = {f.name for f in fields(RunConfig)} | {"resume", "save_every", "sample_every", "tensorboard"}


@dataclass
class TablesConfig:
    """Train and measure the paper's Tables 3 and 4 at toybox size, and what they leave out."""

    out: Path  # run folder with codec, films (encoded with --budgets 2 6 12), text encoder, base, teacher and probe
    only: tuple[str, ...] = ()  # tables or rows, such as 3, or "channel concat"; by default all
    teacher_steps: int = 800  # budget of every row
    init_steps: int = 300
    distil_steps: int = 480  # of each self-forcing stage, critic and generator together; rivals have one, twice as long
    batch: int = 8
    image_batch: int = 16  # of teachers
    precision: Literal["no", "bf16"] = "no"
    compile: bool = False
    sampling_steps: int = 20  # of teachers when they are measured; not 50, to save time
    stories: int = 30  # held-out stories a row is measured on
    shots: int = 5  # of each
    preset: tyro.conf.Suppress[str] = "toybox"


def make_tables(config: TablesConfig) -> None:
    """Fills `config.out`/tables, a JSON file a row and all of them in tables.json; prints them."""
    check_settings(config)
    rows = [row for row in ROWS if not config.only or row.table in config.only or row.name in config.only]
    if not rows:
        names = ", ".join(dict.fromkeys([row.table for row in ROWS] + [row.name for row in ROWS]))
        raise CheckpointError(f"--only {' '.join(config.only)}: no such table or row: choose among {names}")
    if processes().is_main_process:
        (config.out / "tables").mkdir(parents=True, exist_ok=True)
        of_training = {k: v for k, v in asdict(config).items() if k not in ("out", "only", "stories", "shots")}
        write_text(config.out / BUDGET, json.dumps(of_training, indent=2) + "\n", CheckpointError)
    results = [_row(config, row) for row in rows]
    if processes().is_main_process:
        lines = ",\n".join(json.dumps(result) for result in results)
        text = f'{{"budget": {json.dumps(_budget(config))}, "rows": [\n{lines}\n]}}\n'
        write_text(config.out / "tables.json", text, CheckpointError)
        print(report_text(results, _budget(config)))


def _row(config: TablesConfig, row: Row) -> dict[str, Any]:
    """Trains what is missing and measures, or reads what was measured before with this budget."""
    chain = row_configs(config, row)
    about = {"table": row.table, "name": row.name, "stages": row.stages}
    told_as = {"settings": dict(row.settings), "stories": config.stories, "shots": row.shots or config.shots}
    told_as |= {"sampling_steps": config.sampling_steps} if row.stages[-1] == "teacher" or row.rival else {}
    told_as |= {"rival": row.rival} if row.rival else {}
    path = config.out / "tables" / f"row-{_digest(chain[-1].out.name, told_as)}.json"
    processes().wait_for_everyone()  # or they would not agree on what is there
    if path.exists():
        return about | read_json(path, error=CheckpointError, again="remove it, and it is measured again")
    for stage, stage_config in zip(row.stages, chain, strict=True):
        done = stage_config.out / "done"  # perhaps for another row
        processes().wait_for_everyone()
        if not done.exists():
            CHAIN[stage][1](stage_config, films_of(stage_config))
            processes().wait_for_everyone()
            done.touch()
    pipeline, tells = storyteller(row, chain, config.sampling_steps)
    seconds = []

    def timed(pipeline: ShotStreamPipeline, plot: ToyStory, seed: int) -> Film:
        began = time.perf_counter()
        film = (tells or tell)(pipeline, plot, seed)
        seconds.append(time.perf_counter() - began)
        return film

    measured = measure(pipeline, config.stories, told_as["shots"], config.out, timed)
    result = told_as | {"changes": {stage: dict(changes) for stage, changes in row.changes.items()}} | measured
    if row.table == "rivals":
        result["seconds a shot"] = round(sum(seconds) / max(1, len(seconds)) / told_as["shots"], 3)
        result |= costs(pipeline, row.rival, told_as["shots"])
    if processes().is_main_process:
        write_text(path, json.dumps(result, indent=2) + "\n", CheckpointError)
    return about | result


def row_configs(config: TablesConfig, row: Row) -> list[NextShotConfig]:
    """The configurations of a row's stages; each works in a folder named by all that makes it what it is."""
    steps = {"teacher": config.teacher_steps, "causal-init": config.init_steps}
    steps |= {"rival-init": config.init_steps, "rival-distil": 2 * config.distil_steps}  # the method has two of these
    steps |= {"rival-flow": config.teacher_steps + config.init_steps + 2 * config.distil_steps}  # all in one stage
    folders, chain = [config.out], []
    for stage in row.stages:
        kind = CHAIN[stage][0]
        known = {f.name for f in fields(kind)}
        changes = {k: v for k, v in row.changes.get("*", {}).items() if k in known} | dict(row.changes.get(stage, {}))
        usual = {k: v for k, v in RECIPES[config.preset].get(AS.get(stage, stage), {}).items() if k in known}
        usual |= {"steps": steps.get(stage, config.distil_steps), "batch": config.batch, "sample_every": 0}
        usual |= {"precision": config.precision, "compile": config.compile}
        usual |= {"image_batch": config.image_batch} if stage == "teacher" else {}
        if stage == "rival-flow" and "mark" not in changes:  # films have twice a next shot's frames
            usual["batch"] = max(1, config.batch // 2)
        planned = kind(config.out, **usual | changes)
        described = {k: v for k, v in asdict(planned).items() if k not in PLACES - {"seed"}}
        if stage == "teacher" and row.start == "teacher":
            planned.start, described["start"] = config.out, "teacher"
        planned.out = config.out / "tables" / f"{stage}-{_digest(folders[-1].name if chain else '', described)}"
        planned.after = tuple(reversed(folders))
        folders.append(planned.out)
        chain.append(planned)
    return chain


def storyteller(row: Row, chain: list[NextShotConfig], steps: int) -> tuple[ShotStreamPipeline, Callable | None]:
    """The pipeline of a trained row, and how it tells a story if not shot by shot; steps: of what samples in many."""
    last, device = chain[-1], processes().device
    (text_encoder, tokenizer), codec = text_of(last), codec_of(last)
    settings = stream_settings(last, films_of(last), codec.spatial_factor).changed(dict(row.settings))
    codec.vae.to(device)
    text = CaptionEncoder(text_encoder.to(device), tokenizer, last.text_tokens, truncate=True)
    transformer, others, tells = earlier(last, row.stages[-1]).to(device), (codec, text, settings), None
    if isinstance(last, RivalFlowConfig):
        pipeline = TeacherPipeline(as_configured(last, transformer), *others)
        if not last.mark:
            tells = lambda p, plot, seed: Film(plot, tell_jointly(p, written(plot, seed), p.transformer, steps))  # noqa: E731
    elif isinstance(last, TeacherConfig):
        transformer = ChannelConcat.of(transformer, last.budget) if last.injection == "channel" else transformer
        pipeline = TeacherPipeline(transformer, *others)
    else:
        pipeline = ShotStreamPipeline(LearntCut.of(last, transformer), *others)
    if row.rival in STREAMS:
        pipeline = RivalPipeline.of(pipeline, row.rival)
        pipeline.endless = last.shots == 1 or last.history == "own"
    elif row.rival == "keyframes":
        jointly = partial(tell_from_keyframes, base=earlier(last, "base").to(device), steps=steps)
        tells = lambda p, plot, seed: Film(plot, jointly(p, written(plot, seed)))  # noqa: E731
    pipeline.sampling_steps = steps  # of what takes many
    return pipeline, tells


def probe_of(run: Path | None) -> Path:
    """The probe of a run, or the shipped one where it has none."""
    own = run and run / "probe" / "model.safetensors"
    return own if own and own.exists() else PROBE_FILE


def measure(
    pipeline: ShotStreamPipeline, stories: int, shots: int, run: Path, tells: Callable = tell
) -> dict[str, Any]:
    """The paper's five dimensions on held-out stories, with intervals; see `evaluation.run.figures`.

    With them "scores": what the tables show, story by story and shot by shot. Several processes share the stories, and
    all get everything.
    """
    settings = pipeline.settings
    check_films({"row": settings})
    probe = load_probe(probe_of(run))
    share, plots = Share(), held_out_stories(stories, shots)
    mine = share.mine(stories)
    films = {REAL: (rendered_film(plots[n], settings.shot_frames) for n in mine)}
    films["row"] = (tells(pipeline, plots[n], n) for n in mine)
    columns = {
        name: stacked(share.gather([reading.measure(film, probe, settings.fps) for film in some]))
        for name, some in films.items()
    }
    told, result = reading.with_sums(columns["row"]), as_json(figures(columns)["row"])
    by_story = {name: told[DIMENSIONS[dimension][score]] for name, (dimension, score) in SHOWN.items()}
    return result | {"scores": {name: _plain(some) for name, some in by_story.items()}}


SAID = {name: ("prompt following", name) for name in ("character", "setting", "camera", "action")}
CUTS = {"SCA": ("transition control", "SCA"), "dynamic": ("quality", "dynamic degree")}
SHOWN = (
    SAID
    | {"kept": (KEPT, "all"), "by chance": (KEPT, "all, by chance"), "gap 1": (KEPT, "seen 1 shot ago")}
    | {"gap 7+": (KEPT, "7 or more"), "bleed": ("what the caption before asked for", "character")}
    | {"passed on": (PASSED, "hat")}
    | CUTS
)
"""What the tables show: (dimension, figure) by name."""


def _plain(scores: np.ndarray) -> list[list[float | None]]:
    """Scores [stories, shots, ...] as JSON writes them, a mean for each shot; null where nothing was asked."""
    return np.ma.masked_invalid(scores.reshape(*scores.shape[:2], -1)).mean(2).round(3).tolist()


def scores(row: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """What the tables show of a row, by name: {"mean", "low", "high"}, all None where nothing was asked."""
    return {name: row["figures"][dimension][score] for name, (dimension, score) in SHOWN.items()}


def differences(row: dict[str, Any], ours: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """How far a row lies from another that told the same stories, by name: {"mean", "low", "high"}.

    Both err on the same hard stories, so the difference is known better than either.
    """
    pairs = {name: [np.array(told["scores"][name], float) for told in (row, ours)] for name in SHOWN}
    return {name: as_json(difference(*pair)) for name, pair in pairs.items()}


def report_text(results: list[dict[str, Any]], budget: str) -> str:
    """The tables in words, per cent; intervals, and the course over the shots, are in the JSON."""
    names = list(SHOWN)
    costs = [name for name in COSTS if any(name in row for row in results)]
    head = f"{'table':<13}{'row':<40}{'shots':>6}" + "".join(f"{name:>11}" for name in names)
    lines = [f"every row: {budget}", head + "".join(f"{name:>20}" for name in costs)]
    for row in results:
        means = [score["mean"] for score in scores(row).values()]
        cells = "".join(f"{'-' if mean is None else f'{100 * mean:.1f}':>11}" for mean in means)
        cells += "".join(f"{f'{row[name]:.6g}' if name in row else '-':>20}" for name in costs)
        lines.append(f"{row['table']:<13}{row['name']:<40}{row['shots']:>6}{cells}")
    return "\n".join(lines)


def _budget(config: TablesConfig) -> str:
    steps = f"{config.teacher_steps} teacher, {config.init_steps} causal-init, {config.distil_steps} of a self-forcing"
    batches = f"batch {config.batch}, and {config.image_batch} pictures for teachers"
    return f"steps: {steps}; {batches}; {config.stories} stories, teachers in {config.sampling_steps} sampling steps"


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:10]
