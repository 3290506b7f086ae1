"""How a model is put on a device so that it fits; decided and said before anything is loaded."""

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from diffusers import AutoencoderKLWan
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from diffusers.utils import is_accelerate_available
from torch import nn
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from shotstream_lite.attention import fast_backend, use_backend
from shotstream_lite.codec import Codec, channels_last
from shotstream_lite.convert import CheckpointError, outline
from shotstream_lite.memory import GIB, Need, count, count_decoding, weight_bytes
from shotstream_lite.presets import (
    StreamSettings,
    build_text_encoder,
    default_dtype,
    find_folder,
    load_codec,
    load_settings,
    load_text,
    load_transformer,
)
from shotstream_lite.released import CONFIGURED, read_config, read_release
from shotstream_lite.text import CaptionEncoder
from shotstream_lite.transformer import ShotStreamTransformer

ROOM = 0.6 * GIB
"""Bytes of a GPU left to its driver, to kernels' workspaces and to gaps between tensors: an allowance, not a count."""
FLOAT8 = torch.float8_e4m3fn
SMALL = 50  # a model whose weights go so often into the free memory is not counted: see `choose`
SMALLER = (0.8, 2 / 3, 0.5)  # sides of the pictures that are proposed when the whole size does not fit


@dataclass(frozen=True)
class Plan:
    """Where the parts of a model are.

    text: "stays" on the device; "visits" it to encode captions and waits on the CPU; "cpu" encodes there, slowly
    tiles: the decoder works on tiles by tiles parts of a picture, see `Codec`
    linears_wait: the linear layers of the transformer wait on the CPU and come one by one
    float8: those layers are kept in eight bits and widened when called: a little less exact, never chosen unasked
    """

    text: str = "stays"
    tiles: int = 1
    linears_wait: bool = False
    float8: bool = False

    def home_of_transformer(self, device: str) -> str:
        """Where the transformer is loaded to."""
        return "cpu" if self.linears_wait else device

    def home_of_text(self, device: str) -> str:
        """Where the text encoder is loaded to."""
        return device if self.text == "stays" else "cpu"


PLANS = (Plan(), Plan("visits"), Plan("visits", 2), Plan("cpu", 2), Plan("cpu", 2, linears_wait=True))
"""From the fastest to the smallest."""


@dataclass(frozen=True)
class Fit:
    """A plan, what was counted for it (None: a small model, nothing to count), and the free bytes; bytes needed."""

    plan: Plan
    need: Need | None = None
    free: float = 0
    bytes: float = 0

    def line(self, name: str, device: str) -> str:
        """What goes where, for people."""
        need, plan = self.need, self.plan
        parts = {"transformer": need.transformer, "codec": need.codec, "caches": need.caches}
        parts |= {"decoding": need.features + need.decode, "text encoder": need.text}
        sizes = ", ".join(f"{part} {size / GIB:.1f}" for part, size in parts.items())
        ways = {
            "the text encoder comes only to encode": plan.text == "visits",
            "captions are encoded on the CPU": plan.text == "cpu" and device != "cpu",
            f"pictures are decoded in {plan.tiles} x {plan.tiles} tiles": plan.tiles > 1,
            "the transformer's layers come one by one": plan.linears_wait,
            "and are kept in eight bits": plan.float8,
        }
        how = "".join(f"; {way}" for way, taken in ways.items() if taken)
        free = "" if math.isnan(self.free) else f", {self.free / GIB:.1f} are free"
        return f"{name} on {device} needs {self.bytes / GIB:.1f} GiB{free} ({sizes}){how}"


def choose(
    name: str | Path,
    device: str = "cpu",
    changes: Mapping[str, Any] | None = None,
    download: bool = True,
    float8: bool = False,
) -> Fit:
    """The fastest plan that fits into what is free on `device` now.

    Args:
        changes: settings that differ from the model's own, such as height and width.
        download: see `read_configs`.
        float8: see `Plan`.

    Raises CheckpointError with advice if none fits.
    """
    folder = find_folder(name)
    settings = load_settings(folder).changed(changes or {})
    free = free_bytes(device)
    try:
        configs = read_configs(folder, download)
        small = SMALL * _weights(configs) < free
    except Exception:  # loading will say what is wrong with them
        small = True
    if small:
        return Fit(Plan(float8=float8))
    fit = _fitting(configs, settings, device, free, float8)
    if fit is not None:
        return fit
    least = min(taken for _, _, taken in _ways(configs, settings, device, float8))
    wants = f"preset {name} needs {least / GIB:.1f} GiB on {device} at {settings.height} x {settings.width}"
    mend = _smaller(configs, settings, device, free, float8)
    raise CheckpointError(f"{wants}, {free / GIB:.1f} are free: {mend}")


def read_configs(folder: Path, download: bool = True) -> dict[str, dict[str, Any]]:
    """The configurations of a model folder, by component.

    download: of a released model read those of the release, where they can be had, and not those of the folder, which
    are of the same sizes unless somebody made another release
    """
    release = read_release(folder) if download else None
    root = folder
    if release:
        with suppress(CheckpointError):
            root = release.fetch_configs()
    return {part: read_config(root / part / "config.json") for part in CONFIGURED}


def free_bytes(device: str) -> float:
    """What a device has left; infinite where it cannot be asked."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available if kind == "cpu" else float("inf")


def table(name: str | Path, device: str = "cuda", changes: Mapping[str, Any] | None = None) -> str:
    """Every plan with the memory it needs, a line each: `python -m shotstream_lite.fit` prints it for wan-1.3b."""
    folder = find_folder(name)
    ways = _ways(read_configs(folder, download=False), load_settings(folder).changed(changes or {}), device)
    return "\n".join(Fit(plan, need, float("nan"), taken).line(str(name), device) for plan, need, taken in ways)


def default_device(settings: StreamSettings) -> str:
    """A GPU for large pictures, if there is one. Small ones are quick on a CPU, and the same on every machine."""
    large = settings.height * settings.width > 256 * 256
    return "cuda" if large and torch.cuda.is_available() else "cpu"


def check_device(device: str) -> str:
    """Raises CheckpointError if there is no such device here."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):  # torch compiled without CUDA asserts
        raise CheckpointError(f"device {device}: there is none here: take cpu") from None
    return device


Parts = tuple[ShotStreamTransformer, Codec, CaptionEncoder]


def load_parts(folder: Path, weights: str, device: str, plan: Plan) -> Parts:
    """Transformer, codec and text encoder of a model folder, as `arrange` puts them. Raises CheckpointError."""
    dtype = default_dtype(device)
    transformer = load_transformer(folder, weights, plan.home_of_transformer(device), dtype)
    text = load_text(folder, plan.home_of_text(device), dtype)
    return arrange(transformer, load_codec(folder, device), *text, load_settings(folder), device, plan)


def arrange(
    transformer: ShotStreamTransformer,
    vae: AutoencoderKLWan,
    encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: StreamSettings,
    device: str,
    plan: Plan,
) -> Parts:
    """Gives a model its device's ways: attention by the fast backend and, on a GPU, the codec in channels-last layout.

    transformer and encoder are where the plan says they are at home.
    """
    arrange_transformer(transformer, device, plan)
    codec = Codec(vae if torch.device(device).type == "cpu" else channels_last(vae), plan.tiles)
    text = CaptionEncoder(encoder, tokenizer, settings.text_tokens, deliver=device, visit=plan.text == "visits")
    return transformer, codec, text


def load_another(folder: Path, weights: str, device: str, plan: Plan) -> ShotStreamTransformer:
    """One more transformer of a model folder, as `load_parts` gives the first. Raises CheckpointError."""
    transformer = load_transformer(folder, weights, plan.home_of_transformer(device), default_dtype(device))
    return arrange_transformer(transformer, device, plan)


def arrange_transformer(transformer: ShotStreamTransformer, device: str, plan: Plan) -> ShotStreamTransformer:
    """The transformer's part of `arrange`; the same object."""
    if plan.float8:
        keep_in_float8(transformer)
    if plan.linears_wait:
        let_linears_wait(transformer, device)
    use_backend(transformer, fast_backend(torch.device(device)))
    return transformer


def keep_in_float8(transformer: ShotStreamTransformer) -> None:
    """Rounds the linear layers of the blocks to eight bits, as they are kept; they compute in the type they had.

    This is diffusers' layerwise casting. It saves memory and costs a cast at each call.
    """
    for linear in (m for m in transformer.blocks.modules() if isinstance(m, nn.Linear)):
        apply_layerwise_casting(linear, FLOAT8, linear.weight.dtype)


def let_linears_wait(transformer: ShotStreamTransformer, device: str, disk: Path | None = None) -> None:
    """Puts a transformer on `device` but for the linear layers of its blocks, which come from the CPU when called.

    disk: a folder where they wait instead. This is diffusers' group offloading, a layer a group, and wants accelerate;
    raises CheckpointError without it.
    """
    if not is_accelerate_available():
        raise CheckpointError("so little memory needs accelerate: pip install accelerate")
    linears = nn.ModuleList(m for m in transformer.blocks.modules() if isinstance(m, nn.Linear))
    apply_group_offloading(
        linears,
        onload_device=torch.device(device),
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
        offload_to_disk_path=None if disk is None else str(disk),
    )
    waiting = {id(p) for p in linears.parameters()}
    for module in transformer.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in waiting:
                module.register_parameter(name, nn.Parameter(parameter.to(device), parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, buffer.to(device), persistent=False)


def _fitting(configs: dict, settings: StreamSettings, device: str, free: float, float8: bool) -> Fit | None:
    ways = _ways(configs, settings, device, float8)
    return next((Fit(plan, need, free, taken) for plan, need, taken in ways if taken <= free), None)


def _ways(
    configs: dict, settings: StreamSettings, device: str, float8: bool = False
) -> Iterator[tuple[Plan, Need, float]]:
    """Every plan for a device with what it needs; counted when asked for."""
    dtype = default_dtype(device)
    need = count(configs, settings, dtype)
    if float8:
        saved = need.linears - need.linears * FLOAT8.itemsize // dtype.itemsize
        need = replace(need, transformer=need.transformer - saved, linears=need.linears - saved)
    for plan in PLANS if device != "cpu" else (Plan(), Plan(tiles=2)):
        plan = replace(plan, float8=float8)
        features, decode = need.features, need.decode
        if plan.tiles > 1:
            features, decode = count_decoding(configs, settings, dtype, plan.tiles)
            features *= plan.tiles**2 if device == "cpu" else 1  # on a GPU those of other tiles are elsewhere
        tiled = replace(need, features=features, decode=decode)
        yield plan, tiled, _takes(plan, tiled, device)


def _takes(plan: Plan, need: Need, device: str) -> float:
    """The most that is on the device at once: while a caption is encoded, or in a shot."""
    resident = need.transformer - need.linears * plan.linears_wait + need.codec + need.text * (plan.text == "stays")
    encoding = need.text * (plan.text == "visits")
    shot = need.caches + max(need.context, need.features + max(need.chunk, need.decode))
    return resident + max(encoding, shot) + ROOM * (device != "cpu")


def _smaller(configs: dict, settings: StreamSettings, device: str, free: float, float8: bool) -> str:
    """What to do when nothing fits."""
    unit = 2 ** (len(configs["vae"]["dim_mult"]) - 1) * configs["transformer"]["patch_size"][-1]
    for scale in SMALLER:
        sides = {side: max(1, round(getattr(settings, side) * scale / unit)) * unit for side in ("height", "width")}
        fit = _fitting(configs, settings.changed(sides), device, free, float8)
        if fit is not None:
            return f"take --height {sides['height']} --width {sides['width']}, which needs {fit.bytes / GIB:.1f}"
    return "close what else uses it, or take another device"


def _weights(configs: dict) -> int:
    """Bytes of all weights in float32, from outlines without memory."""
    with torch.device("meta"):
        text = build_text_encoder(configs["text_encoder"])
    return weight_bytes(outline(configs["transformer"])) + weight_bytes(text)


if __name__ == "__main__":
    print(table("wan-1.3b"))
