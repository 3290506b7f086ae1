"""torch.set_default_dtype and torch.set_default_device belong to the user: no film and no step depends on them."""

import shutil

import numpy as np
import pytest
import torch
from training_run import tiny_films

from shotstream_lite.cache import attention_shares
from shotstream_lite.codec import Codec
from shotstream_lite.course import plane
from shotstream_lite.pipeline import load_pipeline
from shotstream_lite.session import StorySession
from shotstream_lite.toybox.probe import blemish
from shotstream_lite.training.batches import next_shot_batch, still_batch
from shotstream_lite.training.causal_init import at_levels
from shotstream_lite.training.draws import Draws, seeded
from shotstream_lite.transformer import causal_mask


def film(folder, weights: str) -> np.ndarray:
    """Two short shots, loaded and told."""
    pipeline = load_pipeline(folder, weights)
    pipeline.sampling_steps = 2
    session = StorySession(pipeline, "A red ball by the sea.", seed=1)
    for caption in ("Wide shot: the red ball jumps.", "Close-up: the red ball spins."):
        for _ in session.next_shot(caption, frames=9):
            pass
    return session.film()


def tiles(pipeline) -> torch.Tensor:
    latents = Draws(0, 0, [0]).normal(pipeline.codec.channels, 1, 12, 12)
    return Codec(pipeline.codec.vae, tiles=2).decode(latents)


FILMS = tiny_films()


def batches() -> list:
    films, levels = FILMS, torch.zeros(2, 3, dtype=torch.long, device="cpu")
    frames = Draws(0, 0, [0]).index(255, 9, 8, 8, 3).to(torch.uint8)
    draws = Draws(0, 1, range(3))
    trajectory = draws.normal(4, 2, 3, 2, 2)[:2].transpose(1, 2)
    return [
        *vars(next_shot_batch(films, 2, seeded(1), 6, 0.5)).values(),
        still_batch(films, 2, seeded(2)),
        blemish(frames[0], seeded(3)),
        draws.normal(2),
        draws.index(9, 2),
        draws.chance(0.5),
        draws.shared_index(1000),
        at_levels(trajectory[:, None], levels),
        causal_mask(2, 4, 2),
        plane.two_bumps().sample(5, seeded(4)),
        attention_shares(draws.normal(2, 4, 8), draws.normal(2, 12, 8), 4),
    ]


def made(folder) -> list:
    pipeline = load_pipeline(folder)
    return [film(folder, "student"), film(folder, "base"), tiles(pipeline), *batches()]


@pytest.fixture(scope="module")
def folder(model_folder, tmp_path_factory):
    place = shutil.copytree(model_folder, tmp_path_factory.mktemp("defaults") / "model")
    shutil.copytree(place / "transformer", place / "base")
    return place


@pytest.fixture(scope="module")
def usual(folder):
    return made(folder)


def test_nothing_takes_the_default_dtype(folder, usual):
    torch.set_default_dtype(torch.float64)
    try:
        other = made(folder)
    finally:
        torch.set_default_dtype(torch.float32)
    same(usual, other)


def test_nothing_takes_the_default_device(folder, usual):
    """The meta device stands for a GPU: whatever is made there by mistake has no content and cannot come back."""
    torch.set_default_device("meta")
    try:
        other = made(folder)
    finally:
        torch.set_default_device(None)
    same(usual, other)


def same(one, other) -> None:
    assert type(one) is type(other)
    if isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same(a, b)
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
    else:
        assert np.array_equal(one, other)
