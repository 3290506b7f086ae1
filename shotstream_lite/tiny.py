"""A tiny decoder: pictures for a twentieth of the exact decoder's work, and a little less exact. Off unless asked for.

It looks at one latent at a time with 2-D convolutions; each of its blocks remembers what it was given a frame earlier,
and that is all it knows of time. Its files are those of the TAEHV family (madebyollin/taehv), such as
taew2_1.safetensors for Wan 2.1: it reads latents as the transformer makes them, and of a clip's first four frames only
the last is meant.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

State = list[Tensor]
"""What each block was given last, [B, C, h, w]."""

UNSEEN = 3  # frames of a clip's first latent that were never in the film


class Soft(nn.Module):
    """Keeps latents between -3 and 3."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class Block(nn.Module):
    """Three convolutions over a frame and the one before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = ((2 * width, width), (width, width), (width, width))
        first, *rest = (nn.Conv2d(wide, narrow, 3, padding=1) for wide, narrow in widths)
        self.conv = nn.Sequential(first, nn.ReLU(), rest[0], nn.ReLU(), rest[1])

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        return F.relu(self.conv(torch.cat((x, before), dim=1)) + x)


class Grow(nn.Module):
    """A frame becomes `times` frames."""

    def __init__(self, width: int, times: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width * times, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[frames, C, h, w] -> [frames * times, C, h, w]."""
        return self.conv(x).reshape(-1, *x.shape[1:])


class TinyDecoder(nn.Module):
    """Decodes latents of `channels` to pictures 8 * patch times as wide and high, four frames a latent.

    Modules stand in the order of the files' names. widths: of the four sizes of pictures it works through.
    """

    def __init__(self, channels: int, widths: tuple[int, int, int, int] = (256, 128, 64, 64), patch: int = 1) -> None:
        super().__init__()
        self.channels, self.patch = channels, patch
        parts: list[nn.Module] = [Soft(), nn.Conv2d(channels, widths[0], 3, padding=1), nn.ReLU()]
        for width, following, times in zip(widths, widths[1:], (1, 2, 2), strict=False):
            parts += [*(Block(width) for _ in range(3)), nn.Upsample(scale_factor=2), Grow(width, times)]
            parts.append(nn.Conv2d(width, following, 3, padding=1, bias=False))
        parts += [nn.ReLU(), nn.Conv2d(widths[3], 3 * patch**2, 3, padding=1)]
        self.decoder = nn.Sequential(*parts)

    def forward(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As `decode_chunk`, with values that may lie beyond [-1, 1] a little; for training."""
        batch, first = len(latents), state is None
        x, given = latents.transpose(1, 2).flatten(0, 1), []
        for part in self.decoder:
            if isinstance(part, Block):
                frames = x.unflatten(0, (batch, -1))
                before = x.new_zeros(batch, *x.shape[1:]) if first else state[len(given)]
                given.append(frames[:, -1])
                x = part(x, torch.cat((before[:, None], frames[:, :-1]), dim=1).flatten(0, 1))
            else:
                x = part(x)
        pixels = F.pixel_shuffle(x, self.patch).unflatten(0, (batch, -1)).transpose(1, 2) * 2 - 1
        return pixels[:, :, UNSEEN * first :], given

    @torch.no_grad()
    def decode_chunk(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The next latents of a clip to pixels in [-1, 1], and what to come back with.

        Shape:
            latents: [B, channels, f, h, w], normalised as the transformer makes them; state: None at a clip's start
            returns: [B, 3, F, H, W], F is 4f, or 4f - 3 at the start
        """
        weight = self.decoder[1].weight
        pixels, state = self(latents.to(weight), state)
        return pixels.clamp(-1, 1), state


class TinyStream:
    """Decodes one clip as its latents arrive, as `codec.StreamDecoder` does."""

    def __init__(self, decoder: TinyDecoder) -> None:
        self._decoder, self._state = decoder, None

    def decode(self, latents: Tensor) -> Tensor:
        """See `TinyDecoder.decode_chunk`."""
        pixels, self._state = self._decoder.decode_chunk(latents, self._state)
        return pixels

    def mark(self) -> State | None:
        """As `codec.StreamDecoder.mark`."""
        return None if self._state is None else list(self._state)

    def back(self, mark: State | None) -> None:
        """As `codec.StreamDecoder.back`."""
        self._state = mark
