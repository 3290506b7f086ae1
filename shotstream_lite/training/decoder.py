"""The decoder alone goes on learning: pictures get sharper, latents and what was trained on them stay valid."""

from dataclasses import dataclass
from typing import Literal

import torch

from shotstream_lite.models.folder import load_codec
from shotstream_lite.toybox.dataset import film_pool
from shotstream_lite.training.codec import clip_batch, decode_unclamped, reconstruction
from shotstream_lite.training.config import StageConfig
from shotstream_lite.training.loop import Run
from shotstream_lite.training.weights import folder_with, save_whole


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
