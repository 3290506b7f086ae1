"""How a model is told that the camera cut: what the number of its shot adds to the rotations of a frame."""

from dataclasses import dataclass

import torch
from torch import Tensor

from shotstream_lite.rope import SHOT_PHASE, rope_frequencies


@dataclass(frozen=True)
class Mark:
    """Each field is a way of its own; all at 0 or None mark nothing."""

    phase: float = 0.0  # radians on every temporal angle, alike at all frequencies (ShotStream: 1/6)
    offset: float = 0.0  # positions in time (MultiShotMaster .5, EchoShot 4, LongLive 2.0 8)
    diagonal: float = 0.0  # positions in time, height and width (LCT's interleaved RoPE)
    jump: float | None = None  # where the last shot begins in time, whatever came before (Infinity-RoPE: 45)
    gap: float | None = None  # remembered frames stand at -gap, -2 gap... before the last shot (StoryMem)

    def angles(self, shot_ids: Tensor, head_dim: int) -> Tensor:
        """Radians on top of ordinary positions. Shape: [..., F] to [..., F, head_dim / 2], time first."""
        time, rows, columns = rope_frequencies(head_dim)
        a_shot = (self.phase + (self.offset + self.diagonal) * time, self.diagonal * rows, self.diagonal * columns)
        ids = shot_ids.to("cpu", torch.float64)
        last = ids == ids[..., -1:]
        remembered = (~last).sum(-1, keepdim=True)
        moved = torch.zeros_like(ids)
        if self.jump is not None:
            moved += last * (self.jump - remembered)
        if self.gap is not None:
            moved += ~last * (remembered - torch.arange(ids.shape[-1], device="cpu")) * (1 - self.gap)
        still = torch.zeros(len(rows) + len(columns), dtype=torch.float64, device="cpu")
        return ids[..., None] * torch.cat(a_shot) + moved[..., None] * torch.cat((time, still))

    def turn(self, shot_ids: Tensor, tokens: int, head_dim: int) -> Tensor:
        """The same as rotations of all tokens. Shape: [..., F] to complex64 [1 or B, F * tokens, 1, head_dim / 2]."""
        angles = self.angles(torch.atleast_2d(shot_ids), head_dim).repeat_interleave(tokens, dim=1)
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
