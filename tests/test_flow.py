"""Flow matching: the ways between flow and clean latents agree, and the schedule is the released one."""

import json

import pytest
import torch
from conftest import close

from shotstream_lite.flow import (
    SigmaTable,
    add_noise,
    euler_sigmas,
    few_step,
    shift_sigmas,
    to_clean,
    to_flow,
)


@pytest.mark.parametrize("sigma", [0.25, torch.tensor([0.1, 0.9]), torch.tensor([[0.1, 0.5, 1.0], [0.9, 0.2, 0.3]])])
def test_there_and_back(sigma):
    clean, noise = torch.randn(2, 2, 3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    noisy = add_noise(clean, noise, sigma)
    close(to_clean(noisy, noise - clean, sigma), clean, 1e-6)
    close(to_flow(noisy, clean, sigma), noise - clean, 1e-5)


def test_a_level_per_frame_goes_to_its_frame():
    zeros, ones = torch.zeros(2, 3, 2, 4, 4), torch.ones(2, 3, 2, 4, 4)
    levels = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    assert torch.equal(add_noise(zeros, ones, levels).mean(dim=(1, 3, 4)).round(decimals=5), levels)


def test_shift():
    sigmas = torch.linspace(1, 0, 11)
    assert torch.equal(shift_sigmas(sigmas, 1.0), sigmas)
    shifted = euler_sigmas(10, 8.0)
    assert shifted[0] == 1 and shifted[-1] == 0 and (shifted.diff() < 0).all() and (shifted >= sigmas).all()


def test_few_steps(golden):
    released = json.loads((golden / "schedule.json").read_text())
    assert (few_step() * 1000).tolist() == released["denoising_step_list_warped"]
    assert few_step((1000,)).tolist() == [1.0] and few_step((1000, 0)).tolist() == [1.0, 0.0]
    assert few_step((1000, 500), shift=1.0).tolist() == [1.0, 0.5]


def test_nearest_row():
    table = SigmaTable()
    assert table.sigma(torch.tensor(0.0)) == table.sigmas[999] and round(table.sigmas[999].item(), 5) == 0.00794
    rows = torch.tensor([[0, 17], [500, 999]])
    assert torch.equal(table.nearest(table.timesteps[rows]), rows)
    assert table.weights.mean().item() == pytest.approx(1.0, abs=1e-5)
