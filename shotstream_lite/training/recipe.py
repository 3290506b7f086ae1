"""All stages in their order, from nothing to the weights this package ships.

One run folder holds everything: `shotstream train codec --out runs`, then `films`, `base`, `teacher`, `causal-init`,
`intra-shot`, `inter-shot`, `probe`, and `ship`. A stage stopped at any moment goes on from its last checkpoint when
called again. `accelerate launch -m shotstream_lite.cli train ...` runs the same on several processes.
"""

import argparse
import importlib.util
import json
from collections.abc import Callable
from typing import Annotated, Union

import tyro

from shotstream_lite.convert import CheckpointError
from shotstream_lite.training.base import train_base
from shotstream_lite.training.causal_init import train_causal_init
from shotstream_lite.training.codec import train_codec
from shotstream_lite.training.decoder import train_decoder
from shotstream_lite.training.films import encode_films, films_of
from shotstream_lite.training.inter_shot import train_inter_shot
from shotstream_lite.training.intra_shot import train_intra_shot
from shotstream_lite.training.ode_pairs import generate
from shotstream_lite.training.presets import PRESETS, STAGES, configs
from shotstream_lite.training.probe import train_probe
from shotstream_lite.training.ship import ShipConfig, ship
from shotstream_lite.training.tables import TablesConfig, make_tables
from shotstream_lite.training.teacher import train_teacher

ABOUT = (
    "Train stage by stage; everything lives in the folder --out. --preset toybox (the default) or wan-1.3b, before or "
    "after the stage, chooses the settings that options then change."
)


ON_FILMS: dict[type, Callable] = {
    STAGES["base"]: train_base,
    STAGES["teacher"]: train_teacher,
    STAGES["ode-pairs"]: generate,
    STAGES["causal-init"]: train_causal_init,
    STAGES["intra-shot"]: train_intra_shot,
    STAGES["inter-shot"]: train_inter_shot,
}
"""Stages that learn from the run's films."""

OTHERS: dict[type, Callable] = {
    STAGES["codec"]: train_codec,
    STAGES["films"]: encode_films,
    STAGES["decoder"]: train_decoder,
    STAGES["probe"]: lambda config: print(json.dumps(train_probe(config), indent=2)),
    ShipConfig: ship,
    TablesConfig: make_tables,
}


def main(arguments: list[str]) -> int:
    """`shotstream train STAGE --out FOLDER`."""
    _need("accelerate", "peft")
    config = parse(arguments)
    if getattr(config, "tensorboard", False):
        _need("tensorboard")
    if type(config) in ON_FILMS:
        ON_FILMS[type(config)](config, films_of(config))
    else:
        OTHERS[type(config)](config)
    return 0


def parse(arguments: list[str]):
    """The configuration that a command line asks for."""
    first = argparse.ArgumentParser(prog="shotstream train", add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=sorted(PRESETS), default="toybox")
    chosen, rest = first.parse_known_args(arguments)
    defaults = configs(chosen.preset) | {"tables": TablesConfig(tyro.MISSING), "ship": ShipConfig(tyro.MISSING)}
    choices = [Annotated[type(config), _subcommand(name, config)] for name, config in defaults.items()]
    return tyro.cli(Union[tuple(choices)], prog="shotstream train", description=ABOUT, args=rest)  # noqa: UP007


def _subcommand(name: str, config) -> object:
    about = type(config).__doc__.splitlines()[0]
    return tyro.conf.subcommand(name, default=config, description=about, prefix_name=False)


def _need(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise CheckpointError(f"training needs {' and '.join(missing)}: pip install 'shotstream_lite[train]'")
