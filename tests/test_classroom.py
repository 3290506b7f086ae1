"""How notebooks begin, what they claim, whose attention they show, and the plane."""

from dataclasses import fields

import pytest
import torch

from shotstream_lite.conditioning import Conditioning
from shotstream_lite.course import attention, classroom
from shotstream_lite.course.plane import cloud_clean, two_bumps
from shotstream_lite.models.memory import Need
from shotstream_lite.models.placement import Fit, Plan
from shotstream_lite.models.released import MODELS
from shotstream_lite.rollout import begin_shot


def test_begin_says_versions_device_seed_and_time(capsys, monkeypatch):
    monkeypatch.setenv("SHOTSTREAM_FAST", "1")
    classroom.begin(minutes=3, seed=5)
    said = capsys.readouterr().out
    assert all(word in said for word in ("shotstream_lite", "torch", "device", "seed: 5", "3 minutes", "FAST"))
    monkeypatch.setenv("SHOTSTREAM_FAST", "0")
    assert not classroom.fast()


@pytest.mark.parametrize("sigma", [0.2, 0.6, 0.9])
def test_the_exact_teacher_is_the_mean_of_what_could_have_been(sigma):
    bumps, generator = two_bumps(left=0.7), torch.Generator().manual_seed(0)
    clean = bumps.sample(400_000, generator)
    noisy = (1 - sigma) * clean + sigma * torch.randn(clean.shape, generator=generator)
    for place in ([-0.2, 0.1], [0.4, -0.1]):
        near = (noisy - torch.tensor(place)).norm(dim=1) < 0.05
        expected = bumps.clean(torch.tensor([place]), sigma)[0]
        error = (clean[near].mean(0) - expected).norm()
        assert error < 5 * clean[near].std(0).norm() / near.sum().sqrt() + 0.03


def test_a_critic_of_the_data_agrees_with_the_teacher():
    bumps, generator = two_bumps(), torch.Generator().manual_seed(0)
    cloud = bumps.sample(4000, generator)
    noisy = torch.randn(20, 2, generator=generator)
    torch.testing.assert_close(cloud_clean(noisy, 0.8, cloud), bumps.clean(noisy, 0.8), atol=0.12, rtol=0)


def test_nobody_watches_a_test():
    assert not classroom.is_interactive()


def test_without_a_gpu_or_without_weights_the_toybox_plays_and_it_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = classroom.full_model()
    assert found.preset == "toybox" and "no GPU" in found.why
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(classroom, "choose", lambda *args, **options: Fit(Plan(), count_of_nothing()))
    monkeypatch.setenv(MODELS, str(tmp_path))
    found = classroom.full_model()
    assert (found.preset, found.device) == ("toybox", "cpu") and "not here" in found.why
    assert "missing" in classroom.full_model(fetch=True).why  # named, as the folder is asked before any hub
    monkeypatch.setattr(classroom, "_at_hand", lambda release: True)
    monkeypatch.setattr(classroom.Release, "require", lambda self: None)
    found = classroom.full_model()
    assert (found.preset, found.device, found.plan) == ("wan-1.3b", "cuda", Plan())


def count_of_nothing():
    return Need(*[0] * len(fields(Need)))


def test_attention_maps_are_those_of_an_ordinary_pass(transformer):
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(1, transformer.config.in_channels, 3, 4, 6, generator=draw)
    captions = torch.randn(1, 1, 5, transformer.config.text_dim, generator=draw)
    with torch.no_grad():
        before = transformer.joint(latents, 500.0, captions)
        maps = attention.attention_maps(transformer, latents, torch.tensor(500.0), captions)
        assert torch.equal(transformer.joint(latents, 500.0, captions), before)
        some = attention.attention_maps(transformer, latents, torch.tensor(500.0), captions, asking=[4, 1])
    assert maps.shape[:2] == (transformer.config.num_layers, transformer.config.num_attention_heads)
    torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:3]))
    torch.testing.assert_close(some, maps[:, :, [4, 1]])


@torch.no_grad()
def test_a_blind_head_sees_what_it_would_without_other_shots(transformer):
    draw = torch.Generator().manual_seed(0)
    size = transformer.config.in_channels, 4, 6
    context, noisy = (torch.randn(1, size[0], n, *size[1:], generator=draw) for n in (6, 3))
    caption = torch.randn(1, 1, 5, transformer.config.text_dim, generator=draw)
    layers = {layer: range(transformer.config.num_attention_heads) for layer in range(transformer.config.num_layers)}
    ids = torch.tensor([0] * 6 + [1] * 3)

    def flow(memory, heads):
        cache = begin_shot(transformer, Conditioning(caption, ids[6 - memory.shape[2] :], context=memory))
        if heads is not None:
            attention.blind(heads)(cache, 0)
        return transformer.chunk(cache, noisy, 700.0, 0)

    alone = flow(context[:, :, :0], None)
    torch.testing.assert_close(flow(context, layers), alone)
    assert not torch.allclose(flow(context, {0: [0]}), alone)
    torch.testing.assert_close(flow(context, {}), flow(context, None))
    with pytest.raises(ValueError, match="first chunk only"):
        attention.blind({})(None, 9)


def test_a_claim_that_does_not_hold_stops_its_notebook_but_not_a_fast_run(monkeypatch, capsys):
    monkeypatch.delenv("SHOTSTREAM_FAST", raising=False)
    classroom.claim("hats right", torch.tensor(0.25), below=0.4)
    with pytest.raises(AssertionError, match="hats right: 0.25 > 0.4 does not hold"):
        classroom.claim("hats right", 0.25, above=0.4)
    monkeypatch.setenv("SHOTSTREAM_FAST", "1")
    classroom.claim("hats right", 0.25, above=0.4)
    printed = capsys.readouterr().out.splitlines()  # as tests/test_notebooks.py reads it
    assert printed == ["claim: hats right: 0.25 < 0.4", *["claim: hats right: 0.25 > 0.4"] * 2]
