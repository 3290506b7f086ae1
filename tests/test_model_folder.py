"""Model folders: what fits loads exactly, what does not is one line that names the file and how to fix it."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shotstream_lite.errors import CheckpointError, StoryError
from shotstream_lite.models.convert import read_checkpoint
from shotstream_lite.models.folder import load_codec, load_text, load_transformer
from shotstream_lite.models.folder import model_folder as find_model
from shotstream_lite.models.settings import StreamSettings, load_settings, save_settings

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(model_folder, tmp_path) -> Path:
    """A model folder that may be damaged."""
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def load_all(folder: Path) -> None:
    load_settings(folder), load_transformer(folder), load_codec(folder), load_text(folder)


def complaint(load, *args) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_weight_arrives(model_folder):
    saved = load_file(model_folder / WEIGHTS)
    transformer = load_transformer(model_folder)
    assert transformer.state_dict().keys() == saved.keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in transformer.state_dict().items())
    for model in (transformer, load_codec(model_folder), load_text(model_folder)[0]):
        assert not model.training and not any(p.requires_grad or p.is_meta for p in model.parameters())


def test_half_precision_is_read_as_float32(copy):
    state = {name: tensor.half() for name, tensor in load_file(copy / WEIGHTS).items()}
    save_file(state, copy / WEIGHTS)
    loaded = load_transformer(copy).state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in loaded.values())
    assert all(torch.equal(loaded[name], tensor.float()) for name, tensor in state.items())


def test_other_weights_lie_beside_the_student(copy):
    assert str(copy / "causal-init") in complaint(load_transformer, copy, "causal-init")
    shutil.copytree(copy / "transformer", copy / "causal-init")
    load_transformer(copy, "causal-init")
    message = complaint(load_transformer, copy, "studnet")
    assert message == "weights is 'studnet': choose one of student, intra-shot, causal-init, teacher, base"


def test_a_folder_is_a_model_if_it_has_settings(copy):
    assert find_model(copy) == copy
    message = complaint(find_model, "toybx")
    assert message.startswith("preset toybx: ") and "toybox" in message
    (copy / "stream.json").unlink()
    assert str(copy) in complaint(find_model, copy)


def test_settings_come_back(tmp_path):
    settings = StreamSettings(height=32, policy="first", steps=(1000, 500), phase=0.0)
    save_settings(settings, tmp_path)
    assert load_settings(tmp_path) == settings


def test_what_a_story_changes_is_what_it_saves():
    base, changes = StreamSettings(), {"width": 128, "steps": [1000, 250], "phase": 0}
    changed = base.changed(changes)
    assert base.changes(changed) == changes and json.loads(json.dumps(changes)) == changes
    assert base.changed(base.changes(changed)) == changed
    assert base.changes(base) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("height", 0),
        ("height", -64),
        ("width", "96"),
        ("width", True),
        ("width", 10**9),
        ("fps", 0),
        ("fps", 12.5),
        ("chunk", 0),
        ("chunk", None),
        ("budget", -1),
        ("budget", 10**6),
        ("shot_frames", 0),
        ("shot_frames", -5),
        ("shot_frames", 32),
        ("shot_frames", "33"),
        ("policy", "last"),
        ("policy", ["dynamic"]),
        ("phase", "1/6"),
        ("phase", float("nan")),
        ("phase", 10**400),
        ("shift", 0),
        ("shift", None),
        ("steps", []),
        ("steps", 4),
        ("steps", "1000"),
        ("steps", [740, 500]),
        ("steps", [1000, 1000]),
        ("steps", [1000, 0]),
        ("steps", [1000, "500"]),
        ("text_tokens", 32),  # the model's, not the story's
        ("preset", "toybox"),
    ],
)
def test_bad_settings_are_named(name, value):
    with pytest.raises(StoryError, match=rf"^settings: '?{name}'? is .*: write ") as caught:
        StreamSettings().changed({name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name, value", [("guidance", "strong"), ("negative_prompt", None), ("text_tokens", True)])
def test_bad_settings_of_the_model_are_named_each_by_itself(name, value):
    with pytest.raises(StoryError, match=rf"^settings: {name} is {value!r}: write "):
        StreamSettings(**{name: value})


@pytest.mark.parametrize(
    "file",
    [
        "stream.json",
        "transformer/config.json",
        WEIGHTS,
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
    ],
)
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "a folder", "something else"])
def test_damaged_files_are_named(copy, file, damage):
    path, content = copy / file, (copy / file).read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "gone":
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2]}.get(damage, b'["something", "else"]'))
    message = complaint(load_all, copy)
    assert message.startswith(str(path)) and message.count(": ") >= 2  # what, and how to fix it


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("stream.json", {"steps": "fast"}, "steps is 'fast'"),
        ("stream.json", {"colour": 1}, "'colour'"),
        ("transformer/config.json", {"num_layers": "six"}, "num_layers is 'six', not a whole number"),
        ("transformer/config.json", {"num_attention_heads": 5}, "misshapen"),
        ("text_encoder/config.json", {"d_model": None}, "d_model is None, not a whole"),
        ("vae/config.json", {"dim_mult": 3}, "dim_mult is 3, not a list"),
        ("tokenizer/tokenizer.json", {"model": {"type": "Magic"}}, "holds no tokenizer"),
    ],
)
def test_damaged_configurations_are_named(copy, file, change, words):
    path = copy / file
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    message = complaint(load_all, copy)
    assert str(path.parent) in message and words in message


def test_a_configuration_of_another_size_costs_no_memory(copy):
    """The defaults are Wan's 14B: the file is found not to fit before room for it is asked for."""
    (copy / "transformer" / "config.json").write_text("{}", encoding="utf-8")
    message = complaint(load_transformer, copy)
    assert str(copy / WEIGHTS) in message and "missing: " in message and "misshapen: " in message


def test_weights_that_do_not_fit_are_named(copy):
    state = load_file(copy / WEIGHTS)
    del state["proj_out.bias"]
    state |= {"proj_in.bias": torch.zeros(3), "patch_embedding.bias": torch.zeros(7)}
    save_file(state, copy / WEIGHTS)
    message = complaint(load_transformer, copy)
    assert message.startswith(f"{copy / WEIGHTS}: missing: proj_out.bias; extra: proj_in.bias; misshapen: patch_emb")
    assert message.endswith("is [7], not [64]: fetch the model folder again")


class Trap:
    """A pickle that writes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.bin", "model.safetensors"])
@pytest.mark.parametrize("save", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing, protocol=2))])
def test_code_in_a_pickle_does_not_run(tmp_path, name, save):
    save({"generator": Trap(tmp_path / "ran")}, tmp_path / name)
    assert complaint(read_checkpoint, tmp_path / name).startswith(f"{tmp_path / name}: cannot be read (")
    assert not (tmp_path / "ran").exists()


def test_weights_of_the_first_edition_are_refused(copy):
    """By what they are, whatever else lies beside them."""
    config = copy / "transformer" / "config.json"
    sizes = {"in_channels": 12, "out_channels": 12, "num_attention_heads": 4, "attention_head_dim": 32, "ffn_dim": 512}
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | sizes), encoding="utf-8")
    said = complaint(load_transformer, copy)
    assert said.startswith(f"{config}: in_channels is 12: weights of the miniature world's first edition, 64 x 96")
