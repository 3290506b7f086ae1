"""Where a model lives and what it was made for: "toybox" in this package, or any folder in diffusers' Wan format.

A model folder is what `diffusers.WanPipeline` writes and reads (vae, text_encoder, tokenizer, transformer,
scheduler), with one more file, `stream.json`, that holds the settings of the stream. Other transformers may lie
beside the student.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.utils import logging as diffusers_logging
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from shotstream_lite.convert import CheckpointError, check_fit, read_checkpoint
from shotstream_lite.flow import FEW_STEPS
from shotstream_lite.history import POLICIES
from shotstream_lite.rope import SHOT_PHASE
from shotstream_lite.story import StoryError, check_frames
from shotstream_lite.transformer import ShotStreamTransformer

PRESETS: dict[str, Path] = {"toybox": Path(__file__).parent / "weights" / "toybox"}
WEIGHTS = ("student", "causal-init", "teacher", "base")
"""Transformers a model folder may hold; the student lies in `transformer`, where stock diffusers looks for it."""


@dataclass(frozen=True)
class StreamSettings:
    """How a model streams. What a story changes of it is saved with the story.

    Units: height, width in pixels; shot_frames in pixel frames (4k+1); chunk, budget in latent frames; steps before the
    shift, 1000 being pure noise; phase in radians a shot.
    """

    height: int = 64
    width: int = 96
    fps: int = 16
    shot_frames: int = 33
    chunk: int = 3
    budget: int = 6
    policy: str = "dynamic"
    phase: float = SHOT_PHASE
    steps: tuple[int, ...] = FEW_STEPS
    shift: float = 3.0
    text_tokens: int = 64

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        if list(self.steps) != sorted(set(self.steps), reverse=True) or not self.steps or self.steps[0] != 1000:
            raise StoryError(f"settings: steps is {list(self.steps)}: write falling numbers that begin with 1000")
        if self.steps[-1] <= 0:
            raise StoryError(f"settings: steps ends with {self.steps[-1]}: the last must be above 0")
        if self.policy not in POLICIES:
            raise StoryError(f"settings: policy is {self.policy!r}: write one of {', '.join(POLICIES)}")
        for name in ("height", "width", "fps", "chunk", "text_tokens"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise StoryError(f"settings: {name} is {getattr(self, name)!r}: write a whole number above 0")
        if not isinstance(self.budget, int) or self.budget < 0:
            raise StoryError(f"settings: budget is {self.budget!r}: write a whole number, 0 or more")
        check_frames(self.shot_frames, "settings: shot_frames")

    def changed(self, changes: Mapping[str, Any]) -> "StreamSettings":
        """These settings with some of them changed. Raises StoryError for a name or a value that is no good."""
        known = [f.name for f in fields(self)]
        for name in changes:
            if name not in known:
                raise StoryError(f"settings: {name!r} is unknown: write one of {', '.join(known)}")
        try:
            return replace(self, **changes)
        except TypeError as error:
            raise StoryError(f"settings: {error}") from None

    def changes(self, other: "StreamSettings") -> dict[str, Any]:
        """What differs in `other`, as JSON can hold it."""
        mine, theirs = asdict(self), asdict(other)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in theirs.items() if v != mine[k]}


def model_folder(name: str | Path) -> Path:
    """The folder of a preset, or the folder itself. Raises CheckpointError when there is none."""
    folder = PRESETS.get(str(name), Path(name))
    if not (folder / "stream.json").is_file():
        known = ", ".join(PRESETS)
        raise CheckpointError(f"{name}: no preset ({known}) and no folder with a stream.json: check the name")
    return folder


def load_settings(folder: Path) -> StreamSettings:
    """The settings a model was made for."""
    return StreamSettings().changed(json.loads((folder / "stream.json").read_text(encoding="utf-8")))


def save_settings(settings: StreamSettings, folder: Path) -> None:
    """Writes stream.json."""
    (folder / "stream.json").write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")


def load_transformer(folder: Path, weights: str = "student") -> ShotStreamTransformer:
    """One of WEIGHTS. Raises CheckpointError for a damaged or misfitting file."""
    if weights not in WEIGHTS:
        raise CheckpointError(f"{weights!r} are no weights: choose one of {', '.join(WEIGHTS)}")
    return _load(ShotStreamTransformer, folder / ("transformer" if weights == "student" else weights))


def load_codec(folder: Path) -> AutoencoderKLWan:
    """The codec of a model folder. Raises CheckpointError."""
    return _load(AutoencoderKLWan, folder / "vae")


def load_text(folder: Path) -> tuple[UMT5EncoderModel, PreTrainedTokenizerFast]:
    """Text encoder and tokenizer of a model folder. Raises CheckpointError."""
    path = folder / "text_encoder"
    config = UMT5Config.from_dict(_read_json(path / "config.json"))
    encoder = UMT5EncoderModel(config)
    _fill(encoder, path / "model.safetensors", shared={"encoder.embed_tokens.weight": "shared.weight"})
    return encoder, PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")


def _load(kind: type, path: Path) -> torch.nn.Module:
    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()  # it warns of every key of a newer or older configuration
    try:
        model = kind.from_config(_read_json(path / "config.json"))
    finally:
        diffusers_logging.set_verbosity(level)
    _fill(model, path / "diffusion_pytorch_model.safetensors")
    return model


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}): fetch the model folder again") from None


def _fill(model: torch.nn.Module, path: Path, shared: Mapping[str, str] | None = None) -> None:
    """Puts a safetensors file into a model, in float32 and strictly; `shared` names are the same tensor as another."""
    state = read_checkpoint(path)
    state |= {name: state[source] for name, source in (shared or {}).items() if source in state}
    try:
        check_fit(model, {name: (name, tensor) for name, tensor in state.items()})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}: fetch the file again") from None
    model.load_state_dict(state)
    model.eval().requires_grad_(False)
