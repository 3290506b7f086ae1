"""The decoder alone goes on learning: pictures get sharper, latents and what was trained on them stay valid."""

from dataclasses import dataclass

import torch

from shotstream_lite.codec import spatial_factor
from shotstream_lite.models.folder import load_codec
from shotstream_lite.toybox.dataset import film_pool
from shotstream_lite.toybox.dataset import film_pool as second_film_pool
from shotstream_lite.training.codec import clip_batch, decode_unclamped, reconstruction
from shotstream_lite.training.config import StageConfig
from shotstream_lite.training.loop import Run
from shotstream_lite.training.weights import folder_with, save_whole


@dataclass(kw_only=True)
class DecoderConfig(StageConfig):
    """How the decoder is polished."""

    steps: int = 1500
    noise: float = 0.05  # added to latents, since a model's are never exact
    shots: int = 500
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-4
    seed: int = 9


def train_decoder(config: DecoderConfig) -> None:
    """Trains decoder and `post_quant_conv` of the codec in `config.out` with the encoder frozen, in place."""
    run = Run("decoder", config)
    vae = load_codec(folder_with(config, "vae"))
    run.trained(vae, [vae.decoder, vae.post_quant_conv])
    draw = second_film_pool if spatial_factor(vae.config) == 16 else film_pool  # the world the codec is of
    pool = draw(config.shots, seed=config.seed)
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
