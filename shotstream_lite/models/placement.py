"""How a model is put on a device so that it fits; decided and said before anything is loaded."""

import os
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKLWan
from diffusers.hooks import apply_layerwise_casting
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from shotstream_lite.attention import fast_backend, processors, use_backend
from shotstream_lite.codec import Codec, spatial_factor
from shotstream_lite.errors import CheckpointError, OutOfMemory, about
from shotstream_lite.models.codec_kernels import for_cpu, for_gpu
from shotstream_lite.models.configs import PARTS, check_together, read_config
from shotstream_lite.models.convert import outline
from shotstream_lite.models.folder import (
    build_text_encoder,
    component,
    default_dtype,
    find_folder,
    load_codec,
    load_text,
    load_transformer,
)
from shotstream_lite.models.memory import GIB, Need, count, count_decoding, host_memory, weight_bytes
from shotstream_lite.models.released import read_release
from shotstream_lite.models.settings import StreamSettings, load_settings
from shotstream_lite.text import CaptionEncoder
from shotstream_lite.transformer import ShotStreamTransformer
from shotstream_lite.transformer import for_gpu as transformer_for_gpu

ROOM = 0.75 * GIB
"""Bytes of a GPU left to kernels' workspaces and to gaps between tensors: an allowance, not a count."""
CARDS = (12, 16, 24, 32, 80)  # GB of the cards in `table`
T = TypeVar("T")
FREE = 0.95  # of a card, when only its driver and a screen use it
FLOAT8 = torch.float8_e4m3fn
SMALL = 50  # a model whose weights go so often into the free memory is not counted: see `choose`
SMALLER = (0.8, 2 / 3, 0.5)  # sides of the pictures that are proposed when the whole size does not fit


@dataclass(frozen=True)
class Plan:
    """Where the parts of a model are.

    text_waits: the text encoder waits on the CPU and its layers come to the device one by one
    tiles: the decoder works on tiles by tiles parts of a picture, see `Codec`
    linears_wait: the linear layers of the transformer wait on the CPU and come one by one
    float8: those layers are kept in eight bits and widened when called: a little less exact, never chosen unasked
    """

    text_waits: bool = False
    tiles: int = 1
    linears_wait: bool = False
    float8: bool = False

    def home_of_transformer(self, device: str) -> str:
        """Where the transformer is loaded to."""
        return "cpu" if self.linears_wait else device

    def home_of_text(self, device: str) -> str:
        """Where the text encoder is loaded to."""
        return "cpu" if self.text_waits else device


PLANS = (Plan(), Plan(text_waits=True), Plan(text_waits=True, tiles=2), Plan(True, 2, linears_wait=True))
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
        parts = {"transformer": need.transformer, "codec": need.codec, "text encoder": need.text}
        parts |= {"caches": need.caches, "the rest while it works": need.working - need.caches}
        sizes = ", ".join(f"{part} {size / GIB:.1f}" for part, size in parts.items())
        ways = {
            "the text encoder's layers come one by one": plan.text_waits,
            f"pictures are decoded in {plan.tiles} x {plan.tiles} tiles": plan.tiles > 1,
            "so do the transformer's": plan.linears_wait,
            "which are kept in eight bits": plan.float8,
        }
        how = "".join(f"; {way}" for way, taken in ways.items() if taken)
        return f"{name} on {device} needs {self.bytes / GIB:.1f} GiB, {self.free / GIB:.1f} are free ({sizes}){how}"


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
    except CheckpointError:  # loading will say what is wrong with them
        small = True
    if small:
        return Fit(Plan(float8=float8))
    if fit := _fitting(configs, settings, device, free, float8):
        return fit
    least = min(taken for _, _, taken in _ways(configs, settings, device, float8))
    wants = f"preset {name} needs {least / GIB:.1f} GiB on {device} at {settings.height} x {settings.width}"
    fix = _smaller(configs, settings, device, free, float8)
    raise CheckpointError(f"{wants}, {free / GIB:.1f} are free: {fix}")


def read_configs(folder: Path, download: bool = True) -> dict[str, dict[str, Any]]:
    """The configurations of a model folder, by component.

    download: of a released model read those of the release, where they can be had, and not those of the folder, which
    are of the same sizes unless somebody made another release
    """
    release = read_release(folder) if download else None
    root = release.fetch_configs() if release else folder
    return {part: read_config(root / part / "config.json", part) for part in PARTS}


def free_bytes(device: str) -> float:
    """What a device has left; infinite where it cannot be asked."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return host_memory()[0] if kind == "cpu" else float("inf")


def table(name: str | Path, device: str = "cuda", changes: Mapping[str, Any] | None = None) -> str:
    """The plan that is taken on cards of some sizes, a line each; `python -m` of this module prints it."""
    folder = find_folder(name)
    ways = list(_ways(read_configs(folder, download=False), load_settings(folder).changed(changes or {}), device))
    lines = []
    for card in CARDS:
        free = FREE * card * GIB
        fits = (Fit(plan, need, free, taken).line(str(name), device) for plan, need, taken in ways if taken <= free)
        lines.append(f"{card} GB: {next(fits, 'too little for this size of pictures')}")
    return "\n".join(lines)


def giving_back(work: Iterator[T]) -> Iterator[T]:
    """The same pieces of work; if memory runs out, all that it held is given back, and OutOfMemory raised."""
    full = False
    try:
        yield from work
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error)):
            raise
        traceback.clear_frames(error.__traceback__)
        full = True
    if full:  # outside of the handler, which would keep the error and with it the caches
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise OutOfMemory(
            "the device ran out of memory, the story is as it was before the shot: make a shorter shot or smaller "
            "pictures, remember less (budget), or close what else uses the device"
        )


def default_device(settings: StreamSettings) -> str:
    """A GPU for large pictures, if there is one. Small ones are quick on a CPU, and the same on every machine."""
    return "cuda" if not _is_small(settings) and torch.cuda.is_available() else "cpu"


def _is_small(settings: StreamSettings) -> bool:
    return settings.height * settings.width <= 256 * 256


def check_device(device: str) -> str:
    """Raises CheckpointError if there is no such device here."""
    try:
        torch.ones(1, device=device).item()  # meta has no numbers
    except (RuntimeError, AssertionError):  # torch compiled without CUDA asserts
        raise CheckpointError(f"device {device[:40]!r}: there is none here: take cpu") from None
    return device


Parts = tuple[ShotStreamTransformer, Codec, CaptionEncoder]


def load_parts(folder: Path, weights: str, device: str, plan: Plan) -> Parts:
    """Transformer, codec and text encoder of a model folder, as `arrange` puts them. Raises CheckpointError."""
    dtype = default_dtype(device)
    names = dict(zip(PARTS, (weights, *PARTS[1:]), strict=True))
    configs = {part: read_config(component(folder, name) / "config.json", part) for part, name in names.items()}
    with about(folder):
        check_together(configs)
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
    """Gives a model its device's ways: attention by the fast backend, the codec as `for_gpu` or `for_cpu` makes it.

    transformer and encoder are where the plan says they are at home.
    """
    if _is_small(settings) and torch.device(device).type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # threads that wait for each other take longer than so small a model does
    arrange_transformer(transformer, device, plan)
    codec = Codec((for_cpu if torch.device(device).type == "cpu" else for_gpu)(vae), plan.tiles)
    if plan.text_waits:
        come_one_by_one([*encoder.encoder.block, encoder.encoder.final_layer_norm], device)
    return transformer, codec, CaptionEncoder(encoder, tokenizer, settings.text_tokens)


def load_another(folder: Path, weights: str, device: str, plan: Plan) -> ShotStreamTransformer:
    """One more transformer of a model folder, as `load_parts` gives the first. Raises CheckpointError."""
    transformer = load_transformer(folder, weights, plan.home_of_transformer(device), default_dtype(device))
    return arrange_transformer(transformer, device, plan)


def arrange_transformer(transformer: ShotStreamTransformer, device: str, plan: Plan) -> ShotStreamTransformer:
    """The transformer's part of `arrange`; the same object."""
    linears = [m for m in transformer.blocks.modules() if isinstance(m, nn.Linear)]
    for linear in linears if plan.float8 else ():  # kept in eight bits and cast at each call to the type they had
        apply_layerwise_casting(linear, FLOAT8, linear.weight.dtype)
    if plan.linears_wait:
        waiting = {id(p) for linear in linears for p in linear.parameters()}
        for tensor in (*transformer.parameters(), *transformer.buffers()):
            if id(tensor) not in waiting:
                tensor.data = tensor.data.to(device)
        come_one_by_one(linears, device)
    where = torch.device(device)
    if where.type == "cuda" and not (plan.float8 or plan.linears_wait):
        transformer_for_gpu(transformer)
    use_backend(transformer, fast_backend(where), processors(transformer, where))
    return transformer


def come_one_by_one(modules: Iterable[nn.Module], device: str) -> None:
    """Modules on the CPU whose weights, and what they are called with, come to `device` while they are called.

    The weights at home are never moved, so whatever happens on the way they are all there afterwards.
    """
    for module in modules:
        pinned = torch.device(device).type == "cuda"  # copied at the bus's full speed, and while kernels run
        homes = [(p, p.data.pin_memory() if pinned else p.data) for p in module.parameters()]

        @torch.inference_mode(False)  # or the parameters would be inference tensors
        def come(module: nn.Module, args: tuple, kwargs: dict, homes: list = homes) -> tuple[tuple, dict]:
            for parameter, home in homes:
                parameter.data = home.to(device, non_blocking=True, copy=True)
            return tree_map_only(Tensor, lambda x: x.to(device, non_blocking=True), (args, kwargs))

        def go(module: nn.Module, args: tuple, output: Any, homes: list = homes) -> None:
            for parameter, home in homes:
                parameter.data = home

        go(module, (), None)
        module.register_forward_pre_hook(come, with_kwargs=True)
        module.register_forward_hook(go, always_call=True)


def _fitting(configs: dict, settings: StreamSettings, device: str, free: float, float8: bool) -> Fit | None:
    ways = _ways(configs, settings, device, float8)
    return next((Fit(plan, need, free, taken) for plan, need, taken in ways if taken <= free), None)


def _ways(
    configs: dict, settings: StreamSettings, device: str, float8: bool = False
) -> Iterator[tuple[Plan, Need, float]]:
    """Every plan for a device, what it needs, and the most that is there at once; counted when asked for."""
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
        transformer = need.transformer - need.linears * plan.linears_wait
        text = need.layer if plan.text_waits else need.text
        yield plan, tiled, transformer + need.codec + text + tiled.working + ROOM * (device != "cpu")


def _smaller(configs: dict, settings: StreamSettings, device: str, free: float, float8: bool) -> str:
    """What to do when nothing fits."""
    unit = spatial_factor(configs["vae"]) * configs["transformer"]["patch_size"][-1]
    for scale in SMALLER:
        sides = {side: max(1, round(getattr(settings, side) * scale / unit)) * unit for side in ("height", "width")}
        if fit := _fitting(configs, settings.changed(sides), device, free, float8):
            return f"take --height {sides['height']} --width {sides['width']}, which needs {fit.bytes / GIB:.1f}"
    return "close what else uses it, or take another device"


def _weights(configs: dict) -> int:
    """Bytes of all weights in float32, from outlines without memory."""
    with torch.device("meta"):
        text = build_text_encoder(configs["text_encoder"])
    return weight_bytes(outline(configs["transformer"])) + weight_bytes(text)


if __name__ == "__main__":
    print(table("wan-1.3b"))
