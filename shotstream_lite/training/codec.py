"""Stage 0: the toybox's Wan VAE.

Single frames come first and clips after: shown clips from the start, the causal decoder finds nothing to hold on to for
hundreds of steps. On a single frame every causal convolution sees zeros before it, so it is a 2-D convolution with
the last temporal tap, three times cheaper; when clips begin, the other taps start at zero and time is at first just
repeated.
"""

import copy
import math
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    DiagonalGaussianDistribution,
    WanCausalConv3d,
    patchify,
    unpatchify,
)
from torch import Tensor

from shotstream_lite.errors import StoryError
from shotstream_lite.models.folder import load_codec
from shotstream_lite.toybox.dataset import film_pool, to_pixels
from shotstream_lite.training.config import StageConfig
from shotstream_lite.training.draws import Draws, seeded
from shotstream_lite.training.loop import Run, descend, learning_rate
from shotstream_lite.training.weights import save_whole

LATENT_CHANNELS = 32  # while it learns; fewer are kept
COMPACT_SHOTS = 96  # that say which channels matter
# frames in a clip -> clips in a batch, on each process
BATCHES = {1: 16, 5: 5, 9: 3, 13: 2, 17: 2}


@dataclass(kw_only=True)
class CodecConfig(StageConfig):
    """How the codec is trained. With --start it goes on from the codec there, with clips at once."""

    steps: int = 4300
    frame_steps: int = 2400  # single frames only, before the clips
    optimizer: Literal["adamw", "muon"] = "muon"
    lr: float = 0.02
    clip_lr: float = 0.005
    kl: float = 2e-4
    base_dim: int = 32  # channels of its widest feature maps; four times as many of the smallest
    patch_size: int = 4  # pixels of a side that enter as channels; four patches a side are a latent cell
    wide_channels: int = LATENT_CHANNELS
    channels: int = 24  # latent channels kept in the end
    shots: int = 1800  # rendered shots to draw from

    def check(self) -> None:
        """As in `RunConfig`."""
        super().check()
        if self.channels > self.wide_channels:
            raise StoryError(f"--channels is {self.channels}: write a number from 1 to {self.wide_channels}")
        if self.shots < COMPACT_SHOTS:
            raise StoryError(f"--shots is {self.shots}: the codec needs {COMPACT_SHOTS} or more at its end")


def build_codec(channels: int = LATENT_CHANNELS, base_dim: int = 32, patch_size: int = 4) -> AutoencoderKLWan:
    """The toybox's codec: Wan's own class, `4 * patch_size` pixels a side and 4 frames to a latent cell."""
    vae = AutoencoderKLWan(
        base_dim=base_dim,
        z_dim=channels,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        in_channels=3 * patch_size**2,
        out_channels=3 * patch_size**2,
        patch_size=patch_size,
        scale_factor_spatial=4 * patch_size,
        latents_mean=[0.0] * channels,
        latents_std=[1.0] * channels,
    )
    with torch.no_grad():
        vae.quant_conv.bias[channels:] = -6.0  # little posterior noise at first, or nothing is learnt for long
    return vae


def codec_loss(vae: AutoencoderKLWan, pixels: Tensor, draws: Draws, kl: float) -> tuple[Tensor, dict[str, float]]:
    """Reconstruction (squared error, and absolute error of edges) plus a light pull towards a standard normal.

    Shape:
        pixels: [batch, 3, frames, height, width] in [-1, 1]
    """
    single, patch = pixels.shape[2] == 1, vae.config.patch_size
    if single:
        with frame_convolutions(vae):
            posterior = DiagonalGaussianDistribution(vae.quant_conv(vae.encoder(patchify(pixels, patch))))
            latents = _sample(posterior, draws)
            decoded = unpatchify(vae.decoder(vae.post_quant_conv(latents), first_chunk=True), patch)
    else:
        posterior = vae.encode(pixels).latent_dist
        decoded = decode_unclamped(vae, _sample(posterior, draws))
    divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    error, psnr = reconstruction(decoded, pixels)
    return error + kl * divergence, {"psnr_frame" if single else "psnr_clip": psnr, "kl": divergence.item()}


def reconstruction(decoded: Tensor, pixels: Tensor) -> tuple[Tensor, float]:
    """Squared error plus the absolute error of pixels and of their neighbours' differences; and the PSNR in dB."""
    error = decoded - pixels
    square = error.square().mean()
    edges = error.abs().mean() + error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return 4 * square + 0.2 * edges, -10 * math.log10(square.item() / 4)


def decode_unclamped(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Decodes latent by latent as `AutoencoderKLWan.decode` does, without its final clamp, which stops gradients."""
    vae.clear_cache()
    hidden = vae.post_quant_conv(latents)
    frames = []
    for i in range(latents.shape[2]):
        vae._conv_idx = [0]
        frame = hidden[:, :, i : i + 1]
        frames.append(vae.decoder(frame, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=i == 0))
    vae.clear_cache()
    return unpatchify(torch.cat(frames, 2), vae.config.patch_size)


@contextmanager
def frame_convolutions(vae: AutoencoderKLWan) -> Iterator[None]:
    """Inside, the codec takes single frames only and runs its causal convolutions as the 2-D ones they then are."""

    def forward(conv: WanCausalConv3d, x: Tensor, cache_x: None = None) -> Tensor:
        across, _, down, *_ = conv._padding
        return F.conv2d(x[:, :, 0], conv.weight[:, :, -1], conv.bias, conv.stride[1:], (down, across)).unsqueeze(2)

    convolutions = [m for m in vae.modules() if isinstance(m, WanCausalConv3d)]
    for conv in convolutions:
        conv.forward = types.MethodType(forward, conv)
    try:
        yield
    finally:
        for conv in convolutions:
            del conv.forward


@torch.no_grad()
def start_clips(vae: AutoencoderKLWan) -> None:
    """Gives a codec of single frames a time to begin with: a latent is its last frame, decoded four times over."""
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d) and module.kernel_size[0] == 3:
            module.weight[:, :, :-1] = 0
    for name, module in vae.named_modules():
        if name.endswith("time_conv"):
            copies = module.out_channels // module.in_channels
            module.weight[:, :, -1, 0, 0] = torch.eye(module.in_channels).repeat(copies, 1)
            module.bias.zero_()


def train_codec(config: CodecConfig) -> None:
    """Trains the codec and stores it with compact latents."""
    run = Run("codec", config)
    torch.manual_seed(config.seed)
    size = config.wide_channels, config.base_dim, config.patch_size
    vae = run.trained(load_codec(config.start) if config.start else build_codec(*size))
    frame_steps = 0 if config.start else config.frame_steps
    pool = film_pool(config.shots, seed=config.seed)
    optimizer = run.optimizer(vae)

    def train_step(step: int) -> dict[str, float]:
        if step == frame_steps and not config.start:
            start_clips(vae)
            optimizer.state.clear()
        pixels, draws = clip_batch(run, step, pool, 1 if step < frame_steps else None)
        loss, metrics = codec_loss(vae, pixels, draws, config.kl)
        descend(optimizer, loss, _rate(step, frame_steps, config), config.clip)
        return metrics

    def save() -> None:
        if run.main:
            save_whole(compact(copy.deepcopy(vae).cpu(), pool, config.channels), config.out / "vae")

    run.steps(train_step, save, vae=vae, opt=optimizer)


@torch.no_grad()
def compact(vae: AutoencoderKLWan, pool: np.ndarray, channels: int, shots: int = COMPACT_SHOTS) -> AutoencoderKLWan:
    """The same codec with fewer latent channels: the principal ones, uncorrelated, as loud as `channel_scales` says.

    A codec's channels are correlated and some hardly used. Noise would drown the faint directions, where characters
    live, long before the loud ones that hold the sky. The rotation is folded into the convolutions on both sides of the
    latents, so nothing is added to the model; at the picture's border, where convolutions see zeros, it is not exact.
    """
    means = torch.cat([vae.encode(to_pixels(pool[i : i + 8])).latent_dist.mean for i in range(0, shots, 8)])
    cells = means.transpose(0, 1).flatten(1).double()
    centre = cells.mean(1)
    variance, axes = torch.linalg.eigh(torch.cov(cells))
    variance, axes = variance.flip(0)[:channels], axes.flip(1)[:, :channels]
    inward, outward = (axes / variance.sqrt()).T, axes * variance.sqrt()

    small = build_codec(channels, vae.config.base_dim, vae.config.patch_size)
    folded = ("encoder.conv_out.", "quant_conv.", "post_quant_conv.", "decoder.conv_in.")
    small.load_state_dict({k: v for k, v in vae.state_dict().items() if not k.startswith(folded)}, strict=False)

    half = vae.config.z_dim
    quant, last = _matrix(vae.quant_conv)[:half], vae.encoder.conv_out
    small.encoder.conv_out.weight.zero_()
    weight = torch.einsum("no,oithw->nithw", inward @ quant, last.weight.double())
    small.encoder.conv_out.weight[:channels] = weight.float()
    bias = inward @ (quant @ last.bias.double() + vae.quant_conv.bias[:half].double() - centre)
    small.encoder.conv_out.bias[:channels] = bias.float()
    small.encoder.conv_out.bias[channels:] = -6.0
    for conv in (small.quant_conv, small.post_quant_conv):
        conv.weight[..., 0, 0, 0] = torch.eye(conv.in_channels)
        conv.bias.zero_()

    post, first = _matrix(vae.post_quant_conv), vae.decoder.conv_in
    offset = post @ centre + vae.post_quant_conv.bias.double()
    inside = torch.linalg.lstsq(post @ outward, offset[:, None]).solution[:, 0]
    small.post_quant_conv.bias[:] = inside.float()
    left = offset - post @ outward @ inside
    weight = first.weight.double()
    small.decoder.conv_in.weight[:] = torch.einsum("oithw,ic->octhw", weight, post @ outward).float()
    small.decoder.conv_in.bias[:] = (first.bias + torch.einsum("oithw,i->o", weight, left)).float()

    gains = channel_scales(small, to_pixels(pool[:4]))
    small.encoder.conv_out.weight[:channels] *= gains[:, None, None, None, None]
    small.encoder.conv_out.bias[:channels] *= gains
    small.post_quant_conv.weight[..., 0, 0, 0] = torch.diag(1 / gains)
    return small


@torch.no_grad()
def channel_scales(vae: AutoencoderKLWan, pixels: Tensor, nudge: float = 0.3) -> Tensor:
    """Deviations that a codec's white channels should have, [channels]: fourth roots of their shares in the picture.

    All equally loud, most of the diffusion loss would go to channels that hardly show; as loud as they show, noise
    would drown the fine ones. A channel's share is how much the pixels change when it is nudged.
    """
    latents = vae.encode(pixels).latent_dist.mean
    picture, shares = decode_unclamped(vae, latents), []
    for channel in range(latents.shape[1]):
        nudged = latents.clone()
        nudged[:, channel] += nudge * torch.randn(
            latents[:, 0].shape, generator=seeded(channel), dtype=torch.float32, device="cpu"
        )
        shares.append((decode_unclamped(vae, nudged) - picture).square().mean())
    gains = torch.stack(shares) ** 0.25
    return gains / gains.square().mean().sqrt()


def _matrix(conv: WanCausalConv3d) -> Tensor:
    """A 1x1x1 convolution as a matrix [out, in], float64."""
    return conv.weight[..., 0, 0, 0].double()


def _rate(step: int, frame_steps: int, config: CodecConfig) -> float:
    """Two cosines, the second from where clips begin."""
    if step < frame_steps:
        return learning_rate(step, frame_steps, config.lr, config.warmup, floor=0.2)
    return learning_rate(step - frame_steps, config.steps - frame_steps, config.clip_lr, config.warmup, config.lr_floor)


def _sample(posterior: DiagonalGaussianDistribution, draws: Draws) -> Tensor:
    return posterior.mean + posterior.std * draws.noise(posterior.mean.shape)


def clip_batch(run: Run, step: int, pool: np.ndarray, length: int | None = None) -> tuple[Tensor, Draws]:
    """Clips [batch, 3, frames, H, W] from a pool of shots, of a `length` or of one in BATCHES, the same on all
    processes; and the source of what else the step draws."""
    if length is None:
        length = list(BATCHES)[run.draws(step, run.processes).shared_index(len(BATCHES))]
    draws = run.draws(step, run.processes * BATCHES[length])
    places = zip(draws.index(len(pool)).tolist(), draws.index(pool.shape[1] - length + 1).tolist(), strict=True)
    clips = np.stack([pool[shot, start : start + length] for shot, start in places])
    return to_pixels(clips).to(run.device), draws
