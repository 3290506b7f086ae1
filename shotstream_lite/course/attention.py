"""Where attention goes: a cache that keeps the record, and the whole map of one pass."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from shotstream_lite.cache import ShotCache, attention_shares
from shotstream_lite.transformer import ShotStreamTransformer, after_attention, before_attention


@dataclass
class RecordingCache(ShotCache):
    """A cache that notes how each head of the latest pass spent its attention, made by `RecordingCache(**vars(cache))`.

    `heads` holds by layer float32 [heads, frames], which sum to one along the frames.
    """

    heads: dict[int, Tensor] = field(default_factory=dict)

    def append_kv(
        self, tokens: slice, layer: int, keys: Tensor, values: Tensor, query: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `ShotCache.append_kv`."""
        everything = super().append_kv(tokens, layer, keys, values, query)
        by_head = zip(query.split(1, dim=1), everything[0].split(1, dim=1), strict=True)
        self.heads[layer] = torch.stack([attention_shares(q, k, self.frame_tokens) for q, k in by_head])
        return everything


@torch.no_grad()
def attention_maps(model: ShotStreamTransformer, *inputs: Tensor, **options) -> Tensor:
    """Who looked at whom in one pass of `model.joint`, which says what the inputs are; of the first sample, unmasked.

    Shape: returns float32 [layers, heads, tokens, tokens], rows sum to one
    """
    maps = []

    def noted(*given) -> tuple[Tensor, Tensor, Tensor]:
        query, keys, values = before_attention(*given)
        logits = query[0].float() @ keys[0].float().mT * query.shape[-1] ** -0.5
        maps.append(logits.softmax(-1))
        return query, keys, values

    usual, model.halves = model.halves, (noted, after_attention)
    try:
        model.joint(*inputs, **options)
    finally:
        model.halves = usual
    return torch.stack(maps)
