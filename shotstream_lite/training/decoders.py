"""Decoders for the codec there is, whose latents, and what was trained on them, stay valid: its own goes on learning,
and a tiny one (see `tiny`) learns from the film itself what the exact one has learnt."""

import math
import time
from dataclasses import dataclass
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from shotstream_lite.codec import Codec
from shotstream_lite.errors import CheckpointError
from shotstream_lite.files import whole_file
from shotstream_lite.models.folder import load_codec
from shotstream_lite.tiny import TinyDecoder
from shotstream_lite.toybox.dataset import film_pool, to_pixels
from shotstream_lite.training.codec import clip_batch, decode_unclamped, reconstruction
from shotstream_lite.training.config import StageConfig
from shotstream_lite.training.loop import Run
from shotstream_lite.training.weights import folder_with, save_whole

FILE = "tiny_decoder.safetensors"
HELD_OUT = 8  # shots that a tiny decoder is measured on


@dataclass(kw_only=True)
class DecoderConfig(StageConfig):
    """How the decoder is polished."""

    steps: int = 2000
    optimizer: Literal["adamw", "muon"] = "muon"
    lr: float = 0.003
    noise: float = 0.05  # added to latents, since a model's are never exact
    shots: int = 500
    seed: int = 9


def train_decoder(config: DecoderConfig) -> None:
    """Trains decoder and `post_quant_conv` of the codec in `config.out` with the encoder frozen, in place."""
    run = Run("decoder", config)
    vae = load_codec(folder_with(config, "vae"))
    run.trained(vae, [vae.decoder, vae.post_quant_conv])
    pool = film_pool(config.shots, seed=config.seed)
    optimizer = run.optimizer(vae)

    def train_step(step: int) -> dict[str, float]:
        pixels, draws = clip_batch(run, step, pool)
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.mean
        latents = latents + config.noise * draws.noise(latents.shape)
        loss, psnr = reconstruction(decode_unclamped(vae, latents), pixels)
        run.descend(optimizer, loss, step)
        return {"psnr_frame" if pixels.shape[2] == 1 else "psnr_clip": psnr}

    def save() -> None:
        if run.main:
            save_whole(vae, config.out / "vae")

    run.steps(train_step, save, vae=vae, optimizer=optimizer)


@dataclass(kw_only=True)
class TinyDecoderConfig(StageConfig):
    """How a tiny decoder is trained; it leaves tiny_decoder.safetensors in `out`."""

    steps: int = 3000
    widths: tuple[int, int, int, int] = (64, 48, 32, 24)  # of its four sizes of pictures
    noise: float = 0.05  # added to latents, since a model's are never exact
    shots: int = 500
    lr: float = 2e-3
    seed: int = 11


def train_tiny_decoder(config: TinyDecoderConfig) -> None:
    """Trains a tiny decoder on the latents of the codec in `config.out`, and prints what it loses."""
    run = Run("tiny-decoder", config)
    codec = Codec(run.frozen(load_codec(folder_with(config, "vae"))))
    torch.manual_seed(config.seed)
    tiny = run.trained(TinyDecoder(codec.channels, config.widths, codec.spatial_factor // 8))
    pool = film_pool(config.shots, seed=config.seed)
    optimizer = run.optimizer(tiny)

    def train_step(step: int) -> dict[str, float]:
        pixels, draws = clip_batch(run, step, pool[HELD_OUT:])
        latents = codec.encode_clip(pixels)
        loss, psnr = reconstruction(tiny(latents + config.noise * draws.noise(latents.shape))[0], pixels)
        run.descend(optimizer, loss, step)
        return {"psnr": psnr}

    def save() -> None:
        if run.main:
            with whole_file(config.out / FILE, CheckpointError) as part:
                save_file({name: tensor.contiguous() for name, tensor in tiny.state_dict().items()}, part)

    run.steps(train_step, save, tiny=tiny, optimizer=optimizer)
    if run.main:
        print(lost_and_won(codec, tiny, to_pixels(pool[:HELD_OUT])))


@torch.no_grad()
def lost_and_won(codec: Codec, tiny: TinyDecoder, film: Tensor) -> str:
    """In a line, what the tiny decoder is beside the exact one on shots it has not seen, [shots, 3, frames, H, W]."""
    decoders, seconds = {"exact": codec.decode, "tiny": lambda latents: tiny.decode_chunk(latents)[0]}, {}
    latents, made = [codec.encode_clip(clip) for clip in film.split(1)], {"film": film}
    for name, decode in decoders.items():
        start = time.perf_counter()
        made[name] = torch.cat([decode(latent).float().cpu() for latent in latents])
        seconds[name] = time.perf_counter() - start

    def decibels(one: str, other: str) -> str:
        error = (made[one] - made[other]).square().mean().item()  # of values in [-1, 1]
        return f"{-10 * math.log10(max(error, 1e-12) / 4):.1f}"

    return (
        f"tiny decoder: {decibels('tiny', 'film')} dB to the film where the exact one has {decibels('exact', 'film')}, "
        f"{decibels('tiny', 'exact')} dB between the two; {seconds['exact'] / seconds['tiny']:.1f} times as fast"
    )
