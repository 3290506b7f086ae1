"""One cache over a whole film. What a chunk sees of it, and where in time that stands, is its rival's to say."""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from shotstream_lite.cache import CaptionKeys, ShotCache
from shotstream_lite.rivals.marks import Mark
from shotstream_lite.rope import rope_table, rotate
from shotstream_lite.transformer import ShotStreamTransformer


@dataclass
class FilmCache(ShotCache):
    """A `ShotCache` whose global part is every frame of the film so far, `context_frames`; `begin` starts a shot.

    Keys are kept as they are before rotation, so that they can stand anywhere; `rollout` uses it as any cache.

    rival: asked for what a chunk remembers, see `streams.Rival`
    latents: the clean chunks so far, [B, C, f, H, W] each
    flight: chunks begun and not yet finished, for rivals that work on several at once
    clip: where its decoder stands, if its shots are one clip
    pairs: frame pairs of all passes so far, see `cost`
    """

    rival: Any = None
    mark: Mark = Mark()
    grid: tuple[int, int] = (1, 1)
    shot_ids: tuple[int, ...] = ()
    ahead: int = 0  # frames after the shot for which there is room
    latents: list[Tensor] = field(default_factory=list)
    flight: list[tuple[Tensor, int]] = field(default_factory=list)
    clip: Any = None
    pairs: list[int] = field(default_factory=lambda: [0])

    def copy(self) -> "FilmCache":
        """A film that goes on by itself from here."""
        copies = {name: [x.clone() for x in getattr(self, name)] for name in ("keys", "values")}
        return replace(self, **copies, latents=list(self.latents), flight=list(self.flight))

    def begin(self, frames: int, captions: CaptionKeys, ahead: int = 0) -> None:
        """The next shot, of so many frames, which read the one caption there is; what was made so far is its past."""
        self.context_frames += self.shot_frames - self.ahead
        self.shot_frames, self.ahead, self.captions = frames + ahead, ahead, captions
        shot = self.shot_ids[self.context_frames - 1] + 1 if self.context_frames else 0
        self.shot_ids = (*self.shot_ids[: self.context_frames], *[shot] * self.shot_frames)
        self.table = self.rotations(range(len(self.shot_ids)), self.shot_ids)
        room = self.table.shape[1] - self.keys[0].shape[2]
        for memory in (self.keys, self.values) if room > 0 else ():
            memory[:] = [torch.cat((m, m.new_empty(*m.shape[:2], room, m.shape[3])), dim=2) for m in memory]

    def append_kv(self, tokens, layer, keys, values, query=None) -> tuple[Tensor, Tensor]:
        """As in `ShotCache`, but that the rival chooses what stands before the new tokens."""
        back = self.table[:, tokens].conj()
        start, stop = tokens.start // self.frame_tokens, tokens.stop // self.frame_tokens
        past = self.rival.remembered(self, layer, start, stop, turned(query, back))
        self.pairs[0] += (layer == 0) * (stop - start) * (past[0].shape[2] // self.frame_tokens + stop - start)
        if not torch.is_grad_enabled():
            self.keys[layer][:, :, tokens], self.values[layer][:, :, tokens] = turned(keys, back), values
        return tuple(torch.cat((known.type_as(new), new), 2) for known, new in zip(past, (keys, values), strict=True))

    def read(self, layer: int, frames: list[int] | Tensor, ids: list[float]) -> tuple[Tensor, Tensor]:
        """Keys of some frames, rotated as if they stood at `ids` in time, and their values.

        frames: the same for all samples, or [B, n] if no mark depends on the shot
        """
        shots = [self.shot_ids[f] for f in frames] if isinstance(frames, list) else [0] * len(ids)
        keys, values = (memory[layer] for memory in (self.keys, self.values))
        index = torch.as_tensor(frames, dtype=torch.long, device=keys.device)[..., None] * self.frame_tokens
        index = (index + torch.arange(self.frame_tokens, device=keys.device)).flatten(-2)
        if index.ndim == 1:
            keys, values = keys[:, :, index], values[:, :, index]
        else:
            keys, values = (torch.take_along_dim(memory, index[:, None, :, None], dim=2) for memory in (keys, values))
        return turned(keys, self.rotations(ids, shots)), values

    def rotations(self, ids, shots) -> Tensor:
        """Of all tokens of frames that stand at `ids`, as `rope.rope_table`."""
        device, head_dim = self.keys[0].device, self.keys[0].shape[-1]
        return _rotations(tuple(ids), tuple(shots), self.grid, head_dim, self.mark).to(device)


def begin_film(model: ShotStreamTransformer, rival: Any, shape: tuple[int, int, int, int]) -> FilmCache:
    """A film without a frame; shape: (batch, channels, height, width) of its latents."""
    heads, head_dim = model.config.num_attention_heads, model.config.attention_head_dim
    nothing = model.patch_embedding.weight.new_empty(shape[0], heads, 0, head_dim)
    layers, grid = len(model.blocks), model.token_grid(*shape[2:])
    empty = [nothing] * layers, [nothing] * layers, CaptionKeys((), ()), nothing
    return FilmCache(*empty, tuple(shape), 0, 0, rival=rival, mark=rival.mark, grid=grid)


def turned(x: Tensor, table: Tensor) -> Tensor:
    """`rope.rotate` of [B, heads, tokens, head_dim]."""
    return rotate(x.transpose(1, 2), table).transpose(1, 2)


@lru_cache(maxsize=512)
@torch.inference_mode(False)  # or no training could use what a measurement put here
def _rotations(ids: tuple, shots: tuple, grid: tuple[int, int], head_dim: int, mark: Mark) -> Tensor:
    positions, shots = (torch.tensor(numbers, dtype=torch.float64, device="cpu") for numbers in (ids, shots))
    table = rope_table(positions, shots, *grid, head_dim, phase=0.0)
    return table * mark.turn(shots, grid[0] * grid[1], head_dim) if mark != Mark() and len(ids) else table
