"""The released implementation from a checkout of its repository, with the weights, noise and attention of ours."""

import importlib
import io
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers
from torch import Tensor, nn

from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.rollout import chunk_sizes
from shotstream_lite.text import CaptionEncoder, encode_captions

MODULES = {
    "ar": "pipeline.causal_inference_ar",
    "base": "model.base",
    "wrapper": "utils.wan_wrapper",
    "wan": "wan.modules.model",
    "causal": "wan.modules.causal_model",
    "vae": "wan.modules.vae",
}
REPOSITORY = "https://github.com/KlingAIResearch/ShotStream"
PACKAGES = "einops flask ftfy peft regex"


class CompareError(ValueError):
    """The two cannot be compared here; the message is one line that says why and what to do."""


def check_place(checkout: Path) -> None:
    """Raises CompareError unless the folder is a checkout of the released code and there is a GPU to run it on."""
    for name in MODULES.values():
        file = name.replace(".", "/") + ".py"
        if not (checkout / file).is_file():
            raise CompareError(f"{checkout}: is no checkout of the released code, {file} is not there: "
                               f"git clone {REPOSITORY}")  # fmt: skip
    if not torch.cuda.is_available():
        raise CompareError("torch finds no CUDA GPU, which the released code needs: run this where one is")


def load_released(checkout: Path) -> SimpleNamespace:
    """The modules of a checkout by their names in MODULES. Raises CompareError if something they need is missing.

    What the packages import of themselves (training, data sets) is left out: it needs much more, and nothing here.
    """
    for package in {name.partition(".")[0] for name in MODULES.values()}:
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(checkout / package)]
    try:
        return SimpleNamespace(**{short: importlib.import_module(name) for short, name in MODULES.items()})
    except ImportError as error:
        raise CompareError(f"the released code cannot be imported ({error}): pip install {PACKAGES}") from None


def build_released(modules: SimpleNamespace, ours: ShotStreamPipeline) -> nn.Module:
    """The released pipeline with our weights, settings, captions and attention kernel, on our device."""
    transformer, vae, settings = ours.transformer, ours.codec.vae, ours.settings

    def build_transformer(path: str, **options: int) -> nn.Module:
        with torch.device(ours.device):
            model = modules.causal.CausalWanModel(
                **released_config(transformer.config, settings.text_tokens), **options
            )
        return filled(model, transformer, convert_wan_transformer_to_diffusers)

    def build_codec(**unused: Any) -> nn.Module:
        names = ("z_dim", "dim_mult", "num_res_blocks", "attn_scales", "temperal_downsample", "dropout")
        with torch.device(ours.device):
            model = modules.vae.WanVAE_(dim=vae.config.base_dim, **{name: vae.config[name] for name in names})
        return filled(model, vae, convert_wan_vae_to_diffusers)

    modules.wan.flash_attention = modules.causal.attention = plain_attention
    arguments = SimpleNamespace(
        timestep_shift=settings.shift,
        denoising_step_list=list(settings.steps),
        warp_denoising_step=True,
        num_frame_per_block=settings.chunk,
        max_context_frames=settings.budget,
        dynamic_sample_frames=True,
        change_rope=True,
        multi_caption=True,
        context_noise=0,
    )
    with (
        redirect_stdout(io.StringIO()),
        patch.object(modules.wrapper.CausalWanModel, "from_pretrained", build_transformer),
        patch.object(modules.wrapper, "_video_vae", build_codec),
        patch.object(modules.base, "WanTextEncoder", lambda: SharedText(ours.text)),
    ):
        pipeline = modules.ar.CausalInferenceArPipeline(arguments, ours.device)
    return pipeline.to(dtype=transformer.dtype)


def released_config(config: Mapping[str, Any], text_tokens: int) -> dict[str, Any]:
    """Arguments of the released model from diffusers' configuration; the inverse of `configs.from_wan`."""
    return {
        "patch_size": tuple(config["patch_size"]),
        "text_len": text_tokens,
        "in_dim": config["in_channels"],
        "dim": config["num_attention_heads"] * config["attention_head_dim"],
        "ffn_dim": config["ffn_dim"],
        "freq_dim": config["freq_dim"],
        "text_dim": config["text_dim"],
        "out_dim": config["out_channels"],
        "num_heads": config["num_attention_heads"],
        "num_layers": config["num_layers"],
        "cross_attn_norm": config["cross_attn_norm"],
        "eps": config["eps"],
    }


def filled(theirs: nn.Module, ours: nn.Module, convert: Callable[[dict], dict]) -> nn.Module:
    """A released model with our weights; `convert` is what brings released names to diffusers'."""
    theirs.load_state_dict(released_names(theirs.state_dict(), ours.state_dict(), convert))
    return theirs.eval().requires_grad_(False)


def released_names(
    names: Iterable[str], state: Mapping[str, Tensor], convert: Callable[[dict], dict]
) -> dict[str, Tensor]:
    """Our weights by their released `names`. Raises CompareError naming what one side has and the other has not."""
    places = {name: next(iter(convert({name: torch.empty(0)}))) for name in names}
    if alone := sorted(set(places.values()) ^ set(state)):
        raise CompareError(f"the released model and ours are not of one kind: only one has {alone[0]}")
    return {name: state[place] for name, place in places.items()}


def plain_attention(q: Tensor, k: Tensor, v: Tensor, k_lens: None = None) -> Tensor:
    """What the released code calls attention, by torch's kernel: [B, tokens, heads, head_dim] in and out."""
    if k_lens is not None:
        raise CompareError("this version of the released code masks keys, as ours does not: check out another")
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


class SharedText(nn.Module):
    """Our text encoder as the released code calls one; nothing is remembered, as there."""

    def __init__(self, text: CaptionEncoder) -> None:
        super().__init__()
        self._text = (text.text_encoder, text.tokenizer)  # hidden from casts and moves of the whole pipeline
        self.length = text.length

    def forward(self, text_prompts: list[str]) -> dict[str, Tensor]:
        return {"prompt_embeds": encode_captions(*self._text, text_prompts, self.length, truncate=True)}


class SameNoise:
    """torch as the released pipeline sees it: its noise is what ours draws for the shots with seeds 0, 1, ..."""

    def __init__(self, chunk: int, steps: int) -> None:
        self.chunk, self.steps, self.seed = chunk, steps, 0
        self.later: deque[Tensor] = deque()

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def randn(self, shape: list[int]) -> Tensor:
        """The noise a shot starts from, [1, F, C, h, w]; that of the further steps is drawn with it, as ours is."""
        generator = torch.Generator().manual_seed(self.seed)
        self.seed += 1
        batch, frames, channels, *size = shape
        drawn = [
            [torch.randn(batch, channels, length, *size, generator=generator) for _ in range(self.steps)]
            for length in chunk_sizes(frames, self.chunk)
        ]
        self.later.extend(noise.transpose(1, 2).flatten(0, 1) for _, *rest in drawn for noise in rest)
        return torch.cat([first for first, *_ in drawn], dim=2).transpose(1, 2)

    def randn_like(self, latents: Tensor) -> Tensor:
        """The noise of the next step, [f, C, h, w]."""
        return self.later.popleft().to(latents)
