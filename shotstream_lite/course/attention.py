"""Where attention goes: a cache that keeps the record, the whole map of one pass, a hat's tokens, blind heads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from shotstream_lite.cache import ShotCache, attention_shares
from shotstream_lite.pipeline import Before
from shotstream_lite.toybox.truth import places
from shotstream_lite.toybox.world import Character, ToyStory
from shotstream_lite.transformer import AppendKV, ShotStreamTransformer, after_attention, before_attention


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
def attention_maps(
    model: ShotStreamTransformer, *inputs: Tensor, asking: slice | Sequence[int] = slice(None), **options
) -> Tensor:
    """Who looked at whom in one pass of `model.joint`, which says what the inputs are; of the first sample, unmasked.

    Args:
        asking: the tokens that look; all are a lot of numbers.

    Shape: returns float32 [layers, heads, asking, tokens], rows sum to one
    """
    maps = []

    def noted(*given) -> tuple[Tensor, Tensor, Tensor]:
        query, keys, values = before_attention(*given)
        logits = query[0][:, asking].float() @ keys[0].float().mT * query.shape[-1] ** -0.5
        maps.append(logits.softmax(-1))
        return query, keys, values

    usual, model.halves = model.halves, (noted, after_attention)
    try:
        model.joint(*inputs, **options)
    finally:
        model.halves = usual
    return torch.stack(maps)


def hat_tokens(story: ToyStory, frames: Sequence[tuple[int, int]], who: Character, grid: tuple[int, int]) -> list[int]:
    """The tokens in which somebody's hat is, one for each of the frames that show it.

    Args:
        frames: (shot, frame) of the latents in a row; grid: rows and columns of tokens in each.
    """
    found = []
    for slot, (shot, frame) in enumerate(frames):
        take = story.takes[shot]
        for one, prefix in zip(take.cast, ("", "other "), strict=False):
            down, across = places(take, np.array([frame]))[f"{prefix}hat"][0]
            if one == who and 0 <= down < 1 and 0 <= across < 1:
                found.append((slot * grid[0] + int(down * grid[0])) * grid[1] + int(across * grid[1]))
    return found


def blind(heads: Mapping[int, Sequence[int]]) -> Before:
    """For `pipeline.shot(before=...)`: in a shot of one chunk some heads see nothing of the global cache.

    In its place they find copies of the chunk's own keys and values. Each is there equally often, so attention among
    them is what it would be without a global cache; all other heads stay as they are.

    Args:
        heads: by layer, both counted from 0.

    Raises ValueError, when the chunk is made, for a second chunk, or where copies do not fill the place exactly.
    """

    def before(cache: ShotCache, start: int) -> None:
        if start:
            raise ValueError("heads are blind in a shot's first chunk only: make shots of one chunk")
        cache.append_kv = partial(_blinded, cache.append_kv, cache.context_frames * cache.frame_tokens, heads)

    return before


def _blinded(append_kv: AppendKV, memory: int, heads: Mapping[int, Sequence[int]], *given) -> tuple[Tensor, Tensor]:
    layer, everything = given[1], append_kv(*given)
    if layer not in heads:
        return everything
    copies, rest = divmod(memory, everything[0].shape[2] - memory)
    if rest:
        raise ValueError("the chunk's own frames have to fill the global cache once, twice or more times exactly")
    everything = tuple(seen.clone() for seen in everything)
    for seen in everything:
        seen[:, heads[layer], :memory] = seen[:, heads[layer], memory:].repeat(1, 1, copies, 1)
    return everything
