"""RoPE with a phase at the cut: ordinary without it, relative, and no shift of positions."""

import pytest
import torch
from conftest import close
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

from shotstream_lite.rope import SHOT_PHASE, rope_frequencies, rope_table, rotate


def dots(positions, shot_ids, phase=1 / 6, head_dim=12):
    """Products of one rotated query with one rotated key in every pair of frames, [frames, frames]."""
    x = torch.randn(2, head_dim, generator=torch.Generator().manual_seed(0))
    table = rope_table(torch.tensor(positions), torch.tensor(shot_ids), 1, 1, head_dim, phase)
    query, key = (rotate(v.expand(1, len(positions), 1, -1), table)[0, :, 0] for v in x)
    return query @ key.T


def test_zero_phase_is_ordinary_rope():
    x = torch.randn(2, 5 * 2 * 3, 4, 20, generator=torch.Generator().manual_seed(0))
    table = rope_table(torch.arange(5), torch.arange(5), 2, 3, 20, phase=0.0)
    cos, sin = WanRotaryPosEmbed(20, (1, 2, 2), 32)(torch.zeros(1, 1, 5, 4, 6))
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., ::2], sin[..., ::2]
    close(rotate(x, table), torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2), 1e-6)


def test_only_differences_count():
    close(dots([0, 1, 7], [0, 0, 2]), dots([4, 5, 11], [3, 3, 5]))


def test_the_phase_leaves_a_shot_alone_and_turns_shots_apart():
    one, cut, plain = dots([0, 1, 2], [1, 1, 1]), dots([0, 1, 2], [0, 0, 1]), dots([0, 1, 2], [0, 0, 1], 0.0)
    close(one, plain)
    close(cut[:2, :2], plain[:2, :2])
    assert (cut[:2, 2] - plain[:2, 2]).abs().min() > 1e-2


def test_the_phase_is_the_same_at_every_temporal_frequency():
    time, rows, columns = (len(band) for band in rope_frequencies(32))
    assert (time, rows, columns) == (6, 5, 5)
    turn = rope_table(torch.tensor([3]), torch.tensor([2]), 2, 2, 32, 0.25)
    turn = turn / rope_table(torch.tensor([3]), torch.tensor([0]), 2, 2, 32)
    angles = turn.angle()[0, :, 0]
    close(angles[:, :time], torch.full((4, time), 0.5), 1e-6)
    close(1 + angles[:, time:], torch.ones(4, rows + columns), 1e-6)


def test_every_sample_may_have_its_own_shots():
    ids = torch.tensor([[0, 1], [2, 2]])
    both = rope_table(torch.arange(2), ids, 2, 3, 12)
    for sample in range(2):
        assert torch.equal(both[sample : sample + 1], rope_table(torch.arange(2), ids[sample], 2, 3, 12))
    assert rotate(torch.ones(2, 12, 4, 12, dtype=torch.bfloat16), both).dtype == torch.bfloat16


def test_bands_turned_first_are_the_whole_table_turned_bit_for_bit():
    positions, ids = torch.arange(27), torch.tensor([[0] * 6 + [2] * 21, [1] * 6 + [3] * 21])
    time, rows, columns = rope_frequencies(128)
    angles = (
        (positions[:, None] * time + SHOT_PHASE * ids.double()[..., None])[:, :, None, None],
        torch.arange(4)[:, None, None] * rows,
        torch.arange(5)[:, None] * columns,
    )
    angles = torch.cat([band.expand(2, 27, 4, 5, -1) for band in angles], dim=-1)
    whole = torch.polar(torch.ones_like(angles), angles).to(torch.complex64).flatten(1, 3)[:, :, None]
    assert torch.equal(rope_table(positions, ids, 4, 5, 128), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_rotation_is_one_real_graph_and_the_same_to_the_last_bit(dtype):
    table = rope_table(torch.arange(3), torch.tensor([0, 1, 1]), 2, 3, 20)
    x = torch.randn(2, 18, 4, 20, generator=torch.Generator().manual_seed(0)).to(dtype)
    graphs = []
    compiled = torch.compile(
        rotate, backend=lambda graph, inputs: graphs.append(graph) or graph.forward, fullgraph=True
    )
    close(compiled(x, table), rotate(x, table), torch.finfo(dtype).eps)
    assert "view_as_complex" not in graphs[0].code and len(graphs) == 1
