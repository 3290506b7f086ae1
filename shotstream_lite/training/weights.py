"""Where a stage finds what earlier stages made, and how it leaves what it has made itself."""

import os
import shutil
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from shotstream_lite.codec import Codec
from shotstream_lite.convert import CheckpointError
from shotstream_lite.presets import WEIGHTS, load_codec, load_text, load_transformer
from shotstream_lite.training import sharding
from shotstream_lite.training.stage import RunConfig
from shotstream_lite.transformer import ShotStreamTransformer


def folder_with(config: RunConfig, name: str) -> Path:
    """The first of the run's folders that holds `name`. Raises CheckpointError."""
    for folder in config.folders:
        if (folder / name).is_dir():
            return folder
    missing = {"vae": "codec", "text_encoder": "base", "tokenizer": "base"}.get(name, name)
    raise CheckpointError(
        f"{config.out}: {name} is not there: run `shotstream train {missing}` first, or name a folder that holds it "
        "with --start"
    )


def earlier(config: RunConfig, stage: str) -> ShotStreamTransformer:
    """What an earlier stage made."""
    return _load(folder_with(config, stage), stage)


def begin(config: RunConfig, stage: str, before: str) -> ShotStreamTransformer:
    """What a stage starts from: the weights of the stage before, or, with --start, its own weights there.

    A folder of a single transformer, as diffusers and the released student come, starts any stage.
    """
    if config.start is None:
        return earlier(config, before)
    stage = stage if (config.start / stage).is_dir() else "transformer"
    if not (config.start / stage).is_dir():
        raise CheckpointError(f"{config.start}: holds no {stage}: name another folder with --start")
    return _load(config.start, stage)


def text_of(config: RunConfig) -> tuple[UMT5EncoderModel, PreTrainedTokenizerFast]:
    """Text encoder and tokenizer of a run."""
    return load_text(folder_with(config, "text_encoder"))


def codec_of(config: RunConfig) -> Codec:
    """The codec of a run."""
    return Codec(load_codec(folder_with(config, "vae")))


def save_model(model: nn.Module, folder: Path, main: bool = True) -> None:
    """`save_pretrained`, each file replaced whole. All processes call it; the main one writes."""
    state = sharding.gathered(model.state_dict(), main)
    if main:
        save_whole(plain(model, state), folder)


def plain(model: nn.Module, state: dict[str, Any]) -> nn.Module:
    """The model itself, or, if it is split over processes, a whole copy from its gathered state."""
    return model if sharding.unsharded_class(model) is type(model) else whole_copy(model, state)


def whole_copy(model: nn.Module, state: dict[str, Any]) -> nn.Module:
    """A model of the same class, with the same adapters and the given state, on the CPU."""
    whole = sharding.unsharded_class(model).from_config(dict(model.config))
    for name, adapter in getattr(model, "peft_config", {}).items():
        whole.add_adapter(adapter, name)
    whole.load_state_dict(state)
    return whole


def save_whole(model: Any, folder: Path) -> None:
    """`save_pretrained` of a model or a tokenizer; a kill leaves no half-written file in `folder`."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    folder.mkdir(parents=True, exist_ok=True)
    for path in part.iterdir():
        os.replace(path, folder / path.name)
    part.rmdir()


def _load(folder: Path, stage: str) -> ShotStreamTransformer:
    if stage in WEIGHTS:
        return load_transformer(folder, stage)
    if stage == "transformer":
        return load_transformer(folder, "student")
    return ShotStreamTransformer.from_pretrained(folder / stage)
