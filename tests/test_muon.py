"""Muon: what is a matrix moves by an orthogonal step, the rest by Adam's, and a resumed run is the same run."""

import io

import pytest
import torch
from torch import nn

from shotstream_lite.training.loop import descend
from shotstream_lite.training.muon import Muon, orthogonal


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 3))


def move(model, optimizer, steps, lr=0.02, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        words = torch.randint(20, (8,), generator=generator)
        loss = (model(words) - torch.randn(8, 3, generator=generator)).square().mean()
        descend(optimizer, loss, lr)


@pytest.mark.parametrize("shape", [(32, 16), (16, 32), (24, 24)])
def test_faint_directions_become_as_long_as_loud_ones(shape):
    generator = torch.Generator().manual_seed(1)
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    loud = torch.logspace(0, -2, min(shape))
    matrix = u * loud @ v
    made, other, third = orthogonal(torch.stack([matrix, -100 * matrix, matrix.flip(0)]))  # each by itself
    lengths = torch.linalg.svdvals(made)
    assert lengths.min() > 0.3 and lengths.max() < 1.3
    assert torch.allclose(made, -other, atol=1e-6) and torch.allclose(made, third.flip(0), atol=1e-5)


def test_layers_of_one_shape_move_as_each_would_alone():
    found = {}
    for layers in ([0, 1, 2], [0], [1], [2]):
        torch.manual_seed(0)
        ours = nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 32)])
        for layer in ours:
            layer.weight.grad = torch.randn_like(layer.weight)
        Muon(*[ours[i] for i in layers], lr=0.1).step()
        for i in layers:
            found.setdefault(i, []).append(ours[i].weight.detach())
    for together, alone in found.values():
        assert torch.allclose(together, alone, atol=1e-6)


def test_a_tall_matrix_steps_as_much_longer_as_its_outputs_are_more():
    layers = nn.ModuleList([nn.Linear(16, outputs, bias=False) for outputs in (8, 16, 64)])
    lengths = []
    for layer in layers:
        layer.weight.grad = torch.zeros_like(layer.weight)
        layer.weight.grad[:8, :8] = torch.eye(8)
        before = layer.weight.detach().clone()
        Muon(layer, lr=0.1).step()
        lengths.append(torch.linalg.matrix_norm(layer.weight.detach() - before, 2))
    wide, square, tall = lengths
    assert torch.allclose(tall / square, torch.tensor(2.0), atol=0.2) and torch.allclose(wide, square, rtol=0.2)


def test_a_convolution_counts_as_a_matrix_and_unused_taps_stay_still():
    conv = nn.Conv3d(8, 16, (3, 1, 1), bias=False)
    before = conv.weight.detach().clone()
    optimizer = Muon(conv, lr=0.1)
    grad = torch.zeros_like(before)
    grad[:, :, -1] = torch.randn(16, 8, 1, 1, generator=torch.Generator().manual_seed(0))
    conv.weight.grad = grad
    optimizer.step()
    moved = conv.weight.detach() - before
    assert moved[:, :, :-1].abs().max() == 0
    lengths = torch.linalg.svdvals(moved[:, :, -1, 0, 0])
    assert lengths.min() > 0.05 and lengths.max() < 0.15


def test_words_norms_biases_and_thin_layers_are_left_to_adam(model):
    matrices, rest = (group["params"] for group in Muon(model).param_groups)
    assert [id(p) for p in matrices] == [id(model[1].weight)]
    assert len(matrices) + len(rest) == len(list(model.parameters()))


def test_adam_moves_as_torch_moves():
    ours, theirs = nn.LayerNorm(8), nn.LayerNorm(8)
    optimizer = Muon(ours, lr=1.0, adam_ratio=1e-2)
    reference = torch.optim.Adam(theirs.parameters(), lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    for step in range(5):
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(step))
        for norm in (ours, theirs):
            norm.zero_grad()
            (norm(x) * x.roll(1, 1)).mean().backward()
        optimizer.param_groups[1]["lr"] = 1e-2
        optimizer.step()
        reference.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-6) and torch.allclose(ours.bias, theirs.bias, atol=1e-6)


def test_frozen_parameters_are_not_touched(model):
    model[1].requires_grad_(False)
    assert all(id(p) != id(model[1].weight) for group in Muon(model).param_groups for p in group["params"])


def test_a_resumed_run_is_the_same_run(model):
    state = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = Muon(model)
    move(model, optimizer, 4)
    middle, moved = {k: v.clone() for k, v in model.state_dict().items()}, optimizer.state_dict()
    moved = torch.load(_saved(moved), weights_only=True)
    move(model, optimizer, 3, seed=1)
    expected = {k: v.clone() for k, v in model.state_dict().items()}

    model.load_state_dict(middle)
    again = Muon(model)
    again.load_state_dict(moved)
    move(model, again, 3, seed=1)
    assert all(torch.equal(model.state_dict()[k], expected[k]) for k in state)


def _saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file
