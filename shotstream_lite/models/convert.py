"""Checkpoints as people have them, to diffusers' names, strictly.

The released ShotStream file is ``{"generator": state dict}`` whose keys are ``model.`` and Wan's original names; the
renaming is diffusers' own Wan converter. Other wrappers, what training frameworks put before the names, and diffusers'
names are read too. A file of the inter-shot stage is ``{"generator_lora": ...}``, low-rank updates in peft's names.
"""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors.torch import load_file
from torch import Tensor, nn

from shotstream_lite.errors import CheckpointError, about, reason
from shotstream_lite.files import check_file, read_json, whole_folder
from shotstream_lite.models.configs import AGAIN, checked

INDEX = ".index.json"
"""What is put behind the name of a weights file that lies in shards: there is written which shards."""
WRAPPERS = ("generator", "generator_ema", "ema", "model", "module", "state_dict", "model_state_dict", "transformer")
"""Entries of a checkpoint that may hold the weights; the first that is there is taken."""

_LEADING = {"base_model", "model", "module", "diffusion_model", "transformer", "generator"}
_ANYWHERE = {"_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module", "default"}  # the last is peft's
_DIFFUSERS = ("condition_embedder.", "proj_out.", "scale_shift_table")  # names Wan's own files do not have
_KINDS = {
    b"version https://git-lfs": "a git-lfs pointer and not the weights: run `git lfs pull` in its folder",
    b"GGUF": "a GGUF file, which is not read: take the .safetensors or the .pt",
    b"<": "a web page and not the weights: fetch the file again, logged in if the model asks for it",
}


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """The content of a safetensors file or of one written by `torch.save`, whatever its ending, on the CPU.

    Raises CheckpointError that says what else the file is.
    """
    path = check_file(path, error=CheckpointError)
    try:
        with open(path, "rb") as file:
            head = file.read(64)
        if head[8:9] == b"{":
            return load_file(path)
        if what := next((words for start, words in _KINDS.items() if head.lstrip().startswith(start)), None):
            raise CheckpointError(f"{path}: is {what}")
        # Mapped where the format allows it: a released file is larger than many a memory's free half.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except CheckpointError:
        raise
    except UnpicklingError:
        fix = "fetch it again, or save the state dict alone"
        raise CheckpointError(f"{path}: cannot be read (damaged, or it holds more than weights): {fix}") from None
    except Exception as error:  # whatever comes of a damaged file
        raise CheckpointError(f"{path}: cannot be read ({reason(error)}): fetch the file again") from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not weights by name: save a state dict")
    return dict(content)


def shard_names(index: Path) -> list[str]:
    """The files beside an index that a sharded checkpoint lies in. Raises CheckpointError."""
    names = read_json(index, error=CheckpointError, again=AGAIN).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index}: is no index of shards: {AGAIN}")
    for name in names.values():
        if Path(name).name != name or name == ".." or "\\" in name or "\0" in name:
            raise CheckpointError(f"{index}: shard {name[:60]!r} is not in this folder: {AGAIN}")
    return sorted(set(names.values()))


def read_weights(path: Path) -> Iterator[dict[str, Tensor]]:
    """The tensors of a weights file, or shard by shard if it lies in shards. Raises CheckpointError."""
    index = path.with_name(path.name + INDEX)
    files = [path] if path.exists() or not index.is_file() else [path.with_name(name) for name in shard_names(index)]
    for file in files:
        with about(file):
            state = state_dict_of(read_checkpoint(file))
        yield state


def state_dict_of(checkpoint: Mapping) -> dict[str, Tensor]:
    """The weights in a checkpoint, taken out of the first of WRAPPERS that is there.

    Raises CheckpointError for anything but dense floating-point tensors.
    """
    state = checkpoint
    for _ in range(4):  # they lie within each other, as in {"generator": {"model": ...}}
        state = next((state[name] for name in WRAPPERS if isinstance(state.get(name), Mapping)), state)
    names = [name for name in state if isinstance(name, str)]
    if "generator_lora" in names:
        raise CheckpointError("a LoRA and no whole model: give it with --lora, beside the student's checkpoint")
    if any(name.endswith(("scale_weight", "scaled_fp8")) for name in names):
        raise CheckpointError("float8 weights with scales beside them are not read: take the bfloat16 or float16 file")
    if strangers := [name for name, value in state.items() if name not in names or not isinstance(value, Tensor)]:
        raise CheckpointError(f"entry {strangers[0]!r} is no tensor: save a state dict of the transformer alone")
    if not state:
        raise CheckpointError("holds no weights, it is empty: save a state dict of the transformer")
    for name, tensor in state.items():
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            kind = str(tensor.dtype if tensor.layout == torch.strided else tensor.layout).removeprefix("torch.")
            raise CheckpointError(f"{name} is {kind}: weights are dense floating-point numbers, save them as such")
    return dict(state)


def own_name(name: str) -> str:
    """A weight's name without what FSDP, DDP, torch.compile, peft, ComfyUI and the released code put before it."""
    parts = [part for part in name.split(".") if part not in _ANYWHERE]
    while len(parts) > 1 and parts[0] in _LEADING:
        parts = parts[1:]
    return ".".join(parts)


def diffusers_names(state: Mapping[str, Tensor]) -> dict[str, tuple[str, Tensor]]:
    """Tensors by their name in diffusers, each with the name it came from."""
    renamed: dict[str, tuple[str, Tensor]] = {}
    theirs = any(own_name(name).startswith(_DIFFUSERS) for name in state)
    for original, tensor in state.items():
        named = {own_name(original): tensor}
        for name, value in (named if theirs else convert_wan_transformer_to_diffusers(named)).items():
            if name in renamed:
                raise CheckpointError(f"{original} and {renamed[name][0]} are the same weight")
            renamed[name] = (original, value)
    return renamed


def convert_checkpoint(checkpoint: Mapping, model: nn.Module) -> dict[str, Tensor]:
    """The weights of a checkpoint under the names of `model`, which may be on the meta device.

    Raises CheckpointError naming missing, extra, misshapen and non-finite weights.
    """
    renamed = diffusers_names(state_dict_of(checkpoint))
    check_fit(model, renamed)
    return {name: finite(original, tensor) for name, (original, tensor) in renamed.items()}


def finite(name: str, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor in `dtype`, or in float32 if it is in one that few things are computed in.

    Raises CheckpointError if not all of it are numbers then.
    """
    usual = tensor.dtype if tensor.dtype in (torch.float32, torch.bfloat16, torch.float16) else torch.float32
    tensor = tensor.to(dtype or usual)
    if not tensor.is_meta and not tensor.isfinite().all():
        raise CheckpointError(f"{name} holds NaN or infinity: the file is damaged, or its training failed")
    return tensor


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
        raise CheckpointError("not a LoRA checkpoint, it has no 'generator_lora': name a file of the inter-shot stage")
    updates = {own_name(name): finite(name, tensor) for name, tensor in state_dict_of(updates).items()}
    merged = {own_name(name): tensor for name, tensor in base.items()}
    for layer in sorted({name.rsplit(".lora_", 1)[0] for name in updates}):
        down, up = (updates.get(f"{layer}.lora_{part}.weight") for part in "AB")
        weight = merged.get(f"{layer}.weight")
        if down is None or up is None or weight is None:
            raise CheckpointError(
                f"LoRA of {layer}: lora_A, lora_B or the layer itself is missing: is it of this model?"
            )
        rank = len(down) if down.ndim else 0
        if [*up.shape, *down.shape] != [weight.shape[0], rank, rank, *weight.shape[1:]]:
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
    with about(checkpoint):
        state = state_dict_of(read_checkpoint(checkpoint))
        converted = convert_checkpoint(state, model)  # what is wrong with it is not the LoRA's fault
    if lora is not None:
        with about(lora):
            converted = convert_checkpoint(merge_lora(state, read_checkpoint(lora)), model)
    model.load_state_dict(converted, assign=True)
    with whole_folder(folder, CheckpointError) as part:
        model.save_pretrained(part)


def outline(config: Mapping) -> WanTransformer3DModel:
    """The transformer of a configuration on the meta device, without memory for weights. Raises CheckpointError."""
    config = checked(config, "transformer")
    try:
        with torch.device("meta"):  # a damaged configuration may ask for any size
            return WanTransformer3DModel.from_config(config)
    except Exception as error:  # diffusers raises whatever it meets
        raise CheckpointError(f"the configuration describes no transformer ({reason(error)}): {AGAIN}") from None


def _shorten(names: list[str]) -> str:
    rest = len(names) - 4
    return ", ".join(names[:4]) + (f" and {rest} more" if rest > 0 else "")
