"""Where a frame stands in time: rotary positions with a phase jump at every cut (paper sec. 4.2)."""

import torch
from torch import Tensor

SHOT_PHASE = 1 / 6
"""Radians a cut adds to every temporal angle (released wan/modules/causal_model.py; not in the paper)."""


def rope_frequencies(head_dim: int, base: float = 10000.0) -> tuple[Tensor, Tensor, Tensor]:
    """Angles per step of the temporal, height and width bands, one per pair of channels, in float64.

    Height and width take ``head_dim // 6`` pairs each, time takes the rest, as in Wan.
    """
    space = head_dim // 6
    bands = (head_dim // 2 - 2 * space, space, space)
    return tuple(base ** (-torch.arange(pairs, dtype=torch.float64, device="cpu") / pairs) for pairs in bands)


def rope_table(
    positions: Tensor,
    shot_ids: Tensor,
    height: int,
    width: int,
    head_dim: int,
    phase: float = SHOT_PHASE,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Rotations of all tokens: ``position * frequency + shot_id * phase`` in time, plain RoPE in space.

    The phase is the same at every temporal frequency, so it is no shift of the position: two frames of one
    shot keep their ordinary relative rotation, two frames of different shots are turned apart.

    Shape:
        positions: [frames], latent frames counted along [context | shot]
        shot_ids: [frames] or [batch, frames]
        height, width: rows and columns of tokens in a latent frame
        returns: complex64 [1 or batch, frames * height * width, 1, head_dim / 2] on `device`
    """
    shot_ids = torch.atleast_2d(shot_ids).to("cpu", torch.float64)
    time, rows, columns = rope_frequencies(head_dim)
    angles_t = positions.to(shot_ids)[:, None] * time + phase * shot_ids[..., None]
    angles_h = torch.arange(height, device="cpu")[:, None] * rows
    angles_w = torch.arange(width, device="cpu")[:, None] * columns
    # Turned first and spread then, where they are wanted: a full model's table is 21 MB, its bands are 46 KB.
    bands = (angles_t[:, :, None, None], angles_h[:, None], angles_w)
    bands = (torch.polar(torch.ones_like(a), a).to(torch.complex64).to(device, non_blocking=True) for a in bands)
    grid = (*shot_ids.shape, height, width, -1)
    return torch.cat([band.expand(grid) for band in bands], dim=-1).flatten(1, 3).unsqueeze(2)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn each pair of adjacent channels by its angle, in float32.

    Complex numbers are the fastest way by far while nothing is compiled, and cannot be compiled.

    Shape:
        x: [batch, tokens, heads, head_dim]; table: from `rope_table`; returns: like x
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        (a, b), (cos, sin) = pairs.unbind(-1), torch.view_as_real(table).unbind(-1)
        turned = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * table)
    return turned.flatten(-2).type_as(x)
