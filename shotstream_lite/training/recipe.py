"""All stages in their order, from nothing to the weights this package ships.

One run folder holds everything: `shotstream train codec --out runs`, then `films`, `base`, `teacher`, `causal-init`,
`intra-shot`, `probe`, and `ship`. A stage stopped at any moment goes on from its last checkpoint when called again.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from safetensors.torch import load_file, save_file

from shotstream_lite.codec import Codec
from shotstream_lite.presets import PRESETS, StreamSettings, load_codec, save_settings
from shotstream_lite.toybox.dataset import TRAIN_SEED, encode_stories, load_films
from shotstream_lite.training.base import BaseConfig, train_base
from shotstream_lite.training.causal_init import CausalInitConfig, train_causal_init
from shotstream_lite.training.codec import CodecConfig, train_codec
from shotstream_lite.training.decoder import DecoderConfig, train_decoder
from shotstream_lite.training.intra_shot import IntraShotConfig, train_intra_shot
from shotstream_lite.training.probe import ProbeConfig, train_probe
from shotstream_lite.training.teacher import TeacherConfig, train_teacher


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


Stage = (
    Annotated[CodecConfig, tyro.conf.subcommand("codec")]
    | Annotated[FilmsConfig, tyro.conf.subcommand("films")]
    | Annotated[BaseConfig, tyro.conf.subcommand("base")]
    | Annotated[TeacherConfig, tyro.conf.subcommand("teacher")]
    | Annotated[CausalInitConfig, tyro.conf.subcommand("causal-init")]
    | Annotated[IntraShotConfig, tyro.conf.subcommand("intra-shot")]
    | Annotated[DecoderConfig, tyro.conf.subcommand("decoder")]
    | Annotated[ProbeConfig, tyro.conf.subcommand("probe")]
    | Annotated[ShipConfig, tyro.conf.subcommand("ship")]
)


def main(arguments: list[str]) -> int:
    """`shotstream train STAGE --out FOLDER`."""
    run(tyro.cli(Stage, prog="shotstream train", args=arguments))
    return 0


def run(config: Stage) -> None:
    """Runs the stage a configuration is for."""
    films = config.out / "films"
    if isinstance(config, CodecConfig):
        train_codec(config)
    elif isinstance(config, FilmsConfig):
        encode_stories(Codec(load_codec(config.out)), range(config.first, config.first + config.stories), films)
    elif isinstance(config, BaseConfig):
        train_base(config, load_films(films))
    elif isinstance(config, TeacherConfig):
        train_teacher(config, config.out, load_films(films))
    elif isinstance(config, CausalInitConfig):
        train_causal_init(config, config.out, load_films(films))
    elif isinstance(config, IntraShotConfig):
        train_intra_shot(config, config.out, load_films(films))
    elif isinstance(config, DecoderConfig):
        train_decoder(config)
    elif isinstance(config, ProbeConfig):
        print(json.dumps(train_probe(config), indent=2))
    else:
        ship(config)


def ship(config: ShipConfig) -> None:
    """Copies all components of a run into a model folder, as float16; the last student becomes `transformer`."""
    folders = {name: name for name in ("vae", "text_encoder", "tokenizer", "base", "teacher", "causal-init", "probe")}
    folders["intra-shot"] = "transformer"
    for source, target in folders.items():
        (config.target / target).mkdir(parents=True, exist_ok=True)
        for path in sorted((config.out / source).iterdir()):
            copy = config.target / target / path.name
            if path.suffix == ".safetensors":
                save_file({k: _half(v) for k, v in load_file(path).items()}, copy, {"format": "pt"})
            else:
                shutil.copyfile(path, copy)
    save_settings(StreamSettings(), config.target)


def _half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor
