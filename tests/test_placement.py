"""Fit: memory is counted from the model itself, the fastest way that fits is taken, and every way tells the same."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from shotstream_lite.codec import to_frames
from shotstream_lite.errors import CheckpointError
from shotstream_lite.footage import Footage
from shotstream_lite.models import placement
from shotstream_lite.models.folder import PRESETS
from shotstream_lite.models.memory import GIB, LiveBytes, count, count_decoding, host_memory, outlines
from shotstream_lite.models.placement import (
    PLANS,
    Fit,
    Plan,
    choose,
    come_one_by_one,
    default_device,
    load_parts,
    read_configs,
)
from shotstream_lite.models.settings import StreamSettings, load_settings
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.session import StorySession

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
        shot = ("still", "caches", "context", "chunk", "features", "decode")
        return replace(need, **{name: int(getattr(need, name) * part) for name in shot})

    monkeypatch.setattr(placement, "count", count)
    tiled = lambda configs, settings, dtype, tiles: [int(n * share(settings)) for n in full[1]]  # noqa: E731
    monkeypatch.setattr(placement, "count_decoding", tiled)
    monkeypatch.setattr(placement, "read_configs", lambda folder, download: read_configs(folder, download=False))


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/", {"memory.max": 900, "memory.current": 700, "memory.stat": "anon 5\ninactive_file 50"}, (250, 900)),
        ("0::/a/b", {"a/memory.max": 900, "a/memory.current": 1000, "a/memory.stat": "inactive_file 50"}, (0, 900)),
        ("0::/", {"memory.max": "max", "memory.current": 700, "memory.stat": ""}, None),
        (
            "5:cpu:/x\n4:memory,hugetlb:/x",
            {"memory/memory.limit_in_bytes": 900, "memory/memory.usage_in_bytes": 400, "memory/memory.stat": ""},
            (500, 900),
        ),
        (
            "4:memory:/",
            {"memory/memory.limit_in_bytes": 2**63 - 4096, "memory/memory.usage_in_bytes": 4, "memory/memory.stat": ""},
            None,
        ),
        ("", {}, None),
    ],
)
def test_the_memory_of_a_container_is_what_its_group_may_have(tmp_path, own, files, expected):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    (tmp_path / "own").write_text(own + "\n" * bool(own))
    free, total = host_memory(tmp_path, tmp_path / "own")
    machine = psutil.virtual_memory().total
    assert (free, total) == expected if expected else total == machine and free > 900


def test_small_pictures_take_one_thread_on_a_cpu_unless_the_user_chose(model_folder, monkeypatch):
    before = torch.get_num_threads()
    try:
        for chosen, threads in (("3", 3), (None, 1)):
            torch.set_num_threads(3)
            monkeypatch.setenv("OMP_NUM_THREADS", chosen) if chosen else monkeypatch.delenv("OMP_NUM_THREADS", False)
            load_parts(model_folder, "student", "cpu", Plan())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


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
    assert need.layer == 2 * (4 * 4096**2 + 3 * 4096 * 10240 + 2 * 4096 + 32 * 64)
    assert features < need.features / 2 and decode < need.decode / 2
    assert need.chunk < 12 * 4680 * 42120 * 2  # attention keeps no table of scores


SMALL = {
    "transformer": {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 40, "text_dim": 32},
    "vae": {"base_dim": 4, "num_res_blocks": 1},
    "text_encoder": {"num_layers": 2, "d_model": 32, "d_ff": 64, "vocab_size": 9, "num_heads": 2, "d_kv": 16},
}


def test_the_worst_moment_of_a_story_is_counted():
    """All that lives while shots are told whose caption changes on the way and whose successor's is encoded beside."""
    full = read_configs(WAN, download=False)
    small = {part: full[part] | SMALL[part] for part in SMALL}
    settings = StreamSettings(height=64, width=96, shot_frames=21, text_tokens=16)
    transformer, codec, encoder = outlines(small, torch.float32)

    def text(captions):
        tokens = torch.zeros(len(captions), settings.text_tokens, dtype=torch.long, device="meta")
        return encoder(tokens).last_hidden_state

    pipeline = ShotStreamPipeline(transformer, codec, text, settings)
    pipeline._still = lambda footage, frame: codec.encode_frames(torch.empty(1, 3, 64, 96, device="meta"))[0]
    turn = lambda cache, frame: f"turned at {frame}" if frame else None  # noqa: E731
    with torch.inference_mode(), LiveBytes() as counted:
        past, decoder, kept = [Footage(None, 0, 25, 64, 96)], codec.stream(), []
        for latents in pipeline.latents(["a", "b"], past, 0, 6, settings, before=turn):
            kept.append(text(["what comes next"]))  # beside the chunk, and remembered
            mark = decoder.mark()  # a chunk that nobody saw may be made anew
            to_frames(decoder.decode(latents)[0].transpose(0, 1))
    del mark
    need = count(small, settings, torch.float32)
    assert 0.8 * need.working < counted.peak <= need.working


@pytest.mark.parametrize(
    ("free", "plan"),
    [(28, Plan()), (18, Plan(True)), (13, Plan(True, 2)), (10.4, PLANS[-1])],
)
def test_the_fastest_plan_that_fits_is_taken_and_said(counted, monkeypatch, free, plan):
    monkeypatch.setattr(placement, "free_bytes", lambda device: free * GIB)
    taken = choose("wan-1.3b", "cuda", download=False)
    assert taken.plan == plan and taken.bytes <= free * GIB
    line = taken.line("wan-1.3b", "cuda")
    assert f"needs {taken.bytes / GIB:.1f} GiB, {free:.1f} are free" in line
    assert ("encoder's layers come" in line) == plan.text_waits
    assert ("so do the transformer's" in line) == plan.linears_wait and ("2 x 2 tiles" in line) == (plan.tiles == 2)


def test_every_card_of_the_table_has_its_plan(counted):
    lines = placement.table("wan-1.3b").splitlines()
    assert [line.split(":")[0] for line in lines] == [f"{card} GB" for card in (12, 16, 24, 32, 80)]
    needs = [float(line.split("needs ")[1].split()[0]) for line in lines]
    assert all(need <= 0.95 * card for need, card in zip(needs, placement.CARDS, strict=True))
    assert needs == sorted(needs) and "come one by one" not in lines[-1]


def test_too_little_memory_is_advice(counted, monkeypatch):
    monkeypatch.setattr(placement, "free_bytes", lambda device: 7 * GIB)
    with pytest.raises(CheckpointError, match="480 x 832, 7.0 are free: take --height (\\d+) --width (\\d+)") as caught:
        choose("wan-1.3b", "cuda", download=False)
    words = str(caught.value).split()
    sides = {side: int(words[words.index(f"--{side}") + 1].rstrip(",")) for side in ("height", "width")}
    assert all(size % 16 == 0 for size in sides.values())
    assert choose("wan-1.3b", "cuda", sides, download=False).bytes <= 7 * GIB  # the advice works
    monkeypatch.setattr(placement, "free_bytes", lambda device: 1 * GIB)
    with pytest.raises(CheckpointError, match="close what else uses it, or take another device"):
        choose("wan-1.3b", "cuda", download=False)


def test_pictures_that_are_proposed_suit_the_codec(monkeypatch):
    """Here one of 16 pixels a latent and two latents a token: sides that divide by 32."""
    configs = {"vae": {"dim_mult": [1, 2, 4], "patch_size": 4}, "transformer": {"patch_size": (1, 2, 2)}}
    monkeypatch.setattr(placement, "_fitting", lambda *_: Fit(Plan()))
    advice = placement._smaller(configs, StreamSettings(height=480, width=832), "cuda", 0, False)
    assert advice.startswith("take --height 384 --width 672,")


def test_a_small_model_is_not_counted(monkeypatch):
    monkeypatch.setattr(placement, "count", None)
    assert choose("toybox") == Fit(Plan())
    assert default_device(load_settings(PRESETS["toybox"])) == "cpu"


def test_eight_bits_halve_the_linear_layers_and_are_said(counted, monkeypatch):
    monkeypatch.setattr(placement, "free_bytes", lambda device: 79 * GIB)
    plain, kept = (choose("wan-1.3b", "cuda", download=False, float8=float8) for float8 in (False, True))
    assert kept.plan == Plan(float8=True) and plain.plan == Plan()
    assert kept.bytes == plain.bytes - plain.need.linears // 2
    assert "eight bits" in kept.line("wan-1.3b", "cuda") and "eight bits" not in plain.line("wan-1.3b", "cuda")


def test_eight_bits_tell_nearly_the_same_film(model_folder, pipeline):
    kept = ShotStreamPipeline.from_pretrained(model_folder, plan=Plan(float8=True))
    linear = kept.transformer.blocks[0].ffn.net[2]
    assert linear.weight.dtype == placement.FLOAT8 and kept.transformer.dtype == torch.float32
    whole, rounded = film(pipeline).astype(float), film(kept).astype(float)
    assert 0 < np.abs(whole - rounded).mean() < 0.2 * whole.std()


def film(pipeline: ShotStreamPipeline) -> np.ndarray:
    session = StorySession(pipeline, "A story about a red ball.", seed=1, settings={"shot_frames": 5})
    for _ in range(2):
        list(session.next_shot("Wide shot: the red ball jumps."))
    return session.film()


@pytest.mark.parametrize("plan", [Plan(), Plan(text_waits=True), PLANS[-1]], ids=str)
def test_every_way_tells_the_same_film(model_folder, pipeline, plan):
    parts = load_parts(model_folder, "student", "cpu", replace(plan, tiles=1))
    assert np.array_equal(film(ShotStreamPipeline(*parts, load_settings(model_folder))), film(pipeline))


def test_layers_come_only_while_they_are_called_and_are_home_whatever_happens():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    homes, away = [p.data_ptr() for p in layers.parameters()], []
    come_one_by_one(layers, "cpu")
    expected = layers(torch.ones(1, 4))
    for layer in layers:
        layer.register_forward_pre_hook(lambda module, args: away.append([p.data_ptr() for p in layers.parameters()]))
    with torch.inference_mode():
        assert torch.equal(layers(torch.ones(1, 4)), expected)
    assert [[a == b for a, b in zip(there, homes, strict=True)] for there in away] == [
        [False, False, True, True],
        [True, True, False, False],
    ]
    layers[1].forward = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        layers(torch.ones(1, 4))
    assert [p.data_ptr() for p in layers.parameters()] == homes
    assert not any(p.is_inference() for p in layers.parameters())


def test_the_configurations_of_the_full_model_are_a_folder_without_weights(tmp_path):
    folder = Path(shutil.copytree(WAN, tmp_path / "wan"))
    assert not list(folder.rglob("*.safetensors"))
    configs = read_configs(folder, download=False)
    assert configs["transformer"]["num_layers"] == 30 and configs["vae"]["z_dim"] == 16
    assert json.loads((folder / "released.json").read_text())["weights"] == "KlingTeam/ShotStream"
