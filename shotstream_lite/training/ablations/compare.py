"""`shotstream compare`: the same stories by the method, by memories that differ and by rivals, and what each costs.

Two sorts of rows stand side by side and are told apart: rows that `train tables --only rivals` has trained in a run
folder, and rules that need no training, on a student as it is (which was trained for ShotStream's own layout: a rule
that fails there is only no drop-in). A story is told once and kept, so that a comparison that was stopped goes on.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from tqdm import tqdm

from shotstream_lite.errors import CheckpointError, StoryError
from shotstream_lite.evaluation.films import Film, ModelSpec, check_films, held_out_stories, rendered_film, told
from shotstream_lite.evaluation.run import FRECHET, REAL, figures
from shotstream_lite.evaluation.statistics import as_json, difference, interval, ratio
from shotstream_lite.evaluation.store import Kept, check_folder, made_by, scores_key, stacked
from shotstream_lite.files import read_json, whole_file, write_text
from shotstream_lite.measures import Scores
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.report import machine
from shotstream_lite.rivals.cost import COUNTED, costs
from shotstream_lite.rivals.joint import KINDS
from shotstream_lite.rivals.streams import STREAMS
from shotstream_lite.toybox.probe import load_probe
from shotstream_lite.toybox.reading import measure, with_sums
from shotstream_lite.training.ablations.rows import LEARNT_SHOTS, ROWS, Row
from shotstream_lite.training.ablations.tables import BUDGET, SHOWN, TablesConfig, probe_of, row_configs, storyteller
from shotstream_lite.training.loop import processes

RULES = (
    *("student", "student@policy=asked", "student@policy=first", "student@policy=none"),
    *(f"student@rival={name}" for name in STREAMS),
)
"""What a student can do untrained: remember otherwise, or tell by a rival's rule."""
TRAINED, SHIPPED, RULE = "trained", "as shipped", "rule only"
SHORT, LONG, SHARE = "gap 1", "gap 7-12", "7-12 of 1"
MEASURED = ("ms a shot", "first frame, s")
LESS = "less the first row's"
QUALITY = ("kept", f"kept, shots 1-{LEARNT_SHOTS}", "by chance", SHORT, LONG, SHARE, "passed on", "bleed", "SCA")
QUALITY += ("action", "drift")
NOTES = """\
Per cent [95 % interval, stories resampled]. *kept*: what captions never say looks as when it was first seen, in all
shots or in those that joint rivals make, too; *by chance*: how often another story's film looks so, which is what
habit keeps; *gap*: by how many shots ago it was last seen; *passed on*: somebody first seen wears the hat of who was
last seen (in real film as often as chance has it); *bleed*: the shot shows what the caption before asked for; *SCA*:
cuts where the plan has them; *drift*: how far the distance to real film grows from the first shot to the last.
*ms a shot* and *first frame*: medians on this machine, of a shot with a past and of a story's first; *frame pairs*:
counted, queries times keys of all passes; *chunks late*: begun before a change of caption and shown after it;
*memory*: keys and values that the last chunk needs. *rule only*: on weights that were trained for another layout."""


@dataclass(frozen=True)
class Comparison:
    """What is compared: what is trained in the run folder `rows`, and rules on the student of `preset`; or `only` some.

    So many held-out stories of so many shots; a joint rival, which cannot go on, makes their first `LEARNT_SHOTS`.
    """

    out: Path
    rows: Path | None = None
    preset: str | Path = "toybox"
    only: tuple[str, ...] = ()
    stories: int = 20
    shots: int = 20


@dataclass(frozen=True)
class Teller:
    """Who tells: a pipeline, and how if not shot after shot; `rival` is what its costs are counted as."""

    name: str
    sort: str
    pipeline: ShotStreamPipeline
    key: Callable[..., str]
    shots: int
    tells: Callable[[ShotStreamPipeline, Any, int], Film] | None = None
    rival: str = ""

    def film(self, story: Any, seed: int) -> tuple[Film, Scores]:
        """A story told, and the seconds it took by shot and to the first frame."""
        if self.tells:
            began = perf_counter()
            film, whole = self.tells(self.pipeline, story, seed), perf_counter() - began
            seconds, first = [whole / self.shots] * self.shots, whole
        else:
            session = told(self.pipeline, story, seed)
            film = Film(story, [shot.footage.frames() for shot in session.shots])
            seconds, first = [shot.seconds for shot in session.shots], session.shots[0].first_frame_seconds
        return film, {"cost/seconds": np.array([seconds]), "cost/first frame": np.array([[first]])}


def compare(comparison: Comparison) -> str:
    """Fills `comparison.out` with compare.json, compare.md and compare.png; returns the table.

    Raises CheckpointError and StoryError for names, models and folders that are no good, before anything is told.
    """
    check_folder(comparison.out, "--out")
    tellers, untrained = chosen(comparison)
    result: dict[str, Any] = {"stories": comparison.stories, "shots": comparison.shots}
    if tellers:
        check_films({teller.name: teller.pipeline.settings for teller in tellers})
        rows = rows_of(tellers, _measured(comparison, tellers))
        result |= {"machine": machine(tellers[0].pipeline), "rows": rows}
    result |= {"not trained": untrained, "budget": _budget(comparison.rows)}
    text = table(result)
    write_text(comparison.out / "compare.json", json.dumps(result, indent=2) + "\n")
    write_text(comparison.out / "compare.md", text)
    if tellers:
        with whole_file(comparison.out / "compare.png") as part:
            picture(result["rows"]).savefig(part, format="png", dpi=110)
    return text


def chosen(comparison: Comparison) -> tuple[list[Teller], list[dict[str, str]]]:
    """Who tells, loaded, and the rows that are not trained yet with the command that trains them."""
    rows = {row.name: row for row in ROWS if row.table == "rivals"}
    names = [name for wish in comparison.only or ("rules", "rivals") for name in _named(wish, rows)]
    tellers, untrained = [], []
    for name in dict.fromkeys(names):
        if name not in rows:
            tellers.append(_by_rule(comparison, name))
        elif comparison.rows and (teller := _by_training(comparison, rows[name])):
            tellers.append(teller)
        else:
            train = f"shotstream train tables --out {comparison.rows or 'RUN'} --only '{name}'"
            untrained.append({"name": name, "train": train})
    return tellers, untrained


def _named(wish: str, rows: Mapping[str, Row]) -> Sequence[str]:
    """The names that a word of the command line stands for. Raises StoryError for one that is none."""
    several = {"rules": RULES, "rivals": tuple(rows)}
    if wish in several:
        return several[wish]
    if wish in rows or wish == "student" or "@" in wish or ":" in wish:
        return [wish]
    fix = f"choose among rules, rivals, {', '.join([*RULES[:2], *rows])}, or write student@SETTING=VALUE"
    raise StoryError(f"--only {wish}: no such row: {fix}")


def _by_rule(comparison: Comparison, name: str) -> Teller:
    """A student as it is, or under another rule, as `evaluate --weights` names it."""
    try:
        spec = ModelSpec.parse(name, comparison.preset)
        pipeline = spec.pipeline(str(processes().device))
    except StoryError as error:
        raise StoryError(str(error).replace("--weights", "--only")) from None
    sort = RULE if spec.rival or spec.settings else SHIPPED
    return Teller(name, sort, pipeline, lambda probe, *which: scores_key(spec, probe, *which), comparison.shots)


def _by_training(comparison: Comparison, row: Row) -> Teller | None:
    """A row of the run; None if it is not trained with the run's budget."""
    try:
        config = TablesConfig(comparison.rows, **(_budget(comparison.rows) or {}))
    except TypeError as error:
        raise CheckpointError(f"{comparison.rows / BUDGET}: {error}: train the tables again") from None
    chain = row_configs(config, row)
    if not all((stage.out / "done").exists() for stage in chain):
        return None
    pipeline, tells = storyteller(row, chain, config.sampling_steps)
    joint = row.rival in KINDS

    def key(probe: Path, *which: int) -> str:
        folders = [chain[-1].out, *(comparison.rows / part for part in ("vae", "text_encoder", "base"))]
        files = [file for folder in folders for file in sorted(folder.rglob("*.safetensors"))]
        return made_by([*files, probe], row.rival, sorted(row.settings.items()), config.sampling_steps, *which)

    shots = min(LEARNT_SHOTS, comparison.shots) if joint else comparison.shots
    return Teller(row.name, TRAINED, pipeline, key, shots, tells, row.rival)


def _budget(run: Path | None) -> dict[str, Any] | None:
    """What the run's rows were trained with last."""
    path = run and run / BUDGET
    return read_json(path, error=CheckpointError) if path and path.exists() else None


def _measured(comparison: Comparison, tellers: Sequence[Teller]) -> dict[str, tuple[Scores, Scores]]:
    """Of every teller, by name, the scores of its stories and of real film of the same shots, told or as they were
    kept."""
    file = probe_of(comparison.rows)
    probe, plots = load_probe(file), held_out_stories(comparison.stories, comparison.shots)
    films = comparison.out / "films"
    check_folder(films, "--out")

    def told_or_kept(name: str, shots: int, key: str, make: Callable, fps: int) -> Scores:
        kept, parts = Kept(films, name, key), []
        for number in tqdm(range(comparison.stories), desc=name, unit="story", disable=None):
            scores = kept.load(number)
            if scores is None:
                film, cost = make(replace(plots[number], takes=plots[number].takes[:shots]), number)
                scores = measure(film, probe, fps) | cost
                kept.save(number, film, scores, fps)
            parts.append(scores)
        return stacked(parts)

    real, measured = {}, {}
    for teller in tellers:
        shots, fps, frames = teller.shots, teller.pipeline.settings.fps, teller.pipeline.settings.shot_frames
        if shots not in real:
            draw = lambda plot, number, frames=frames: (rendered_film(plot, frames), {})  # noqa: E731
            real[shots] = told_or_kept(f"{REAL}, {shots} shots", shots, made_by([file], frames, shots), draw, fps)
        scores = told_or_kept(teller.name, shots, teller.key(file, 0, shots), teller.film, fps)
        measured[teller.name] = scores, real[shots]
    return measured


def rows_of(tellers: Sequence[Teller], columns: Mapping[str, Sequence[Scores]]) -> list[dict[str, Any]]:
    """What is known of each teller, in their order: figures as {"mean", "low", "high"}, costs as numbers.

    columns: by name the scores of its films and of real film of the same shots
    """
    report, rows = {}, []
    for shots in {teller.shots for teller in tellers}:
        group = [teller.name for teller in tellers if teller.shots == shots]
        report |= figures({REAL: columns[group[0]][1]} | {name: columns[name][0] for name in group})
    first = with_sums(columns[tellers[0].name][0])
    for teller in tellers:
        shots, scores, of_it = teller.shots, with_sums(columns[teller.name][0]), report[teller.name]
        gaps = {SHORT: "seen 1 shot ago", "gap 2-3": "2 or 3", "gap 4-6": "4 to 6", LONG: "7 to 12"}
        gaps = {name: scores[f"kept/{gap}"] for name, gap in gaps.items()}
        quality = {name: of_it["figures"][dimension][figure] for name, (dimension, figure) in SHOWN.items()}
        quality |= {QUALITY[1]: interval(scores["kept/all"][:, :LEARNT_SHOTS])}
        quality |= {"drift": of_it["by shot"][FRECHET]["change"]}
        quality |= {name: interval(values) for name, values in gaps.items()}
        quality |= {SHARE: ratio(gaps[LONG], gaps[SHORT])}
        less = ("kept/all", "kept/7 to 12", "said/action") if shots == tellers[0].shots else ()
        seconds = scores["cost/seconds"]
        rows.append(
            {
                "name": teller.name,
                "weights": teller.sort,
                "shots": shots,
                "quality": as_json(quality),
                LESS: as_json({name: difference(scores[name], first[name]) for name in less}),
                "by shot": as_json(of_it["by shot"]),
                "ms a shot": 1000 * float(np.median(seconds[:, 1:] if shots > 1 else seconds)),
                "first frame, s": float(np.median(scores["cost/first frame"])),
                "in short stories": costs(teller.pipeline, teller.rival, min(LEARNT_SHOTS, shots))[COUNTED[0]],
                **costs(teller.pipeline, teller.rival, shots),
            }
        )
    return rows


def table(result: Mapping[str, Any]) -> str:
    """The comparison as Markdown."""
    lines = [f"# {result['stories']} held-out stories of {result['shots']} shots", "", *NOTES.split("\n"), ""]
    if rows := result.get("rows", []):
        about = result["machine"]
        lines += [f"Measured on: {about['cpu']}, {about['device']}, {about['threads']} threads.", ""]
        lines += _lined("", "weights", "shots", *QUALITY, *MEASURED, *COUNTED)
        for row in rows:
            figures = [_cell(row["quality"].get(name)) for name in QUALITY]
            counts = [f"{row[name]:,.{n}f}" for name, n in zip((*MEASURED, *COUNTED), (0, 2, 0, 0, 2), strict=True)]
            lines.append(_line(row["name"], row["weights"], row["shots"], *figures, *counts))
        if len(rows) > 1 and (names := list(rows[0][LESS])):
            lines += ["", f"Less what {rows[0]['name']} has, of the same stories:", "", *_lined("", *names)]
            held = (row for row in rows[1:] if row[LESS])
            lines += [_line(row["name"], *(_cell(row[LESS][name], "+") for name in names)) for row in held]
    if result["not trained"]:
        lines += ["", "Not trained:", "", *(f"- {row['name']}: `{row['train']}`" for row in result["not trained"])]
    return "\n".join(lines) + "\n"


def _lined(*names: str) -> list[str]:
    return [_line(*names), "|" + "---|" * len(names)]


def _line(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _cell(figure: Mapping[str, float | None] | None, sign: str = "") -> str:
    if not figure or figure["mean"] is None:
        return "-"
    ends = (figure[end] for end in ("mean", "low", "high"))
    mean, low, high = ("-" if end is None else f"{100 * end:{sign}.1f}" for end in ends)
    return f"{mean} [{low}, {high}]"


def picture(rows: Sequence[Mapping[str, Any]]) -> Any:
    """What is kept against what it costs, by how long ago it was seen, and the course over the shots."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 12), layout="constrained")
    (short, long), (gaps, course) = figure.subplots(2, 2)
    colours = {row["name"]: f"C{place % 10}" for place, row in enumerate(rows)}
    shots = max(row["shots"] for row in rows)
    _frontier(short, rows, QUALITY[1], "in short stories", colours)
    short.set(title=f"kept in the first {LEARNT_SHOTS} shots", xlabel="frame pairs a shot", ylabel="per cent")
    _frontier(long, [row for row in rows if row["shots"] == shots], "kept", "ms a shot", colours)
    long.set(title=f"kept over {shots} shots", xlabel="milliseconds a shot", ylabel="per cent")
    for place, row in enumerate(rows):
        style = {"color": colours[row["name"]], "ls": "-:"[row["weights"] == RULE], "marker": "osD^v"[place // 10 % 5]}
        name = f"{place + 1} {row['name']}, {row['weights']}"
        there = [gap for gap in row["quality"] if gap.startswith("gap ") and gap != "gap 7+"]
        _points(gaps, [gap.removeprefix("gap ") for gap in there], [row["quality"][gap] for gap in there], style, name)
        by_shot = row["by shot"][FRECHET]["shots"]
        _points(course, range(1, len(by_shot) + 1), by_shot, style, name)
    gaps.set(title="kept by how many shots ago it was last seen", xlabel="shots", ylabel="per cent")
    course.set(title="distance to real film", xlabel="shot", ylabel="per cent of its spread")
    figure.legend(*course.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _points(axis: Any, x: Sequence, y: Sequence[Mapping[str, float | None]], style: Mapping, name: str = "") -> None:
    """Figures with their intervals; what was not asked is left out."""
    mean, low, high = (100 * np.array([figure[end] for figure in y], float) for end in ("mean", "low", "high"))
    errors = np.nan_to_num(np.array([mean - low, high - mean])).clip(0)
    axis.errorbar(list(x), mean, errors, **style, label=name, lw=1.2, elinewidth=0.7, capsize=2, ms=5)


def _frontier(
    axis: Any, rows: Sequence[Mapping[str, Any]], quality: str, cost: str, colours: Mapping[str, str]
) -> None:
    """Every row at its cost, and the line of `frontier`."""
    for row in rows:
        colour, place = colours[row["name"]], list(colours).index(row["name"])
        style = {"color": colour, "marker": "o", "mfc": "white" if row["weights"] == RULE else colour}
        _points(axis, [row[cost]], [row["quality"][quality]], style)
        if row["quality"][quality]["mean"] is not None:
            at = row[cost], 100 * row["quality"][quality]["mean"]
            axis.annotate(str(place + 1), at, (5, 5), textcoords="offset points")
    if line := frontier([(row[cost], row["quality"][quality]["mean"]) for row in rows]):
        x, y = zip(*line, (max(row[cost] for row in rows), line[-1][1]), strict=True)
        axis.step(x, 100 * np.array(y), where="post", color="0.6", zorder=0)
    axis.set_xscale("log")


def frontier(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float]]:
    """Of points (cost, quality) those that no other beats at the same cost or less, cheapest first."""
    best: list[tuple[float, float]] = []
    for cost, quality in sorted((p for p in points if p[1] is not None), key=lambda p: (p[0], -p[1])):
        if not best or quality > best[-1][1]:
            best.append((cost, quality))
    return best
