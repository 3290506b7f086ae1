"""Bad weights, configurations and recorded numbers: each row is read as it is meant, or said in one line."""

import json
import os
import shutil
from argparse import Namespace
from pathlib import Path

import parity
import pytest
import torch
from conftest import GOLDEN
from released_folder import build_transformer, released_state
from safetensors.torch import load_file, save_file

from shotstream_lite.cli import main
from shotstream_lite.errors import ShotStreamError
from shotstream_lite.models.convert import convert_transformer
from shotstream_lite.models.folder import (
    PRESETS,
    load_codec,
    load_text,
    load_transformer,
    load_transformer_in,
    model_folder,
)
from shotstream_lite.models.placement import Plan, load_parts

MODEL = build_transformer(0)
CONFIG = dict(MODEL.config)
RELEASED = released_state(MODEL)  # Wan's names behind "model."
BARE = {name.removeprefix("model."): tensor for name, tensor in RELEASED.items()}
NAME = "blocks.0.ffn.0.weight"
NAN, INFINITE = float("nan"), float("inf")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5676070424\n"


def behind(prefix: str, state=BARE) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


def cast(dtype) -> dict:
    return {name: tensor.to(dtype) for name, tensor in BARE.items()}


def with_one(value, name=NAME) -> dict:
    return {**BARE, name: value}


def one(number: float) -> dict:
    tensor = BARE[NAME].clone()
    tensor[3, 4] = number
    return with_one(tensor)


def circle() -> dict:
    state: dict = {}
    state["model"] = state
    return state


READ = {
    "as released": ({"generator": RELEASED, "critic": RELEASED, "step": 5}, "c.pt"),
    "bare": (BARE, "c.pt"),
    "the average": ({"generator_ema": RELEASED}, "c.pt"),
    "state_dict": ({"state_dict": RELEASED}, "c.ckpt"),
    "model within module": ({"model": {"module": BARE}}, "c.bin"),
    "FSDP": ({"generator": behind("model._fsdp_wrapped_module.")}, "c.PT"),
    "DDP": ({"generator": behind("module.model.")}, "c.pth"),
    "compiled": ({"generator": behind("model._orig_mod.")}, "checkpoint"),
    "all at once": (behind("module._orig_mod._fsdp_wrapped_module.model."), "c.tar"),
    "ComfyUI": (behind("model.diffusion_model."), "c.safetensors"),
    "diffusers": (MODEL.state_dict(), "c.safetensors"),
    "diffusers behind transformer.": (behind("transformer.", MODEL.state_dict()), "c.safetensors"),
    "bfloat16": ({"generator": cast(torch.bfloat16)}, "c.pt"),
    "float16": (cast(torch.float16), "c.safetensors"),
    "float64": (cast(torch.float64), "c.pt"),
    "float8": ({k: v.to(torch.float8_e4m3fn) if v.ndim == 2 else v for k, v in BARE.items()}, "c.safetensors"),
    "safetensors under another name": (BARE, "c.safetensors.pt"),
}
REFUSED = {
    "a list": ([1, 2], "holds a list, not weights by name"),
    "a tensor": (torch.zeros(3), "holds a Tensor, not weights by name"),
    "None": (None, "holds a NoneType"),
    "no weights": ({"generator": None}, "entry 'generator' is no tensor"),
    "weights in a list": ({"generator": [torch.zeros(1)]}, "entry 'generator' is no tensor"),
    "numbers for names": ({1: torch.zeros(1)}, "entry 1 is no tensor"),
    "empty": ({}, "is empty"),
    "empty inside": ({"generator": {}}, "is empty"),
    "in a circle": (circle(), "entry 'model' is no tensor"),
    "a LoRA": ({"generator_lora": {"a": torch.zeros(1)}}, "a LoRA and no whole model"),
    "an object": ({"generator": BARE, "config": Namespace(a=1)}, "holds more than weights"),
    "scaled float8": (BARE | {"blocks.0.self_attn.q.scale_weight": torch.ones(1)}, "with scales beside them"),
    "NaN": (one(NAN), f"{NAME} holds NaN or infinity"),
    "infinity": ({"generator": behind("model.", one(-INFINITE))}, f"model.{NAME} holds NaN or infinity"),
    "too large": (with_one(BARE[NAME].double() * 1e300), f"{NAME} holds NaN or infinity"),
    "integers": (with_one(BARE[NAME].long()), f"{NAME} is int64: weights are dense floating-point"),
    "truth values": (with_one(BARE[NAME] > 0), "is bool: "),
    "complex": (with_one(BARE[NAME].to(torch.complex64)), "is complex64: "),
    "sparse": (with_one(BARE[NAME].to_sparse()), "is sparse_coo: "),
    "the same weight twice": (BARE | behind("model."), "are the same weight"),
    "missing": ({k: v for k, v in BARE.items() if k != NAME}, "missing: blocks.0.ffn.net.0.proj.weight"),
    "extra": (BARE | {"head.more": torch.zeros(1)}, "extra: head.more"),
    "misshapen": (with_one(torch.zeros(2, 2)), f"{NAME} is [2, 2], not [40, 24]"),
    "pointer.pt": (POINTER, "a git-lfs pointer and not the weights: run `git lfs pull`"),
    "pointer.safetensors": (POINTER, "a git-lfs pointer"),
    "page.pt": (b"\n<!DOCTYPE html><title>Sign in</title>", "a web page and not the weights"),
    "model.gguf": (b"GGUF\x03\0\0\0", "a GGUF file"),
    "nothing.pt": (b"", "cannot be read"),
    "noise.safetensors": (bytes(range(256)) * 4, "cannot be read"),
    "header.safetensors": (b"\xff\xff\0\0\0\0\0\0{", "cannot be read"),
    "text.pt": (b"no checkpoint at all", "cannot be read"),
}


@pytest.mark.parametrize("kind", READ)
def test_checkpoints_as_people_have_them_are_read(tmp_path, kind):
    content, name = READ[kind]
    save = save_file if "safetensors" in name else torch.save
    save(content, tmp_path / name)
    assert main(["convert", str(tmp_path / name), str(tmp_path / "out"), "--config", str(config_file(tmp_path))]) == 0
    made, tolerance = load_transformer_in(tmp_path / "out").state_dict(), 0.1 if "float8" in kind else 0.01
    for key, tensor in MODEL.state_dict().items():
        torch.testing.assert_close(made[key], tensor, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", REFUSED)
def test_other_files_are_called_what_they_are(tmp_path, kind):
    content, words = REFUSED[kind]
    path = tmp_path / (kind if "." in kind else "c.pt")
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    says(path, words, convert_transformer, path, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()


LORA = "base_model.model.blocks.1.self_attn.q.lora_{}.weight"


def lora(down, up) -> dict:
    return {"generator_lora": {LORA.format("A"): down, LORA.format("B"): up}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (BARE, "it has no 'generator_lora'"),
        ({"generator_lora": []}, "it has no 'generator_lora'"),
        ({"generator_lora": {"a": 1}}, "entry 'a' is no tensor"),
        ({"generator_lora": {1: torch.zeros(1)}}, "entry 1 is no tensor"),
        (lora(torch.zeros(3, 24), torch.zeros(24, 4)), "is it of this model?"),
        (lora(torch.zeros(24), torch.zeros(24)), "is it of this model?"),
        (lora(torch.tensor(1.0), torch.tensor(1.0)), "is it of this model?"),
        (lora(torch.zeros(3, 23), torch.zeros(24, 3)), "is it of this model?"),
        (lora(torch.full((3, 24), NAN), torch.zeros(24, 3)), "holds NaN"),
        (lora(torch.zeros(3, 24).long(), torch.zeros(24, 3)), "is int64"),
        ({"generator_lora": {LORA.format("A"): torch.zeros(3, 24)}}, "or the layer itself is missing"),
        ({"generator_lora": {"blocks.77.q.lora_A.weight": torch.zeros(3, 24)}}, "or the layer itself is missing"),
    ],
)
def test_bad_loras(tmp_path, content, words):
    torch.save(RELEASED, tmp_path / "base.pt"), torch.save(content, tmp_path / "lora.pt")
    paths = (tmp_path / "base.pt", tmp_path / "out")
    says(tmp_path / "lora.pt", words, convert_transformer, *paths, CONFIG, tmp_path / "lora.pt")


def says(place: Path, words: str, work, *arguments) -> None:
    """`work` complains in one line that begins with a place and has these words."""
    with pytest.raises(ShotStreamError) as caught:
        work(*arguments)
    message = str(caught.value)
    assert message.startswith(str(place)) and words in message and "\n" not in message, message


def config_file(folder: Path, **changes) -> Path:
    path = folder / "a_config.json"
    path.write_text(json.dumps(CONFIG | changes), encoding="utf-8")
    return path


def test_the_command_names_what_it_cannot_convert(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.pt"), os.mkfifo(tmp_path / "pipe.json"), os.mkfifo(tmp_path / "pipe")
    torch.save(BARE, tmp_path / "c.pt")
    good = config_file(tmp_path)
    wan = {"dim": 24, "num_heads": 0, "in_dim": 16, "out_dim": 16, "text_dim": 16, "freq_dim": 16, "ffn_dim": 40}
    (tmp_path / "wan.json").write_text(json.dumps(wan | {"num_layers": 2, "patch_size": [1, 2, 2]}))
    rows = [
        (["pipe.pt", "out", "--config", good], "pipe.pt: cannot be read (it is no regular file)"),
        (["pipe", "out"], "pipe: cannot be read (it is no regular file)"),
        (["c.pt", "out", "--config", "pipe.json"], "pipe.json: cannot be read (it is no regular file)"),
        (["c.pt", "out", "--config", good, "--lora", "pipe"], "pipe: cannot be read (it is no regular file)"),
        (["c.pt", "out", "--config", "wan.json"], "the Wan configuration has no 'cross_attn_norm'"),
        (["c.pt", "out", "--config", tmp_path / "c.pt"], "c.pt: "),
        (["gone.pt", "out"], "gone.pt: cannot be read (No such file"),
        (["toybxo", "out"], "preset toybxo: there is no model in toybxo"),
        (["toybox", "out"], "diffusers' format already"),
        (["wan-1.3b", "out", "--weights", "../student"], "weights is '../student', which is not released"),
        (["wan-1.3b", "out", "--weights", "intra-shot"], "weights is 'intra-shot', which is not released"),
        (["wan-1.3b", "out", "--config", good], "a preset has its own"),
    ]
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        for command, words in rows:
            assert main(["convert", *map(str, command)]) == 2
            line = capsys.readouterr().err
            assert words in line and line.count("\n") == 1, line
    finally:
        os.chdir(before)


T, V, E = "transformer/config.json", "vae/config.json", "text_encoder/config.json"
TOKENIZER, SETTINGS = "tokenizer/tokenizer.json", "stream.json"
BAD_VALUES = {
    (T, "num_layers"): (10**9, 0, -1, 2.0, "2", True, None, [2], NAN, 10**400),
    (T, "num_attention_heads"): (0, -4, 10**9, "4", 1.5),
    (T, "attention_head_dim"): (0, 7, 10**9, None),
    (T, "patch_size"): ([2, 2, 2], [1, 2], [1, 0, 0], [1, 2, 3], 2, "122", [1, 2.0, 2], [1, [2], 2], []),
    (T, "ffn_dim"): (0, 10**12, "big"),
    (T, "freq_dim"): (0, 3, None),
    (T, "eps"): (0, -1e-6, NAN, INFINITE, "1e-6", 5, None, True),
    (T, "cross_attn_norm"): ("yes", 1, None),
    (T, "qk_norm"): ("layer_norm", 3, None),
    (T, "image_dim"): (1280,),
    (T, "rope_max_seq_len"): (0, 10**12, "long"),
    (T, "_class_name"): ("FluxTransformer2DModel", 5),
    (T, "text_dim"): (0, "64", 63),
    (T, "in_channels"): (0, 7, "12"),
    (T, "out_channels"): (7,),
    (V, "z_dim"): (0, -1, 10**9, "12", 11),
    (V, "base_dim"): (0, "16", 10**9),
    (V, "dim_mult"): ([], 3, [1, 2, "4"], [0, 1, 2], [1] * 9, {"a": 1}),
    (V, "num_res_blocks"): (-1, 10**9, 1.5),
    (V, "latents_mean"): ([0.0], [], "0", [NAN] * 12, [[0.0]] * 12, None, [True] * 12),
    (V, "latents_std"): ([1.0], [0.0] * 12, [-1.0] * 12, [INFINITE] * 12, ["1"] * 12),
    (V, "temperal_downsample"): ([True], [False, False], [1, 1], "ab", None, [True] * 5),
    (V, "patch_size"): (0, "2", 3),
    (V, "dropout"): (-1, 1, NAN),
    (V, "scale_factor_temporal"): (8, "4"),
    (V, "_class_name"): ("AutoencoderKL",),
    (E, "vocab_size"): (0, -5, 10**12, "123", None, 40),
    (E, "d_model"): (0, "64", 10**9, None, 63),
    (E, "num_layers"): (10**9, 0, "2"),
    (E, "num_heads"): (0, 1.5),
    (E, "layer_norm_epsilon"): (-1e-6, NAN, 0, "small"),
    (E, "feed_forward_proj"): ("swish", 3, None),
    (E, "relative_attention_num_buckets"): (0, 31, 10**9),
    (E, "relative_attention_max_distance"): (0, 16, "far"),
    (E, "dropout_rate"): (-0.1, 1.5, NAN),
    (E, "pad_token_id"): (-1, 10**6, "0"),
    (E, "model_type"): ("bert", None),
    (SETTINGS, "height"): (0, 10**9, "64", None, 64.0, True),
    (SETTINGS, "fps"): (0, NAN, INFINITE),
    (SETTINGS, "phase"): (NAN, INFINITE, "x"),
    (SETTINGS, "shift"): (0, -1, NAN),
    (SETTINGS, "guidance"): (NAN, "strong", None),
    (SETTINGS, "negative_prompt"): (5, None),
    (SETTINGS, "steps"): ([], [1000, 1000], [NAN], "1000", [[1000]]),
    (SETTINGS, "unheard_of"): (1,),
    (TOKENIZER, "model"): (None, {"type": "Magic"}, {}, []),
    (TOKENIZER, "truncation"): (5, {"max_length": -1}),
    (TOKENIZER, "post_processor"): ({"type": "None"}, 7),
    ("tokenizer/tokenizer_config.json", "padding_side"): ("left", "up", 5),
    ("tokenizer/tokenizer_config.json", "truncation_side"): ("left",),
    ("tokenizer/tokenizer_config.json", "pad_token"): (None,),
}
BAD_TEXTS = {
    "empty": "",
    "cut": '{"num_layers": 2, ',
    "a list": "[1, 2]",
    "a number": "5",
    "deep": '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "twice": '{"num_layers": 2, "num_layers": 3}',
    "a long number": '{"num_layers": ' + "9" * 5000 + "}",
    "not UTF-8": '{"a": "\udcff"}',
    "pointer": POINTER.decode(),
}
FILES = (T, V, E, TOKENIZER, "tokenizer/tokenizer_config.json", SETTINGS)


@pytest.fixture(scope="module")
def folder(model_folder, tmp_path_factory) -> Path:
    """A model folder whose files are damaged and put back, one at a time."""
    return Path(shutil.copytree(model_folder, tmp_path_factory.mktemp("bad") / "model"))


@pytest.fixture
def damaged(folder):
    """`damaged(file)` is a path of the folder that may be changed, and is as before after the test."""
    kept: dict[Path, bytes] = {}

    def damage(file: str) -> Path:
        path = folder / file
        kept[path] = path.read_bytes()
        return path

    yield damage
    for path, content in kept.items():
        path.unlink(missing_ok=True)
        path.write_bytes(content)


def load(folder: Path) -> None:
    load_parts(model_folder(folder), "student", "cpu", Plan())


@pytest.mark.parametrize(("file", "name"), BAD_VALUES, ids=lambda part: str(part))
def test_bad_values_in_the_files_of_a_model_are_named(folder, damaged, file, name):
    path = damaged(file)
    content = json.loads(path.read_text(encoding="utf-8"))
    for value in BAD_VALUES[file, name]:
        path.write_text(json.dumps(content | {name: value}), encoding="utf-8")
        says(folder, "fetch the model folder again" if file != SETTINGS else str(path), load, folder)


@pytest.mark.parametrize("file", FILES)
def test_files_that_are_no_json_objects_are_named(folder, damaged, file):
    path = damaged(file)
    for text in BAD_TEXTS.values():
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        says(path, ": ", load, folder)
    os.truncate(path, 70 * 2**20)
    says(path, "70 MiB, at most", load, folder)
    path.unlink()
    os.mkfifo(path)
    says(path, "no regular file", load, folder)


def test_token_ids_beyond_the_vocabulary_are_named(folder, damaged):
    path = damaged(TOKENIZER)
    content = path.read_text(encoding="utf-8")
    for change in (lambda d: d["model"]["vocab"].update(zebra=5000), lambda d: end_mark(d).update(ids=[5000])):
        data = json.loads(content)
        change(data)
        path.write_text(json.dumps(data), encoding="utf-8")
        says(folder / "tokenizer", "token 5000, and the text encoder knows", load, folder)


def end_mark(tokenizer: dict) -> dict:
    return tokenizer["post_processor"]["special_tokens"]["</s>"]


PARTS = {
    "transformer/diffusion_pytorch_model.safetensors": ("proj_out.weight", load_transformer),
    "vae/diffusion_pytorch_model.safetensors": ("quant_conv.weight", load_codec),
    "text_encoder/model.safetensors": ("shared.weight", lambda folder: load_text(folder)[0]),
}


@pytest.mark.parametrize("file", PARTS)
def test_weights_are_checked_and_cast(folder, damaged, file):
    path, (name, load) = damaged(file), PARTS[file]
    state = load_file(path)
    for value, words in (
        (state[name] * NAN, "holds NaN or infinity"),
        (state[name].double() * 1e300 + 1e300, "holds NaN or infinity"),
        (state[name].int(), "is int32: "),
        (state[name] > 0, "is bool: "),
        (state[name].to(torch.complex64), "is complex64: "),
    ):
        save_file({**state, name: value.contiguous()}, path)
        says(path, f"{name} {words}", load, folder)
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        save_file({key: tensor.to(dtype) for key, tensor in state.items()}, path)
        assert {parameter.dtype for parameter in load(folder).parameters()} == {torch.float32}
    path.write_bytes(POINTER)
    says(path, "git-lfs pointer", load, folder)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({}, "is no index of shards"),
        ({"weight_map": []}, "is no index of shards"),
        ({"weight_map": {"a": 5}}, "is no index of shards"),
        ({"weight_map": {"a": ["x"]}}, "is no index of shards"),
        ({"weight_map": {"a": "../vae/diffusion_pytorch_model.safetensors"}}, "is not in this folder"),
        ({"weight_map": {"a": "/etc/passwd"}}, "is not in this folder"),
        ({"weight_map": {"a": ".."}}, "is not in this folder"),
        ({"weight_map": {"a": "a\0b"}}, "is not in this folder"),
        ({"weight_map": {"a": "gone.safetensors"}}, "No such file"),
    ],
)
def test_shards_lie_beside_their_index(folder, damaged, index, words):
    path = damaged("transformer/diffusion_pytorch_model.safetensors")
    path.unlink()
    index_file = path.with_name(path.name + ".index.json")
    index_file.write_text(json.dumps(index), encoding="utf-8")
    try:
        says(path.parent, words, load, folder)
    finally:
        index_file.unlink()


RELEASE = {"components": "a/b", "weights": "c/d@" + "0" * 40, "checkpoints": {"student": "s.pt"}}


@pytest.mark.parametrize(
    "change",
    [
        {"components": 5},
        {"components": "b"},
        {"components": "../b"},
        {"components": "a/b/c"},
        {"weights": "c/d@main"},
        {"weights": None},
        {"checkpoints": []},
        {"checkpoints": {"student": 5}},
        {"checkpoints": {"student": "../s.pt"}},
        {"more": 1},
    ],
)
def test_bad_releases_are_named(tmp_path, change):
    shutil.copy(PRESETS["wan-1.3b"] / "stream.json", tmp_path)
    path = tmp_path / "released.json"
    path.write_text(json.dumps(RELEASE | change), encoding="utf-8")
    says(path, "fetch the model folder again", load, tmp_path)


def edit_json(name: str, **changes):
    def edit(folder: Path) -> None:
        data = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps({**data, **changes}), encoding="utf-8")

    return edit


def edit_setting(**changes):
    def edit(folder: Path) -> None:
        data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        edit_json("config.json", _golden=data["_golden"] | changes)(folder)

    return edit


def edit_tensors(name: str, key: str, change):
    def edit(folder: Path) -> None:
        state = load_file(folder / name)
        save_file(state | {key: change(state[key]).contiguous()}, folder / name)

    return edit


def pipe(name: str):
    def edit(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return edit


def raw(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


BAD_RECORDS = {
    "an empty mask": edit_json("causal_mask.json", mask_ctx6_target6_chunk0=[]),
    "a chunk of nothing": edit_json("causal_mask.json", mask_ctx6_target6_chunk0=[[1]]),
    "a huge mask": edit_json("causal_mask.json", mask_ctx6_target99999999_chunk3=[[1]]),
    "a ragged mask": edit_json("causal_mask.json", mask_ctx6_target6_chunk3=[[1, 0], [1]]),
    "a mask of texts and numbers": edit_json("causal_mask.json", mask_ctx6_target6_chunk3=[[1, None], [1, 2]]),
    "a deep mask": raw("causal_mask.json", b'{"mask": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a huge number": raw("sampling.json", b'{"cases": [{"budget": ' + b"9" * 40 + b"}]}"),
    "a pipe": pipe("causal_mask.json"),
    "a pipe of tensors": pipe("rope.safetensors"),
    "a pipe of settings": pipe("config.json"),
    "no settings": edit_json("config.json", _golden=5),
    "no heads": edit_json("config.json", num_heads=0),
    "heads that do not divide": edit_json("config.json", num_heads=5),
    "a billion layers": edit_json("config.json", num_layers=10**9),
    "negative epsilon": edit_json("config.json", eps=-1),
    "a shift in words": edit_setting(timestep_shift="8"),
    "a shift of NaN": edit_setting(timestep_shift=NAN),
    "steps beyond 1000": edit_setting(denoising_step_list=[2000]),
    "no chunks": edit_setting(num_frame_per_block=0),
    "a budget in words": edit_setting(max_context_frames="6"),
    "NaN in the weights": edit_tensors("weights.safetensors", "model.head.head.bias", lambda t: t * NAN),
    "integers for weights": edit_tensors("weights.safetensors", "model.head.head.bias", torch.Tensor.int),
    "noise of another size": edit_tensors("student_shot0.safetensors", "in.noise", lambda t: t[..., :1, :]),
    "shot ids of another kind": edit_tensors("teacher.safetensors", "in.shot_ids", lambda t: t[:0]),
    "an exit beyond the steps": edit_tensors("dmd_generator_e2e.safetensors", "in.exit_step", lambda t: t + 99),
    "a table of nothing": raw("schedule.json", b"{}"),
}


@pytest.mark.parametrize("damage", BAD_RECORDS)
def test_bad_records_are_named(tmp_path, damage):
    folder = Path(shutil.copytree(GOLDEN, tmp_path / "golden"))
    BAD_RECORDS[damage](folder)
    with pytest.raises(parity.ParityError) as caught:
        parity.run(folder)
    assert "\n" not in str(caught.value) and ".json: " in str(caught.value) or ".safetensors: " in str(caught.value)
