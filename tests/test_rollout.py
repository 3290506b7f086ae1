"""The rollout against a slow one without any cache, and what its consumer may rely on."""

from dataclasses import replace

import pytest
import torch
from conftest import Draws, close

from shotstream_lite.conditioning import Conditioning
from shotstream_lite.flow import SigmaTable, add_noise, euler_sigmas, few_step, to_clean
from shotstream_lite.rollout import begin_shot, joint_states, rollout, sample_joint
from shotstream_lite.transformer import causal_mask, with_context

SIGMAS = few_step()


def unroll(transformer, shots, noise, chunks=(3, 3), sigmas=SIGMAS, **options):
    return torch.cat(
        list(rollout(transformer, begin_shot(transformer, shots.cond), noise, sigmas, chunks, **options)), 2
    )


def slow_rollout(transformer, shots, noise, chunk, sigmas, caption_ids=None):
    """The same without a cache: every step is one masked joint pass over all that happened so far."""
    done = shots.target[:, :, :0]
    context_frames = shots.context.shape[2]
    while done.shape[2] < 6:
        latents = noise((2, 3, chunk, 4, 6))
        known = with_context(shots.context, done)
        frames = known.shape[2] + chunk
        for step, sigma in enumerate(sigmas):
            timestep = torch.zeros(frames)
            timestep[-chunk:] = sigma * 1000
            flow = transformer.joint(
                torch.cat((known, latents), dim=2),
                timestep[None],
                shots.captions,
                shots.shot_ids[:, :frames],
                caption_ids=None if caption_ids is None else caption_ids[:, :frames],
                mask=causal_mask(context_frames, frames - context_frames, chunk),
                positions=torch.cat((torch.arange(context_frames), 6 + torch.arange(frames - context_frames))),
            )
            clean = to_clean(latents, flow[:, :, -chunk:], sigma)
            if step + 1 < len(sigmas):
                latents = add_noise(clean, noise(clean.shape), sigmas[step + 1])
        done = torch.cat((done, clean), dim=2)
    return done


@pytest.mark.parametrize("raw", [(1000,), (1000, 500), (1000, 740, 500, 260)], ids=len)
@pytest.mark.parametrize("chunk", [1, 2, 3, 6])
@pytest.mark.parametrize("history", [True, False], ids=["history", "plain self-forcing"])
@torch.no_grad()
def test_caches_change_nothing(transformer, shots, raw, chunk, history):
    shots = shots if history else shots.without_context()
    slow = slow_rollout(transformer, shots, Draws(0, 1), chunk, few_step(raw))
    fast = unroll(transformer, shots, Draws(0, 1), [chunk] * (6 // chunk), few_step(raw))
    close(fast, slow)


@torch.no_grad()
def test_a_caption_may_change_within_a_shot(transformer, shots):
    cache = begin_shot(transformer, shots.cond)
    ids = torch.cat((shots.shot_ids[:, :9], torch.zeros(2, 3, dtype=torch.long)), dim=1)
    parts = []
    for part in rollout(transformer, cache, Draws(0, 1), SIGMAS, [3, 3]):
        parts.append(part)
        cache.captions = transformer.caption_keys(shots.captions[:, :1])
    close(torch.cat(parts, dim=2), slow_rollout(transformer, shots, Draws(0, 1), 3, SIGMAS, ids))


@torch.no_grad()
def test_captions_may_be_assigned_by_hand(transformer, shots):
    some = shots.captions[:, [3, 1]]
    ids = torch.tensor([[0, 0, 1, 1, 0, 0] + [1] * 6, [1, 1, 1, 1, 1, 1] + [0] * 6])
    copies = some[torch.arange(2)[:, None], ids]
    told = (
        replace(shots.cond, captions=c, caption_ids=reads) for c, reads in ((some, ids), (copies, torch.arange(12)))
    )
    caches = [begin_shot(transformer, cond) for cond in told]
    first = [next(rollout(transformer, cache, Draws(0, 1), SIGMAS, [3])) for cache in caches]
    close(*first, 1e-6)


@torch.no_grad()
def test_a_batch_of_two_is_two_singles(transformer, shots):
    both = unroll(transformer, shots, Draws(0, 1))
    for i in range(2):
        close(both[i : i + 1], unroll(transformer, shots.sample(i), Draws(i)))


def watch(transformer, monkeypatch):
    """Timestep and start of every chunk pass, as they happen."""
    passes, chunk = [], transformer.chunk

    def watched(cache, latents, timestep, start):
        passes.append((round(float(timestep)), start))
        return chunk(cache, latents, timestep, start)

    monkeypatch.setattr(transformer, "chunk", watched)
    return passes


@torch.no_grad()
def test_the_clean_pass_waits_for_the_next_chunk_and_never_follows_the_last(transformer, shots, monkeypatch):
    passes = watch(transformer, monkeypatch)
    chunks = rollout(transformer, begin_shot(transformer, shots.cond), Draws(0, 1), SIGMAS, [2, 2, 2])
    steps = [1000, 958, 889, 738]
    next(chunks)
    assert passes == [(t, 0) for t in steps]
    next(chunks)
    assert passes[4:] == [(0, 0)] + [(t, 2) for t in steps]
    assert len(list(chunks)) == 1
    assert passes[9:] == [(0, 2)] + [(t, 4) for t in steps]


@torch.no_grad()
def test_chunks_may_be_decided_on_the_way(transformer, shots):
    lengths = [3, 3]
    parts = []
    for part in rollout(transformer, begin_shot(transformer, shots.cond), Draws(0, 1), SIGMAS, iter(lengths.pop, None)):
        parts.append(part)
        if len(parts) == 2:
            break
    close(torch.cat(parts, dim=2), unroll(transformer, shots, Draws(0, 1)), 1e-6)


@torch.no_grad()
def test_noise_is_drawn_in_the_documented_order(transformer, shots):
    noise = Draws(0, 1)
    unroll(transformer, shots, noise, (2, 4), SIGMAS)
    assert [shape[2] for shape in noise.shapes] == [2] * 4 + [4] * 4
    noise = Draws(0, 1)
    unroll(transformer, shots, noise, (2, 4), SIGMAS, exit_step=1, clean_sigma=SigmaTable().sigmas[-1])
    assert [shape[2] for shape in noise.shapes] == [2] * 2 + [2] + [4] * 2


def test_training_is_the_same_rollout_stopped_early(transformer, shots):
    with torch.no_grad():
        inference = unroll(transformer, shots, Draws(0, 1))
        short = unroll(transformer, shots, Draws(0, 1), sigmas=SIGMAS[:2])
    assert not unroll(transformer, shots, Draws(0, 1)).requires_grad
    full = unroll(transformer, shots, Draws(0, 1), exit_step=3)
    early = unroll(transformer, shots, Draws(0, 1), exit_step=1)
    assert full.requires_grad and early.requires_grad
    close(full.detach(), inference, 1e-6)
    close(early.detach(), short, 1e-6)


def test_gradient_stays_in_the_exit_step_of_its_chunk(transformer, shots):
    """The second chunk's gradient is that of one pass over constant caches and a constant input."""
    seen, chunk = [], transformer.chunk

    def watched(cache, latents, timestep, start):
        seen.append((latents, torch.is_grad_enabled()))
        return chunk(cache, latents, timestep, start)

    transformer.chunk = watched
    cache = begin_shot(transformer, shots.cond)
    _, second = rollout(transformer, cache, Draws(0, 1), SIGMAS, [3, 3], exit_step=1, clean_sigma=0.01)
    assert [grad for _, grad in seen] == [False, True, False, False, True]
    assert not any(latents.requires_grad for latents, _ in seen)
    parameter = transformer.blocks[0].attn1.to_k.weight
    (gradient,) = torch.autograd.grad(second.square().mean(), parameter)

    again = to_clean(seen[-1][0], chunk(cache, seen[-1][0], SIGMAS[1] * 1000, 3), SIGMAS[1])
    close(torch.autograd.grad(again.square().mean(), parameter)[0], gradient, 1e-6)


def test_too_much_is_refused(transformer, shots):
    with pytest.raises(ValueError, match="6 context frames do not fit a budget of 4"):
        begin_shot(transformer, shots.cond, budget=4)
    with pytest.raises(ValueError, match="not in a shot of 6 frames"):
        unroll(transformer, shots, Draws(0, 1), [3, 3, 3])


@torch.no_grad()
def test_joint_sampling(transformer, shots):
    sigmas = euler_sigmas(5, 3.0)
    noise, cond = torch.randn_like(shots.target), shots.cond
    states = list(joint_states(transformer, noise, cond, sigmas))
    assert len(states) == 6 and states[0] is noise
    clean = sample_joint(transformer, noise, cond, sigmas)
    assert torch.equal(clean, states[-1])
    uncond = cond.unconditional()
    close(sample_joint(transformer, noise, cond, sigmas, uncond=uncond, guidance=1.0), clean)
    assert (sample_joint(transformer, noise, cond, sigmas, uncond=uncond) - clean).abs().max() > 0.1
    plain = sample_joint(transformer, noise, Conditioning(shots.captions[:, :1]), sigmas)
    assert plain.shape == noise.shape and not torch.equal(plain, clean)
