"""Memories and rivals side by side: who is told, what is shown, what it costs; with tiny models."""

import json

import numpy as np
import pytest
import torch
from conftest import build_transformer

from shotstream_lite.cli import main
from shotstream_lite.errors import StoryError
from shotstream_lite.evaluation.run import DIMENSIONS, FRECHET
from shotstream_lite.models.settings import StreamSettings, save_settings
from shotstream_lite.pipeline import TeacherPipeline
from shotstream_lite.rivals.cost import costs, frames_held
from shotstream_lite.rivals.film import FilmCache, begin_film
from shotstream_lite.rivals.streams import STREAMS
from shotstream_lite.rivals.telling import RivalPipeline
from shotstream_lite.toybox.reading import CHUNKS, KINDS
from shotstream_lite.toybox.world import HEIGHT, WIDTH
from shotstream_lite.training.ablations import compare as comparing
from shotstream_lite.training.ablations.compare import Comparison, Teller, chosen, frontier, rows_of


@pytest.fixture(scope="module")
def small(model_folder, tmp_path_factory):
    """The random model at a size that a probe reads, with shots of one chunk."""
    folder = tmp_path_factory.mktemp("small")
    for part in model_folder.iterdir():
        (folder / part.name).symlink_to(part)
    (folder / "stream.json").unlink()
    save_settings(StreamSettings(height=HEIGHT, width=WIDTH, shot_frames=9, steps=(1000, 500)), folder)
    return folder


def test_one_command_compares_and_goes_on_where_it_stopped(small, tmp_path, capsys, monkeypatch):
    names = ["student", "student@policy=asked", "student@rival=infinity-rope", "holocine"]
    command = ["compare", "--out", str(tmp_path / "out"), "--preset", str(small), "--shots", "2", "--only", *names]
    assert main([*command, "--stories", "1"]) == 0
    said = capsys.readouterr().out
    assert said == (tmp_path / "out/compare.md").read_text() and "- holocine: `shotstream train tables" in said
    assert (tmp_path / "out/compare.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads((tmp_path / "out/compare.json").read_text())["rows"]
    assert [(row["name"], row["weights"]) for row in rows] == [
        ("student", "as shipped"),
        ("student@policy=asked", "rule only"),
        ("student@rival=infinity-rope", "rule only"),
    ]
    one, asked, rope = rows
    assert asked["quality"] == one["quality"] and asked[comparing.LESS]  # of two shots all give frames
    assert all(not figure["mean"] for figure in asked[comparing.LESS].values())
    assert rope["quality"] != one["quality"] and rope["ms a shot"] > rope["first frame, s"] > 0
    assert rope["frame pairs a shot"] == (27 + 54) / 2  # three passes of 3 x 3, then of 3 x (3 + 3)

    told = []
    monkeypatch.setattr(
        comparing, "told", lambda *args, told_story=comparing.told: told.append(args[2]) or told_story(*args)
    )
    assert main([*command, "--stories", "1"]) == 0 and not told
    again = json.loads((tmp_path / "out/compare.json").read_text())["rows"]
    assert again == rows  # times, too
    assert main([*command, "--stories", "2"]) == 0 and told == [1, 1, 1]


WRONG = {
    "holocine streams": (
        "student@rival=holocine",
        "--only student@rival=holocine: holocine knows every caption before the first frame.*cannot stream",
    ),
    "keyframes stream": ("student@rival=keyframes", "keyframes knows every caption.*choose one of self-forcing"),
    "nobody": ("student@rival=dreamer", "'dreamer' is no rival that streams: choose one of self-forcing"),
    "whole shots": ("teacher@rival=longlive", "longlive makes chunks, teacher makes whole shots: write student"),
    "two memories": ("student@rival=longlive,policy=asked", "policy is the method's own.*leave it out"),
    "no setting": ("student@memory=long", "'memory' is unknown: write one of"),
    "no row": ("longlife", "--only longlife: no such row: choose among rules, rivals, student.*longlive, our films"),
}


@pytest.mark.parametrize("name, why", WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_said_in_one_line_before_anything_is_told(small, tmp_path, name, why):
    with pytest.raises(StoryError, match=why) as error:
        chosen(Comparison(tmp_path, preset=small, only=("student", name)))
    assert "\n" not in str(error.value)


def test_bad_folders_end_in_one_line(tmp_path, capsys):
    assert main(["compare", "--out", str(tmp_path), "--rows", str(tmp_path / "none")]) == 2
    assert "--rows" in capsys.readouterr().err
    (tmp_path / "run/tables").mkdir(parents=True)
    (tmp_path / "run/tables/budget.json").write_text('{"teacher_leaps": 3}')
    assert main(["compare", "--out", str(tmp_path), "--rows", str(tmp_path / "run"), "--only", "holocine"]) == 2
    assert "budget.json" in capsys.readouterr().err


def test_rolling_forcing_takes_as_many_steps_as_it_has_chunks_in_flight(pipeline):
    pipeline.settings = pipeline.settings.changed({"shot_frames": 9, "steps": [1000, 500]})
    with pytest.raises(StoryError, match="steps: 4 chunks are in flight"):
        list(RivalPipeline.of(pipeline, "rolling-forcing").shot(["a ball"], seed=0))


def scores(kept_by_gap, stories=4, shots=16):
    """Films in which what was last seen so many shots ago is kept as often as said; else whatever the figures want."""
    rng = np.random.default_rng(0)
    whole = {key: rng.integers(0, 2, (stories, shots)).astype(float) for d in DIMENSIONS.values() for key in d.values()}
    for kind in KINDS:
        gaps = rng.integers(1, 16, (stories, shots, 2)).astype(float)
        kept = np.select([gaps == 1, gaps < 7, gaps <= 12], kept_by_gap[:3], kept_by_gap[3])
        whole |= {f"gap/{kind}": gaps, f"kept/{kind}": kept, f"changed/{kind}": 0 * gaps, f"read/{kind}": 0 * gaps}
    whole["chunk/identity"] = rng.random((stories, shots, CHUNKS))
    whole["features"] = rng.normal(size=(stories, shots, 8))
    return whole | {"cost/seconds": np.full((stories, shots), 0.2), "cost/first frame": np.full((stories, 1), 0.1)}


def test_recall_by_gap_is_told_apart_and_held_against_the_first_row(pipeline):
    """A memory that keeps half of what was seen 7 to 12 shots ago, and one that keeps all of it; beyond nobody does."""
    films = {"student": scores((1, 1, 0.5, 0)), "asked": scores((1, 1, 1, 0))}
    pipeline.settings = pipeline.settings.changed({"shot_frames": 9})
    tellers = [Teller(name, "rule only", pipeline, str, 16) for name in films]
    rows = rows_of(tellers, {name: (told, films["student"]) for name, told in films.items()})
    means = [{name: figure["mean"] for name, figure in row["quality"].items()} for row in rows]
    assert [m[comparing.SHORT] for m in means] == [1, 1]
    assert [m[comparing.LONG] for m in means] == [0.5, 1]
    assert [m[comparing.SHARE] for m in means] == [0.5, 1]
    less = rows[1][comparing.LESS]
    assert less["kept/7 to 12"] == {"mean": 0.5, "low": 0.5, "high": 0.5} and less["said/action"]["mean"] == 0
    assert rows[0]["ms a shot"] == pytest.approx(200) and len(rows[0]["by shot"][FRECHET]["shots"]) == 16
    text = comparing.table({"stories": 4, "shots": 16, "machine": machine(), "rows": rows, "not trained": []})
    assert "| asked | rule only | 16 |" in text and "100.0 [100.0, 100.0]" in text and "+50.0 [+50.0, +50.0]" in text
    for row in rows:  # joint rivals have no long gap, a single story no interval
        row["quality"][comparing.LONG] = {"mean": None, "low": None, "high": None}
        row["quality"]["kept"] |= {"low": None, "high": None}
    drawn = comparing.picture(rows)
    assert [len(axis.lines) > 0 for axis in drawn.axes] == [True] * 4


def machine():
    return {"cpu": "a CPU", "device": "cpu", "threads": 2}


def test_the_frontier_is_what_no_cheaper_one_beats():
    points = [(5, 0.4), (1, 0.2), (2, 0.1), (3, 0.3), (3, 0.35), (9, 0.4), (4, None)]
    assert frontier(points) == [(1, 0.2), (3, 0.35), (5, 0.4)] and frontier([(1, None)]) == []


HELD = {"longlive": 12, "infinity-rope": 6, "causvid": 12, "rolling-forcing": 18, "ema-sink": 12, "hiar": 180}
HELD |= {"self-forcing": 180, "longlive without recache": 12, "causalcine": 180, "framepack": 22}
READ = {"causalcine": 17, "framepack": 7}


def test_memory_is_what_the_last_chunks_ask_for(monkeypatch):
    """Counted by the rule, and heard while a film is told; CausalCine may ask for any frame, and asks for few, and
    FramePack reads old ones coarsely: of a grid of 2 x 3 tokens 6, twice 2 and sixteen times 1."""
    assert {name: frames_held(rival, 20, 9) for name, rival in STREAMS.items()} == HELD
    seen, append, model = [], FilmCache.append_kv, build_transformer()

    def hear(film, *told):
        keys, values = append(film, *told)
        seen.append(keys.shape[2] // film.frame_tokens)
        return keys, values

    monkeypatch.setattr(FilmCache, "append_kv", hear)
    noise, sigmas = lambda shape: torch.zeros(shape), torch.linspace(1, 0.4, 4)  # noqa: E731
    for name, rival in STREAMS.items():
        film = begin_film(model, rival, (1, 3, 4, 6))
        for _ in range(3):
            rival.begin(model, film, 9, model.caption_keys(torch.zeros(1, 1, 5, 10)))
            seen.clear()
            with torch.no_grad():
                list(rival.shot(model, film, noise, sigmas, [3, 3, 3]))
        assert max(seen) == READ.get(name, frames_held(rival, 3, 9)), name


def test_costs_of_every_way_to_tell(pipeline):
    """A shot of nine latents of a grid of 4 x 6 tokens, of which the model keeps two layers of 2 x 12 numbers."""
    settings = {"shot_frames": 33}
    pipeline.settings = pipeline.settings.changed(settings)
    teacher = TeacherPipeline(pipeline.transformer, pipeline.codec, pipeline.text, pipeline.settings)
    teacher.sampling_steps = pipeline.sampling_steps = 25
    height, width = pipeline.transformer.token_grid(*pipeline.codec.latent_size(32, 48))
    config = pipeline.transformer.config
    frame = 2 * height * width * config.num_attention_heads * config.attention_head_dim * 4 / 2**20
    layers = len(pipeline.transformer.blocks)
    of = {
        "own": (pipeline, "", (576, 0, 15 * layers)),
        "infinity-rope": (
            RivalPipeline.of(pipeline, "infinity-rope"),
            "infinity-rope",
            ((225 + 3 * 270) / 4, 0, 6 * layers),
        ),
        "rolling": (RivalPipeline.of(pipeline, "rolling-forcing"), "rolling-forcing", (None, 3, 18 * layers)),
        "hiar": (RivalPipeline.of(pipeline, "hiar"), "hiar", (None, 2, 36 * layers)),
        "teacher": (teacher, "", (11250, 2, 15)),
        "lct": (teacher, "lct", (16200, 11, 36)),
        "holocine": (teacher, "holocine", (5850, 11, 36)),
        "keyframes": (pipeline, "keyframes", (1 + 5 * 3 * (4 + 7 + 10) + 50 * 4, 11, 10 * layers)),
    }
    for name, (teller, rival, (pairs, late, held)) in of.items():
        found = costs(teller, rival, 4)
        assert found["frame pairs a shot"] == (found["frame pairs a shot"] if pairs is None else pairs), name
        assert (found["chunks late"], found["memory, MB"]) == (late, pytest.approx(held * frame)), name
    pipeline.settings = pipeline.settings.changed({"policy": "none"})
    assert costs(pipeline, "", 4)["frame pairs a shot"] == (576 + 3 * 5 * 3 * (3 + 6 + 9)) / 4
