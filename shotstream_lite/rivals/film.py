"""One cache over a whole film, and what tells a model that the camera cut."""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from shotstream_lite.cache import CaptionKeys, ShotCache
from shotstream_lite.rope import SHOT_PHASE, rope_frequencies, rope_table, rotate
from shotstream_lite.transformer import ShotStreamTransformer


@dataclass(frozen=True)
class Mark:
    """What the number of its shot adds to the rotations of a frame; all at 0 or None mark nothing."""

    phase: float = 0.0  # radians on every temporal angle, alike at all frequencies (ShotStream: 1/6)
    offset: float = 0.0  # positions in time (MultiShotMaster .5, EchoShot 4, LongLive 2.0 8)
    diagonal: float = 0.0  # positions in time, height and width (LCT's interleaved RoPE)
    jump: float | None = None  # where the last shot begins in time, whatever came before (Infinity-RoPE: 45)
    gap: float | None = None  # remembered frames stand at -gap, -2 gap... before the last shot (StoryMem)

    def turn(self, shot_ids: Tensor, tokens: int, head_dim: int) -> Tensor:
        """On top of ordinary rotations. Shape: [F] or [B, F] to complex64 [1 or B, F * tokens, 1, head_dim / 2]."""
        time, rows, columns = rope_frequencies(head_dim)
        a_shot = (self.phase + (self.offset + self.diagonal) * time, self.diagonal * rows, self.diagonal * columns)
        ids = torch.atleast_2d(shot_ids).to("cpu", torch.float64)
        last = ids == ids[..., -1:]
        remembered = (~last).sum(-1, keepdim=True)
        moved = torch.zeros_like(ids)
        if self.jump is not None:
            moved += last * (self.jump - remembered)
        if self.gap is not None:
            moved += ~last * (remembered - torch.arange(ids.shape[-1], device="cpu")) * (1 - self.gap)
        angles = ids[..., None] * torch.cat(a_shot)
        angles[..., : len(time)] += moved[..., None] * time
        angles = angles.repeat_interleave(tokens, dim=1)
        return torch.polar(torch.ones_like(angles), angles).to(torch.complex64).unsqueeze(2)


MARKS = {
    "none": Mark(),
    "phase": Mark(phase=SHOT_PHASE),
    "offset-0.5": Mark(offset=0.5),
    "offset-4": Mark(offset=4.0),
    "offset-8": Mark(offset=8.0),
    "jump-45": Mark(jump=45.0),
    "negative": Mark(gap=4.0),
    "diagonal": Mark(diagonal=16.0),
}
"""How is a cut told? One answer more needs a weight: the learnt embedding of `baselines.LearntCut`."""


@dataclass
class FilmCache(ShotCache):
    """A `ShotCache` whose global part is every frame of the film so far, `context_frames`; `begin` starts a shot.

    Keys are kept as they are before rotation, so that they can stand anywhere; `rollout` uses it as any cache.
    """

    rival: Any = None  # asked for what a chunk remembers, see `streams.Rival`
    grid: tuple[int, int] = (1, 1)
    shot_ids: tuple[int, ...] = ()
    ahead: int = 0  # frames after the shot for which there is room
    latents: list[Tensor] = field(default_factory=list)  # the clean chunks so far, [B, C, f, H, W] each
    flight: list[tuple[Tensor, int]] = field(default_factory=list)  # begun chunks, of a rival that works on several
    clip: Any = None  # where its decoder stands, if its shots are one clip
    pairs: list[float] = field(default_factory=lambda: [0])  # frame pairs of all passes so far, see `cost`

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
        back = self.table[:, tokens].conj().transpose(1, 2)
        start, stop = tokens.start // self.frame_tokens, tokens.stop // self.frame_tokens
        past = self.rival.remembered(self, layer, start, stop, rotate(query, back))
        self.pairs[0] += (layer == 0) * (stop - start) * (past[0].shape[2] / self.frame_tokens + stop - start)
        if not torch.is_grad_enabled():
            self.keys[layer][:, :, tokens], self.values[layer][:, :, tokens] = rotate(keys, back), values
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
        return rotate(keys, self.rotations(ids, shots).transpose(1, 2)), values

    def rotations(self, ids, shots) -> Tensor:
        """Of all tokens of frames that stand at `ids`, as `rope.rope_table`."""
        device, head_dim = self.keys[0].device, self.keys[0].shape[-1]
        return _rotations(tuple(ids), tuple(shots), self.grid, head_dim, self.rival.mark).to(device)


def begin_film(model: ShotStreamTransformer, rival: Any, shape: tuple[int, int, int, int]) -> FilmCache:
    """A film without a frame; shape: (batch, channels, height, width) of its latents."""
    config, layers = model.config, len(model.blocks)
    nothing = model.patch_embedding.weight.new_empty(shape[0], config.num_attention_heads, 0, config.attention_head_dim)
    empty = [nothing] * layers, [nothing] * layers, CaptionKeys((), ()), nothing
    return FilmCache(*empty, tuple(shape), 0, 0, rival=rival, grid=model.token_grid(*shape[2:]))


@lru_cache(maxsize=512)
@torch.inference_mode(False)  # or no training could use what a measurement put here
def _rotations(ids: tuple, shots: tuple, grid: tuple[int, int], head_dim: int, mark: Mark) -> Tensor:
    positions, shots = (torch.tensor(numbers, dtype=torch.float64, device="cpu") for numbers in (ids, shots))
    table = rope_table(positions, shots, *grid, head_dim, phase=0.0)
    return table * mark.turn(shots, grid[0] * grid[1], head_dim) if mark != Mark() and len(ids) else table
