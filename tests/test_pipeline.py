"""The pipeline: what is streamed is the shot, what is remembered is encoded once, no shot costs more than others."""

import numpy as np
import pytest
import torch
from diffusers.models import modeling_utils

from shotstream_lite.codec import CodecError, latent_frames, to_frames
from shotstream_lite.errors import StoryError
from shotstream_lite.footage import Reel
from shotstream_lite.pipeline import REMEMBERED, TeacherPipeline
from shotstream_lite.session import StorySession


def lines(count: int) -> list[str]:
    """Captions as the model reads them."""
    return [f"A story about a red ball.shot{i}:Wide shot: the red ball jumps." for i in range(count)]


def footage(count: int, frames: int = 5) -> list:
    """Shots of noise, all on one reel."""
    reel, generator = Reel(), np.random.default_rng(0)
    return [reel.append(generator.integers(0, 256, (frames, 32, 48, 3), dtype=np.uint8)) for _ in range(count)]


def film(pieces) -> np.ndarray:
    return np.concatenate(list(pieces))


@pytest.mark.parametrize(("frames", "pieces"), [(1, [1]), (5, [1, 4]), (13, [1, 8, 4]), (37, [1, 8, 12, 12, 4])])
def test_the_first_piece_is_one_frame_then_chunk_by_chunk(pipeline, frames, pieces):
    made = list(pipeline.shot(lines(1), seed=1, frames=frames))
    assert [len(piece) for piece in made] == pieces
    assert all(piece.dtype == np.uint8 and piece.shape[1:] == (32, 48, 3) for piece in made)
    assert film(made).std() > 1  # not a blank that would be equal to everything


def test_streamed_frames_are_the_whole_decode_of_the_latents(pipeline):
    past = footage(3)
    latents = torch.cat(list(pipeline.latents(lines(4), past, 7, latent_frames(25), pipeline.settings)), dim=2)
    whole = to_frames(pipeline.codec.decode(latents)[0].transpose(0, 1)).numpy()
    assert np.array_equal(film(pipeline.shot(lines(4), past, seed=7, frames=25)), whole)


@pytest.mark.parametrize("past", [0, 2])
def test_same_seed_same_shot_other_seed_other_shot(pipeline, past):
    first, again, other = (film(pipeline.shot(lines(past + 1), footage(past), seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_shot_depends_on_its_past_and_its_captions(pipeline):
    past, captions = footage(2), lines(3)
    shots = [
        film(pipeline.shot(captions, past, seed=1)),
        film(pipeline.shot(captions, past[::-1], seed=1)),
        film(pipeline.shot([*captions[:2], "Close-up: the blue box spins."], past, seed=1)),
        film(pipeline.shot(["It all happens in the snow.", *captions[1:]], past, seed=1)),
    ]
    assert len({shot.tobytes() for shot in shots}) == len(shots)


def test_the_context_is_what_history_picks_each_with_its_shot(pipeline):
    past = footage(3, frames=9)
    context = pipeline.context(past, pipeline.settings)
    assert context.shot_ids == (0, 0, 1, 1, 2, 2) and context.shot_id == 3
    assert context.latents.shape == (1, pipeline.codec.channels, 6, 4, 6)
    picked = [pipeline.context([past[0]], pipeline.settings.changed({"budget": 2})).latents]
    assert torch.equal(picked[0], context.latents[:, :, :2])  # first and last frame, whatever else was asked for


def test_a_shot_that_is_asked_for_counts_as_the_latest_but_one(pipeline):
    """Its frame comes, with its own caption, numbered as a near shot's; of the shots between nothing is read."""
    told = ["the ball in snow", "the ball at sea", "the box in a city", "the box in a city", "the ball in snow"]
    captions = [f"A ball and a box.shot{i}:{line}" for i, line in enumerate(told)]
    settings = pipeline.settings.changed({"policy": "asked", "budget": 2, "shot_frames": 9})
    past = footage(4, frames=9)
    context = pipeline.context(past, settings, captions)
    assert context.picked == ((0, 0), (3, 0)) and context.shot_ids == (0, 1) and context.shot_id == 2
    assert pipeline.context(past, settings).picked == ((2, 0), (3, 0))
    teacher = TeacherPipeline(pipeline.transformer, pipeline.codec, pipeline.text, settings)
    teacher.sampling_steps = 1
    for teller in (teacher, pipeline):
        films = []
        for changed in (None, 0, 1, 3):
            lines = [line + " again" if i == changed else line for i, line in enumerate(captions)]
            films.append(torch.cat(list(teller.latents(lines, past, 1, 3, settings)), dim=2))
        same = [torch.equal(films[0], other) for other in films[1:]]
        assert same == [False, True, False]


def test_before_the_first_shot_the_context_is_zero(pipeline):
    context = pipeline.context([], pipeline.settings)
    assert context.shot_ids == (0,) * 6 and context.shot_id == 1
    assert context.latents.shape == (1, pipeline.codec.channels, 6, 4, 6) and not context.latents.any()


def test_context_frames_are_encoded_alone_and_once(pipeline, calls):
    encoded = calls(pipeline.codec, "encode_frames")
    session = StorySession(pipeline, "A story about a red ball.", seed=0)
    new = []
    for _ in range(9):
        before = len(encoded)
        list(session.next_shot("The red ball jumps."))
        new.append(len(encoded) - before)
    # Shot 1 has no past, shot 2 takes six frames of it; from shot 8 on only the first frame of the newest is new.
    assert new[:2] == [0, 6] and new[7:] == [1, 1]
    assert all(len(pixels) == 1 for (pixels,) in encoded)
    assert len({pixels.numpy().tobytes() for (pixels,) in encoded}) == len(encoded)


def test_each_caption_is_encoded_once(pipeline, calls):
    forwards = calls(pipeline.text.text_encoder, "forward")
    session = StorySession(pipeline, "A story about a red ball.", seed=0)
    for _ in range(9):
        list(session.next_shot("The red ball jumps.", frames=1))
    assert len(forwards) == 9  # "shot3:" makes nine captions of one


def test_only_captions_that_are_read_are_encoded(pipeline, calls):
    forwards = calls(pipeline.text.text_encoder, "forward")
    list(pipeline.shot(lines(11), footage(10), seed=0, frames=1))
    assert len(forwards) == pipeline.settings.budget + 1
    forwards.clear()
    list(pipeline.shot(lines(3), footage(2), seed=0, frames=1))  # remembered: shots 5 to 11 share no caption with them
    assert len(forwards) == 3


def test_a_clean_pass_between_chunks_and_none_after_the_last(pipeline, calls):
    chunks = calls(pipeline.transformer, "chunk")
    list(pipeline.shot(lines(1), seed=0, frames=25))  # 7 latents: 3 + 3 + 1
    timesteps = [float(timestep) for _, _, timestep, _ in chunks]
    assert [t == 0 for t in timesteps] == [*[False] * 4, True, *[False] * 4, True, *[False] * 4]


def test_frames_leave_before_their_clean_pass(pipeline, calls):
    chunks = calls(pipeline.transformer, "chunk")
    pieces = pipeline.shot(lines(1), seed=0, frames=25)
    assert not chunks  # nothing is made before it is asked for
    next(pieces), next(pieces)
    assert len(chunks) == 4
    next(pieces)
    assert len(chunks) == 9


def test_shot_30_costs_what_shot_8_costs(pipeline, calls):
    """Work and memory do not grow with the story."""
    work = {name: calls(pipeline.transformer, name) for name in ("context", "chunk", "caption_keys")}
    work |= {"encode": calls(pipeline.codec, "encode_frames"), "text": calls(pipeline.text.text_encoder, "forward")}
    session = StorySession(pipeline, "A story about a red ball.", seed=0)
    costs = []
    for _ in range(30):
        for seen in work.values():
            seen.clear()
        list(session.next_shot("The red ball jumps.", frames=5))
        costs.append({name: [shapes(args) for args in seen] for name, seen in work.items()})
        assert len(pipeline._remembered) <= REMEMBERED
        assert (remembered := pipeline.text._one.cache_info()).currsize <= remembered.maxsize
    assert costs[29] == costs[7]
    assert len(costs[29]["chunk"]) == 4 and len(costs[29]["context"]) == len(costs[29]["encode"]) == 1


def shapes(args: tuple) -> list[tuple[int, ...]]:
    """Of all tensors in a call, caches included."""
    caches = [cache for cache in args if hasattr(cache, "table")]
    tensors = [*args, *(tensor for cache in caches for tensor in (*cache.keys, cache.table))]
    return [tuple(tensor.shape) for tensor in tensors if isinstance(tensor, torch.Tensor)]


def test_no_more_is_remembered_than_said(pipeline):
    past = footage(40)
    for start in range(0, 40, 2):
        pipeline.context(past[start : start + 2], pipeline.settings)
    assert len(pipeline._remembered) == REMEMBERED


def test_two_shots_may_be_made_at_once(pipeline):
    alone = film(pipeline.shot(lines(1), seed=1)), film(pipeline.shot(lines(3), footage(2), seed=2))
    pairs = list(zip(pipeline.shot(lines(1), seed=1), pipeline.shot(lines(3), footage(2), seed=2), strict=True))
    together = [np.concatenate(pieces) for pieces in zip(*pairs, strict=True)]
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    "changes",
    [{"budget": 0}, {"budget": 1}, {"chunk": 1}, {"chunk": 240}, {"policy": "first"}, {"steps": [1000]}, {"phase": 0}],
)
def test_settings_are_taken(pipeline, changes):
    past, settings = footage(2), pipeline.settings.changed(changes)
    made = film(pipeline.shot(lines(3), past, seed=1, settings=settings))
    assert made.shape == (13, 32, 48, 3)
    assert not np.array_equal(made, film(pipeline.shot(lines(3), past, seed=1)))


def test_another_size(pipeline):
    settings = pipeline.settings.changed({"height": 48, "width": 32})
    assert film(pipeline.shot(lines(1), seed=1, settings=settings)).shape == (13, 48, 32, 3)


@pytest.mark.parametrize("frames", [0, -1, 4])
def test_a_length_that_does_not_fit_is_refused_at_once(pipeline, frames):
    with pytest.raises(CodecError, match=f"frames is {frames}"):
        pipeline.shot(lines(1), seed=0, frames=frames)


def test_a_size_that_does_not_fit_is_refused_at_once(pipeline):
    with pytest.raises(CodecError, match="height is 36, which does not divide by 8: take 32 or 40"):
        pipeline.shot(lines(1), seed=0, settings=pipeline.settings.changed({"height": 36}))


def test_a_size_is_any_that_a_token_divides(pipeline):
    """Five cells high: a transformer that reads cell by cell needs no even number of them."""
    settings = pipeline.settings.changed({"height": 40})
    assert np.concatenate(list(pipeline.shot(lines(1), seed=0, frames=1, settings=settings))).shape == (1, 40, 48, 3)


def test_a_caption_too_long_for_the_model(pipeline):
    with pytest.raises(StoryError, match="tokens, the model reads 64"):
        list(pipeline.shot(["red " * 70], seed=0))


def test_a_shot_walks_through_no_parameters(pipeline, monkeypatch):
    """diffusers' own `device` and `dtype` do, a millisecond each time: they were asked 80 times a shot."""
    asked = []
    for name in ("get_parameter_device", "get_parameter_dtype"):
        whole = getattr(modeling_utils, name)
        monkeypatch.setattr(modeling_utils, name, lambda model, of=whole: asked.append(model) or of(model))
    film(pipeline.shot(lines(3), footage(2), seed=1))
    assert not asked
    pipeline.codec.vae.dtype  # noqa: B018
    assert len(asked) == 1  # it would have been seen
