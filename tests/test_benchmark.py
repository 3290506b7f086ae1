"""The benchmark: its figures are of the pipeline everybody uses, with weights or without."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from shotstream_lite import benchmark
from shotstream_lite.attention import in_halves
from shotstream_lite.cli import main
from shotstream_lite.models import work
from shotstream_lite.models.folder import PRESETS
from shotstream_lite.models.placement import read_configs
from shotstream_lite.models.settings import load_settings
from shotstream_lite.pipeline import ShotStreamPipeline, TeacherPipeline
from shotstream_lite.session import StorySession


@pytest.fixture(autouse=True)
def import_seconds(monkeypatch):
    monkeypatch.setattr(benchmark, "_import_seconds", lambda: 1.0)


def test_what_a_fresh_process_imports_is_timed(capsys):
    exec(benchmark._IMPORT, {})  # in this process, where all is imported already
    assert 0 <= float(capsys.readouterr().out) < 5


def test_random_weights_need_configurations_only(model_folder, tmp_path, monkeypatch, capsys):
    """A whole run, of the model of a folder in which there are no weights and no tokenizer."""
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    shutil.rmtree(folder / "tokenizer")
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    monkeypatch.chdir(tmp_path)
    command = ["benchmark", "--preset", "model", "--random-weights", "--shots", "3", "--json", "figures.json"]
    command += ["--height", "16"]
    assert main(command) == 0
    figures = json.loads(Path("figures.json").read_text(encoding="utf-8"))
    assert figures["random_weights"] and (figures["height"], figures["width"]) == (16, 48)
    assert len(figures["shot_seconds"]) == len(figures["shot_mib"]) == 3
    for name in ("chunk_seconds", "transformer_chunk_seconds", "codec_chunk_seconds"):
        assert len(figures[name]) == 2 and min(figures[name]) > 0  # 4 latents are chunks of 3 and 1
    assert figures["attention"].startswith("native: ") and figures["dtype"] == "float32"
    assert figures["cold_first_frame_seconds"] > 0  # of the warm-up, which is no shot of the story
    assert figures["peak_mib"] == max(figures["shot_mib"])
    assert figures["twentieth_to_second"] == pytest.approx(
        figures["shot_seconds"][2] / figures["shot_seconds"][1], 0.01
    )
    out = capsys.readouterr().out
    assert "model, student, random weights: 3 shots of 13 frames, 16 x 48" in out and figures["attention"] in out


def test_the_teacher_is_measured_where_it_alone_is(model_folder, tmp_path, monkeypatch):
    shutil.copytree(model_folder, tmp_path / "model")
    (tmp_path / "model" / "transformer").rename(tmp_path / "model" / "teacher")
    monkeypatch.setattr(TeacherPipeline, "sampling_steps", 2)
    figures = benchmark.time_story(str(tmp_path / "model"), shots=2, weights="teacher")
    assert figures["weights"] == "teacher" and len(figures["transformer_chunk_seconds"]) == 1
    assert "model, teacher: 2 shots" in benchmark.report_text(figures)


def test_a_random_storyteller_tells_finite_moving_films(model_folder):
    pipeline = benchmark.random_pipeline(model_folder)
    assert isinstance(pipeline, ShotStreamPipeline)
    pieces = list(pipeline.shot(["the red ball jumps"], seed=0))
    assert sum(map(len, pieces)) == 13 and np.concatenate(pieces).std() > 0
    parameters = [p for part in (pipeline.transformer, pipeline.codec.vae) for p in part.parameters()]
    assert all(p.isfinite().all() and not p.is_meta for p in parameters)
    text = pipeline.text.text_encoder
    assert text.shared.weight is text.encoder.embed_tokens.weight  # 2.1 GB of a full model's


def test_in_bfloat16_only_what_diffusers_keeps_is_float32(model_folder, monkeypatch):
    monkeypatch.setattr(benchmark, "default_dtype", lambda device: torch.bfloat16)
    pipeline = benchmark.random_pipeline(model_folder)
    for name, parameter in pipeline.transformer.named_parameters():
        kept = any(part in name for part in pipeline.transformer._keep_in_fp32_modules)
        assert parameter.dtype == (torch.float32 if kept else torch.bfloat16)
    frames = np.concatenate(list(pipeline.shot(["the red ball jumps"], seed=0, frames=5)))
    assert frames.shape == (5, 32, 48, 3) and pipeline.transformer.dtype == torch.bfloat16


def test_both_halves_are_measured_after_a_first_run(pipeline, calls):
    session = StorySession(pipeline, benchmark.GLOBAL_CAPTION, seed=0)
    for number in range(2):
        list(session.next_shot(benchmark.caption(number), frames=5))
    denoised, decoded = calls(pipeline, "latents"), calls(pipeline, "decoded")
    benchmark._halves(pipeline, session)
    assert len(denoised) == len(decoded) == 4


def test_pieces_make_chunks():
    assert benchmark.by_chunk([1.0, 2.0, 4.0, 8.0], 3) == [3.0, 4.0, 8.0]
    assert benchmark.by_chunk([1.0, 2.0], 1) == [1.0, 2.0]
    assert benchmark.by_chunk([1.0], 3) == [1.0]


def test_attention_is_counted_by_the_waves_that_it_needs():
    """444 blocks of queries are four waves of 132 processors, in halves 888 are seven; and each block begins once."""
    card, keys = work.CARDS["H100"], torch.empty(1, 12, 14040, 128, device="meta", dtype=torch.bfloat16)
    chunk, taken = keys[:, :, :4680], []
    for call in (lambda: F.scaled_dot_product_attention(chunk, keys, keys), lambda: in_halves(chunk, keys, keys)):
        with work.Work(card) as counted:
            call()
        flop, _, launches, seconds = counted.parts["", work.ATTENTION]
        assert (flop, launches) == (4 * 12 * 4680 * 14040 * 128, 1)
        taken.append(seconds * card.attention / flop)
    assert taken == pytest.approx([528 / 444 * (1 + 128 / 14040), 924 / 888 * (1 + 128 / 7020)])


def test_the_full_model_is_counted_for_a_card(capsys, monkeypatch):
    """A shot of three chunks in two steps, against the sums in closed form, and what a compiler saves."""
    wan = PRESETS["wan-1.3b"]
    settings = load_settings(wan).changed({"shot_frames": 33, "steps": [1000, 500]})
    configs = read_configs(wan, download=False)
    figures = [work.count_shot(configs, settings, compiled=compiled) for compiled in (False, True)]
    frame, width, ffn, layers = 30 * 52, 1536, 8960, 30
    tokens = frame * (6 + 3 * (3 * 2 + 2))  # the context, two steps a chunk, clean passes but the last
    keys = [6 * 6] + [3 * (6 + 3 * (chunk + 1)) * (2 + (chunk < 2)) for chunk in range(3)]
    unread = [6 * 6] + [3 * (6 + 3 * (chunk + 1)) for chunk in range(2)]
    for counted in figures:
        parts = counted["parts"]
        linear = 2 * layers * tokens * (6 * width**2 + 2 * width * ffn)
        assert parts["transformer: linear layers"]["flop"] == pytest.approx(linear, rel=0.03)
        attention = 4 * layers * width * (frame**2 * sum(keys) + tokens * 512)
        attention -= 4 * width * (frame**2 * sum(unread) + frame * (6 + 2 * 3) * 512)  # the last block only remembers
        assert parts["transformer: attention"]["flop"] == pytest.approx(attention, rel=1e-6)
        assert parts["codec: convolutions"]["flop"] == pytest.approx((4.35 + 8 * 13.55) * 1e12, rel=0.02)
        seconds = sum(part["seconds"] for part in parts.values())
        assert counted["fps"] == pytest.approx(33 / seconds) and 0 < counted["first_frame_seconds"] < seconds / 2
    whole = work.count_shot(configs, load_settings(wan), compiled=True)  # what is asked of an H100
    assert whole["transformer_fps"] >= 34 and whole["fps"] >= 24
    assert whole["codec_seconds"] <= 1 and whole["first_frame_seconds"] <= 0.3
    decode = partial(work._decode, configs, settings, work.CARDS["H100"], False)
    exact, tiny = (sum(n for (*_, index), n in decode(which)[0].items() if index == 0) for which in (False, True))
    assert tiny == pytest.approx(exact / 25, rel=0.2)
    for component in ("transformer", "codec"):
        plain, fused = (counted["parts"][f"{component}: everything else"] for counted in figures)
        assert fused["bytes"] < 0.5 * plain["bytes"] and fused["launches"] < 0.6 * plain["launches"]
    monkeypatch.setattr(work, "count_shot", lambda *asked: figures[asked[-2]])
    assert main(["benchmark", "--preset", "wan-1.3b", "--count", "--compile"]) == 0
    out = capsys.readouterr().out
    assert "on H100, compiled, counted and not measured" in out and "codec: convolutions" in out
    assert main(["benchmark", "--count", "--card", "abacus"]) == 2
    for idle in (["--float8"], ["--shots", "3"], ["--random-weights"], ["--device", "cpu"], ["--weights", "base"]):
        assert main(["benchmark", "--count", *idle]) == 2
        assert f"{idle[0]} does nothing with --count" in capsys.readouterr().err
    assert main(["benchmark", "--card", "A100"]) == 2 and "without --count" in capsys.readouterr().err
