"""Where a model lives, and how its parts are loaded.

"toybox" in this package, "wan-1.3b", or any folder in diffusers' Wan format.

A model folder is what `diffusers.WanPipeline` writes and reads (vae, text_encoder, tokenizer, transformer,
scheduler), with one more file, `stream.json`, that holds the settings of the stream. Other transformers may lie
beside the student. "wan-1.3b" is such a folder without weights: they come from where `released` finds them.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from shotstream_lite.codec import Codec
from shotstream_lite.errors import CheckpointError, reason
from shotstream_lite.files import MEBIBYTE, read_json, remove_left, shown
from shotstream_lite.models.configs import AGAIN, checked, read_config
from shotstream_lite.models.convert import check_fit, finite, read_checkpoint, read_weights
from shotstream_lite.models.released import read_release
from shotstream_lite.tiny import TinyDecoder
from shotstream_lite.transformer import ShotStreamTransformer

_HERE = Path(__file__).parent.parent
PRESETS: dict[str, Path] = {"toybox": _HERE / "weights" / "toybox", "wan-1.3b": _HERE / "wan"}
WEIGHTS = ("student", "intra-shot", "causal-init", "teacher", "base")
"""Transformers a model folder may hold; the student lies in `transformer`, where stock diffusers looks for it."""


def find_folder(name: str | Path) -> Path:
    """The folder of a preset, or the folder itself. Raises CheckpointError when there is none."""
    folder = PRESETS.get(str(name), Path(name))
    if not os.path.exists(folder):
        with suppress(ValueError):  # a name with a zero byte
            remove_left(folder)  # a writer may have been killed while it replaced it
    if not os.path.exists(folder / "stream.json"):
        fix = f"name a preset ({', '.join(PRESETS)}) or a folder with a stream.json"
        raise CheckpointError(f"preset {shown(name)}: there is no model in {shown(folder)}: {fix}")
    return folder


def model_folder(name: str | Path, weights: str = "student") -> Path:
    """As `find_folder`; what is released elsewhere is fetched first.

    Raises CheckpointError when files are missing; it names them all and where to put them.
    """
    folder, weights = find_folder(name), _known_weights(weights)
    if release := read_release(folder):
        release.require(weights)
    return folder


def weights_in(folder: Path) -> list[str]:
    """Which of WEIGHTS a model folder holds, or its release does."""
    if release := read_release(folder):
        return [name for name in WEIGHTS if name in release.checkpoints or name == "base"]
    return [name for name in WEIGHTS if (_place(folder, name) / "config.json").is_file()]


def default_dtype(device: str | torch.device) -> torch.dtype:
    """bfloat16, as the released code, but float32 on a CPU, which is slower with less."""
    return torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16


def load_transformer(
    folder: Path,
    weights: str = "student",
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> ShotStreamTransformer:
    """One of WEIGHTS; `dtype` None is the device's default. Raises CheckpointError for a damaged or misfitting file."""
    return load_transformer_in(component(folder, _known_weights(weights)), device, dtype)


def load_transformer_in(
    place: Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> ShotStreamTransformer:
    """The transformer of a folder with its config.json and weights, as `load_transformer`."""
    build = ShotStreamTransformer.from_config
    return _load(place, "transformer", "diffusion_pytorch_model.safetensors", build, device, dtype)


def load_codec(folder: Path, device: str | torch.device = "cpu") -> AutoencoderKLWan:
    """The codec of a model folder. Raises CheckpointError."""
    place = component(folder, "vae")
    return _load(place, "vae", "diffusion_pytorch_model.safetensors", AutoencoderKLWan.from_config, device)


def load_tiny(path: str | Path, codec: Codec) -> TinyDecoder:
    """The tiny decoder of a file, for this codec and on its device; bfloat16 on a GPU.

    Raises CheckpointError naming what does not fit.
    """
    state = {name: tensor for name, tensor in read_checkpoint(path).items() if name.startswith("decoder.")}
    convolutions = [state.get(f"decoder.{i}.weight") for i in (1, 8, 14, 20, 22)]
    if any(weight is None or weight.ndim != 4 for weight in convolutions):
        raise CheckpointError(f"{path}: is no tiny decoder of the TAEHV family: name one such as taew2_1.safetensors")
    first, *_, last = convolutions
    patch = round((len(last) / 3) ** 0.5)
    if (first.shape[1], 8 * patch) != (codec.channels, codec.spatial_factor):
        theirs, ours = (
            f"{first.shape[1]} channels and {8 * patch} pixels",
            f"{codec.channels} and {codec.spatial_factor}",
        )
        raise CheckpointError(f"{path}: its latents have {theirs}, this model's {ours}: name the file of this model")
    model = TinyDecoder(codec.channels, tuple(len(weight) for weight in convolutions[:4]), patch)
    for name, tensor in model.state_dict().items():  # a file may grow more frames than are wanted: the last ones count
        if name.endswith("conv.weight") and name in state:
            state[name] = state[name][-len(tensor) :]
    try:
        check_fit(model, {name: (name, tensor) for name, tensor in state.items()})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}: name the file of this model") from None
    model.load_state_dict(state)
    if (device := codec.vae.device).type == "cuda":
        model = model.to(device, torch.bfloat16, memory_format=torch.channels_last)
    return model.eval().requires_grad_(False)


def load_text(
    folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> tuple[UMT5EncoderModel, PreTrainedTokenizerFast]:
    """Text encoder and tokenizer of a model folder. Raises CheckpointError."""
    place = component(folder, "text_encoder")
    tokenizer = load_tokenizer(folder, read_config(place / "config.json", "text_encoder").get("vocab_size"))
    return _load(place, "text_encoder", "model.safetensors", build_text_encoder, device, dtype), tokenizer


def load_tokenizer(folder: Path, words: int | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer of a model folder; `words` is how many its text encoder knows. Raises CheckpointError."""
    place = component(folder, "tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if name == "tokenizer.json" or (place / name).exists():
            read_json(place / name, 64 * MEBIBYTE, CheckpointError, AGAIN)
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(place)
        known, read = tokenizer.get_vocab().values(), tokenizer("a \u2603 zyzzyva").input_ids
        largest = max(*known, *read, tokenizer.pad_token_id or 0)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise CheckpointError(f"{place}: holds no tokenizer ({reason(error)}): {AGAIN}") from None
    if tokenizer.pad_token_id is None or tokenizer.padding_side != "right" or tokenizer.truncation_side != "right":
        raise CheckpointError(f"{place}: pads or cuts captions otherwise than at their end: {AGAIN}")
    if words is not None and largest >= words:
        raise CheckpointError(f"{place}: token {largest}, and the text encoder knows {words} words: {AGAIN}")
    return tokenizer


def build_text_encoder(config: Mapping[str, Any]) -> UMT5EncoderModel:
    """The text encoder of a configuration, with random weights. Raises CheckpointError."""
    return UMT5EncoderModel(UMT5Config(**checked(config, "text_encoder")))


def _known_weights(weights: str) -> str:
    if weights not in WEIGHTS:
        raise CheckpointError(f"weights is {str(weights)[:40]!r}: choose one of {', '.join(WEIGHTS)}")
    return weights


def _place(folder: Path, weights: str) -> Path:
    return folder / ("transformer" if weights == "student" else weights)


def component(folder: Path, name: str) -> Path:
    """Where a part of a model lies, fetched or converted if need be: one of WEIGHTS, or "vae", "text_encoder", ..."""
    if release := read_release(folder):
        return release.transformer(name) if name in WEIGHTS else release.component(name)
    return _place(folder, name)


def _load(
    folder: Path,
    part: str,
    file: str,
    build: Callable[[dict[str, Any]], Any],
    device: str | torch.device,
    dtype: torch.dtype | None = None,
) -> Any:
    """A model from its config.json and weights, strictly.

    It is outlined first: neither a damaged configuration nor a large model takes more memory than the weights.
    """
    path = folder / "config.json"
    config = read_config(path, part)
    try:
        with torch.device("meta"):
            model = build(config)
    except Exception as error:  # diffusers and transformers raise whatever they meet
        raise CheckpointError(f"{path}: describes no model ({reason(error)}): {AGAIN}") from None
    state = _read_state(folder / file, model, torch.device(device), dtype or default_dtype(device))
    model.load_state_dict(state, assign=True)
    if part == "text_encoder":  # one parameter, or moving the model would make two of it
        model.encoder.embed_tokens.weight = model.shared.weight
    restore_tables(model, device)
    return model.eval().requires_grad_(False)


def dtype_of(model: torch.nn.Module, name: str, dtype: torch.dtype) -> torch.dtype:
    """What a parameter is stored as in a model of `dtype`: diffusers keeps some of a Wan transformer's in float32."""
    keep = model._keep_in_fp32_modules if isinstance(model, WanTransformer3DModel) else ()
    return torch.float32 if any(part in name for part in keep) else dtype


def cast(model: torch.nn.Module, dtype: torch.dtype) -> Any:
    """The same object, its parameters stored as `dtype_of` says."""
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtype_of(model, name, dtype))
    return model


def restore_tables(model: torch.nn.Module, device: str | torch.device) -> None:
    """Makes the rotary tables of a model that was outlined on the meta device; no checkpoint holds them."""
    for name, module in model.named_children():
        if isinstance(module, WanRotaryPosEmbed):
            with torch.device("cpu"):
                tables = WanRotaryPosEmbed(module.attention_head_dim, module.patch_size, module.max_seq_len)
            setattr(model, name, tables.to(device))


def _read_state(
    path: Path, model: torch.nn.Module, device: torch.device, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """The weights of `model`, each where and as it shall be; what diffusers keeps in float32 stays so."""
    state: dict[str, torch.Tensor] = {}
    try:
        for shard in read_weights(path):
            for name, tensor in shard.items():
                # A copy has its own, aligned memory: its place in a file would decide about the last bits of results.
                own = finite(name, tensor.clone(), dtype_of(model, name, dtype))
                state[name] = own.to(device)
        if "shared.weight" in state:  # of a text encoder, which has it under two names
            state["encoder.embed_tokens.weight"] = state["shared.weight"]
        check_fit(model, {name: (name, tensor) for name, tensor in state.items()})
    except CheckpointError as error:
        named = str(error).startswith(str(path.parent))
        raise CheckpointError(str(error) if named else f"{path}: {error}: {AGAIN}") from None
    return state
