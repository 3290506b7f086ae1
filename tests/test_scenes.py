"""The running story, somebody who returns, and reading by drawing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from shotstream_lite.course import attention, recall, scenes
from shotstream_lite.history import select
from shotstream_lite.models.settings import StreamSettings
from shotstream_lite.pipeline import load_pipeline
from shotstream_lite.story_files import load_story
from shotstream_lite.toybox.captions import vocabulary, words
from shotstream_lite.toybox.renderer import render
from shotstream_lite.toybox.world import HEIGHT, SHOT_FRAMES, WIDTH


def with_cast(story, index, **change):
    """The story with another left character in a shot."""
    take = story.takes[index]
    other = replace(take, cast=(replace(take.cast[0], **change), *take.cast[1:]))
    return replace(story, takes=(*story.takes[:index], other, *story.takes[index + 1 :]))


def drawn(story, index, frames=9):
    return render(story, story.takes[index], frames).numpy()


def test_the_running_story_is_drawn_as_it_is_written_and_never_names_a_hat():
    story, told = scenes.running_story(10)
    assert len(story.takes) == len(told.shots) == 10
    text = " ".join([told.global_caption, *(shot.caption for shot in told.shots)])
    assert set(words(text)) <= set(vocabulary())
    assert not {"hat", "crown", "beanie", "stripe", "warm"} & set(words(text))
    for take, shot in zip(story.takes, told.shots, strict=True):
        (who,) = take.cast
        assert who in story.cast and who.colour in shot.caption and who.shape in shot.caption


def test_the_ball_leaves_and_comes_back_forgotten():
    story, _ = scenes.running_story(10)
    seen = [story.cast[0] in take.cast for take in story.takes]
    assert seen[2] and not any(seen[3:9]) and seen[9]
    remembered = {shot for shot, _ in select([SHOT_FRAMES] * 9, 6)}
    assert not any(seen[shot] for shot in remembered)


def test_it_begins_like_the_demo_story(request):
    demo = load_story(request.config.rootpath / "demos" / "stories" / "seaside_friends.json")
    _, told = scenes.running_story(4)
    assert told.global_caption == demo.global_caption
    assert [s.caption for s in told.shots] == [s.caption for s in demo.shots[:4]]


def test_a_film_is_drawn_in_the_size_that_models_make():
    story, _ = scenes.running_story(2)
    assert [shot.shape for shot in scenes.drawn_film(story, 5)] == [(5, HEIGHT, WIDTH, 3)] * 2


def test_variants_are_of_what_a_shot_shows_and_captions_leave_out():
    story, _ = scenes.running_story(5)
    shown = [set(scenes.variants(story, index)) for index in range(5)]
    always, place = {"hat", "stripe", "tint"}, {"sun", "landmarks", "flag"}
    assert shown[0] == always | place and shown[1] == always and shown[2] == always | {"emblem"}
    assert "far" in shown[3]  # the pan reveals it
    for stories in scenes.variants(story, 3).values():
        assert sum(other == story for other in stories.values()) == 1
        assert all(other.takes[:3] == story.takes[:3] for other in stories.values())


def test_somebody_returns_near_and_standing():
    for seed in range(4):
        story, told = scenes.returning_story(seed)
        (one,), (other,) = story.takes[0].cast, story.takes[2].cast
        assert len(told.shots) == 5 and story.takes[4].cast == (one,) and other != one
        assert {take.place for take in story.takes} == {story.takes[0].place}


def test_the_absence_is_as_long_as_asked_and_the_first_shots_are_the_same():
    short, long = (scenes.returning_story(3, away)[0] for away in (1, 8))
    assert [len(short.takes), len(long.takes)] == [4, 11] and short.takes[:3] == long.takes[:3]
    assert all(take.cast != long.takes[0].cast for take in long.takes[2:-1])
    assert len(set(long.takes[2:-1])) == 8


def test_who_lost_the_hat_on_screen_comes_back_without_it():
    for seed in range(3):
        story, told = scenes.windy_story(seed)
        assert [take.event for take in story.takes] == ["wind", "none", "none"] and len(told.shots) == 3
        assert story.takes[0].cast[0].hat != "none" and story.takes[2].cast == story.takes[0].after[0]
        assert recall.read_back(story, 2, drawn(story, 2))["hat"]


def test_the_wind_may_blow_unsaid():
    for seed in range(6):
        (story, told), (same, calm) = scenes.windy_story(seed), scenes.windy_story(seed, said=False)
        assert story == same and told.shots[1:] == calm.shots[1:]
        assert [any("wind" in word for word in words(t.shots[0].caption)) for t in (told, calm)] == [True, False]


def test_real_film_is_read_back_right_and_another_hat_wrong():
    for seed in range(4):
        story, _ = scenes.returning_story(seed)
        assert recall.read_back(story, 4, drawn(story, 4)) == {"hat": True, "stripe": True, "tint": True}
        hat = "crown" if story.takes[4].cast[0].hat != "crown" else "none"
        other = with_cast(story, 4, hat=hat)
        assert recall.read_back(story, 4, drawn(other, 4)) == {"hat": False, "stripe": True, "tint": True}


def test_reading_bears_what_codec_and_model_do_to_a_film():
    story, _ = scenes.returning_story(1)
    film = drawn(story, 4)
    rough = film + np.random.default_rng(0).normal(0, 20, film.shape)
    assert all(recall.read_back(story, 4, rough.clip(0, 255).astype(np.uint8)).values())


def test_the_memory_test_asks_the_pipeline_and_repeats_itself():
    class Perfect:
        """Tells what the renderer would draw."""

        settings = StreamSettings()

        def shot(self, captions, past, *, seed, frames, settings, before):
            assert before is None and len(captions) == 5 and len(past) == 4 and settings.phase == 0.5
            story, _ = scenes.returning_story(seed)
            yield drawn(story, 4, frames)

    found = recall.memory_test(Perfect(), [0, 3], frames=5, phase=0.5)
    assert all(all(shot.right.values()) and len(shot.frames) == 5 for shot in found)
    assert recall.share_right(found) == [1, 1]


def test_mixed_up_sees_another_ones_hat_and_stripe():
    story, _ = scenes.running_story(3)
    _, box = story.cast
    mixed = with_cast(story, 2, hat=box.hat, stripe=box.stripe)
    assert recall.mixed_up(story, 2, drawn(story, 2)) is False
    assert recall.mixed_up(story, 2, drawn(mixed, 2)) is True
    assert recall.mixed_up(mixed, 2, drawn(mixed, 2)) is None


def test_forgotten_is_nothing_where_all_is_remembered():
    rng = np.random.default_rng(0)
    shots = [rng.integers(0, 255, (3, 8, 8, 3), dtype=np.uint8) for _ in range(2)]
    everything = [(shot, frame) for shot in range(2) for frame in range(3)]
    assert recall.forgotten(shots, everything) == 0
    assert recall.forgotten(shots, everything[:3]) > 0


def test_colour_distance_sees_a_tint_and_no_movement():
    story, _ = scenes.running_story(1)
    film = drawn(story, 0)
    assert recall.colour_distance(np.roll(film[::-1], 7, axis=2), film) == 0
    assert recall.colour_distance(film.clip(0, 245) // 2, film // 2 + 10) == pytest.approx(10, abs=1)


def test_films_are_encoded_shot_by_shot_and_their_key_frames_alone():
    codec = load_pipeline("toybox", "student").codec
    films = scenes.encoded_films(codec, [3], shots=2, frames=9)
    assert len(films) == 1 and films.lengths(0) == (9, 9)
    assert films.shown(0, 1)["hat"].shape == (9,) and films.places(0, 1)["hat"].shape == (9, 2)
    assert films.clip(0, 1).shape == (codec.channels, 3, *films.still(0, 0, 0).shape[1:])
    torch.testing.assert_close(films.still(0, 1, 0), films.clip(0, 1)[:, 0], atol=1e-3, rtol=1e-3)


def test_the_tokens_of_a_hat_are_where_another_hat_changes_the_picture():
    story, _ = scenes.returning_story(2)
    one, other = story.takes[0].cast[0], story.takes[2].cast[0]
    frames = [(0, 0), (1, 0), (2, 44), (4, 8)]
    tokens = attention.hat_tokens(story, frames, one, (8, 14))
    assert [token // 112 for token in tokens] == [0, 1, 3]
    assert [token // 112 for token in attention.hat_tokens(story, frames, other, (8, 14))] == [2]
    for token, (shot, frame) in zip(tokens, [frames[0], frames[1], frames[3]], strict=True):
        bare = with_cast(story, shot, hat="crown" if one.hat == "none" else "none")
        changed = (drawn(story, shot, 9)[frame] != drawn(bare, shot, 9)[frame]).any(-1)
        row, column = divmod(token % 112, 14)
        assert changed[16 * row : 16 * row + 16, 16 * column : 16 * column + 16].any()
