"""A tiny decoder for the codec there is: it learns from the film itself what the exact decoder learnt (see `tiny`)."""

import math
import time
from dataclasses import dataclass

import torch
from safetensors.torch import save_file
from torch import Tensor

from shotstream_lite.codec import Codec, to_pixels
from shotstream_lite.errors import CheckpointError
from shotstream_lite.files import whole_file
from shotstream_lite.models.folder import load_codec
from shotstream_lite.tiny import TinyDecoder
from shotstream_lite.toybox.dataset import film_pool
from shotstream_lite.training.codec import clip_batch, reconstruction
from shotstream_lite.training.config import StageConfig
from shotstream_lite.training.loop import Run
from shotstream_lite.training.weights import folder_with

FILE = "tiny_decoder.safetensors"
HELD_OUT = 8  # shots that quality is measured on


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
        print(said(compare(codec, tiny, to_pixels(torch.as_tensor(pool[:HELD_OUT]).flatten(0, 1)), pool.shape[1])))


@torch.no_grad()
def compare(codec: Codec, tiny: TinyDecoder, pixels: Tensor, length: int) -> dict[str, float]:
    """Both decoders on clips they have not seen, pixels [clips * length, 3, H, W]: PSNR in dB, and seconds a clip."""
    clips, errors, seconds = pixels.unflatten(0, (-1, length)).transpose(1, 2), [0.0, 0.0, 0.0], [0.0, 0.0]
    for clip in clips.split(1):
        latents, made = codec.encode_clip(clip), []
        for which, decode in enumerate((codec.decode, lambda z: tiny.decode_chunk(z)[0])):
            start = time.perf_counter()
            made.append(decode(latents).float().cpu())
            seconds[which] += time.perf_counter() - start
        exact, quick = made
        for index, (a, b) in enumerate(((exact, clip), (quick, clip), (quick, exact))):
            errors[index] += (a - b).square().mean().item() / len(clips)
    names = ("exact", "tiny", "between")
    figures = {f"psnr_{name}": decibels(error) for name, error in zip(names, errors, strict=True)}
    return figures | {f"seconds_{name}": s / len(clips) for name, s in zip(names, seconds, strict=False)}


def decibels(error: float) -> float:
    """dB of a mean squared error of values in [-1, 1]."""
    return -10 * math.log10(max(error, 1e-12) / 4)


def said(f: dict[str, float]) -> str:
    """What is lost and won, in a line."""
    return (
        f"tiny decoder: {f['psnr_tiny']:.1f} dB to the film where the exact one has {f['psnr_exact']:.1f}, "
        f"{f['psnr_between']:.1f} dB between the two; {f['seconds_exact'] / f['seconds_tiny']:.1f} times as fast"
    )
