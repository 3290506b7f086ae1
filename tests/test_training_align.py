"""What the miniature's teacher is helped by: a middle block is asked what is to be seen; looks share a memory."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import build_transformer
from test_toybox2 import random_films
from training_run import tiny_films

from shotstream_lite.conditioning import Conditioning
from shotstream_lite.errors import StoryError
from shotstream_lite.flow import SigmaTable
from shotstream_lite.toybox.truth import IN_FRAME, IN_MOTION
from shotstream_lite.training.align import Align
from shotstream_lite.training.batches import next_shot_batch, still_batch
from shotstream_lite.training.draws import seeded
from shotstream_lite.training.teacher import looks_loss
from shotstream_lite.transformer import compile_blocks


def test_each_frame_is_asked_for_what_it_shows():
    films = random_films(3)
    heads = Align(build_transformer(0), films, 28)
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
        assert column == [films.shown(o[0], o[1])[name][o[2]] if o else -1 for o in flat]
    stills = {id(o): films.still(*o) for o in flat[:6] if o}  # the context's frames are those of the origins
    assert all(torch.equal(batch.context[0, :, i], stills[id(o)]) for i, o in enumerate(flat[:6]) if o)


def test_only_what_comes_before_the_middle_is_led_and_it_is_led_to_the_answer():
    torch.manual_seed(0)
    films, transformer = random_films(2), build_transformer(0, num_layers=4)
    heads = Align(transformer, films, 6)
    latents = torch.randn(2, 3, 3, 4, 6)
    origins = [[(0, 0, 0), (0, 0, 4), None], [(1, 2, 8), (1, 2, 12), (1, 2, 16)]]
    captions = torch.randn(2, 1, 8, transformer.config.text_dim)
    losses = []
    optimizer = torch.optim.Adam([*heads.parameters(), *transformer.parameters()], 3e-3)
    for _ in range(30):
        transformer.joint(latents, 500.0, captions)
        loss = heads.loss(origins)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    led = [any(p.grad is not None for p in block.parameters()) for block in transformer.blocks]
    assert led == [True, True, False, False]


def test_compiled_blocks_are_heard_too():
    films, transformer = random_films(2), build_transformer(0, num_layers=4)
    heads = Align(transformer, films, 6)
    origins, inputs = [[(0, 0, 0)]], (torch.randn(1, 3, 1, 4, 6), 500.0, torch.randn(1, 1, 8, 10))
    losses = []
    for _ in range(2):
        transformer.joint(*inputs)
        losses.append(heads.loss(origins))
        compile_blocks(transformer, backend="eager")
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


def test_films_nobody_knows_are_refused():
    with pytest.raises(StoryError, match="--align: nobody knows what these films show: leave it out"):
        Align(build_transformer(0), tiny_films(), 6)
    assert np.isin(random_films(1).shown(0, 0)["hat"], [-1, 0, 1, 2, 3, 4]).all()
