"""Where a stage finds what earlier stages made, and how it leaves what it has made itself."""

import json
import os
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from shotstream_lite.codec import Codec
from shotstream_lite.distributed import gathered, unsharded_class
from shotstream_lite.errors import CheckpointError
from shotstream_lite.files import part_folder, read_json, share, writing
from shotstream_lite.models.codec_kernels import for_cpu
from shotstream_lite.models.folder import component, load_codec, load_text, load_transformer_in
from shotstream_lite.training.config import NextShot, RunConfig
from shotstream_lite.transformer import ShotStreamTransformer


def folder_with(config: RunConfig, *names: str) -> Path:
    """The first of the run's folders that holds all of `names`. Raises CheckpointError."""
    for folder in config.folders:
        if all((folder / name).is_dir() for name in names):
            return folder
    missing = {"vae": "codec", "text_encoder": "text"}.get(names[0], names[0])
    own = " (of your own videos, whose words it does not know, `train base --text` learns them along)"
    raise CheckpointError(
        f"{config.out}: {' with '.join(names)} is not there: run `shotstream train {missing}` first"
        f"{own * (missing == 'text')}, or name a folder that holds it with --after or --start"
    )


SHARED = ("budget", "policy", "captions", "phase", "shift", "text_tokens")
"""Settings of a teacher that its students must have too."""


def earlier(config: RunConfig, stage: str) -> ShotStreamTransformer:
    """What an earlier stage made. Raises CheckpointError if it was trained with other settings of `SHARED`."""
    return _load(_folder_of_earlier(config, stage), stage)


def _folder_of_earlier(config: RunConfig, stage: str) -> Path:
    folder = folder_with(config, stage)
    trained = folder / stage / "settings.json"
    if isinstance(config, NextShot) and trained.is_file():
        for name, value in read_json(trained, error=CheckpointError).items():
            if name in SHARED and value != (own := getattr(config, name)):
                how = "give the same, or train that stage again"
                raise CheckpointError(
                    f"--{name.replace('_', '-')} is {own}, but {folder / stage} was trained with {value}: {how}"
                )
    return folder


def initial_model(config: RunConfig, stage: str, before: str) -> ShotStreamTransformer:
    """What a stage starts from: the weights of the stage before, or, with --start, its own weights there.

    A folder of a single transformer, as diffusers and the released student come, starts any stage.
    """
    return _load(*initial_weights(config, stage, before))


def initial_weights(config: RunConfig, stage: str, before: str) -> tuple[Path, str]:
    """The folder and the name in it of what `initial_model` loads. Raises CheckpointError."""
    if config.start is None:
        return _folder_of_earlier(config, before), before
    stage = stage if (config.start / stage).is_dir() else "transformer"
    if not (config.start / stage).is_dir():
        raise CheckpointError(f"{config.start}: holds no {stage}: name another folder with --start")
    return config.start, stage


def text_of(config: RunConfig) -> tuple[UMT5EncoderModel, PreTrainedTokenizerFast]:
    """Text encoder and tokenizer of a run."""
    return load_text(folder_with(config, "text_encoder", "tokenizer"))


def codec_of(config: RunConfig) -> Codec:
    """The codec of a run."""
    return Codec(for_cpu(load_codec(folder_with(config, "vae"))))


def save_model(model: nn.Module, folder: Path, main: bool = True, config: RunConfig | None = None) -> None:
    """`save_pretrained`, as `save_whole` does. All processes call it; the main one writes."""
    if (model := whole(model, main)) is not None:
        save_whole(model, folder, config)


def whole(model: nn.Module, main: bool = True, copied: bool = False) -> nn.Module | None:
    """The model itself, or, if it is split over processes or shall be `copied`, a copy on the CPU of the same class,
    with the same adapters and weights. All processes call it; the main one gets it."""
    state = gathered(model.state_dict(), main)
    if not main:
        return None
    if unsharded_class(model) is type(model) and not copied:
        return model
    copy = unsharded_class(model).from_config(dict(model.config))
    for name, adapter in getattr(model, "peft_config", {}).items():
        copy.add_adapter(adapter, name)
    copy.load_state_dict(state)
    return copy


def save_whole(model: Any, folder: Path, config: RunConfig | None = None) -> None:
    """`save_pretrained` of a model or a tokenizer, with the settings of `SHARED` if the stage has any.

    A kill leaves no half-written folder or file. Raises CheckpointError if the disk refuses.
    """
    with writing(folder, CheckpointError), part_folder(folder) as part:
        model.save_pretrained(part)
        if isinstance(config, NextShot):
            settings = json.dumps({name: getattr(config, name) for name in SHARED}, indent=2)
            (part / "settings.json").write_text(settings + "\n", encoding="utf-8")
        share(part)
        if folder.is_dir():  # no moment without one
            for path in part.iterdir():
                os.replace(path, folder / path.name)
        else:
            os.replace(part, folder)


def save_text(text_encoder: nn.Module, tokenizer: PreTrainedTokenizerFast, folder: Path, main: bool = True) -> None:
    """Text encoder and tokenizer, which are of use together only. All processes call it; the main one writes."""
    if main:
        save_whole(tokenizer, folder / "tokenizer")
    save_model(text_encoder, folder / "text_encoder", main)


def add_lora(transformer: ShotStreamTransformer, config) -> list[nn.Module]:
    """Puts LoRA (by peft) into a model; returns the modules that are to be trained.

    As released: every linear layer inside the blocks (attention to frames and to text, feed-forward), and nothing else.
    """
    from peft import LoraConfig

    inside = [f"blocks.{name}" for name, module in transformer.blocks.named_modules() if isinstance(module, nn.Linear)]
    options = {"r": config.lora_rank, "lora_alpha": config.lora_alpha, "lora_dropout": config.lora_dropout}
    transformer.add_adapter(LoraConfig(**options, target_modules=inside))
    return [module for name, module in transformer.named_modules() if name.endswith((".lora_A", ".lora_B"))]


def merged(transformer: ShotStreamTransformer, main: bool = True) -> ShotStreamTransformer | None:
    """A whole copy with its LoRA folded into the weights, on the CPU. All processes call it; the main one gets it."""
    if (copy := whole(transformer, main, copied=True)) is not None:
        copy.fuse_lora()
        copy.unload_lora()
    return copy


def _load(folder: Path, stage: str) -> ShotStreamTransformer:
    return load_transformer_in(component(folder, "student" if stage == "transformer" else stage))
