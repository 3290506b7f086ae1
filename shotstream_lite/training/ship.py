"""A finished run as a model folder: what stock diffusers reads, with our other transformers beside it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from shotstream_lite.convert import CheckpointError
from shotstream_lite.presets import PRESETS, StreamSettings, save_settings

MODEL_INDEX = {
    "_class_name": "WanPipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}
NEEDED = ("vae", "text_encoder", "tokenizer", "base", "teacher", "causal-init", "intra-shot", "probe")
STUDENTS = ("inter-shot", "intra-shot")  # the last there is becomes `transformer`


@dataclass
class ShipConfig:
    """Put a finished run into the package, in half precision."""

    out: Path
    target: Path = PRESETS["toybox"]


def ship(config: ShipConfig, settings: StreamSettings | None = None) -> None:
    """Copies all components of a run into a model folder, as float16; the last student becomes `transformer`.

    What comes out is a folder of `diffusers.WanPipeline`, with our other transformers, probe and settings beside it.
    """
    missing = [name for name in NEEDED if not (config.out / name).is_dir()]
    if missing:
        raise CheckpointError(f"{config.out}: {', '.join(missing)} not trained yet: run those stages first")
    student = next(name for name in STUDENTS if (config.out / name).is_dir())
    for name in NEEDED:
        copy_component(config.out / name, config.target / ("transformer" if name == student else name))
    if student == STUDENTS[0]:
        copy_component(config.out / student, config.target / "transformer")
    finish(config.target, settings or StreamSettings())


def finish(target: Path, settings: StreamSettings) -> None:
    """Writes what makes components a model folder."""
    save_settings(settings, target)
    FlowMatchEulerDiscreteScheduler(shift=settings.shift).save_pretrained(target / "scheduler")
    (target / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n", encoding="utf-8")


def copy_component(source: Path, target: Path) -> None:
    """A model or tokenizer, its weights as float16."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        copy = target / path.name
        if path.suffix == ".safetensors":
            save_file({k: _half(v) for k, v in load_file(path).items()}, copy, {"format": "pt"})
        elif path.name == "config.json":  # stock diffusers knows our transformer by its class
            kept = {k: v for k, v in json.loads(path.read_text(encoding="utf-8")).items() if k != "_name_or_path"}
            text = json.dumps(kept, indent=2).replace("ShotStreamTransformer", "WanTransformer3DModel")
            copy.write_text(text + "\n", encoding="utf-8")
        else:
            shutil.copyfile(path, copy)


def _half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor
