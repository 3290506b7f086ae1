"""What a shot is told of the story: whose its frames are, which caption each reads, and how all of it is turned."""

from dataclasses import replace

import pytest
import torch
from conftest import Draws, build_transformer, close

from shotstream_lite import rollout as rollouts
from shotstream_lite import transformer as transformers
from shotstream_lite.cache import attention_shares
from shotstream_lite.context import Context, remember
from shotstream_lite.dmd import fake_score_loss, generator_loss
from shotstream_lite.flow import SigmaTable, few_step
from shotstream_lite.rollout import begin_shot, rollout, sample_joint
from shotstream_lite.training.causal_init import causal_init_loss
from shotstream_lite.training.teacher import looks_loss, teacher_loss

TURNS = ((0, "a"), (5, "b"))  # a caption that changes on the way
NEW = ((0, "c"), (9, "d"))
PAST = Context(None, (0, 0, 1), 2, ((0, 4), (0, 5), (1, 8)))


@pytest.mark.parametrize(
    ("context", "captions", "own", "ids", "reads", "used"),
    [
        (PAST, [TURNS, "e", NEW], True, [0, 0, 1, 2, 2], "abecc", "abec"),
        (PAST, [TURNS, "e", NEW], False, [0, 0, 1, 2, 2], "ccccc", "c"),
        (Context(None, (0, 0), 1), [NEW], True, [0, 0, 1, 1], "cccc", "c"),
        (Context(None, (0,), 1, ((3, 0),)), ["x", "x", "x", "c", "c"], True, [0, 1, 1], "ccc", "c"),
    ],
    ids=["own captions", "the new shot's", "a first shot", "the same words"],
)
def test_every_frame_reads_its_line(context, captions, own, ids, reads, used):
    latents, shot_ids, caption_ids, lines = context.told(captions, 2, own)
    assert latents is None and shot_ids.tolist() == ids and lines == list(used)
    assert "".join(lines[i] for i in caption_ids.tolist()) == reads


def test_what_is_remembered_and_how_it_is_numbered():
    like, asked = torch.ones(2, 3, 4, 4), []

    def encoded(picked):
        asked.extend(picked)
        return [torch.full((2, 4, 4), 10.0 * shot + frame) for shot, frame in picked]

    context = remember([9, 5], 4, "dynamic", encoded, like)
    assert asked == [(0, 0), (0, 8), (1, 0), (1, 4)] == list(context.picked)
    assert context.latents[0, :, 0, 0].tolist() == [0.0, 8.0, 10.0, 14.0]
    assert context.shot_ids == (0, 0, 1, 1) and context.shot_id == 2
    first = remember([], 4, "dynamic", encoded, like)  # as released: zeros of shot 0, and the shot is number 1
    assert first.latents.shape == (2, 4, 4, 4) and not first.latents.any()
    assert (first.shot_ids, first.shot_id, first.picked) == ((0,) * 4, 1, ())
    forgetful = remember([9, 5], 4, "none", encoded, like)
    assert (forgetful.latents.shape[1], forgetful.shot_ids, forgetful.shot_id) == (0, (), 2)


def test_every_pass_turns_by_the_phase_it_is_told(transformer, shots, monkeypatch):
    """Losses, scores, sampling and rollout hand it on, the score without history and the unguided one too."""
    phases, table, fake = [], SigmaTable(), build_transformer(seed=1)
    for module in (transformers, rollouts):
        turned = lambda *told, of=module.rope_table: phases.append(told[5]) or of(*told)  # noqa: E731
        monkeypatch.setattr(module, "rope_table", turned)
    rows, noise, target = torch.tensor([300, 600]), torch.randn_like(shots.target), shots.target
    path, sigmas = torch.stack((noise, target), dim=1), torch.tensor([1.0, 0.0])
    cond, level = replace(shots.cond, phase=0.7), torch.zeros(2, 6, dtype=torch.long)
    uncond = cond.unconditional()
    of = {
        "generator": lambda: generator_loss(
            target, transformer, fake, noise, rows, cond, uncond, memory_guidance=1.0, table=table
        ),
        "critic": lambda: fake_score_loss(target, fake, noise, rows, cond, table),
        "teacher": lambda: teacher_loss(transformer, target, noise, rows, cond, table),
        "looks": lambda: looks_loss(transformer, target, noise, level, cond, table),
        "causal init": lambda: causal_init_loss(transformer, path, level, sigmas, cond, table),
        "sampling": lambda: sample_joint(transformer, noise, cond, sigmas, uncond=uncond),
        "rollout": lambda: begin_shot(transformer, cond),
    }
    for name, passes in of.items():
        phases.clear()
        passes()
        count = {"generator": 4, "sampling": 2}.get(name, 1)
        assert phases == [0.7] * count, name


@torch.no_grad()
def test_a_chunk_made_anew_leaves_no_trace(transformer, shots):
    """The rollout is asked for its latest chunk once more (a negative size): nothing was written of the first one."""
    sigmas, noises = few_step(), Draws(0, 1)
    begin = lambda: begin_shot(transformer, shots.cond)  # noqa: E731
    told = list(rollout(transformer, begin(), Draws(0, 1), sigmas, [3, 3]))

    def sizes():
        nonlocal noises
        yield 3
        noises = Draws(0, 1)
        yield -3
        yield 3

    cache = begin()
    first, again, second = rollout(transformer, cache, lambda shape: noises(shape), sigmas, sizes())
    assert torch.equal(first, told[0]) and torch.equal(again, told[0]) and torch.equal(second, told[1])


def test_attention_is_measured_as_it_is_spent():
    query, keys = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 12, 8)
    spent = (query @ keys.transpose(-1, -2) / 8**0.5).softmax(-1)
    close(attention_shares(query, keys, 4, queries=4), spent.mean((0, 1, 2)).view(3, 4).sum(1), 1e-6)
