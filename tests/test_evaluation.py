"""Measuring films: an oracle scores a right film full marks, a film that forgets loses just what it forgot."""

import numpy as np
import pytest
import torch

from shotstream_lite.errors import StoryError
from shotstream_lite.evaluation.films import (
    Film,
    ModelSpec,
    generated,
    held_out_stories,
    rendered,
    training_stories,
    written,
)
from shotstream_lite.measures import (
    PHOTOGRAPHED,
    consistency,
    find_cuts,
    is_dynamic,
    planned_cuts,
    sharpness,
    shot_cut_accuracy,
)
from shotstream_lite.toybox.dataset import story_of
from shotstream_lite.toybox.probe import CAPTIONED, HIDDEN, UNCAPTIONED, Probe, truth
from shotstream_lite.toybox.reading import chance, measure, prompt_following
from shotstream_lite.toybox.renderer import render

STORIES = held_out_stories(5, shots=6)


class Oracle:
    """Knows the right answers by the order of asking, but for what `wrong` does to them."""

    def __init__(self, stories, wrong=lambda answers, shot: answers):
        self.answers = iter([wrong(truth(s, take), i) for s in stories for i, take in enumerate(s.takes)])

    def read(self, shot):
        return next(self.answers)


def films():
    return [Film(story, [np.zeros((33, 64, 96, 3), np.uint8)] * 6) for story in STORIES]


def asked(scores):
    """The scores that are there."""
    return scores[~np.isnan(scores)]


def test_a_right_film_has_full_marks():
    said, carried = prompt_following(films(), Oracle(STORIES))
    assert set(said) == {*CAPTIONED, "character"} and all(v.shape == (5, 6) and v.min() == 1 for v in said.values())
    assert set(carried) == set(UNCAPTIONED) and all(len(asked(v)) and asked(v).min() == 1 for v in carried.values())
    assert np.isnan(carried["tint"][:, 0]).all() and len(asked(carried["tint"])) == 25


def test_who_forgets_loses_what_was_forgotten():
    def other_hat(answers, shot):
        return answers | {"hat": shot % 2}

    said, carried = prompt_following(films(), Oracle(STORIES, other_hat))
    assert asked(carried["hat"]).mean() < 1 and asked(carried["stripe"]).min() == 1 and said["character"].min() == 1


def test_sun_and_landmarks_count_only_where_the_camera_shows_them():
    """Asked in a wide or panning shot of a place that an earlier wide or panning shot has shown; what the probe says of
    them in near shots changes nothing."""
    near = {"medium", "close"}

    def guess_when_near(answers, shot):
        return {name: 0 if value == HIDDEN else value for name, value in answers.items()}

    def guess_otherwise(answers, shot):
        return {name: 1 + shot % 5 if value == HIDDEN else value for name, value in answers.items()}

    _, one = prompt_following(films(), Oracle(STORIES, guess_when_near))
    _, other = prompt_following(films(), Oracle(STORIES, guess_otherwise))
    for name in ("sun", "landmarks"):
        np.testing.assert_array_equal(one[name], other[name])
        expected = []
        for story in STORIES:
            shown = set()
            for take in story.takes:
                expected.append(take.camera not in near and take.place.setting in shown)
                shown |= set() if take.camera in near else {take.place.setting}
        assert any(expected) and np.array_equal(~np.isnan(one[name]).reshape(-1), expected)
        assert asked(one[name]).min() == 1


def test_a_character_is_its_shape_and_its_colour():
    said, _ = prompt_following(films(), Oracle(STORIES, lambda a, shot: a | {"colour": -1} if shot == 0 else a))
    assert np.mean(said["character"]) == pytest.approx(25 / 30) == np.mean(said["colour"])
    assert np.mean(said["shape"]) == 1


def test_consistency_is_with_what_the_film_showed_and_chance_says_when_that_is_habit():
    _, carried = prompt_following(films(), Oracle(STORIES, lambda a, shot: a | {"hat": 3}))
    assert asked(carried["hat"]).min() == 1
    always = {"carried/hat": carried["hat"], "read/hat": np.full((5, 6), 3.0)}
    assert asked(chance(always, "hat")).min() == 1
    by_story = {"carried/hat": np.ones((4, 6)), "read/hat": np.repeat(np.arange(4.0)[:, None], 6, axis=1)}
    assert chance(by_story, "hat").max() == 0  # every story another hat: another story never reads the same
    mixed = {"carried/hat": np.ones((2, 4)), "read/hat": np.array([[0.0, 1, 2, 3], [0, 0, 1, 1]])}
    np.testing.assert_allclose(chance(mixed, "hat"), [[0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]])


def test_one_film_is_measured_in_all_dimensions():
    torch.manual_seed(0)
    probe = Probe().eval()
    (film,) = rendered(held_out_stories(1, shots=3))
    scores = measure(film, probe)
    assert all(len(values) == 1 for values in scores.values())
    said, carried = prompt_following([film], probe)
    for part, read in (("said", said), ("carried", carried)):
        for name, values in read.items():
            np.testing.assert_array_equal(scores[f"{part}/{name}"], values)
    assert scores["cuts/SCA"].shape == (1, 1) and scores["features"].shape == (1, 3, 384)
    still = Film(film.story, [shot[:1].repeat(33, axis=0) for shot in film.shots])
    frozen = measure(still, probe)
    np.testing.assert_allclose(frozen["intra/character"], 1, rtol=1e-5)
    np.testing.assert_allclose(frozen["intra/background"], 1, rtol=1e-5)
    assert frozen["quality/dynamic degree"].max() == 0


def test_real_film_has_its_cuts_found():
    scores = []
    for film in rendered(held_out_stories(12, shots=5)):
        found, plan = find_cuts(np.concatenate(film.shots)), planned_cuts([33] * 5)
        scores.append(shot_cut_accuracy(found, plan, 165))
    assert np.mean(scores) > 0.99
    shot = next(rendered(held_out_stories(1, shots=1))).shots[0]
    assert find_cuts(shot) == []


def test_cuts_of_large_film_are_found():
    scenes = np.random.default_rng(0).integers(0, 255, (3, 12, 20, 3), dtype=np.uint8)
    film = np.concatenate([s.repeat(20, 0).repeat(20, 1)[None].repeat(24, 0) for s in scenes])
    assert find_cuts(film, 16, PHOTOGRAPHED) == [24, 48]


def test_shot_cut_accuracy():
    plan = planned_cuts([33, 33, 33, 33, 33])
    assert plan == [33, 66, 99, 132] and planned_cuts([9]) == []
    assert shot_cut_accuracy(plan, plan, 165) == 1
    assert shot_cut_accuracy([35, 66, 99, 132], plan, 165) == pytest.approx(np.exp(-2 / 165))
    assert shot_cut_accuracy([], plan, 165) == pytest.approx(np.exp(-4 / 5))  # missed: a mean shot each
    assert shot_cut_accuracy([*plan, 150], plan, 165) == pytest.approx(np.exp(-1 / 5))
    # One found cut is never used for two planned ones, and is matched to the nearer.
    assert shot_cut_accuracy([34], [33, 66], 99) == pytest.approx(np.exp(-(1 + 33) / 99))
    assert shot_cut_accuracy([60], [33, 66], 99) == pytest.approx(np.exp(-(6 + 33) / 99))


def test_consistency_follows_the_rule():
    same, turned = np.array([[1.0, 0], [2, 0], [3, 0]]), np.array([[1.0, 0], [0, 1], [0, 1]])
    assert consistency(same) == 1
    assert consistency(turned) == pytest.approx((0 + 0 + 1 + 0) / 4)
    assert np.isnan(consistency(same[:1]))


def test_what_moves_is_dynamic():
    takes = {
        take.action: (story, take) for story in held_out_stories(60, 5) for take in story.takes if take.camera != "pan"
    }
    for action in ("walk_left", "jump", "spin", "stand"):
        assert is_dynamic(render(*takes[action])) == (action != "stand")


def test_held_out_stories_are_none_of_training():
    assert all(story not in [story_of(seed, 6) for seed in range(50)] for story in STORIES)


def test_what_is_averaged_is_not_sharp():
    stripes = np.zeros((2, 8, 12, 3), np.uint8)
    stripes[:, :, ::2] = 255
    assert sharpness(stripes) == 1 and sharpness(stripes[:, :, ::2]) == 0
    story = story_of(0, 2)
    one, other = (render(story, take).astype(float) for take in story.takes)
    assert sharpness(((one + other) / 2).astype(np.uint8)) < 0.8 * min(map(sharpness, (one, other)))


def test_seen_stories_begin_as_in_training():
    for seed, story in enumerate(training_stories(3, shots=5)):
        whole = story_of(seed)
        assert (story.cast, story.tint, story.takes) == (whole.cast, whole.tint, whole.takes[:5])
    with pytest.raises(StoryError, match="stories of training have 8, write no more"):
        training_stories(1, shots=9)


def test_films_are_told_and_drawn_shot_for_shot(pipeline):
    stories = held_out_stories(1, shots=2)
    (real,), (film,) = list(rendered(stories)), list(generated(pipeline, stories))
    assert [len(shot) for shot in real.shots] == [33, 33] and len(film.shots) == 2
    assert written(stories[0], 3) == written(stories[0], 3) != written(stories[0], 4)


def test_a_teller_is_named_in_one_word():
    assert ModelSpec.parse("student", "toybox") == ModelSpec("student", "toybox", "student")
    name = "C:\\runs:causal-init@policy=first,steps=[1000,500],budget=2"
    settings = {"policy": "first", "steps": [1000, 500], "budget": 2}
    assert ModelSpec.parse(name, "toybox") == ModelSpec(name, "C:\\runs", "causal-init", settings)
    with pytest.raises(StoryError, match="'budget' is no setting"):
        ModelSpec.parse("student@budget", "toybox")


def test_settings_of_a_teller_are_checked(model_folder):
    assert ModelSpec.parse("student@budget=2", model_folder).pipeline("cpu").settings.budget == 2
    for wrong in ("student@policy=best", "student@colour=red"):
        with pytest.raises(StoryError, match=wrong.replace("@", ".")):
            ModelSpec.parse(wrong, model_folder).pipeline("cpu")
