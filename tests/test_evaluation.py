"""Measuring films: an oracle scores a right film full marks, a film that forgets loses just what it forgot."""

import numpy as np
import pytest

from shotstream_lite.evaluation.films import Film, drawn, held_out_stories, told, written
from shotstream_lite.evaluation.reading import interval, prompt_following, table
from shotstream_lite.toybox.dataset import story_of
from shotstream_lite.toybox.probe import SAID, UNSAID, truth

STORIES = held_out_stories(5, shots=6)


class Oracle:
    """Knows the right answers by the order of asking, but for what `wrong` does to them."""

    def __init__(self, stories, wrong=lambda answers, shot: answers):
        self.answers = iter([wrong(truth(s, take), i) for s in stories for i, take in enumerate(s.takes)])

    def read(self, shot):
        return next(self.answers)


def films():
    return [Film(story, [np.zeros((33, 64, 96, 3), np.uint8)] * 6) for story in STORIES]


def test_a_right_film_has_full_marks():
    said, carried = prompt_following(films(), Oracle(STORIES))
    assert set(said) == {*SAID, "character"} and all(len(v) == 30 and min(v) == 1 for v in said.values())
    assert set(carried) == set(UNSAID) and all(v and min(v) == 1 for v in carried.values())
    assert len(carried["tint"]) == 25  # every shot but the first of each story has one before it


def test_who_forgets_loses_what_was_forgotten():
    def other_hat(answers, shot):
        return answers | {"hat": shot % 2}

    said, carried = prompt_following(films(), Oracle(STORIES, other_hat))
    assert np.mean(carried["hat"]) < 1 and min(carried["stripe"]) == 1 and min(said["character"]) == 1


def test_a_character_is_its_shape_and_its_colour():
    said, _ = prompt_following(films(), Oracle(STORIES, lambda a, shot: a | {"colour": -1} if shot == 0 else a))
    assert np.mean(said["character"]) == pytest.approx(25 / 30) == np.mean(said["colour"])
    assert np.mean(said["shape"]) == 1


def test_a_model_that_keeps_inventing_hats_is_not_consistent_by_luck_alone():
    """Consistency is with the last time the film showed it, not with a truth the model was never told."""
    said, carried = prompt_following(films(), Oracle(STORIES, lambda a, shot: a | {"hat": 3}))
    assert min(carried["hat"]) == 1


def test_intervals_hold_the_mean_and_shrink():
    few, many = [1.0, 0.0] * 5, [1.0, 0.0] * 500
    mean, low, high = interval(many)
    assert low <= mean == 0.5 <= high and high - low < 0.1 < interval(few)[2] - interval(few)[1]
    assert all(np.isnan(interval([])))
    assert interval(few) == interval(few)


def test_the_table_names_all_questions():
    scores = prompt_following(films(), Oracle(STORIES))
    text = table({"real film": scores, "student": scores})
    assert all(name in text for name in (*SAID, *UNSAID, "real film", "student")) and "100.0" in text


def test_held_out_stories_are_none_of_training():
    assert all(story not in [story_of(seed, 6) for seed in range(50)] for story in STORIES)


def test_films_are_told_and_drawn_shot_for_shot(pipeline):
    stories = held_out_stories(1, shots=2)
    (real,), (film,) = list(drawn(stories)), list(told(pipeline, stories))
    assert [len(shot) for shot in real.shots] == [33, 33] and len(film.shots) == 2
    assert written(stories[0], 3) == written(stories[0], 3) != written(stories[0], 4)
