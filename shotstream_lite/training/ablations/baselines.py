"""What the paper compares its choices with (Tables 3 and 4): two ways that add parameters, so they are kept out of the
model.

Both are a Wan with more input channels, the new ones starting at zero weight.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from shotstream_lite.cache import CaptionKeys, ShotCache
from shotstream_lite.training.config import StudentConfig
from shotstream_lite.transformer import ShotStreamTransformer


def widened(transformer: ShotStreamTransformer, channels: int) -> ShotStreamTransformer:
    """The same model with so many input channels; what the new ones hold changes nothing yet."""
    wide = ShotStreamTransformer.from_config(dict(transformer.config) | {"in_channels": channels})
    state = dict(transformer.state_dict())
    name = "patch_embedding.weight"
    state[name] = F.pad(state[name], (0, 0, 0, 0, 0, 0, 0, channels - state[name].shape[1]))
    wide.load_state_dict(state)
    return wide


class ChannelConcat(ShotStreamTransformer):
    """A teacher that gets its context as channels beside every target frame ("channel concat", Table 3).

    The paper does not say how its baseline spreads the context over the shot; here every frame sees all of it.
    """

    @classmethod
    def of(cls, transformer: ShotStreamTransformer, budget: int) -> "ChannelConcat":
        """A model that is no such thing yet, or one that was and comes back from disk."""
        channels = transformer.config.out_channels * (1 + budget)
        if transformer.config.in_channels != channels:
            transformer = widened(transformer, channels)
        transformer.__class__ = cls
        return transformer

    def joint(
        self,
        latents: Tensor,
        timestep: Tensor | float,
        captions: Tensor | CaptionKeys,
        shot_ids: Tensor,
        *,
        caption_ids: Tensor | None = None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        **options,
    ) -> Tensor:
        """As in `ShotStreamTransformer`: latents [context | target] in, flow of the same shape out, 0 for context."""
        budget = self.config.in_channels // self.config.out_channels - 1
        context, target = latents[:, :, :budget], latents[:, :, budget:]
        beside = context.flatten(1, 2).unsqueeze(2).expand(-1, -1, target.shape[2], -1, -1)
        reads = None if caption_ids is None else caption_ids[..., budget:]
        options["mask"] = None if mask is None else mask[budget:, budget:]
        options["positions"] = None if positions is None else positions[budget:] - budget
        if isinstance(timestep, Tensor) and timestep.ndim == 2:
            timestep = timestep[:, budget:]
        seen = torch.cat((target, beside), dim=1)
        flow = super().joint(seen, timestep, captions, shot_ids[..., budget:], caption_ids=reads, **options)
        return torch.cat((torch.zeros_like(context), flow), dim=2)


class LearntCut(ShotStreamTransformer):
    """A student that knows a cut by a learnt embedding on the shot's first chunk ("learnable embedding", Table 4).

    The embedding is the weight of one more input channel, which is one in the first chunk and zero elsewhere.
    """

    first = 3  # latent frames that carry it

    @classmethod
    def of(cls, config: StudentConfig, transformer: ShotStreamTransformer) -> ShotStreamTransformer:
        """The model as the configuration wants it: itself, or with the embedding, new or back from disk."""
        if config.indicator != "embedding":
            return transformer
        if transformer.config.in_channels == transformer.config.out_channels:
            transformer = widened(transformer, transformer.config.in_channels + 1)
        transformer.__class__ = cls
        transformer.first = config.chunk
        return transformer

    def joint(
        self, latents: Tensor, timestep: Tensor | float, captions: Tensor | CaptionKeys, shot_ids: Tensor, **options
    ) -> Tensor:
        """As in `ShotStreamTransformer`; the target is the shot of the last frame."""
        target = shot_ids == shot_ids[..., -1:]
        mark = target & (target.cumsum(-1) <= self.first)
        return super().joint(_marked(latents, mark), timestep, captions, shot_ids, **options)

    def context(
        self, cache: ShotCache, latents: Tensor, captions: CaptionKeys, caption_ids: Tensor | None = None
    ) -> Tensor:
        """As in `ShotStreamTransformer`."""
        return super().context(cache, _marked(latents, latents.new_zeros(latents.shape[2])), captions, caption_ids)

    def chunk(self, cache: ShotCache, latents: Tensor, timestep: Tensor | float, start: int) -> Tensor:
        """As in `ShotStreamTransformer`."""
        mark = torch.arange(start, start + latents.shape[2], device=latents.device) < self.first
        return super().chunk(cache, _marked(latents, mark), timestep, start)


def _marked(latents: Tensor, mark: Tensor) -> Tensor:
    """Latents [B, C, F, H, W] and one more channel that holds `mark`, [F] or [B, F]."""
    batch, _, frames, height, width = latents.shape
    channel = mark.to(latents).expand(batch, frames)[:, None, :, None, None]
    return torch.cat((latents, channel.expand(-1, -1, -1, height, width)), dim=1)
