"""`shotstream train`: its stages are many, and come with torch when it runs."""

import argparse
from dataclasses import dataclass

import tyro

from shotstream_lite.commands.common import check_installed, in_one_line

ABOUT = (
    "Train all stages, or stage by stage; everything lives in the folder --out. --preset toybox (the default) or "
    "wan-1.3b, before or after the stage, chooses the settings that options then change."
)


@dataclass
class Train:
    """Train a model, stage by stage: shotstream train --help."""


def main(arguments: list[str]) -> int:
    """`shotstream train STAGE --out FOLDER`."""
    check_installed("training", "accelerate", "peft")
    from shotstream_lite.training.recipe import AllConfig, train, train_all

    config = in_one_line(lambda: parse(arguments))
    if getattr(config, "tensorboard", False):
        check_installed("training", "tensorboard")
    train_all(config) if isinstance(config, AllConfig) else train(config)
    return 0


def parse(arguments: list[str]):
    """The configuration that a command line asks for."""
    from shotstream_lite.training.ablations.tables import TablesConfig
    from shotstream_lite.training.decoders import TinyDecoderConfig
    from shotstream_lite.training.presets import RECIPES
    from shotstream_lite.training.recipe import AllConfig, configs
    from shotstream_lite.training.ship import ShipConfig

    first = argparse.ArgumentParser(prog="shotstream train", add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=sorted(RECIPES), default="toybox")
    chosen, rest = first.parse_known_args(arguments)
    defaults = {"all": AllConfig(tyro.MISSING, preset=chosen.preset)} | configs(chosen.preset)
    defaults |= {"tiny-decoder": TinyDecoderConfig(tyro.MISSING), "ship": ShipConfig(tyro.MISSING, tyro.MISSING)}
    defaults |= {"tables": TablesConfig(tyro.MISSING, preset=chosen.preset)}
    about = {name: type(config).__doc__.splitlines()[0] for name, config in defaults.items()}
    stages = tyro.extras.subcommand_type_from_defaults(defaults, about, prefix_names=False)
    return tyro.cli(stages, prog="shotstream train", description=ABOUT, args=rest)
