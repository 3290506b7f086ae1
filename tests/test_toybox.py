"""The miniature world: drawn from seeds, written about in known words, silent about what memory must carry."""

import re

import numpy as np
import pytest
import torch

from shotstream_lite.history import select
from shotstream_lite.toybox import captions, dataset, language, probe, world
from shotstream_lite.toybox.renderer import RGB, TINT, render
from shotstream_lite.training.batches import next_shot_batch

STORIES = [dataset.story_of(seed) for seed in range(60)]


def test_a_number_stands_for_one_story():
    assert dataset.story_of(7) == dataset.story_of(7)
    assert dataset.story_of(7) != dataset.story_of(8)
    story = STORIES[0]
    assert np.array_equal(render(story, story.takes[0]), render(story, story.takes[0]))


def test_shots_cut_between_characters_and_bring_one_back():
    for story in STORIES:
        subjects = [take.subjects[0] for take in story.takes]
        assert any(a != b for a, b in zip(subjects, subjects[1:], strict=False))
    returns = [
        any(s[i] == s[j] and s[i + 1] != s[i] for i in range(6) for j in range(i + 2, 8))
        for s in ([take.subjects[0] for take in story.takes] for story in STORIES)
    ]
    assert np.mean(returns) > 0.9


def test_a_shot_is_a_widescreen_film_of_any_length():
    story = STORIES[1]
    for frames in (1, 33, 65):
        film = render(story, story.takes[0], frames)
        assert film.shape == (frames, 64, 96, 3) and film.dtype == np.uint8


@pytest.mark.parametrize("action", ["walk_left", "walk_right", "jump", "spin", "wave", "meet"])
def test_actions_move_and_standing_does_not(action):
    still = _take(action="stand")
    moving = _take(action=action, subjects=(0, 1) if action == "meet" else (0,))
    assert np.ptp(render(STORIES[0], still), axis=0).max() == 0
    assert np.ptp(render(STORIES[0], moving), axis=0).max() > 50


def test_walking_goes_where_it_says():
    for action, sign in (("walk_left", -1), ("walk_right", 1)):
        story = world.ToyStory((world.Character("ball", "red", "crown", "low"),) * 2, "neutral")
        film = render(story, _take(action=action))
        red = (np.abs(film.astype(int) - RGB["red"]).sum(-1) < 20).astype(float)
        middle = (red.sum(1) * np.arange(96)).sum(1) / red.sum((1, 2))
        assert np.sign(middle[-1] - middle[0]) == sign and abs(middle[-1] - middle[0]) > 20


@pytest.mark.parametrize("shape", world.SHAPES)
def test_who_spins_turns_away_and_comes_round(shape):
    """The face is gone from behind; the body stands as it was, and so does all of it after a whole turn."""
    who = world.Character(shape, "red", "crown", "low")
    film = render(world.ToyStory((who,), "neutral"), _take(action="spin", camera="medium", beat=0)).astype(int)
    eyes = (film.sum(-1) < 150).sum((1, 2))
    assert eyes[0] > 5 and eyes[12] == 0
    rows, columns = np.nonzero(np.abs(film[12] - film[0]).sum(-1) > 60)
    assert np.ptp(rows) < 10 and np.ptp(columns) < 20  # no more has changed than a face
    np.testing.assert_allclose(film[24], film[0], atol=1)


def test_no_cut_is_between_shots_framed_alike():
    for story in STORIES:
        framed = [(set(take.subjects), take.place, take.camera) for take in story.takes]
        assert all(a != b for a, b in zip(framed, framed[1:], strict=False))


@pytest.mark.parametrize("name", ["hat", "stripe", "tint", "sun", "landmarks"])
def test_what_is_unsaid_is_seen_but_never_written(name):
    """Two stories that differ in it alone look different and have the same captions."""
    base = dict(hat="crown", stripe="low", tint="warm", sun="left", landmarks=(0, 1))
    other = base | {name: dict(hat="beanie", stripe="high", tint="cool", sun="right", landmarks=(2, 3))[name]}
    films, lines = [], []
    for look in (base, other):
        who = world.Character("ball", "red", look["hat"], look["stripe"])
        take = _take(place=world.Place("meadow", look["landmarks"], look["sun"]))
        story = world.ToyStory((who, who), look["tint"], (take,))
        films.append(render(story, take))
        lines.append(dataset.captions_of(story, np.random.default_rng(0)))
    assert lines[0] == lines[1]
    assert not np.array_equal(*films)
    said = " ".join(dataset.captions_of(STORIES[3], np.random.default_rng(1))).lower()
    assert not re.search(r"\b(hat|crown|beanie|stripe|sun|tint|warm|cool)\b", said)


def test_every_word_is_known_and_every_caption_fits():
    tokenizer, rng = language.build_tokenizer(), np.random.default_rng(0)
    for story in STORIES:
        for line in dataset.captions_of(story, rng):
            tokens = tokenizer(line).input_ids
            assert tokenizer.unk_token_id not in tokens
            assert len(tokens) <= captions.MAX_WORDS


def test_captions_vary_and_name_what_is_there():
    story = STORIES[0]
    rng = np.random.default_rng(0)
    lines = {captions.shot_caption(story, story.takes[0], rng) for _ in range(200)}
    assert len(lines) > 50
    colours = captions.WORDS[story.cast[story.takes[0].subjects[0]].colour]
    assert all(any(word in line.lower() for word in colours) for line in lines)


def test_the_number_of_a_shot_is_not_read():
    tokenizer = language.build_tokenizer()
    assert tokenizer("a red ball.shot3:it jumps").input_ids == tokenizer("a red ball.shot41:it jumps").input_ids


def test_key_frames_hold_whatever_the_memory_asks_for():
    for shots in range(1, 12):
        assert {frame for _, frame in select([33] * shots, 6)} <= set(dataset.KEY_FRAMES)


def test_next_shots_carry_their_own_captions_and_memory():
    films = _random_films(stories=3)
    batch = next_shot_batch(films, 40, torch.Generator().manual_seed(0), drop_context=0.2)
    assert batch.target.shape == (40, 4, 9, 2, 3) and batch.context.shape == (40, 4, 6, 2, 3)
    for row in range(40):
        ids, reads = batch.shot_ids[row], batch.caption_ids[row]
        first = bool((batch.context[row] == 0).all())
        assert (ids[:6].max() == 0 and ids[-1] == 1) if first else ids[-1] == ids[5] + 1
        assert torch.equal(ids.diff().clamp(min=0), ids.diff())
        # Whoever shares a shot id shares a caption, and the target's is the last of its own.
        used = [line for line in batch.captions[row] if line]
        assert reads[-1] == len(used) - 1
        if first:
            assert len(used) == 1
        else:
            assert f"shot{int(ids[-1])}:" in used[-1]
            assert [f"shot{int(i)}:" in used[int(r)] for i, r in zip(ids, reads, strict=True)].count(False) == 0


def test_a_next_shot_may_be_a_single_frame():
    films = _random_films(stories=3)
    stills = films.stills.flatten(0, 2)
    batch = next_shot_batch(films, 20, torch.Generator().manual_seed(0), stills=1)
    assert batch.target.shape == (20, 4, 1, 2, 3) and batch.shot_ids.shape == batch.caption_ids.shape == (20, 7)
    for target, context in zip(batch.target, batch.context, strict=True):
        assert (stills == target[:, 0]).flatten(1).all(1).sum() == 1
        assert not (context == target).flatten(2).all(-1).all(0).any()  # of this shot, not of those before


def test_the_probe_knows_the_right_answers():
    story = STORIES[5]
    answers = probe.truth(story, story.takes[0])
    assert set(answers) == set(probe.READS)
    assert world.HATS[answers["hat"]] == story.cast[story.takes[0].subjects[0]].hat


def test_tints_leave_colours_apart():
    for tint in TINT.values():
        shades = np.array([np.multiply(rgb, tint) for rgb in RGB.values()])
        gaps = np.linalg.norm(shades[:, None] - shades[None], axis=-1)
        assert gaps[~np.eye(len(shades), dtype=bool)].min() > 60


def _take(**changes) -> world.Take:
    usual = dict(
        subjects=(0,),
        place=world.Place("meadow", (0, 3), "left"),
        camera="wide",
        action="stand",
        x=0.75,
        beat=0.25,
    )
    return world.Take(**(usual | changes))


def _random_films(stories: int) -> dataset.LatentFilms:
    shots = dataset.STORY_SHOTS
    return dataset.LatentFilms(
        torch.arange(stories),
        torch.randn(stories, shots, 4, 9, 2, 3),
        torch.randn(stories, shots, len(dataset.KEY_FRAMES), 4, 2, 3),
    )
