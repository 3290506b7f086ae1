"""A finished run as a model folder: what stock diffusers reads, with our other transformers beside it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from shotstream_lite.errors import CheckpointError
from shotstream_lite.files import whole_folder
from shotstream_lite.models.settings import StreamSettings, save_settings
from shotstream_lite.toybox.world import LONGEST

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
LOG = "training.jsonl"  # of a component, what its stage measured on the way
OURS = {*NEEDED, "transformer", "scheduler", "stream.json", "model_index.json"}


@dataclass
class ShipConfig:
    """Make a finished run a model folder, in half precision."""

    out: Path
    target: Path  # the model folder to make, a new one
    replace: bool = False  # put the run into a model folder that is there already


def ship(config: ShipConfig) -> None:
    """Copies all components of a run into a model folder, as float16; the last student becomes `transformer`.

    What comes out is a folder of `diffusers.WanPipeline`, with our other transformers, probe and settings beside it:
    whole or not at all. Of a folder that is replaced, what is not of the run stays, such as its README. Prints what was
    written. Raises CheckpointError.
    """
    out, target = config.out, config.target
    missing = [name for name in NEEDED if not (out / name).is_dir()]
    if missing:
        raise CheckpointError(f"{out}: {', '.join(missing)} not trained yet: run those stages first")
    there = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if there and not config.replace:
        raise CheckpointError(f"--target {target}: is there already: name a new folder, or add --replace")
    if there and not (target / "stream.json").is_file():
        raise CheckpointError(f"--target {target}: is no model folder, and not replaced: name another")
    student = next(name for name in STUDENTS if (out / name).is_dir())
    copies = {"transformer": student} | {name: name for name in NEEDED if name != student}
    with whole_folder(target, CheckpointError, replace=config.replace) as part:
        if there:
            shutil.copytree(target, part, dirs_exist_ok=True, ignore=lambda _, names: set(names) & OURS)
        for name, source in copies.items():
            copy_component(out / source, part / name)
            if (log := out / f"{source}.jsonl").is_file():
                shutil.copyfile(log, part / name / LOG)
        finish(part, StreamSettings(longest=LONGEST))
    for name, source in copies.items():
        size = sum(path.stat().st_size for path in (target / name).iterdir()) / 1e6
        print(f"shotstream: {target / name}: {out / source}, {size:.1f} MB")


def finish(target: Path, settings: StreamSettings) -> None:
    """Writes what makes components a model folder."""
    save_settings(settings, target)
    FlowMatchEulerDiscreteScheduler(shift=settings.shift).save_pretrained(target / "scheduler")
    (target / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n", encoding="utf-8")


def copy_component(source: Path, target: Path) -> None:
    """A model or tokenizer, its weights as float16."""
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        copy = target / path.name
        if path.suffix == ".safetensors":
            halves = {k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}
            save_file(halves, copy, {"format": "pt"})
        elif path.name == "config.json":  # stock diffusers knows our transformer by its class
            kept = {k: v for k, v in json.loads(path.read_text(encoding="utf-8")).items() if k != "_name_or_path"}
            text = json.dumps(kept, indent=2).replace("ShotStreamTransformer", "WanTransformer3DModel")
            copy.write_text(text + "\n", encoding="utf-8")
        else:
            shutil.copyfile(path, copy)
