"""The two memories of a shot and the keys of its captions (paper sec. 4.2).

One preallocated range of frames per layer holds ``[global | local]``: the context frames (global cache), then
the shot's own (local cache). What a chunk may attend to is then one slice.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CaptionKeys:
    """Cross-attention keys and values of n captions, computed once and read by every pass.

    Shape:
        keys, values: one tensor per layer, [batch, n, heads, text_tokens, head_dim]
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def __len__(self) -> int:
        return self.keys[0].shape[1]

    def layer(self, index: int, ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, gathered for groups of frames.

        Shape:
            ids: [batch, groups], the caption each group of consecutive frames reads; None: all read caption 0
            returns: two tensors [batch * groups, heads, text_tokens, head_dim]
        """
        keys, values = self.keys[index], self.values[index]
        if ids is None:
            return keys[:, 0], values[:, 0]
        first = len(self) * torch.arange(len(ids), device=ids.device)[:, None]
        rows = torch.where(ids < len(self), first + ids, keys[:, :, 0, 0, 0].numel()).flatten()  # not a neighbour's
        # One row a caption: the gradient of this is far cheaper than that of an index by two tensors.
        return keys.flatten(0, 1).index_select(0, rows), values.flatten(0, 1).index_select(0, rows)

    def only(self, ids: Tensor) -> "CaptionKeys":
        """One caption per sample, ids [batch]: what all frames of a shot read, gathered once."""
        layers = [self.layer(index, ids[:, None]) for index in range(len(self.keys))]
        keys, values = zip(*layers, strict=True)
        return CaptionKeys(tuple(k.unsqueeze(1) for k in keys), tuple(v.unsqueeze(1) for v in values))


@dataclass
class ShotCache:
    """Everything a chunk must know about its shot; made by `rollout.begin_shot`, one per shot.

    `captions` holds one caption per sample and may be replaced between two chunks. Put an empty dict into `shares` and
    every pass leaves there, by layer, how its attention was spent (see `attention_shares`). With `only_writes` nobody
    reads what comes out of a pass: it ends, with None, where the last layer's keys and values are written.

    Shape:
        keys, values: one tensor per layer, [batch, heads, (context + shot) tokens, head_dim]; keys are stored
            normalised and rotated
        table: the rotations of the whole range (see `rope.rope_table`)
        latent_shape: (batch, channels, height, width)
    """

    keys: list[Tensor]
    values: list[Tensor]
    captions: CaptionKeys
    table: Tensor
    latent_shape: tuple[int, int, int, int]
    context_frames: int
    shot_frames: int
    shares: dict[int, Tensor] | None = None
    only_writes: bool = False

    @property
    def frame_tokens(self) -> int:
        """Tokens of one latent frame."""
        return self.table.shape[1] // (self.context_frames + self.shot_frames)

    def tokens(self, start: int, frames: int) -> slice:
        """Where `frames` frames from frame `start` of the shot lie; the context begins at -context_frames.

        Raises ValueError if the shot has no such frames.
        """
        if not -self.context_frames <= start <= start + frames <= self.shot_frames:
            raise ValueError(f"frames {start} to {start + frames} are not in a shot of {self.shot_frames} frames")
        first = self.context_frames + start
        return slice(first * self.frame_tokens, (first + frames) * self.frame_tokens)

    def append_kv(
        self, tokens: slice, layer: int, keys: Tensor, values: Tensor, query: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The keys and values that new tokens attend to: everything stored before them, and their own.

        Without gradient the new ones are written in place and the answer is one slice of the cache.
        With gradient (self-forcing training) nothing is written: they are appended to the detached past, so
        gradients stay inside the chunk, as in Self Forcing. The released code differs: its clean pass
        overwrites the values in place and leaves the autograd edge of the exit step, so that a later chunk's
        loss also reaches the keys of earlier chunks.

        Shape:
            keys, values: [batch, heads, new, head_dim]; returns: two [batch, heads, tokens.stop, head_dim]
            query: like keys; who asks, needed only to measure `shares`
        """
        memories = (self.keys[layer], keys), (self.values[layer], values)
        if torch.is_grad_enabled():
            return tuple(torch.cat((known[:, :, : tokens.start], new), dim=2) for known, new in memories)
        for known, new in memories:
            known[:, :, tokens] = new
        if self.shares is not None:
            self.shares[layer] = attention_shares(query, self.keys[layer][:, :, : tokens.stop], self.frame_tokens)
        return tuple(known[:, :, : tokens.stop] for known, _ in memories)


def attention_shares(query: Tensor, keys: Tensor, frame_tokens: int, queries: int = 24) -> Tensor:
    """How much of its attention a pass spends on each frame, averaged over samples, heads and some of the queries.

    Shape:
        query: [batch, heads, new, head_dim]; keys: [batch, heads, frames * frame_tokens, head_dim]
        queries: how many, evenly spaced; all of them would cost as much as the pass itself
        returns: float32 [frames], which sum to one
    """
    new = query.shape[2]
    some = torch.linspace(0, new - 1, min(queries, new), dtype=torch.float32, device="cpu").round().long()
    logits = query[:, :, some.to(query.device)].float() @ keys.float().transpose(-1, -2) * query.shape[-1] ** -0.5
    return logits.softmax(-1).mean((0, 1, 2)).view(-1, frame_tokens).sum(1)
