"""Checkpoints in the released format to diffusers' names, strictly.

The released ShotStream file is ``{"generator": state dict}`` whose keys are ``model.`` and Wan's original
names; the renaming is diffusers' own Wan converter.
"""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit; the message is one line naming what is wrong."""


def transformer_config(config: Mapping) -> dict:
    """Wan's own hyper-parameters, as in its config.json, as arguments of `WanTransformer3DModel`."""
    try:
        return {
            "patch_size": tuple(config["patch_size"]),
            "num_attention_heads": config["num_heads"],
            "attention_head_dim": config["dim"] // config["num_heads"],
            "in_channels": config["in_dim"],
            "out_channels": config["out_dim"],
            "text_dim": config["text_dim"],
            "freq_dim": config["freq_dim"],
            "ffn_dim": config["ffn_dim"],
            "num_layers": config["num_layers"],
            "cross_attn_norm": config["cross_attn_norm"],
            "eps": config["eps"],
        }
    except KeyError as error:
        raise CheckpointError(f"the Wan configuration has no {error}") from error


def read_checkpoint(path: Path | str) -> dict:
    """The content of a .safetensors file or of one written by `torch.save`, on the CPU."""
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file: check the name") from None
    except UnpicklingError:
        raise CheckpointError(
            f"{path}: cannot be read (damaged, or it holds more than weights): fetch it again"
        ) from None
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be read ({reason}): fetch the file again") from error


def state_dict_of(checkpoint: Mapping) -> dict[str, Tensor]:
    """The weights in a checkpoint, taken out of ``{"generator": ...}`` where they are wrapped."""
    state = checkpoint.get("generator", checkpoint)
    strangers = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if strangers or not state:
        found = f"entry {strangers[0]!r} is no tensor" if strangers else "it is empty"
        raise CheckpointError(f"not a generator checkpoint: {found}")
    return dict(state)


def diffusers_names(state: Mapping[str, Tensor]) -> dict[str, tuple[str, Tensor]]:
    """Tensors by their name in diffusers, each with the name it came from."""
    renamed: dict[str, tuple[str, Tensor]] = {}
    for original, tensor in state.items():
        converted = convert_wan_transformer_to_diffusers({original.removeprefix("model."): tensor})
        for name, value in converted.items():
            if name in renamed:
                raise CheckpointError(f"{original} and {renamed[name][0]} are the same weight")
            renamed[name] = (original, value)
    return renamed


def convert_checkpoint(checkpoint: Mapping, model: nn.Module) -> dict[str, Tensor]:
    """The weights of a checkpoint under the names of `model`, which may be on the meta device.

    Raises CheckpointError naming missing, extra and misshapen weights.
    """
    renamed = diffusers_names(state_dict_of(checkpoint))
    check_fit(model, renamed)
    return {name: tensor for name, (_, tensor) in renamed.items()}


def check_fit(model: nn.Module, named: Mapping[str, tuple[str, Tensor]]) -> None:
    """Raises CheckpointError unless `named` holds just the weights of `model`, in their shapes.

    named: tensors by their name in the model, each with the name complaints shall use
    """
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    extra = [original for name, (original, _) in named.items() if name not in shapes]
    misshapen = [
        f"{original} is {list(tensor.shape)}, not {list(shapes[name])}"
        for name, (original, tensor) in named.items()
        if name in shapes and tensor.shape != shapes[name]
    ]
    problems = {"missing": [n for n in shapes if n not in named], "extra": extra, "misshapen": misshapen}
    if any(problems.values()):
        raise CheckpointError("; ".join(f"{kind}: {_shorten(names)}" for kind, names in problems.items() if names))


def load_checkpoint(model: nn.Module, checkpoint: Mapping) -> None:
    """Put a released-format checkpoint into `model`, in place and in the model's dtype."""
    model.load_state_dict(convert_checkpoint(checkpoint, model))


def _shorten(names: list[str], shown: int = 4) -> str:
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
