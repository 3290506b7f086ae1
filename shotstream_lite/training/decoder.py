"""The decoder alone goes on learning: pictures get sharper, latents and what was trained on them stay valid."""

from dataclasses import dataclass
from pathlib import Path

import torch

from shotstream_lite.presets import load_codec
from shotstream_lite.toybox.dataset import film_pool
from shotstream_lite.training.codec import decode_unclamped, draw_clips, reconstruction
from shotstream_lite.training.loop import Checkpoint, descend, learning_rate, run_steps, step_generator


@dataclass
class DecoderConfig:
    """How the decoder is polished."""

    out: Path
    steps: int = 1500
    lr: float = 1e-3
    noise: float = 0.05  # added to latents, since a model's are never exact
    shots: int = 500
    seed: int = 9


def train_decoder(config: DecoderConfig) -> None:
    """Trains decoder and `post_quant_conv` of the codec in `config.out` with the encoder frozen, in place."""
    vae = load_codec(config.out)
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    pool = film_pool(config.shots, seed=config.seed)
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, betas=(0.9, 0.95), weight_decay=1e-4)

    def train_step(step: int) -> dict[str, float]:
        generator = step_generator(config.seed, step)
        pixels = draw_clips(pool, generator)
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.mean
        latents = latents + config.noise * torch.randn(latents.shape, generator=generator)
        loss, psnr = reconstruction(decode_unclamped(vae, latents), pixels)
        descend(optimizer, loss, learning_rate(step, config.steps, config.lr))
        return {"psnr_frame" if pixels.shape[2] == 1 else "psnr_clip": psnr}

    checkpoint = Checkpoint(config.out / "decoder.pt", vae=vae, optimizer=optimizer)
    run_steps(
        "decoder", config.steps, train_step, checkpoint, on_save=lambda step: vae.save_pretrained(config.out / "vae")
    )
