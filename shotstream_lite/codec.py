"""The Wan VAE: frames encoded one by one, clips encoded whole, latents decoded as they come.

Latents are normalised by the mean and deviation in its configuration, as diffusers' Wan pipelines do.
"""

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, unpatchify
from torch import Tensor

FRAMES_PER_LATENT = 4  # after the first latent, which holds one frame


class CodecError(ValueError):
    """A size the codec cannot take; the message is one line that says which would do."""


def latent_frames(frames: int) -> int:
    """Latents of a clip of `frames` pixel frames: 1, 5, 9, ... -> 1, 2, 3, ...; CodecError otherwise."""
    if frames < 1 or frames % FRAMES_PER_LATENT != 1:
        low = max(0, frames - 1) // FRAMES_PER_LATENT * FRAMES_PER_LATENT + 1
        near = f"{low} or {low + FRAMES_PER_LATENT}" if frames > 0 else "1 or more"
        raise CodecError(f"frames is {frames}, not one more than a multiple of 4: take {near}")
    return (frames - 1) // FRAMES_PER_LATENT + 1


def pixel_frames(latents: int) -> int:
    """Pixel frames of a clip of `latents` latents: 1, 2, 3, ... -> 1, 5, 9, ..."""
    return (latents - 1) * FRAMES_PER_LATENT + 1


def to_pixels(frames: Tensor) -> Tensor:
    """uint8 [f, H, W, 3] -> float [f, 3, H, W] in [-1, 1]."""
    return frames.movedim(-1, 1).float() / 127.5 - 1


def to_frames(pixels: Tensor) -> Tensor:
    """float [f, 3, H, W] in [-1, 1] -> uint8 [f, H, W, 3]; the inverse of `to_pixels`."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(1, -1).contiguous()


class Codec:
    """An AutoencoderKLWan with its normalisation. Gradients never pass through it."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self.vae = vae
        self.channels: int = vae.config.z_dim
        self.spatial_factor: int = 2 ** (len(vae.config.dim_mult) - 1) * (vae.config.patch_size or 1)

    def latent_size(self, height: int, width: int, patch: int = 2) -> tuple[int, int]:
        """Height and width of the latents of pixels [.., height, width].

        Raises CodecError unless both divide by the codec's factor times the transformer's `patch`.
        """
        unit = self.spatial_factor * patch
        for name, size in (("height", height), ("width", width)):
            if size < unit or size % unit:
                low = size // unit * unit
                near = f"{low} or {low + unit}" if low > 0 else str(unit)
                raise CodecError(f"{name} is {size}, which does not divide by {unit}: take {near}")
        return height // self.spatial_factor, width // self.spatial_factor

    def encode_frames(self, pixels: Tensor) -> Tensor:
        """Encodes each frame alone, in one batch: [n, 3, H, W] in [-1, 1] -> [n, C, h, w] (paper 4.1)."""
        return self.encode_clip(pixels.unsqueeze(2)).squeeze(2)

    @torch.no_grad()
    def encode_clip(self, pixels: Tensor) -> Tensor:
        """Encodes clips: [B, 3, F, H, W] in [-1, 1], F = 4k+1 -> the posterior's mode [B, C, k+1, h, w]."""
        latent_frames(pixels.shape[2])
        self.latent_size(*pixels.shape[-2:], patch=1)
        latents = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist.mode()
        mean, deviation = _normalisation(self.vae)
        return (latents - mean) / deviation

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes whole clips: [B, C, k+1, h, w] -> pixels [B, 3, 4k+1, H, W] in [-1, 1]."""
        return self.stream().decode(latents)

    def stream(self) -> "StreamDecoder":
        """A decoder for one clip whose latents come chunk by chunk."""
        return StreamDecoder(self.vae)


class StreamDecoder:
    """Decodes one clip as its latents arrive: 1 frame for the first latent, then 4 for each.

    The features that the causal convolutions look back to are kept here and not in the codec, so that streams
    may be interleaved, and what comes out equals `AutoencoderKLWan.decode` of the whole clip bit for bit.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self.vae = vae
        self._features: list = [None] * sum(isinstance(m, WanCausalConv3d) for m in vae.decoder.modules())
        self._started = False

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """The next latents [B, C, f, h, w] -> their pixel frames [B, 3, F, H, W] in [-1, 1].

        F is 4f, or 4f - 3 in the first call.
        """
        mean, deviation = _normalisation(self.vae)
        latents = latents.to(self.vae.device, self.vae.dtype) * deviation + mean
        # One latent a call: several at once are no faster on a CPU and differ in the last bits.
        pixels = torch.cat([self._decode_one(z) for z in self.vae.post_quant_conv(latents).split(1, dim=2)], 2)
        if self.vae.config.patch_size is not None:
            pixels = unpatchify(pixels, self.vae.config.patch_size)
        return pixels.clamp(-1, 1)

    def _decode_one(self, latent: Tensor) -> Tensor:
        first, self._started = not self._started, True
        return self.vae.decoder(latent, feat_cache=self._features, feat_idx=[0], first_chunk=first)


def _normalisation(vae: AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the latents, each [C, 1, 1, 1]."""
    numbers = (vae.config.latents_mean, vae.config.latents_std)
    mean, deviation = (torch.tensor(n, device=vae.device, dtype=vae.dtype).view(-1, 1, 1, 1) for n in numbers)
    return mean, deviation
