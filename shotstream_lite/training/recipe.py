"""All stages in their order, from nothing to the weights this package ships.

One run folder holds everything: `shotstream train all --out runs`, or stage by stage `codec`, `films`, `text`, `base`,
`teacher`, `causal-init`, `intra-shot`, `inter-shot`, `decoder` and `probe`; then `ship`. What is stopped at any moment
goes on from its last checkpoint when called again. `accelerate launch -m shotstream_lite.cli train ...` runs the same
on several processes.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from shotstream_lite.training.ablations.tables import TablesConfig, make_tables
from shotstream_lite.training.base import BaseConfig, train_base
from shotstream_lite.training.causal_init import CausalInitConfig, train_causal_init
from shotstream_lite.training.codec import CodecConfig, train_codec
from shotstream_lite.training.config import NextShot, RunConfig, StageConfig
from shotstream_lite.training.decoders import DecoderConfig, TinyDecoderConfig, train_decoder, train_tiny_decoder
from shotstream_lite.training.films import FilmsConfig, encode_films, films_of
from shotstream_lite.training.inter_shot import InterShotConfig, train_inter_shot
from shotstream_lite.training.intra_shot import IntraShotConfig, train_intra_shot
from shotstream_lite.training.loop import processes, steps_finished
from shotstream_lite.training.memory import what_it_takes
from shotstream_lite.training.ode_pairs import OdePairsConfig, generate
from shotstream_lite.training.presets import RECIPES
from shotstream_lite.training.probe import ProbeConfig, train_probe
from shotstream_lite.training.ship import ShipConfig, ship
from shotstream_lite.training.teacher import TeacherConfig, train_teacher
from shotstream_lite.training.text import TextConfig, train_text

STAGES: dict[str, type[RunConfig]] = {
    "codec": CodecConfig,
    "films": FilmsConfig,
    "text": TextConfig,
    "base": BaseConfig,
    "teacher": TeacherConfig,
    "ode-pairs": OdePairsConfig,
    "causal-init": CausalInitConfig,
    "intra-shot": IntraShotConfig,
    "inter-shot": InterShotConfig,
    "decoder": DecoderConfig,
    "probe": ProbeConfig,
}

ON_FILMS: dict[type, Callable] = {
    BaseConfig: train_base,
    TeacherConfig: train_teacher,
    OdePairsConfig: generate,
    CausalInitConfig: train_causal_init,
    IntraShotConfig: train_intra_shot,
    InterShotConfig: train_inter_shot,
}
"""Stages that learn from the run's films."""

OTHERS: dict[type, Callable] = {
    CodecConfig: train_codec,
    FilmsConfig: encode_films,
    TextConfig: train_text,
    DecoderConfig: train_decoder,
    ProbeConfig: train_probe,
    ShipConfig: ship,
    TablesConfig: make_tables,
    TinyDecoderConfig: train_tiny_decoder,
}
"""What they return are shares of right answers."""


@dataclass
class AllConfig:
    """The whole recipe in its order: what is finished stays, and what was stopped goes on."""

    out: Path
    start: Path | None = None  # a model folder that the first stage goes on from; fills other gaps
    videos: Path | None = None  # real films instead of the miniature world, see `films`
    precision: Literal["no", "bf16"] = "no"
    compile: bool = False
    preset: tyro.conf.Suppress[str] = "toybox"


def configs(preset: str) -> dict[str, RunConfig]:
    """The stages of a preset with its settings; only the run folder `out` is left to say."""
    return {stage: STAGES[stage](out=tyro.MISSING, **changes) for stage, changes in RECIPES[preset].items()}


def train(config) -> None:
    """Whatever a configuration of this module stands for."""
    if isinstance(config, RunConfig):
        config.check()
    if type(config) in ON_FILMS:
        films = films_of(config)
        if isinstance(config, NextShot):
            if os.environ.get("RANK", "0") == "0":
                name = next(name for name, kind in STAGES.items() if kind is type(config))
                print(f"shotstream: {name} {what_it_takes(config, films)}", flush=True)
            if config.dry_run:
                return
        ON_FILMS[type(config)](config, films)
    elif (right := OTHERS[type(config)](config)) and processes().is_main_process:
        print(json.dumps(right, indent=2))


def train_all(config: AllConfig) -> None:
    """The stages of a preset that are not finished yet, one after the other; says which."""
    stages = stage_configs(config)
    for stage in stages.values():
        stage.check()
    processes().wait_for_everyone()  # or they would not agree on what is finished
    # Films and ODE pairs know themselves which of them are there.
    done = lambda name, stage: isinstance(stage, StageConfig) and steps_finished(stage, name) >= stage.steps  # noqa: E731
    left = [name for name, stage in stages.items() if not done(name, stage)]
    for name in left:
        if processes().is_main_process:
            later = ", ".join(_with_steps(other, stages[other]) for other in left[left.index(name) + 1 :])
            print(f"shotstream: {_with_steps(name, stages[name])}{f'; then {later}' if later else ''}", flush=True)
        train(stages[name])
        processes().wait_for_everyone()


def stage_configs(config: AllConfig) -> dict[str, RunConfig]:
    """The stages of the recipe in their order, with the preset's settings."""
    stages = configs(config.preset)
    if stages["causal-init"].trajectories != "teacher":
        del stages["ode-pairs"]
    first = next(name for name in stages if name != "films")
    for name, stage in stages.items():
        stage.out, stage.compile = config.out, config.compile
        stage.precision = "bf16" if "bf16" in (config.precision, stage.precision) else "no"
        if config.start:
            stage.start, stage.after = (config.start, ()) if name == first else (None, (config.start,))
    stages["films"].videos = config.videos
    if config.videos and "text" in stages:  # nobody knows before in what words they are told, nor what they show
        del stages["text"]
        for stage in stages.values():
            for name, value in {"text": True, "align": 0.0, "lengths": ()}.items():
                if hasattr(stage, name):
                    setattr(stage, name, value)
    return stages


def _with_steps(name: str, stage: RunConfig) -> str:
    return f"{name} ({stage.steps} steps)" if isinstance(stage, StageConfig) else name
