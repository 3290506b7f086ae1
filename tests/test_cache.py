"""The two memories: one slice, written in place without gradient, detached with gradient."""

import pytest
import torch
from conftest import close

from shotstream_lite.rollout import begin_shot


@pytest.fixture
def cache(transformer, shots):
    with torch.no_grad():
        return begin_shot(transformer, shots.cond)


def test_layout(cache):
    assert cache.frame_tokens == 6
    assert cache.tokens(-6, 6) == slice(0, 36) and cache.tokens(0, 3) == slice(36, 54)
    assert all(layer.shape == (2, 2, 72, 12) for layer in (*cache.keys, *cache.values))
    assert len(cache.captions) == 1


@pytest.mark.parametrize(("start", "frames"), [(4, 3), (-7, 1), (6, 1)])
def test_frames_outside_the_shot_are_refused(cache, start, frames):
    with pytest.raises(ValueError, match="not in a shot of 6 frames"):
        cache.tokens(start, frames)


def test_without_gradient_new_keys_are_written_and_nothing_is_copied(cache):
    new = torch.randn(2, 2, 18, 12)
    with torch.no_grad():
        keys, values = cache.append_kv(cache.tokens(0, 3), 1, new, -new)
    assert keys.data_ptr() == cache.keys[1].data_ptr() and keys.shape[2] == 54
    assert torch.equal(cache.keys[1][:, :, 36:54], new) and torch.equal(values[:, :, 36:], -new)


def test_with_gradient_nothing_is_written_and_the_past_is_detached(cache):
    cache.keys[0][:, :, 36:] = 0  # allocated, but whatever was in that memory
    before = cache.keys[0].clone()
    new = torch.randn(2, 2, 18, 12, requires_grad=True)
    keys, _ = cache.append_kv(cache.tokens(0, 3), 0, new, new)
    assert torch.equal(cache.keys[0], before) and torch.equal(keys[:, :, :36], before[:, :, :36])
    keys.square().sum().backward()
    close(new.grad, 2 * new.detach())


def test_captions_are_gathered_per_sample_and_per_group(transformer, shots):
    keys = transformer.caption_keys(shots.captions)
    assert len(keys) == 4
    ids = torch.tensor([[0, 3], [2, 2]])
    gathered, _ = keys.layer(1, ids)
    for row, (sample, caption) in enumerate([(0, 0), (0, 3), (1, 2), (1, 2)]):
        assert torch.equal(gathered[row], keys.keys[1][sample, caption])
    alone = keys.only(torch.tensor([1, 3]))
    assert len(alone) == 1 and torch.equal(alone.values[0][1, 0], keys.values[0][1, 3])


def test_a_caption_that_is_not_there_is_an_error_not_a_neighbours(transformer, shots):
    with pytest.raises(IndexError):
        transformer.caption_keys(shots.captions).layer(0, torch.tensor([[4], [0]]))
