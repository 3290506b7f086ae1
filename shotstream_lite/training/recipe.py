"""All stages in their order, from nothing to the weights this package ships.

One run folder holds everything: `shotstream train codec --out runs`, then `films`, `base`, `teacher`, `causal-init`,
`intra-shot`, `probe`, and `ship`. A stage stopped at any moment goes on from its last checkpoint when called again.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from shotstream_lite.codec import Codec
from shotstream_lite.convert import CheckpointError
from shotstream_lite.presets import PRESETS, StreamSettings, load_codec, save_settings
from shotstream_lite.toybox.dataset import TRAIN_SEED, encode_stories, load_films
from shotstream_lite.training.base import BaseConfig, train_base
from shotstream_lite.training.causal_init import CausalInitConfig, train_causal_init
from shotstream_lite.training.codec import CodecConfig, train_codec
from shotstream_lite.training.decoder import DecoderConfig, train_decoder
from shotstream_lite.training.intra_shot import IntraShotConfig, train_intra_shot
from shotstream_lite.training.probe import ProbeConfig, train_probe
from shotstream_lite.training.teacher import TeacherConfig, train_teacher

MODEL_INDEX = {
    "_class_name": "WanPipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}


@dataclass
class FilmsConfig:
    """Render stories and encode them, for all later stages."""

    out: Path
    stories: int = 400
    first: int = TRAIN_SEED


@dataclass
class ShipConfig:
    """Put a finished run into the package, in half precision."""

    out: Path
    target: Path = PRESETS["toybox"]


def encode(config: FilmsConfig) -> None:
    """The stories of a configuration, as latents in its run folder."""
    seeds = range(config.first, config.first + config.stories)
    encode_stories(Codec(load_codec(config.out)), seeds, config.out / "films")


def on_films(stage: Callable) -> Callable:
    """A stage that learns from the run folder's films."""
    return lambda config: stage(config, load_films(config.out / "films"))


STAGES: dict[str, tuple[type, Callable]] = {
    "codec": (CodecConfig, train_codec),
    "films": (FilmsConfig, encode),
    "base": (BaseConfig, on_films(train_base)),
    "teacher": (TeacherConfig, on_films(train_teacher)),
    "causal-init": (CausalInitConfig, on_films(train_causal_init)),
    "intra-shot": (IntraShotConfig, on_films(train_intra_shot)),
    "decoder": (DecoderConfig, train_decoder),
    "probe": (ProbeConfig, lambda config: print(json.dumps(train_probe(config), indent=2))),
    "ship": (ShipConfig, lambda config: ship(config)),
}


def main(arguments: list[str]) -> int:
    """`shotstream train STAGE --out FOLDER`."""
    configs = {name: config for name, (config, _) in STAGES.items()}
    about = "Train the toybox, stage by stage; all of it lives in the folder --out."
    config = tyro.extras.subcommand_cli_from_dict(configs, prog="shotstream train", description=about, args=arguments)
    run = next(run for kind, run in STAGES.values() if isinstance(config, kind))
    run(config)
    return 0


def ship(config: ShipConfig) -> None:
    """Copies all components of a run into a model folder, as float16; the last student becomes `transformer`.

    What comes out is a folder of `diffusers.WanPipeline`, with our other transformers, probe and settings beside it.
    """
    folders = {name: name for name in ("vae", "text_encoder", "tokenizer", "base", "teacher", "causal-init", "probe")}
    folders["intra-shot"] = "transformer"
    missing = [name for name in folders if not (config.out / name).is_dir()]
    if missing:
        raise CheckpointError(f"{config.out}: {', '.join(missing)} not trained yet: run those stages first")
    for source, target in folders.items():
        (config.target / target).mkdir(parents=True, exist_ok=True)
        for path in sorted((config.out / source).iterdir()):
            copy = config.target / target / path.name
            if path.suffix == ".safetensors":
                save_file({k: _half(v) for k, v in load_file(path).items()}, copy, {"format": "pt"})
            else:  # stock diffusers knows our transformer by the name of the class it is
                text = path.read_text(encoding="utf-8").replace("ShotStreamTransformer", "WanTransformer3DModel")
                copy.write_text(text, encoding="utf-8")
    settings = StreamSettings()
    save_settings(settings, config.target)
    FlowMatchEulerDiscreteScheduler(shift=settings.shift).save_pretrained(config.target / "scheduler")
    (config.target / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n", encoding="utf-8")


def _half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor
