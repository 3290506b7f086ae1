"""Released checkpoints: the real layout fits, and whatever does not fit is named."""

import pytest
import torch
from diffusers import WanTransformer3DModel
from parity.record import read
from safetensors.torch import load_file

from shotstream_lite.errors import CheckpointError
from shotstream_lite.models.configs import from_wan
from shotstream_lite.models.convert import convert_checkpoint, convert_transformer, read_checkpoint


@pytest.fixture
def state(golden):
    return load_file(golden / "weights.safetensors")


@pytest.fixture
def model(golden):
    return WanTransformer3DModel(**from_wan(read(golden, "config.json")))


def test_the_released_checkpoint_has_825_tensors(state):
    """The 1.3B model on the meta device: every key of the released layout finds its place and its shape."""
    config = {"dim": 1536, "num_heads": 12, "num_layers": 30, "ffn_dim": 8960, "in_dim": 16, "out_dim": 16}
    config |= {
        "text_dim": 4096,
        "freq_dim": 256,
        "patch_size": [1, 2, 2],
        "cross_attn_norm": True,
        "eps": 1e-6,
    }
    sizes = {48: 1536, 96: 8960, 288: 9216, 4: 16, 16: 64, 32: 4096}
    with torch.device("meta"):
        model = WanTransformer3DModel(**from_wan(config))
        released = {
            name.replace("blocks.0.", f"blocks.{layer}."): torch.empty(released_shape(name, tensor.shape, sizes))
            for layer in range(30)
            for name, tensor in state.items()
            if "blocks.1." not in name
        }
    assert len(released) == 825
    converted = convert_checkpoint({"generator": released}, model)
    assert converted.keys() == model.state_dict().keys()


def released_shape(name, shape, sizes):
    """A tiny tensor's shape at the size of the 1.3B model."""
    if name.endswith("time_embedding.0.weight"):
        return (1536, 256)
    if name.endswith("modulation"):
        return (*shape[:2], 1536)
    if name.endswith("patch_embedding.weight"):
        return (1536, 16, 1, 2, 2)
    return tuple(sizes[size] for size in shape)


def test_wrapped_and_bare_are_the_same(state, model):
    bare = convert_checkpoint({key.removeprefix("model."): tensor for key, tensor in state.items()}, model)
    wrapped = convert_checkpoint({"generator": state, "step": 3}, model)
    assert bare.keys() == wrapped.keys() and all(torch.equal(bare[key], wrapped[key]) for key in bare)


def test_weights_arrive(state, model):
    model.load_state_dict(convert_checkpoint(state, model))
    loaded = model.state_dict()
    assert torch.equal(loaded["blocks.1.attn1.to_q.weight"], state["model.blocks.1.self_attn.q.weight"])
    assert torch.equal(loaded["blocks.0.norm2.bias"], state["model.blocks.0.norm3.bias"])
    assert torch.equal(loaded["scale_shift_table"], state["model.head.modulation"])


def test_everything_wrong_is_named_in_one_line(state, model):
    del state["model.head.head.bias"]
    state["model.extra.weight"] = torch.zeros(1)
    state["model.patch_embedding.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError) as error:
        convert_checkpoint(state, model)
    message = str(error.value)
    assert "missing: proj_out.bias" in message and "extra: model.extra.weight" in message
    assert "misshapen: model.patch_embedding.bias is [7], not [48]" in message and "\n" not in message
    assert isinstance(error.value, ValueError)


def test_long_lists_are_cut_short(state, model):
    only = {"model.patch_embedding.bias": state["model.patch_embedding.bias"]}
    with pytest.raises(CheckpointError, match=r"^missing: \S+, \S+, \S+, \S+ and 64 more$"):
        convert_checkpoint(only, model)


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ({}, "empty"),
        ({"generator": {}}, "empty"),
        ({"generator_lora": {"a": 1}}, "a LoRA and no whole model: give it with --lora"),
    ],
)
def test_other_checkpoints_are_refused(checkpoint, message, model):
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(checkpoint, model)


def test_diffusers_names_are_not_mistaken_for_wan_names(model):
    converted = convert_checkpoint(model.state_dict(), model)
    assert all(torch.equal(tensor, converted[name]) for name, tensor in model.state_dict().items())


def test_the_same_weight_twice(state, model):
    state["patch_embedding.bias"] = state["model.patch_embedding.bias"]
    with pytest.raises(CheckpointError, match="same weight"):
        convert_checkpoint(state, model)


def test_files(state, tmp_path):
    torch.save({"generator": state}, tmp_path / "model.pt")
    assert read_checkpoint(tmp_path / "model.pt")["generator"].keys() == state.keys()
    for name in ("broken.pt", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"not a checkpoint")
        with pytest.raises(CheckpointError, match=f"{name}: cannot be read"):
            read_checkpoint(tmp_path / name)
    with pytest.raises(CheckpointError, match="gone.pt: cannot be read .No such file"):
        read_checkpoint(tmp_path / "gone.pt")
    with pytest.raises(CheckpointError, match="has no 'patch_size'"):
        from_wan({})


def test_a_base_that_does_not_fit_is_not_blamed_on_the_lora(state, tmp_path, golden):
    config, layer = from_wan(read(golden, "config.json")), "blocks.0.self_attn.q"
    size = state[f"model.{layer}.weight"].shape
    lora = {"A": torch.zeros(1, size[1]), "B": torch.zeros(size[0], 1)}
    names = {f"base_model.model.{layer}.lora_{part}.weight": tensor for part, tensor in lora.items()}
    torch.save({"generator_lora": names}, tmp_path / "lora.pt")
    torch.save({"generator": state | {"model.head.head.bias": torch.zeros(7)}}, tmp_path / "base.pt")
    with pytest.raises(CheckpointError, match="^[^:]*base.pt: misshapen"):
        convert_transformer(tmp_path / "base.pt", tmp_path / "made", config, tmp_path / "lora.pt")
