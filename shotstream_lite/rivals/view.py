"""The same weights, with something put between a block's tokens and its attention: rotations, routes, detached keys."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from shotstream_lite.transformer import ShotStreamTransformer, after_attention, before_attention

NEVER = -1e4  # a logit that no softmax gives any weight
Change = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Of the rotated queries and keys and the values of a block, [B, heads, tokens, head_dim] each."""


def seen_through(
    model: ShotStreamTransformer, change: Change | None = None, turn: Tensor | None = None
) -> ShotStreamTransformer:
    """A view on a model that shares all its weights; the model itself stays as it is.

    turn: rotations on top of those of `joint`, complex [1 or B, tokens, 1, head_dim / 2]
    """

    def before(block, x: Tensor, modulation: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = before_attention(block, x, modulation, table if turn is None else table * turn)
        return parts if change is None else change(*parts)

    view = copy.copy(model)
    view.halves, view.whole = (before, after_attention), None
    return view


def biased(query: Tensor, keys: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys whose logits are greater by ``rows @ columns.T``, which travel as further channels.

    Shape: rows [..., queries, m] and columns [..., keys, m], for all samples and heads or for each
    """
    size, grown = query.shape[-1], query.shape[-1] + rows.shape[-1]
    rows, columns = (x.to(query).expand(*query.shape[:-1], -1) for x in (rows * grown**0.5, columns))
    return torch.cat((query * (grown / size) ** 0.5, rows), dim=-1), torch.cat((keys, columns), dim=-1)
