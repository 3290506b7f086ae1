"""The full model's files: what is released loads exactly and is converted once, what is wrong or missing is named."""

import json
import os
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import peft
import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from released_folder import CHECKPOINTS, COMPONENTS, WEIGHTS, write_release
from torch import nn

from shotstream_lite.attention import backend_in_use
from shotstream_lite.cli import main
from shotstream_lite.errors import CheckpointError
from shotstream_lite.film import read_film
from shotstream_lite.models import placement, released
from shotstream_lite.models.convert import merge_lora
from shotstream_lite.models.folder import PRESETS, load_text, load_transformer, model_folder, weights_in
from shotstream_lite.models.placement import Plan
from shotstream_lite.models.settings import load_settings
from shotstream_lite.pipeline import ShotStreamPipeline, load_pipeline
from shotstream_lite.session import StorySession

WAN = PRESETS["wan-1.3b"]
SMALL = {"height": 32, "width": 48, "shot_frames": 5}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    return folder, write_release(folder)


@pytest.fixture
def models(release, tmp_path, monkeypatch) -> Path:
    """A copy of both repositories that may be damaged, and an empty cache."""
    folder = Path(shutil.copytree(release[0], tmp_path / "models"))
    monkeypatch.setenv("SHOTSTREAM_MODELS", str(folder))
    monkeypatch.setenv("SHOTSTREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return folder


def complaint(work, *arguments) -> str:
    with pytest.raises(CheckpointError) as caught:
        work(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def told(pipeline: ShotStreamPipeline) -> np.ndarray:
    session = StorySession(pipeline, "A story about a red ball.", seed=1, settings=SMALL)
    for number in range(2):
        for _ in session.next_shot(f"Wide shot {number}: the red ball jumps."):
            pass
    return session.film()


def test_settings_are_the_released_ones():
    settings = load_settings(WAN)
    assert (settings.height, settings.width, settings.shot_frames, settings.fps) == (480, 832, 81, 16)
    assert (settings.chunk, settings.budget, settings.steps) == (3, 6, (1000, 740, 500, 260))
    assert (settings.shift, settings.phase, settings.text_tokens) == (8.0, 1 / 6, 512)
    assert settings.guidance == 6.0 and settings.negative_prompt
    assert load_settings(PRESETS["toybox"]).guidance == 2.0


@pytest.mark.parametrize("weights", [*CHECKPOINTS, "base"])
def test_every_weight_arrives(models, release, weights):
    loaded = load_transformer(WAN, weights)
    saved = release[1][weights]
    assert weights in weights_in(WAN) and loaded.state_dict().keys() == saved.keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in loaded.state_dict().items())
    assert not any(tensor.is_meta for tensor in (*loaded.parameters(), *loaded.buffers()))
    stock = WanTransformer3DModel.from_config(loaded.config).eval()
    stock.load_state_dict(saved)
    latents, text = torch.randn(1, 16, 2, 4, 6), torch.randn(1, 5, 16)
    with torch.no_grad():  # also the rotary tables, which no checkpoint holds
        ours, theirs = (model(latents, torch.tensor([500]), text).sample for model in (loaded, stock))
    torch.testing.assert_close(ours, theirs)


def test_a_whole_film_from_the_released_files(models):
    """The same film as from diffusers' own reading of the folder `shotstream convert` writes."""
    film = told(load_pipeline("wan-1.3b"))
    assert film.shape == (10, 32, 48, 3) and film.std() > 1
    assert main(["convert", "wan-1.3b", "whole", "--weights", "student", "teacher"]) == 0
    stock = WanPipeline.from_pretrained("whole")
    ours = load_pipeline("whole")
    assert stock.vae.config.z_dim == 16 and stock.scheduler.config.flow_shift == 3.0
    for mine, theirs in ((ours.transformer, stock.transformer), (ours.text.text_encoder, stock.text_encoder)):
        theirs = theirs.state_dict()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.state_dict().items())
    assert np.array_equal(told(ours), film)
    assert "teacher" in weights_in(Path("whole"))


def test_every_way_of_loading_gives_a_device_its_ways(models, monkeypatch):
    """The meta device stands for a GPU: a fast backend for every transformer, and the codec in channels-last layout."""
    monkeypatch.setattr(placement, "fast_backend", lambda device: "math")
    for load in (ShotStreamPipeline.from_pretrained, load_pipeline):
        pipeline = load("wan-1.3b", device="meta")
        for weights in ("student", "causal-init"):
            assert backend_in_use(pipeline.with_weights(weights).transformer) == "math"
        convolutions = [m for m in pipeline.codec.vae.modules() if isinstance(m, nn.Conv3d)]
        assert all(m.weight.is_contiguous(memory_format=torch.channels_last_3d) for m in convolutions)


def test_a_plan_is_followed_by_every_way_of_loading(models, calls):
    arranged, transformers, plan = calls(placement, "arrange"), calls(placement, "arrange_transformer"), Plan(True, 2)
    for load in (ShotStreamPipeline.from_pretrained, load_pipeline):
        pipeline = load("wan-1.3b", plan=plan)
        assert pipeline.codec.tiles == 2 and any(b._forward_pre_hooks for b in pipeline.text.text_encoder.encoder.block)
        assert pipeline.with_weights("causal-init").transformer is transformers[-1][0]
    assert [args[-1] for args in arranged] == [plan] * 2 and [args[-1] for args in transformers] == [plan] * 4


def test_the_teacher_is_guided_away_from_the_negative_prompt(models, monkeypatch):
    pipeline = load_pipeline("wan-1.3b", "teacher")
    pipeline.sampling_steps = 2
    read = []
    encode = pipeline.text._one
    monkeypatch.setattr(pipeline.text, "_one", lambda captions: read.extend(captions) or encode(captions))
    told(pipeline)
    assert pipeline.settings.negative_prompt in read


def test_the_command_tells_and_says_where_files_are_missing(models, capsys):
    Path("story.json").write_text(json.dumps({"global_caption": "A red ball.", "shot1": "It jumps."}), encoding="utf-8")
    options = ["--preset", "wan-1.3b", "--height", "32", "--width", "48", "--frames", "5", "-o", "film.mp4"]
    assert main(["tell", "story.json", *options]) == 0
    assert len(read_film("film.mp4")) == 5
    (models / WEIGHTS / "shotstream_merged.pt").unlink()
    capsys.readouterr()
    assert main(["tell", "story.json", *options]) == 2
    assert "shotstream_merged.pt is missing" in capsys.readouterr().err


def test_a_checkpoint_is_converted_once(models, calls):
    conversions = calls(released, "convert_transformer")
    for _ in range(2):
        load_transformer(WAN)
    assert len(conversions) == 1
    file = models / WEIGHTS / "shotstream_merged.pt"
    os.utime(file, ns=(1, 1))  # another file of that name
    load_transformer(WAN)
    assert len(conversions) == 2
    assert len(list(released.cache_folder().iterdir())) == 2  # nothing half done is left


class Trap:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("ran"),)


def drop(state):
    del state["generator"]["model.head.head.bias"]


def misshape(state):
    state["generator"]["model.patch_embedding.bias"] = torch.zeros(7)


def rename(state):
    state["weights"] = state.pop("generator")


def trap(state):
    state["trap"] = Trap()


@pytest.mark.parametrize(
    ("damage", "words"),
    [(drop, "missing: proj_out.bias"), (misshape, "is [7], not [24]"), (rename, "is no tensor"), (trap, "cannot be")],
)
def test_a_wrong_checkpoint_is_named_and_leaves_nothing(models, damage, words):
    file = models / WEIGHTS / "shotstream_merged.pt"
    state = torch.load(file, weights_only=True)
    damage(state)
    torch.save(state, file)
    message = complaint(load_transformer, WAN)
    assert message.startswith(str(file)) and words in message
    assert not Path("ran").exists() and not released.cache_folder().exists()


def test_all_missing_files_are_named_at_once(models):
    shard = next((models / COMPONENTS / "text_encoder").glob("model-00002-*.safetensors"))
    shard.unlink()
    (models / COMPONENTS / "vae" / "config.json").unlink()
    (models / WEIGHTS / "shotstream_merged.pt").unlink()
    message = complaint(model_folder, "wan-1.3b")
    for name in ("vae/config.json", f"text_encoder/{shard.name}", "shotstream_merged.pt"):
        assert name in message
    for repository in ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "KlingTeam/ShotStream"):
        folder = models / repository.split("/")[1]
        assert f"hf download {repository} --local-dir {folder.as_posix()}" in message


def test_shards_are_read_one_by_one_and_a_bad_index_is_named(models):
    encoder, _ = load_text(WAN)
    assert encoder.shared.weight is encoder.encoder.embed_tokens.weight
    index = models / COMPONENTS / "text_encoder" / "model.safetensors.index.json"
    assert len(list(index.parent.glob("model-*.safetensors"))) > 1
    index.write_text("{}")
    assert complaint(load_text, WAN).startswith(f"{index}: is no index")


def test_the_hub_is_asked_only_for_what_its_cache_lacks(models, monkeypatch):
    monkeypatch.delenv("SHOTSTREAM_MODELS")
    asked = []

    def snapshot_download(repository, allow_patterns, local_files_only, revision):
        assert revision is None or len(revision) == 40
        asked.append((repository, local_files_only))
        return str(models / repository.split("/")[1])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    model_folder("wan-1.3b")
    assert asked == [("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", True), ("KlingTeam/ShotStream", True)]
    asked.clear()
    (models / WEIGHTS / "shotstream_merged.pt").unlink()
    message = complaint(model_folder, "wan-1.3b")
    assert asked[1:] == [("KlingTeam/ShotStream", True), ("KlingTeam/ShotStream", False)]
    assert message.startswith(
        "KlingTeam/ShotStream: shotstream_merged.pt is missing: go online, or put it into FOLDER/"
    )


def test_offline_says_what_to_do(monkeypatch):
    def snapshot_download(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.delenv("SHOTSTREAM_MODELS", raising=False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    message = complaint(model_folder, "wan-1.3b")
    assert "text_encoder/model.safetensors" in message and "shotstream_merged.pt is missing" in message
    assert "cannot be fetched (no route)" in message and "set SHOTSTREAM_MODELS=FOLDER" in message


def test_a_merged_lora_is_what_peft_merges():
    """Keys and sums as peft has them, with the released configuration: alpha is the rank."""
    torch.manual_seed(0)
    wan = nn.ModuleDict({"blocks": nn.ModuleList([nn.ModuleDict({"ffn": nn.Sequential(nn.Linear(4, 6))})])})
    base = {f"model.{name}": tensor.clone() for name, tensor in wan.state_dict().items()}
    adapted = peft.get_peft_model(wan, peft.LoraConfig(r=2, lora_alpha=2, target_modules=["blocks.0.ffn.0"]))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    checkpoint = {"generator_lora": dict(peft.get_peft_model_state_dict(adapted)), "critic_lora": {}, "step": 3}
    merged = merge_lora(base, checkpoint)
    theirs = adapted.merge_and_unload().state_dict()
    assert merged.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(merged[name], tensor)
    assert not torch.equal(merged["blocks.0.ffn.0.weight"], base["model.blocks.0.ffn.0.weight"])
    del checkpoint["generator_lora"]["base_model.model.blocks.0.ffn.0.lora_A.weight"]
    assert "blocks.0.ffn.0" in complaint(merge_lora, base, checkpoint)
    assert "generator_lora" in complaint(merge_lora, base, {"generator": {}})


def test_convert_writes_one_transformer_with_a_lora(models, release, capsys):
    lora = {f"base_model.model.blocks.1.self_attn.q.lora_{part}.weight": torch.randn(*size) for part, size in AB}
    torch.save({"generator_lora": lora, "critic_lora": lora, "step": 1}, "lora.pt")
    source, config = models / WEIGHTS / CHECKPOINTS["student"], models / COMPONENTS / "transformer" / "config.json"
    command = ["convert", str(source), "out", "--config", str(config), "--lora", "lora.pt"]
    assert main(command) == 0
    stock = WanTransformer3DModel.from_pretrained("out").state_dict()
    for name, tensor in release[1]["student"].items():
        changed = name == "blocks.1.attn1.to_q.weight"
        torch.testing.assert_close(stock[name], tensor + lora_b(lora) @ lora_a(lora) if changed else tensor)
    capsys.readouterr()
    assert main(command) == 2 and "out: is there already" in capsys.readouterr().err
    assert main(["convert", "toybox", "new"]) == 2 and "diffusers' format already" in capsys.readouterr().err
    assert main(["convert", str(source), "new"]) == 2 and "misshapen" in capsys.readouterr().err
    assert not Path("new").exists()


AB = (("A", (3, 24)), ("B", (24, 3)))


def lora_a(lora):
    return next(tensor for name, tensor in lora.items() if "lora_A" in name)


def lora_b(lora):
    return next(tensor for name, tensor in lora.items() if "lora_B" in name)
