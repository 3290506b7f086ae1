"""What helps the miniature's young models: who is asked what and where, what attention is led to, how it ends."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import build_transformer
from test_toybox import random_films
from training_run import tiny_films, tiny_run

from shotstream_lite.conditioning import Conditioning
from shotstream_lite.errors import StoryError
from shotstream_lite.flow import SigmaTable
from shotstream_lite.toybox.dataset import story_of
from shotstream_lite.toybox.renderer import render
from shotstream_lite.toybox.truth import HIDDEN, IN_FRAME, IN_MOTION, SAID
from shotstream_lite.toybox.world import HATS, STRIPES
from shotstream_lite.training.align import REST, Align, aligned, fading
from shotstream_lite.training.base import BaseConfig, train_base
from shotstream_lite.training.batches import next_shot_batch, still_batch
from shotstream_lite.training.draws import seeded
from shotstream_lite.training.loop import Run
from shotstream_lite.training.muon import Muon
from shotstream_lite.training.teacher import TeacherConfig, looks_loss, train_teacher
from shotstream_lite.transformer import compile_blocks

GRID = 4, 7  # of tokens of 32 x 32 pixels
TOKENS, SIDE = GRID[0] * GRID[1], 32
KNOWN, BLANK = [(0, 0, 0), (0, 1, 8)], [None, None]  # memories of two frames
TARGET = [(0, 2, 0), (0, 2, 4), (0, 2, 8)]


@pytest.fixture
def deep():
    """Eight layers, so that all that is asked is asked somewhere else: at 2, at 3 and at 5."""
    return build_transformer(0, num_layers=8)


@pytest.fixture
def heads(deep):
    return Align(deep, random_films(4), GRID)


def run_through(transformer, samples: int = 1, frames: int = 5) -> None:
    noise = torch.Generator().manual_seed(0)
    latents = torch.randn(samples, 3, frames, 8, 14, generator=noise)
    transformer.joint(latents, 500.0, torch.randn(samples, 1, 8, 10, generator=noise))


def moved(part) -> bool:
    return any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_each_frame_is_asked_for_what_it_shows(heads):
    films = heads.films
    batch = next_shot_batch(films, 8, seeded(0), drop_context=0.0, latents=6)
    stills, _, origins = still_batch(films, 8, seeded(1))
    assert stills.shape[:1] == (8,) and [len(sample) for sample in origins] == [1] * 8
    assert [sample[6:] for sample in batch.origins] == [
        [(row, shot, 4 * latent) for latent in range(6)] for sample in batch.origins for row, shot, _ in sample[6:7]
    ]
    answers = heads._answers(batch.origins)
    assert set(answers) == set(IN_FRAME | IN_MOTION)
    flat = [origin for sample in batch.origins for origin in sample]
    for name, column in answers.items():
        assert column.flatten().tolist() == [films.shown(o[0], o[1])[name][o[2]] if o else HIDDEN for o in flat]
    stills = {i: films.still(*o) for i, o in enumerate(flat[:6]) if o}  # the context's frames are those of the origins
    assert all(torch.equal(batch.context[0, :, i], still) for i, still in stills.items())


def test_captions_are_asked_for_early_and_memories_late(deep, heads):
    """What a caption says after two layers of eight, of a shot; what remembered frames show after three, of them; what
    only they know after five, of the shot. Nothing behind is led."""
    hidden = (IN_FRAME | IN_MOTION).keys() - set(SAID)
    assert set(heads.told.heads) == set(SAID) and set(heads.shown.heads) == set(heads.found.heads) == hidden
    assert (heads.early, heads.before, heads.late) == (2, 3, 5)
    seen = {}
    for part in ("told", "shown", "found"):
        getattr(heads, part).register_forward_pre_hook(lambda _, given, part=part: seen.update({part: given[0]}))
    entering = {}
    deep.watch = lambda layer, tokens: (entering.update({layer: tokens}), heads._keep(layer, tokens))
    run_through(deep)
    heads.loss([KNOWN + TARGET], 2).backward()
    assert torch.equal(seen["told"], entering[2][0, 2:]) and torch.equal(seen["found"], entering[5][0, 2:])
    assert torch.equal(seen["shown"], entering[3][0, :2])
    assert [moved(block) for block in deep.blocks] == [True] * 5 + [False] * 3
    deep.zero_grad()
    run_through(deep)
    heads.loss([TARGET + TARGET[:2]]).backward()  # a picture, or a shot without memory: what captions say and no more
    assert [moved(block) for block in deep.blocks] == [True] * 2 + [False] * 6


def test_what_is_asked_is_learnt(deep, heads):
    optimizer = torch.optim.Adam([*heads.parameters(), *deep.parameters()], 3e-3)
    losses = []
    for _ in range(20):
        run_through(deep)
        loss = heads.loss([KNOWN + TARGET], 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_nobody_is_asked_who_remembers_nothing(deep, heads):
    run_through(deep)
    heads.loss([BLANK + TARGET], 2).backward()
    assert moved(heads.told) and not moved(heads.shown) and not moved(heads.found)
    assert not any(moved(block) for block in deep.blocks[2:])
    answered = []
    heads.found.register_forward_pre_hook(lambda _, given: answered.append(given[1]))
    run_through(deep, samples=2)
    heads.loss([BLANK + TARGET, KNOWN + TARGET], 2).backward()
    right = heads._answers([KNOWN + TARGET])
    for name in heads.found.heads:  # in a batch with others, either
        assert (answered[0][name][:3] == HIDDEN).all() and torch.equal(answered[0][name][3:], right[name][0, 2:]), name
    assert moved(heads.found) and moved(heads.shown)


# What attention is led to


def led(heads, sample, remembered: int) -> tuple[set, set]:
    """The tokens (frame, row, column) that the first and the second head are led to from a sample's target."""
    query, keys = (torch.ones(1, 2, len(sample) * TOKENS, 4) for _ in range(2))
    keys.requires_grad_()
    heads._heard = {heads.before: (query, keys)}
    heads._led([sample], remembered).backward()
    wanted = (keys.grad.sum(3) < 0)[0]  # all keys alike: only those that should be liked better pull
    return tuple(
        {(t // TOKENS, *divmod(t % TOKENS, GRID[1])) for t in some.nonzero()[:, 0].tolist()} for some in wanted
    )


def changed(story, take, number: int, thing: str, frame: int) -> np.ndarray:
    """Where the picture is another one, bool [128, 224], whichever other hat or stripe a character has."""
    options = [other for other in (HATS if thing == "hat" else STRIPES) if other != getattr(take.cast[number], thing)]
    pictures = [render(story, take, 1, frame)[0].int()]
    for option in options:
        cast = [replace(who, **{thing: option}) if n == number else who for n, who in enumerate(take.cast)]
        pictures.append(render(story, replace(take, cast=tuple(cast)), 1, frame)[0].int())
    return torch.stack([(other - pictures[0]).abs().sum(2) > 30 for other in pictures[1:]]).all(0).numpy()


def test_places_are_where_the_picture_changes_with_a_hat_or_a_stripe(heads):
    checked = set()
    for story_number in range(4):
        story = story_of(story_number)
        for shot, take in enumerate(story.takes):
            for (thing, (shape, _), _), (row, column) in heads._things((story_number, shot, 4)).items():
                number = [who.shape for who in take.cast].index(["ball", "box", "cone"][shape])
                bare, alike = take.cast[number].hat == "none", len({who.shape for who in take.cast}) < len(take.cast)
                if (thing, take.camera, number) in checked or alike or (thing == "hat" and bare):
                    continue
                down, across = np.nonzero(changed(story, take, number, thing, 4))
                checked.add((thing, take.camera, number))
                place = heads.films.places(story_number, shot)[("other " if number else "") + thing][4]
                apart = np.hypot(down.mean() - 128 * place[0], across.mean() - 224 * place[1])
                assert apart < 20, (thing, take, apart)
                assert (row, column) == (int(4 * place[0]), int(7 * place[1]))
    assert {("hat", 0), ("hat", 1), ("stripe", 0), ("stripe", 1)} <= {(thing, who) for thing, _, who in checked}
    assert {"wide", "medium", "close"} <= {camera for _, camera, _ in checked}


def test_attention_is_led_to_the_same_characters_hat_and_stripe_and_to_nobody_elses(heads):
    """Of every remembered frame that shows them as they are now."""
    films, asked, others = heads.films, 0, 0
    for story in range(4):
        for shot in range(3, 12):
            memory = [(story, earlier, 0) for earlier in range(shot)]
            things, found = heads._things((story, shot, 0)), led(heads, [*memory, (story, shot, 0)], shot)
            for head, kind in enumerate(("hat", "stripe")):
                wanted = set()
                for j, origin in enumerate(memory):
                    there = heads._things(origin)
                    others += sum(key[0] == kind and key not in things for key in there)
                    wanted |= {(j, *there[key]) for key in things if key[0] == kind and key in there}
                assert found[head] == wanted
                asked += len(wanted)
            for j, _, _ in found[0] | found[1]:
                now, then = (films.shown(story, s) for s in (shot, j))
                cast = [{(d[f"{p}shape"][0], d[f"{p}colour"][0]) for p in ("", "other ")} for d in (now, then)]
                assert {who for who in cast[0] & cast[1] if who[0] in range(3)}  # neither nobody nor hidden
    assert asked > 50 and others > 50


def test_a_frame_of_another_character_is_never_a_right_answer(heads, monkeypatch):
    """Though the hat is the same, and in the same place."""
    looks = {"shape": 0, "colour": 1, "hat": 2, "stripe": 1}
    same, other = ({name: np.array([value]) for name, value in (looks | more).items()} for more in ({}, {"colour": 2}))
    bare = same | {"hat": np.array([4])}
    films = type(heads.films)
    monkeypatch.setattr(films, "shown", lambda _, story, shot: (same, other, bare, same)[shot])
    monkeypatch.setattr(films, "places", lambda *_: {name: np.array([[0.3, 0.6]]) for name in ("hat", "stripe")})
    frames = [(0, shot, 0) for shot in range(4)]
    here = divmod(int(0.3 * 4) * 7 + int(0.6 * 7), 7)
    hat, stripe = led(heads, frames, 3)
    assert hat == {(0, *here)} and stripe == {(0, *here), (2, *here)}  # the hat has changed since, the stripe not
    assert led(heads, [frames[1], frames[3]], 1) == (set(), set())


# How it begins, learns and ends


def test_two_runs_begin_with_the_same_heads(tmp_path):
    films, begun = random_films(1), []
    for seed in range(2):
        torch.manual_seed(seed)  # whatever was drawn before
        (heads,) = aligned(Run("a", BaseConfig(tmp_path, align=0.5)), build_transformer(), films)
        begun.append(torch.cat([p.flatten() for p in heads.parameters()]))
    assert torch.equal(*begun) and begun[0].std() > 0
    assert aligned(Run("a", BaseConfig(tmp_path)), build_transformer(), films) == []


@pytest.mark.parametrize("train, config", [(train_base, BaseConfig), (train_teacher, TeacherConfig)])
def test_heads_are_moved_by_adamw_and_the_model_by_muon(tmp_path, monkeypatch, train, config):
    """An orthogonal step is a leap for a head with few answers."""
    parts = {}
    monkeypatch.setattr(Run, "steps", lambda run, *_, **given: parts.update(given))
    options = {"optimizer": "muon", "align": 1.0} | ({"trained": "all"} if config is TeacherConfig else {})
    train(config(tmp_path / "out", after=(tiny_run(tmp_path / "run"),), **options), tiny_films())
    optimizer = parts["optimizer"]
    assert isinstance(optimizer, Muon)
    (matrices,) = ({id(p) for p in g["params"]} for g in optimizer.param_groups if g["matrix"])
    (plain,) = ({id(p) for p in g["params"]} for g in optimizer.param_groups if not g["matrix"])
    assert {id(p) for p in parts["align"].parameters()} <= plain
    assert all(id(block.attn1.to_q.weight) in matrices for block in parts["transformer"].blocks)


def test_the_aid_fades():
    assert [fading(step, 100) for step in (0, 50, 100, 1000)] == pytest.approx([1, (1 + REST) / 2, REST, REST])
    assert fading(0, 0) == fading(10**6, 0) == 1


def test_compiled_blocks_are_heard_too(deep, heads):
    losses = []
    for _ in range(2):
        run_through(deep)
        losses.append(heads.loss([KNOWN + TARGET], 2))
        compile_blocks(deep, backend="eager")
    torch.testing.assert_close(*losses)


def test_looks_that_share_a_memory_are_as_good_as_looks_with_a_memory_each():
    transformer, table = build_transformer(0), SigmaTable(3.0)
    torch.manual_seed(1)
    looks, noise, context = (torch.randn(2, 3, count, 4, 6) for count in (4, 4, 5))
    rows = torch.randint(1000, (2, 4))
    captions = torch.randn(2, 2, 8, transformer.config.text_dim)
    ids, reads = torch.tensor([[1, 1, 2, 3, 3, 4, 4, 4, 4]] * 2), torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1]] * 2)
    cond = Conditioning(captions, ids, reads, context)
    together = looks_loss(transformer, looks, noise, rows, cond, table)
    one = replace(cond, shot_ids=ids[:, :6], caption_ids=reads[:, :6])
    parts = [(looks[:, :, [k]], noise[:, :, [k]], rows[:, [k]]) for k in range(4)]
    alone = [looks_loss(transformer, *part, one, table) for part in parts]
    torch.testing.assert_close(together, torch.stack(alone).mean())
    forgotten = looks_loss(transformer, looks, noise, rows, replace(cond, context=context + 1), table)
    assert (forgotten - together).abs() > 1e-4


def test_films_nobody_knows_are_refused(monkeypatch):
    films = tiny_films()
    monkeypatch.setattr(type(films), "questions", lambda _: {})
    with pytest.raises(StoryError, match="--align: nobody knows what these films show: leave it out"):
        Align(build_transformer(0), films, GRID)
