"""Checkpoints in the released format to diffusers' names, strictly.

The released ShotStream file is ``{"generator": state dict}`` whose keys are ``model.`` and Wan's original
names; the renaming is diffusers' own Wan converter. A file of the inter-shot stage is ``{"generator_lora": ...}``,
low-rank updates in peft's names.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from shotstream_lite.errors import CheckpointError
from shotstream_lite.files import whole_folder

INDEX = ".index.json"
"""What is put behind the name of a weights file that lies in shards: there is written which shards."""

_PEFT = "base_model.model."


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
        # Mapped where the format allows it: a released file is larger than many a memory's free half.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file: check the name") from None
    except UnpicklingError:
        raise CheckpointError(
            f"{path}: cannot be read (damaged, or it holds more than weights): fetch it again"
        ) from None
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be read ({reason}): fetch the file again") from error


def shard_names(index: Path) -> list[str]:
    """The files a sharded checkpoint lies in, as its index says. Raises CheckpointError."""
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{index}: is no index of shards: fetch it again") from None


def read_weights(path: Path) -> Iterator[dict[str, Tensor]]:
    """The tensors of a weights file, or shard by shard if it lies in shards. Raises CheckpointError."""
    index = path.with_name(path.name + INDEX)
    if path.exists() or not index.is_file():
        yield read_checkpoint(path)
        return
    for name in shard_names(index):
        yield read_checkpoint(path.with_name(name))


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


def merge_lora(base: Mapping[str, Tensor], checkpoint: Mapping) -> dict[str, Tensor]:
    """The released weights with the updates of the inter-shot stage added, ``W + B @ A``.

    The released configuration has alpha equal to the rank, so their factor is 1 (tools/train/config/4_dmd_long.yaml).

    Args:
        base: the student the stage started from, with or without ``model.`` before its keys.
        checkpoint: ``{"generator_lora": updates}``, in them for a layer ``base_model.model.<layer>.lora_A.weight`` of
            [rank, in] and ``lora_B`` of [out, rank]

    Raises CheckpointError if there is no such entry, or it does not fit the base.
    """
    updates = checkpoint.get("generator_lora")
    if not isinstance(updates, Mapping) or not updates:
        raise CheckpointError("not a LoRA checkpoint: it has no 'generator_lora'")
    merged = {key.removeprefix("model."): tensor for key, tensor in base.items()}
    layers = {key.removeprefix(_PEFT).rsplit(".lora_", 1)[0] for key in updates}
    for layer in sorted(layers):
        down, up = (updates.get(f"{_PEFT}{layer}.lora_{part}.weight") for part in "AB")
        weight = merged.get(f"{layer}.weight")
        if down is None or up is None or weight is None:
            raise CheckpointError(
                f"LoRA of {layer}: lora_A, lora_B or the layer itself is missing: is it of this model?"
            )
        if (up.shape[0], down.shape[1]) != tuple(weight.shape) or up.shape[1] != down.shape[0]:
            shapes = f"{list(up.shape)} by {list(down.shape)}, the layer is {list(weight.shape)}"
            raise CheckpointError(f"LoRA of {layer} is {shapes}: is it of this model?")
        merged[f"{layer}.weight"] = (weight.float() + up.float() @ down.float()).to(weight.dtype)
    return merged


def convert_transformer(checkpoint: Path, folder: Path, config: Mapping, lora: Path | None = None) -> None:
    """Writes a released checkpoint as a transformer folder that stock diffusers reads, whole or not at all.

    Args:
        config: of the transformer, in diffusers' names or in Wan's own.
        lora: a file of the inter-shot stage to be merged.

    Raises CheckpointError naming the file and what does not fit.
    """
    model = outline(config)
    place = checkpoint
    try:
        state = state_dict_of(read_checkpoint(place))
        if lora is not None:
            place = lora
            state = merge_lora(state, read_checkpoint(place))
        model.load_state_dict(convert_checkpoint(state, model), assign=True)
    except CheckpointError as error:
        named = str(error).startswith(str(place))
        raise CheckpointError(str(error) if named else f"{place}: {error}") from None
    with whole_folder(folder, CheckpointError) as part:
        model.save_pretrained(part)


def outline(config: Mapping) -> WanTransformer3DModel:
    """The transformer of a configuration on the meta device, without memory for weights. Raises CheckpointError."""
    config = config if "num_attention_heads" in config else transformer_config(config)
    try:
        with torch.device("meta"):  # a damaged configuration may ask for any size
            return WanTransformer3DModel.from_config(dict(config))
    except Exception as error:  # whatever comes of numbers that are texts, zero or missing
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"the configuration describes no transformer ({reason})") from None


def _shorten(names: list[str], shown: int = 4) -> str:
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
