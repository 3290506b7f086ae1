"""The recipe of the toybox, rehearsed: every stage from the codec on, a step or two each, at tiny sizes."""

import json

import pytest
import torch

from shotstream_lite.commands.train import main as train_main
from shotstream_lite.models.folder import PRESETS
from shotstream_lite.toybox import dataset
from shotstream_lite.toybox.probe import PROBE_FILE, load_probe
from shotstream_lite.training import codec, decoders, probe, text

TINY = ["--steps", "1", "--sample-every", "0"]
SHOTS = [*TINY, "--batch", "2", "--lengths", "3", "6", "--budget", "2"]
NARROW = ["--base-dim", "4", "--wide-channels", "8", "--channels", "6"]
STAGES = {
    "codec": [*TINY, "--frame-steps", "0", "--shots", "96", *NARROW],
    "films": ["--stories", "2", "--budgets", "2"],
    "text": ["--steps", "1", "--batch", "1"],
    "base": [*TINY, "--image-steps", "0", "--batch", "2", "--lengths", "3", "6", "--heads", "2", "--layers", "2"],
    "teacher": [*SHOTS, "--image-batch", "2"],
    "causal-init": SHOTS,
    "intra-shot": SHOTS,
    "inter-shot": [*SHOTS, "--steps", "3", "--shots", "5", "--lora-rank", "2"],
    "decoder": [*TINY, "--shots", "4"],
    "probe": [*TINY, "--batch", "2"],
}


@pytest.fixture
def small_world(monkeypatch):
    """Short shots."""
    monkeypatch.setattr(codec, "BATCHES", {5: 1})
    monkeypatch.setattr(probe, "accuracy", lambda *_: {})
    monkeypatch.setattr(text, "HELD_OUT", 1)
    for stage in (codec, decoders):
        monkeypatch.setattr(stage, "film_pool", lambda shots, seed: dataset.film_pool(shots, seed, 5))
    monkeypatch.setattr(dataset, "LENGTHS", (9, 17, 25))
    remembering = dataset.lengths_of, dataset._shown
    for memory in remembering:
        memory.cache_clear()
    yield
    for memory in remembering:
        memory.cache_clear()


def test_every_stage_runs_on_films(tmp_path, small_world):
    for stage, options in STAGES.items():
        assert train_main([stage, "--out", str(tmp_path), *options]) == 0
    films = dataset.load_films(tmp_path / "films")
    assert len(films) == 2 and films.channels == 6 and films.clip(0, 0).shape[-2:] == (8, 14)
    assert {clip.shape[1] for story in films.clips for clip in story} == {3, 5, 7}
    for stage in ("base", "teacher", "causal-init", "intra-shot", "inter-shot"):
        config = json.loads((tmp_path / stage / "config.json").read_text(encoding="utf-8"))
        assert config["num_layers"] == 2 and config["in_channels"] == 6
    load_probe(tmp_path / "probe" / "model.safetensors")


def test_a_probe_goes_on_from_another(tmp_path, monkeypatch):
    """--start acts: after a step of no length it is the one it began with, and a new one is not."""
    monkeypatch.setattr(probe, "accuracy", lambda _: {})
    shipped = load_probe(PROBE_FILE).state_dict()
    for start, same in ((PRESETS["toybox"], True), (None, False)):
        out = tmp_path / str(same)
        probe.train_probe(probe.ProbeConfig(out, start=start, steps=1, batch=1, lr=1e-12, sample_every=0))
        made = load_probe(out / probe.PROBE).state_dict()
        assert all(torch.allclose(made[name], shipped[name], atol=1e-4) for name in shipped) is same
