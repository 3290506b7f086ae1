"""What a shot is made from besides noise, in one object: losses, scores, samplers and the rollout are handed it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shotstream_lite.cache import CaptionKeys
from shotstream_lite.rope import SHOT_PHASE
from shotstream_lite.transformer import ShotStreamTransformer, with_context


@dataclass(frozen=True)
class Conditioning:
    """Captions, and for a next shot what is remembered of earlier ones (paper sec. 4.1). Captions alone are those of
    a plain text-to-video model.

    Shape:
        captions: embeddings [B, n, text_tokens, text_dim], or what `caption_keys` made of them
        shot_ids: [m + F] or [B, m + F], over [context | shot]; None: a single shot
        caption_ids: likewise, the caption each frame reads; None: that of its shot id, or the only caption there is
        context: [B, C, m, H, W], clean, each frame encoded alone, oldest first; None: no memory
        phase: radians that a cut adds to the temporal angles
    """

    captions: Tensor | CaptionKeys
    shot_ids: Tensor | None = None
    caption_ids: Tensor | None = None
    context: Tensor | None = None
    phase: float = SHOT_PHASE

    @property
    def remembered(self) -> int:
        """How many frames the context has, m."""
        return 0 if self.context is None else self.context.shape[2]

    @property
    def frames(self) -> int:
        """How many latent frames the shot has, F."""
        return self.shot_ids.shape[-1] - self.remembered

    @property
    def reads(self) -> Tensor:
        """The caption each frame reads, also where `caption_ids` leaves it to the shot ids."""
        if self.caption_ids is not None:
            return self.caption_ids
        captions = len(self.captions) if isinstance(self.captions, CaptionKeys) else self.captions.shape[1]
        return self.shot_ids if captions > 1 else torch.zeros_like(self.shot_ids)

    def flow(self, transformer: ShotStreamTransformer, noisy: Tensor, timestep: Tensor | float, **options) -> Tensor:
        """What a bidirectional model says of [context | noisy] (eq. 2), the shot's part of it.

        Shape: noisy [B, C, F, H, W]; timestep and options: of `ShotStreamTransformer.joint`; returns: like noisy
        """
        options |= {"caption_ids": self.caption_ids, "phase": self.phase}
        flow = transformer.joint(with_context(self.context, noisy), timestep, self.captions, self.shot_ids, **options)
        return flow[:, :, self.remembered :]

    def unconditional(self, captions: Tensor | None = None) -> "Conditioning":
        """What guidance leads away from: all frames read one caption, by default the zeros of a dropped one.

        Shape: captions [B, 1, text_tokens, text_dim]
        """
        captions = torch.zeros_like(self.captions[:, :1]) if captions is None else captions
        return replace(self, captions=captions, caption_ids=None)

    def without_history(self) -> "Conditioning":
        """The same shot told like a first one, as `drop_context` leaves it: the context is blank and of shot 0, the
        shot is number 1, and all frames read the shot's caption."""
        first = torch.zeros_like(self.shot_ids)
        first[..., self.remembered :] = 1
        reads = self.reads[..., -1:].expand_as(first)
        return replace(self, shot_ids=first, caption_ids=reads, context=torch.zeros_like(self.context))
