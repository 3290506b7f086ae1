"""Where a model lives and what it was made for: "toybox" in this package, or any folder in diffusers' Wan format.

A model folder is what `diffusers.WanPipeline` writes and reads (vae, text_encoder, tokenizer, transformer,
scheduler), with one more file, `stream.json`, that holds the settings of the stream. Other transformers may lie
beside the student.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
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

_WHOLE = {"height": (1, 8192), "width": (1, 8192), "fps": (1, 240), "chunk": (1, 240), "budget": (0, 64)}
_WHOLE |= {"text_tokens": (1, 4096)}
_AGAIN = "fetch the model folder again"
_OF_THE_MODEL = {"text_tokens"}  # fixed when it was trained


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
        for name, (low, high) in _WHOLE.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise StoryError(f"settings: {name} is {value!r}: write a whole number from {low} to {high}")
        check_frames(self.shot_frames, "settings: shot_frames")
        if self.policy not in list(POLICIES):
            raise StoryError(f"settings: policy is {self.policy!r}: write one of {', '.join(POLICIES)}")
        if not _is_number(self.phase):
            raise StoryError(f"settings: phase is {self.phase!r}: write a number of radians")
        if not _is_number(self.shift) or self.shift <= 0:
            raise StoryError(f"settings: shift is {self.shift!r}: write a number above 0")
        if not isinstance(self.steps, list | tuple) or not all(map(_is_number, self.steps)) or not _falls(self.steps):
            raise StoryError(
                f"settings: steps is {self.steps!r}: write a list of falling numbers, 1000 first, all above 0"
            )
        object.__setattr__(self, "steps", tuple(self.steps))

    def changed(self, changes: Mapping[str, Any]) -> "StreamSettings":
        """These settings with what a story may change of them. Raises StoryError for a wrong name or value."""
        known = [f.name for f in fields(self) if f.name not in _OF_THE_MODEL]
        for name in changes:
            if name not in known:
                raise StoryError(f"settings: {name!r} is unknown: write one of {', '.join(known)}")
        return replace(self, **changes)

    def changes(self, other: "StreamSettings") -> dict[str, Any]:
        """What differs in `other`, as JSON can hold it."""
        mine, theirs = asdict(self), asdict(other)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in theirs.items() if v != mine[k]}


def model_folder(name: str | Path) -> Path:
    """The folder of a preset, or the folder itself. Raises CheckpointError when there is none."""
    folder = PRESETS.get(str(name), Path(name))
    if not (folder / "stream.json").is_file():
        mend = f"name a preset ({', '.join(PRESETS)}) or a folder with a stream.json"
        raise CheckpointError(f"preset {name}: there is no model in {folder}: {mend}")
    return folder


def load_settings(folder: Path) -> StreamSettings:
    """The settings a model was made for. Raises CheckpointError."""
    path = folder / "stream.json"
    try:
        return StreamSettings(**_read_json(path))
    except (StoryError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def save_settings(settings: StreamSettings, folder: Path) -> None:
    """Writes stream.json."""
    (folder / "stream.json").write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")


def load_transformer(folder: Path, weights: str = "student") -> ShotStreamTransformer:
    """One of WEIGHTS. Raises CheckpointError for a damaged or misfitting file."""
    if weights not in WEIGHTS:
        raise CheckpointError(f"weights is {weights!r}: choose one of {', '.join(WEIGHTS)}")
    place = folder / ("transformer" if weights == "student" else weights)
    return _load(place, "diffusion_pytorch_model.safetensors", ShotStreamTransformer.from_config)


def load_codec(folder: Path) -> AutoencoderKLWan:
    """The codec of a model folder. Raises CheckpointError."""
    return _load(folder / "vae", "diffusion_pytorch_model.safetensors", AutoencoderKLWan.from_config)


def load_text(folder: Path) -> tuple[UMT5EncoderModel, PreTrainedTokenizerFast]:
    """Text encoder and tokenizer of a model folder. Raises CheckpointError."""
    encoder = _load(
        folder / "text_encoder",
        "model.safetensors",
        lambda config: UMT5EncoderModel(UMT5Config.from_dict(config)),
        shared={"encoder.embed_tokens.weight": "shared.weight"},
    )
    _read_json(folder / "tokenizer" / "tokenizer.json")
    try:
        return encoder, PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise CheckpointError(f"{folder / 'tokenizer'}: holds no tokenizer ({_line(error)}): {_AGAIN}") from None


def _load(
    folder: Path, file: str, build: Callable[[dict[str, Any]], Any], shared: Mapping[str, str] | None = None
) -> Any:
    """A model from its config.json and weights, in float32, strictly; `shared` names are the same tensor as another."""
    path = folder / "config.json"
    config = _read_json(path)
    with _quiet():
        try:
            with torch.device("meta"):  # only an outline: a damaged configuration may ask for any size
                outline = build(config)
        except Exception as error:  # whatever comes of numbers that are texts, zero or missing
            raise CheckpointError(f"{path}: describes no model ({_line(error)}): {_AGAIN}") from None
        state = _read_weights(folder / file, outline, shared or {})
        model = build(config)
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without diffusers' warnings of every key of a newer or older configuration."""
    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(level)


def _read_weights(path: Path, model: torch.nn.Module, shared: Mapping[str, str]) -> dict[str, torch.Tensor]:
    state = read_checkpoint(path)
    state |= {name: state[source] for name, source in shared.items() if source in state}
    try:
        check_fit(model, {name: (name, tensor) for name, tensor in state.items()})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}: {_AGAIN}") from None
    return state


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else _line(error)
        raise CheckpointError(f"{path}: cannot be read ({reason}): {_AGAIN}") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: holds no object: {_AGAIN}")
    return data


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6  # no nan either


def _falls(steps: Sequence[float]) -> bool:
    return bool(steps) and steps[0] == 1000 and steps[-1] > 0 and all(a > b for a, b in pairwise(steps))


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
