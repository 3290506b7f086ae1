"""What is measured on pixels alone, which stories are told, and by whom."""

import numpy as np
import pytest

from shotstream_lite.errors import StoryError
from shotstream_lite.evaluation.films import (
    ModelSpec,
    held_out_stories,
    rendered_film,
    tell,
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
from shotstream_lite.toybox.renderer import render

STORIES = held_out_stories(5, shots=6)


def test_real_film_has_its_cuts_found():
    scores = []
    for story in held_out_stories(4, shots=5):
        film = rendered_film(story, 33)
        scores.append(shot_cut_accuracy(find_cuts(np.concatenate(film.shots)), planned_cuts([33] * 5), 165))
        assert find_cuts(film.shots[0]) == []
    assert np.mean(scores) > 0.99


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
    takes = [(story, take) for story in held_out_stories(60, 5) for take in story.takes]
    still = {take.action: (story, take) for story, take in takes if take.camera == "medium" and take.event == "none"}
    for action in ("walk_left", "jump", "spin", "stand"):
        assert is_dynamic(render(*still[action]).numpy()) == (action != "stand")


def test_held_out_stories_are_none_of_training():
    assert all(story not in [story_of(seed, 6) for seed in range(50)] for story in STORIES)


def test_what_is_averaged_is_not_sharp():
    stripes = np.zeros((2, 8, 12, 3), np.uint8)
    stripes[:, :, ::2] = 255
    assert sharpness(stripes) == 1 and sharpness(stripes[:, :, ::2]) == 0
    story = story_of(0, 2)
    one, other = (render(story, take).numpy().astype(float) for take in story.takes)
    assert sharpness(((one + other) / 2).astype(np.uint8)) < 0.8 * min(map(sharpness, (one, other)))


def test_seen_stories_begin_as_in_training():
    for seed, story in enumerate(training_stories(3, shots=5)):
        whole = story_of(seed)
        assert (story.cast, story.tint, story.takes) == (whole.cast, whole.tint, whole.takes[:5])
    with pytest.raises(StoryError, match="stories of training have 12, write no more"):
        training_stories(1, shots=13)


def test_films_are_told_and_drawn_shot_for_shot(pipeline):
    stories = held_out_stories(1, shots=2)
    real, film = rendered_film(stories[0]), tell(pipeline, stories[0], 0)
    assert [len(shot) for shot in real.shots] == [45, 45] and len(film.shots) == 2
    assert written(stories[0], 3) == written(stories[0], 3) != written(stories[0], 4)


def test_a_teller_is_named_in_one_word():
    assert ModelSpec.parse("student", "toybox") == ModelSpec("student", "toybox", "student")
    name = "C:\\runs:causal-init@policy=first,steps=[1000,500],budget=2"
    settings = {"policy": "first", "steps": [1000, 500], "budget": 2}
    assert ModelSpec.parse(name, "toybox") == ModelSpec(name, "C:\\runs", "causal-init", settings)
    settings = {"steps": [1000], "policy": "first"}
    assert ModelSpec.parse("student@steps=[1000],policy=first", "toybox").settings == settings
    with pytest.raises(StoryError, match="'budget' is no setting"):
        ModelSpec.parse("student@budget", "toybox")


def test_settings_of_a_teller_are_checked(model_folder):
    assert ModelSpec.parse("student@budget=2", model_folder).pipeline("cpu").settings.budget == 2
    for wrong in ("student@policy=best", "student@colour=red"):
        with pytest.raises(StoryError, match=wrong.replace("@", ".")):
            ModelSpec.parse(wrong, model_folder).pipeline("cpu")
