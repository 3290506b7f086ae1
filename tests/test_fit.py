"""Fit: memory is counted from the model itself, the fastest way that fits is taken, and every way tells the same."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import build_transformer

from shotstream_lite import fit
from shotstream_lite.convert import CheckpointError
from shotstream_lite.fit import PLANS, Fit, Plan, choose, default_device, let_linears_wait, load_parts, read_configs
from shotstream_lite.memory import GIB, LiveBytes, count, count_decoding
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.presets import PRESETS, StreamSettings, load_settings
from shotstream_lite.rollout import begin_shot
from shotstream_lite.session import StorySession
from shotstream_lite.text import CaptionEncoder

WAN = PRESETS["wan-1.3b"]


@pytest.fixture(scope="module")
def full():
    """What the full model needs, and its decoder in tiles."""
    configs, settings = read_configs(WAN, download=False), load_settings(WAN)
    need = count(configs, settings, torch.bfloat16)
    return need, count_decoding(configs, settings, torch.bfloat16, 2)


@pytest.fixture
def counted(full, monkeypatch):
    """The full model, counted once for all tests; smaller pictures take as much less as they have fewer pixels."""

    def share(settings: StreamSettings) -> float:
        return settings.height * settings.width / (480 * 832)

    def count(configs, settings, dtype):
        need, part = full[0], share(settings)
        shot = ("caches", "context", "chunk", "features", "decode")
        return replace(need, **{name: int(getattr(need, name) * part) for name in shot})

    monkeypatch.setattr(fit, "count", count)
    tiled = lambda configs, settings, dtype, tiles: [int(n * share(settings)) for n in full[1]]  # noqa: E731
    monkeypatch.setattr(fit, "count_decoding", tiled)
    monkeypatch.setattr(fit, "read_configs", lambda folder, download: read_configs(folder, download=False))


def test_live_bytes_are_counted_while_tensors_live():
    with LiveBytes() as counted:
        a = torch.empty(100, device="meta")
        b = (a + 1) * 2  # a, the sum and the product at once
        assert (counted.live, counted.peak) == (800, 1200)
        view = b.view(10, 10)
        del a, b
        assert counted.live == 400 and view.shape == (10, 10)
        assert counted.take_peak() == 800 and counted.take_peak() == 0


def test_the_full_model_is_counted(full):
    need, (features, decode) = full
    frame, width, layers = 30 * 52, 1536, 30
    keys = 2 * layers * (6 + 21) * frame * width * 2 + 2 * layers * 512 * width * 2  # both memories, one caption's keys
    assert keys < need.caches < 1.02 * keys
    assert 1.41e9 < need.transformer / 2 < 1.43e9 and 0.97 < need.linears / need.transformer < 1
    assert need.text == 2 * 5_680_910_336 and need.codec == 2 * 126_892_531
    assert features < need.features / 2 and decode < need.decode / 2


def test_the_caches_counted_are_the_caches_made():
    """A real shot's tensors have the bytes that were counted on the meta device."""
    model = build_transformer(in_channels=16, out_channels=16)
    configs = read_configs(WAN, download=False) | {"transformer": dict(model.config)}
    configs["vae"] |= {"base_dim": 4, "num_res_blocks": 1}
    configs["text_encoder"] |= {"num_layers": 1, "d_model": 8, "d_ff": 8, "vocab_size": 9, "num_heads": 1, "d_kv": 8}
    settings = StreamSettings(height=32, width=48, shot_frames=13, text_tokens=5)
    need = count(configs, settings, torch.float32)
    inputs = torch.zeros(1, 16, 6, 4, 6), torch.zeros(1, 7, 5, 10)
    cache = begin_shot(model, inputs[0], [0] * 6, 1, inputs[1], 4, caption_ids=list(range(7)))
    held = (*cache.keys, *cache.values, *cache.captions.keys, *cache.captions.values, cache.table, *inputs)
    made = sum(tensor.untyped_storage().nbytes() for tensor in held)
    assert made <= need.caches <= 1.05 * made


@pytest.mark.parametrize(
    ("free", "plan"),
    [(44, Plan()), (23.5, Plan("visits")), (14.3, Plan("visits", 2)), (13, Plan("cpu", 2)), (11.2, PLANS[-1])],
)
def test_the_fastest_plan_that_fits_is_taken_and_said(counted, monkeypatch, free, plan):
    monkeypatch.setattr(fit, "free_bytes", lambda device: free * GIB)
    taken = choose("wan-1.3b", "cuda", download=False)
    assert taken.plan == plan and taken.bytes <= free * GIB
    line = taken.line("wan-1.3b", "cuda")
    assert f"needs {taken.bytes / GIB:.1f} GiB, {free:.1f} are free" in line
    assert ("comes only to encode" in line) == (plan.text == "visits")
    assert ("one by one" in line) == plan.linears_wait and ("2 x 2 tiles" in line) == (plan.tiles == 2)


def test_too_little_memory_is_advice(counted, monkeypatch):
    monkeypatch.setattr(fit, "free_bytes", lambda device: 7 * GIB)
    with pytest.raises(CheckpointError, match="480 x 832, 7.0 are free: take --height (\\d+) --width (\\d+)") as caught:
        choose("wan-1.3b", "cuda", download=False)
    words = str(caught.value).split()
    sides = {side: int(words[words.index(f"--{side}") + 1].rstrip(",")) for side in ("height", "width")}
    assert all(size % 16 == 0 for size in sides.values())
    assert choose("wan-1.3b", "cuda", sides, download=False).bytes <= 7 * GIB  # the advice works
    monkeypatch.setattr(fit, "free_bytes", lambda device: 1 * GIB)
    with pytest.raises(CheckpointError, match="close what else uses it, or take another device"):
        choose("wan-1.3b", "cuda", download=False)


def test_a_small_model_is_not_counted(monkeypatch):
    monkeypatch.setattr(fit, "count", None)
    assert choose("toybox") == Fit(Plan())
    assert default_device(load_settings(PRESETS["toybox"])) == "cpu"


def test_eight_bits_halve_the_linear_layers_and_are_said(counted, monkeypatch):
    monkeypatch.setattr(fit, "free_bytes", lambda device: 44 * GIB)
    plain, kept = (choose("wan-1.3b", "cuda", download=False, float8=float8) for float8 in (False, True))
    assert kept.plan == Plan(float8=True) and plain.plan == Plan()
    assert kept.bytes == plain.bytes - plain.need.linears // 2
    assert "eight bits" in kept.line("wan-1.3b", "cuda") and "eight bits" not in plain.line("wan-1.3b", "cuda")


def test_eight_bits_tell_nearly_the_same_film(model_folder, pipeline):
    kept = ShotStreamPipeline.from_pretrained(model_folder, plan=Plan(float8=True))
    linear = kept.transformer.blocks[0].ffn.net[2]
    assert linear.weight.dtype == fit.FLOAT8 and kept.transformer.dtype == torch.float32
    whole, rounded = film(pipeline).astype(float), film(kept).astype(float)
    assert 0 < np.abs(whole - rounded).mean() < 0.2 * whole.std()


def film(pipeline: ShotStreamPipeline) -> np.ndarray:
    session = StorySession(pipeline, "A story about a red ball.", seed=1, settings={"shot_frames": 5})
    for _ in range(2):
        list(session.next_shot("Wide shot: the red ball jumps."))
    return session.film()


def test_every_way_tells_the_same_film(model_folder, pipeline, tmp_path):
    settings, expected = load_settings(model_folder), film(pipeline)
    for plan in (Plan(), Plan("visits"), Plan("cpu")):
        parts = load_parts(model_folder, "student", "cpu", plan)
        assert np.array_equal(film(ShotStreamPipeline(*parts, settings)), expected)
    let_linears_wait(parts[0], "cpu", tmp_path)  # on the disk: where there is no GPU that shows that layers do come
    linear = parts[0].blocks[0].attn1.to_q
    linear.weight.data.fill_(torch.nan)
    assert any(tmp_path.iterdir())
    assert np.array_equal(film(ShotStreamPipeline(*parts, settings)), expected)


def test_a_text_encoder_visits_only_for_new_captions(pipeline, monkeypatch):
    text = pipeline.text
    visiting = CaptionEncoder(text.text_encoder, text.tokenizer, text.length, deliver="cpu", visit=True)
    moves = []
    monkeypatch.setattr(visiting, "_move", lambda device: moves.append(str(device)))
    captions = ["the red ball jumps", "the blue box waves"]
    assert torch.equal(visiting(captions), text(captions)) and moves == ["cpu", "cpu"]
    visiting(captions[::-1])
    assert len(moves) == 2
    with pytest.raises(ValueError, match="shorten it"):
        visiting(["the red ball jumps " * 40])
    assert len(moves) == 4  # home again whatever happens


def test_the_configurations_of_the_full_model_are_a_folder_without_weights(tmp_path):
    folder = Path(shutil.copytree(WAN, tmp_path / "wan"))
    assert not list(folder.rglob("*.safetensors"))
    configs = read_configs(folder, download=False)
    assert configs["transformer"]["num_layers"] == 30 and configs["vae"]["z_dim"] == 16
    assert json.loads((folder / "released.json").read_text())["weights"] == "KlingTeam/ShotStream"
