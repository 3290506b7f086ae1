"""How all notebooks begin, what they claim, and which model they take."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
from huggingface_hub import try_to_load_from_cache
from IPython import get_ipython
from torch import Tensor

import shotstream_lite
from shotstream_lite.errors import CheckpointError
from shotstream_lite.models.folder import find_folder
from shotstream_lite.models.placement import Plan, choose
from shotstream_lite.models.released import MODELS, Release, read_release

SEED = 7
"""Of every notebook, unless it says otherwise."""


def fast() -> bool:
    """Whether a notebook shall only show that it runs (SHOTSTREAM_FAST=1): fewer steps and films, the same cells."""
    return os.environ.get("SHOTSTREAM_FAST") == "1"


def begin(minutes: float, seed: int = SEED) -> None:
    """Prints versions, device, seed, and how long the notebook takes on two cores."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    print(f"shotstream_lite {shotstream_lite.__version__}, Python {platform.python_version()}, ", end="")
    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}")
    print(f"device: {device} (the toybox works on the CPU); seed: {seed}")
    less = ", less now: SHOTSTREAM_FAST is set" if fast() else ""
    print(f"about {minutes:g} minute{'s' * (minutes != 1)} on two cores{less}")


def claim(what: str, value: float | Tensor, *, below: float | None = None, above: float | None = None) -> None:
    """Prints what a notebook says of a number it has computed, with the bound that the number keeps; give one bound.

    `tests/test_notebooks.py` reads these lines in what is stored, so no sentence can say more than was measured.
    Raises AssertionError if the number does not keep its bound; not in a fast run, which measures too little.
    """
    sign, bound = ("<", below) if above is None else (">", above)
    line = f"claim: {what}: {float(value):.3g} {sign} {bound:g}"
    print(line)
    if not fast() and not (value < bound if above is None else value > bound):
        raise AssertionError(f"{line} does not hold: the text beside it says too much")


def is_interactive() -> bool:
    """Whether somebody can type into this notebook; False in runs by nbconvert or nbmake, and outside notebooks."""
    kernel = getattr(get_ipython(), "kernel", None)
    return bool(kernel and kernel.get_parent().get("content", {}).get("allow_stdin"))


@dataclass(frozen=True)
class Full:
    """The model that notebook 11 takes, the device it goes to, how it is placed there, and why, in a sentence."""

    preset: str
    device: str
    plan: Plan | None
    why: str


def full_model(fetch: bool = False) -> Full:
    """The full model if there is a GPU it fits into and its weights are here, or may be fetched; else the toybox."""
    if not torch.cuda.is_available():
        return Full("toybox", "cpu", None, "there is no GPU here: the same cells run on the toybox")
    release = read_release(find_folder("wan-1.3b"))
    try:
        fit = choose("wan-1.3b", "cuda", download=fetch)
        if not fetch and not _at_hand(release):
            fix = f"set fetch = True, or {MODELS} to their folder"
            return Full("toybox", "cpu", None, f"the released weights are not here: {fix}; now it is the toybox")
        release.require()
    except CheckpointError as error:
        return Full("toybox", "cpu", None, f"{error}; now it is the toybox")
    return Full("wan-1.3b", "cuda", fit.plan, fit.line("wan-1.3b", "cuda"))


def _at_hand(release: Release) -> bool:
    """Whether the student's checkpoint is on this machine; nothing is fetched."""
    if os.environ.get(MODELS):
        return (Path(os.environ[MODELS]) / release.weights.split("/")[-1] / release.checkpoints["student"]).is_file()
    return isinstance(try_to_load_from_cache(release.weights, release.checkpoints["student"]), str)
