"""The bookkeeping of a comparison: a folder's settings and models, a file's tensors, how far off ours are."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from shotstream_lite.errors import CheckpointError, ShotStreamError
from shotstream_lite.files import read_json
from shotstream_lite.flow import SigmaTable, few_step
from shotstream_lite.models import convert
from shotstream_lite.models.configs import FINITE, follow, from_wan, many, number, whole
from shotstream_lite.transformer import ShotStreamTransformer, adopt

TOLERANCE = 1e-5
"""max|difference| / max|reference| for outputs, ||difference|| / ||reference|| for parameter gradients."""


AGAIN = "copy the folder again"
SETTINGS = {
    "num_frame_per_block": whole(1, 240),
    "max_context_frames": whole(0, 64),
    "denoising_step_list": many(whole(1, 1000), 64),
    "timestep_shift": number(0, 1000),
    "guidance_scale": FINITE,
}
"""What is read under ``_golden`` in config.json."""

Distance = Callable[[Tensor, Tensor], float]


class ParityError(ShotStreamError):
    """A folder of recorded numbers that cannot be checked."""


class Row(NamedTuple):
    """One line of the report."""

    item: str
    error: float
    detail: str

    @property
    def passed(self) -> bool:
        return self.error <= TOLERANCE


def read(folder: Path, name: str) -> Any:
    """A .json or .safetensors file of the folder; ParityError names it where it is missing or damaged."""
    path = folder / name
    try:
        return (
            read_json(path, error=ParityError, again=AGAIN) if path.suffix == ".json" else convert.read_checkpoint(path)
        )
    except CheckpointError as error:
        raise ParityError(str(error)) from None


class Case:
    """A folder: its settings by name, the generator (which is also the real score) and the fake score."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.folder, self.device = folder, device
        config = read(folder, "config.json")
        try:
            self.architecture = from_wan(config)
            settings = config.get("_golden")
            self._settings = follow(settings if isinstance(settings, dict) else {}, SETTINGS)
        except CheckpointError as error:
            raise ParityError(f"{folder / 'config.json'}: {error}: {AGAIN}") from None
        self.student = self._model("weights.safetensors")
        self.fake = self._model("weights_fake.safetensors")
        self.shift = self["timestep_shift"]
        self.table = SigmaTable(self.shift)
        self.sigmas = few_step(self["denoising_step_list"], self.shift)

    def __getitem__(self, setting: str) -> Any:
        if setting not in self._settings:
            raise ParityError(f"{self.folder / 'config.json'}: there is no _golden.{setting}: {AGAIN}")
        return self._settings[setting]

    def _model(self, name: str) -> ShotStreamTransformer:
        state = read(self.folder, name)
        try:
            convert.check_fit(convert.outline(self.architecture), convert.diffusers_names(convert.state_dict_of(state)))
            model = adopt(WanTransformer3DModel(**self.architecture))
            model.load_state_dict(convert.convert_checkpoint(state, model))
        except CheckpointError as error:
            raise ParityError(f"{self.folder / name}: {error}: {AGAIN}") from None
        return model.to(self.device)


def is_result(key: str) -> bool:
    """Whether a recorded name says result: ``out.*`` or ``something.out.*``."""
    return "out" in key.split(".")[:2]


def squeezed(tensor: Tensor) -> list[int]:
    """The shape without dimensions of size 1."""
    return [size for size in tensor.shape if size != 1]


def relative_max(ours: Tensor, reference: Tensor) -> float:
    """max|difference| / max|reference| in float64; the plain difference where the reference is zero."""
    ours, reference = ours.cpu().double(), reference.cpu().double()
    scale = reference.abs().max()
    return ((ours - reference).abs().max() / (scale if scale else 1)).item()


def relative_norm(ours: Tensor, reference: Tensor) -> float:
    """||difference|| / ||reference|| in float64; the plain difference where the reference is zero."""
    ours, reference = ours.cpu().double(), reference.cpu().double()
    scale = reference.norm()
    return ((ours - reference).norm() / (scale if scale else 1)).item()


class Record:
    """The recorded tensors of one file; `check` compares ours with one of them.

    Latents, noise and captions come on the device, numbers, tables and indices on the CPU, as the library has them.
    """

    def __init__(self, name: str, tensors: Mapping[str, Tensor], device: str = "cpu") -> None:
        self.name = name
        self.tensors = tensors
        self.device = device
        self.checked: set[str] = set()
        self.items: dict[str, list[tuple[float, str]]] = {}

    def __getitem__(self, key: str) -> Tensor:
        if key not in self.tensors:
            raise ParityError(f"{self.name}: there is no {key!r}")
        return self.tensors[key]

    def latents(self, key: str) -> Tensor:
        """A recorded [B, F, C, H, W] tensor as [B, C, F, H, W]."""
        return self[key].transpose(1, 2).to(self.device)

    def captions(self, key: str = "in.prompt_embeds") -> Tensor:
        """Recorded [n, text_tokens, text_dim] embeddings as a batch of one."""
        return self[key].unsqueeze(0).to(self.device)

    def matching(self, pattern: str) -> list[tuple[str, re.Match]]:
        """The recorded names that fit `pattern` as a whole, each with its match."""
        return [(key, match) for key in self.tensors if (match := re.fullmatch(pattern, key))]

    def check(self, item: str, key: str, ours: Tensor, distance: Distance = relative_max) -> None:
        """Compare with the recorded tensor `key`, as part of `item`; only dimensions of size 1 may differ."""
        reference, error = self[key], float("inf")
        if squeezed(ours) == squeezed(reference):
            error = distance(ours.detach().reshape(reference.shape), reference)
        self.checked.add(key)
        self.items.setdefault(item, []).append((error, key))

    def check_latents(self, item: str, key: str, ours: Tensor) -> None:
        """Compare [B, C, F, H, W] with a recorded [B, F, C, H, W] tensor."""
        self.check(item, key, ours.transpose(1, 2))

    def check_level(self, item: str, key: str, timestep: Tensor) -> None:
        """Compare one timestep with a recorded tensor that repeats it for every frame."""
        self.check(item, key, timestep.expand(self[key].shape))

    def check_gradients(self, item: str, prefix: str, model: torch.nn.Module, loss: Tensor) -> None:
        """Compare d loss / d parameter with what is recorded under `prefix` and the released names."""
        recorded = {match[1]: key for key, match in self.matching(re.escape(prefix) + r"\.(model\..*)")}
        if not recorded:
            raise ParityError(f"{self.name}: there is no {prefix}.model.*")
        renamed = convert.diffusers_names({name: self[key] for name, key in recorded.items()})
        parameters = dict(model.named_parameters())
        gradients = torch.autograd.grad(loss, [parameters[name] for name in renamed])
        for (name, _), gradient in zip(renamed.values(), gradients, strict=True):
            self.check(item, recorded[name], gradient, relative_norm)

    def rows(self) -> list[Row]:
        """The report of this file; a recorded result that nobody compared is a failure."""
        subject = Path(self.name).stem.replace("_", " ")
        rows = []
        for item, errors in self.items.items():
            # Not-a-number is the worst error there is, and max() would overlook it.
            error, key = max(errors, key=lambda pair: pair[0] if pair[0] == pair[0] else float("inf"))
            rows.append(Row(f"{subject}: {item}", error, f"{len(errors)} compared, worst {key}"))
        if forgotten := [key for key in self.tensors if is_result(key) and key not in self.checked]:
            rows.append(Row(f"{subject}: unchecked", float("inf"), ", ".join(forgotten)))
        return rows
