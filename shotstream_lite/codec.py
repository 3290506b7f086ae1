"""The Wan VAE: frames encoded one by one, clips encoded whole, latents decoded as they come.

Latents are normalised by the mean and deviation in its configuration, as diffusers' Wan pipelines do.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, unpatchify
from torch import Tensor

from shotstream_lite.errors import CodecError
from shotstream_lite.tiny import TinyDecoder, TinyStream

FRAMES_PER_LATENT = 4  # after the first latent, which holds one frame
OVERLAP = 8  # latents that neighbouring tiles share; a seam is blended over all of them


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


def spatial_factor(config: Mapping[str, Any]) -> int:
    """Pixels along a latent's side, of a codec's configuration."""
    return 2 ** (len(config["dim_mult"]) - 1) * (config.get("patch_size") or 1)


def to_pixels(frames: Tensor) -> Tensor:
    """uint8 [f, H, W, 3] -> float [f, 3, H, W] in [-1, 1]."""
    return frames.movedim(-1, 1).float() / 127.5 - 1


def to_frames(pixels: Tensor) -> Tensor:
    """float [f, 3, H, W] in [-1, 1] -> uint8 [f, H, W, 3]; the inverse of `to_pixels`."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(1, -1).contiguous()


class Codec:
    """An AutoencoderKLWan with its normalisation. Gradients never pass through it.

    Args:
        tiny: decodes instead of the codec, in one piece; see `models.folder.load_tiny`.
        tiles: 2 or more decodes tiles by tiles overlapping parts of the picture one after another: less memory, more
            work, and nearly the same pictures (the codec's attention sees only its own part).
    """

    def __init__(self, vae: AutoencoderKLWan, tiles: int = 1, tiny: TinyDecoder | None = None) -> None:
        self.vae, self.tiles, self.tiny = vae, tiles, tiny
        self.channels: int = vae.config.z_dim
        self.spatial_factor = spatial_factor(vae.config)

    def latent_size(self, height: int, width: int, patch: int = 1) -> tuple[int, int]:
        """Height and width of the latents of pixels [.., height, width].

        Raises CodecError unless both divide by the codec's factor, times the transformer's `patch` where one will read
        them.
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
        self.latent_size(*pixels.shape[-2:])
        mean, deviation = _normalisation(self.vae)
        return (self.vae.encode(pixels.to(mean)).latent_dist.mode() - mean) / deviation

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes whole clips: [B, C, k+1, h, w] -> pixels [B, 3, 4k+1, H, W] in [-1, 1]."""
        return self.stream().decode(latents)

    def stream(self, exact: bool = False) -> "StreamDecoder | TiledStreamDecoder | TinyStream":
        """A decoder for one clip whose latents come chunk by chunk; the codec's own if it shall be `exact`."""
        if self.tiny and not exact:
            return TinyStream(self.tiny)
        return StreamDecoder(self.vae) if self.tiles == 1 else TiledStreamDecoder(self)


class StreamDecoder:
    """Decodes one clip as its latents arrive: 1 frame for the first latent, then 4 for each.

    The features that the causal convolutions look back to are kept here and not in the codec, so that streams
    may be interleaved, and what comes out equals `AutoencoderKLWan.decode` of the whole clip bit for bit.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self.vae = vae
        self._features: list = [None] * sum(isinstance(m, WanCausalConv3d) for m in vae.decoder.modules())

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """The next latents [B, C, f, h, w] -> their pixel frames [B, 3, F, H, W] in [-1, 1].

        F is 4f, or 4f - 3 in the first call.
        """
        mean, deviation = _normalisation(self.vae)
        latents = latents.to(mean) * deviation + mean
        pixels = []
        # One latent a call: several at once are no faster on a CPU and differ in the last bits.
        for latent in self.vae.post_quant_conv(latents).split(1, dim=2):
            first = self._features[0] is None
            pixels.append(self.vae.decoder(latent, feat_cache=self._features, feat_idx=[0], first_chunk=first))
        pixels = torch.cat(pixels, dim=2)
        if self.vae.config.patch_size is not None:
            pixels = unpatchify(pixels, self.vae.config.patch_size)
        return pixels.clamp(-1, 1)

    def mark(self) -> list:
        """Where the clip stands now, for `back`."""
        return list(self._features)

    def back(self, mark: list) -> None:
        """Forgets what was decoded since `mark`."""
        self._features = list(mark)

    def move_features(self, device: torch.device | str) -> None:
        """Takes what is remembered to another device."""
        self._features = [f.to(device) if isinstance(f, Tensor) else f for f in self._features]


class TiledStreamDecoder:
    """A `StreamDecoder` for each of codec.tiles ** 2 overlapping parts of the picture, one at work at a time.

    The features of a tile wait on the CPU while others are at work. Seams are blended linearly.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self._decoders = [StreamDecoder(codec.vae) for _ in range(codec.tiles**2)]

    def mark(self) -> list:
        """As `StreamDecoder.mark`."""
        return [decoder.mark() for decoder in self._decoders]

    def back(self, mark: list) -> None:
        """As `StreamDecoder.back`."""
        for decoder, one in zip(self._decoders, mark, strict=True):
            decoder.back(one)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """As `StreamDecoder.decode`."""
        rows, columns = (tile_spans(size, self.codec.tiles) for size in latents.shape[-2:])
        places = [(row, column) for row in rows for column in columns]
        factor = self.codec.spatial_factor
        total, weights = None, 0.0
        for decoder, (row, column) in zip(self._decoders, places, strict=True):
            decoder.move_features(self.codec.vae.post_quant_conv.weight.device)
            pixels = decoder.decode(latents[..., slice(*row), slice(*column)])
            decoder.move_features("cpu")
            ramps = (_ramp(span, size, factor) for span, size in zip((row, column), latents.shape[-2:], strict=True))
            down, along = (ramp.to(pixels) for ramp in ramps)
            weight = down[:, None] * along
            if total is None:
                whole = [size * factor for size in latents.shape[-2:]]
                total, weights = pixels.new_zeros(*pixels.shape[:-2], *whole), pixels.new_zeros(whole)
            part = [slice(start * factor, stop * factor) for start, stop in (row, column)]
            total[..., part[0], part[1]] += pixels * weight
            weights[part[0], part[1]] += weight
        return total / weights


def tile_spans(size: int, tiles: int) -> list[tuple[int, int]]:
    """`tiles` equal stretches over `size` latents, neighbours sharing OVERLAP of them where there is room."""
    length = min(size, -(-(size + (tiles - 1) * OVERLAP) // tiles))
    starts = [round(i * (size - length) / max(1, tiles - 1)) for i in range(tiles)]
    return [(start, start + length) for start in starts]


def _ramp(span: tuple[int, int], size: int, factor: int) -> Tensor:
    """How much each pixel of a tile counts along one side: 1, falling towards sides that have a neighbour."""
    start, stop = span
    distance = torch.arange(1, (stop - start) * factor + 1, dtype=torch.float32, device="cpu")
    edge = OVERLAP * factor + 1
    near = [distance / edge] if start > 0 else []
    far = [distance.flip(0) / edge] if stop < size else []
    return torch.stack([torch.ones_like(distance), *near, *far]).amin(0)


def _normalisation(vae: AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the latents, each [C, 1, 1, 1], where and as the codec computes; copied once to a device,
    for a copy waits for its work."""
    like = vae.post_quant_conv.weight  # `vae.device` and `vae.dtype` walk through all modules
    numbers = (vae.config.latents_mean, vae.config.latents_std)
    mean, deviation = (_on_device(tuple(each), like.device, like.dtype) for each in numbers)
    return mean, deviation


@lru_cache
@torch.inference_mode(False)  # or nothing that carries gradient could use them
def _on_device(numbers: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(numbers, device=device, dtype=dtype).view(-1, 1, 1, 1)
