"""The running story, the plane, and reading by drawing."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from shotstream_lite.course import classroom
from shotstream_lite.course.plane import cloud_clean, two_bumps
from shotstream_lite.history import select
from shotstream_lite.models.memory import Need
from shotstream_lite.models.placement import Fit, Plan
from shotstream_lite.models.released import MODELS
from shotstream_lite.story_files import load_story
from shotstream_lite.toybox.captions import vocabulary, words
from shotstream_lite.toybox.renderer import render


def test_the_running_story_is_drawn_as_it_is_written_and_never_names_a_hat():
    story, told = classroom.running_story(10)
    assert len(story.takes) == len(told.shots) == 10
    text = " ".join([told.global_caption, *(shot.caption for shot in told.shots)])
    assert set(words(text)) <= set(vocabulary())
    assert not {"hat", "crown", "beanie", "stripe", "warm"} & set(words(text))
    for take, shot in zip(story.takes, told.shots, strict=True):
        who = story.cast[take.subjects[0]]
        assert who.colour in shot.caption and who.shape in shot.caption


def test_the_ball_leaves_and_comes_back_forgotten():
    story, _ = classroom.running_story(10)
    seen = [0 in take.subjects for take in story.takes]
    assert seen[2] and not any(seen[3:9]) and seen[9]
    remembered = {shot for shot, _ in select([33] * 9, 6)}
    assert not any(seen[shot] for shot in remembered)


def test_it_begins_like_the_demo_story(request):
    demo = load_story(request.config.rootpath / "demos" / "stories" / "seaside_friends.json")
    _, told = classroom.running_story(4)
    assert told.global_caption == demo.global_caption
    assert [s.caption for s in told.shots] == [s.caption for s in demo.shots[:4]]


def test_real_film_is_read_back_right_and_another_hat_wrong():
    for seed in range(4):
        story, told = classroom.returning_story(seed)
        film = classroom.drawn_film(story)[-1]
        assert len(told.shots) == 5 and story.takes[0].subjects == story.takes[4].subjects == (0,)
        assert classroom.read_back(story, 4, film) == {"hat": True, "stripe": True, "tint": True}
        hat = "crown" if story.cast[0].hat != "crown" else "beanie"
        other = replace(story, cast=(replace(story.cast[0], hat=hat), *story.cast[1:]))
        wrong = render(other, other.takes[4])
        assert classroom.read_back(story, 4, wrong) == {"hat": False, "stripe": True, "tint": True}


def test_reading_bears_what_codec_and_model_do_to_a_film():
    story, _ = classroom.returning_story(1)
    film = classroom.drawn_film(story)[-1]
    rough = film + np.random.default_rng(0).normal(0, 20, film.shape)
    assert all(classroom.read_back(story, 4, rough.clip(0, 255).astype(np.uint8)).values())


def test_the_memory_test_asks_the_pipeline_and_repeats_itself(monkeypatch):
    class Perfect:
        """Tells what the renderer would draw."""

        from shotstream_lite.models.settings import StreamSettings

        settings = StreamSettings()

        def shot(self, captions, past, *, seed, frames, settings):
            assert len(captions) == 5 and len(past) == 4 and settings.phase == 0.5
            story, _ = classroom.returning_story(seed)
            yield render(story, story.takes[4], frames)

    found = classroom.memory_test(Perfect(), [0, 3], frames=5, phase=0.5)
    assert all(all(shot.right.values()) and len(shot.frames) == 5 for shot in found)


def test_forgotten_is_nothing_where_all_is_remembered():
    rng = np.random.default_rng(0)
    shots = [rng.integers(0, 255, (3, 8, 8, 3), dtype=np.uint8) for _ in range(2)]
    everything = [(shot, frame) for shot in range(2) for frame in range(3)]
    assert classroom.forgotten(shots, everything) == 0
    assert classroom.forgotten(shots, everything[:3]) > 0


def test_colour_distance_sees_a_tint_and_no_movement():
    story, _ = classroom.running_story(1)
    film = classroom.drawn_film(story)[0]
    assert classroom.colour_distance(np.roll(film[::-1], 7, axis=2), film) == 0
    assert classroom.colour_distance(film.clip(0, 245) // 2, film // 2 + 10) == pytest.approx(10, abs=1)


def test_begin_says_versions_device_seed_and_time(capsys, monkeypatch):
    monkeypatch.setenv("SHOTSTREAM_FAST", "1")
    classroom.begin(minutes=3, seed=5)
    said = capsys.readouterr().out
    assert all(word in said for word in ("shotstream_lite", "torch", "device", "seed: 5", "3 minutes", "FAST"))
    monkeypatch.setenv("SHOTSTREAM_FAST", "0")
    assert not classroom.fast()


@pytest.mark.parametrize("sigma", [0.2, 0.6, 0.9])
def test_the_exact_teacher_is_the_mean_of_what_could_have_been(sigma):
    bumps, generator = two_bumps(left=0.7), torch.Generator().manual_seed(0)
    clean = bumps.sample(400_000, generator)
    noisy = (1 - sigma) * clean + sigma * torch.randn(clean.shape, generator=generator)
    for place in ([-0.2, 0.1], [0.4, -0.1]):
        near = (noisy - torch.tensor(place)).norm(dim=1) < 0.05
        expected = bumps.clean(torch.tensor([place]), sigma)[0]
        error = (clean[near].mean(0) - expected).norm()
        assert error < 5 * clean[near].std(0).norm() / near.sum().sqrt() + 0.03


def test_a_critic_of_the_data_agrees_with_the_teacher():
    bumps, generator = two_bumps(), torch.Generator().manual_seed(0)
    cloud = bumps.sample(4000, generator)
    noisy = torch.randn(20, 2, generator=generator)
    torch.testing.assert_close(cloud_clean(noisy, 0.8, cloud), bumps.clean(noisy, 0.8), atol=0.12, rtol=0)


def test_nobody_watches_a_test():
    assert not classroom.is_interactive()


def test_without_a_gpu_or_without_weights_the_toybox_plays_and_it_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = classroom.full_model()
    assert found.preset == "toybox" and "no GPU" in found.why
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(classroom, "choose", lambda *args, **options: Fit(Plan(), count_of_nothing()))
    monkeypatch.setenv(MODELS, str(tmp_path))
    found = classroom.full_model()
    assert (found.preset, found.device) == ("toybox", "cpu") and "not here" in found.why
    assert "missing" in classroom.full_model(fetch=True).why  # named, as the folder is asked before any hub
    monkeypatch.setattr(classroom, "_at_hand", lambda release: True)
    monkeypatch.setattr(classroom.Release, "require", lambda self: None)
    found = classroom.full_model()
    assert (found.preset, found.device, found.plan) == ("wan-1.3b", "cuda", Plan())


def count_of_nothing():
    return Need(*[0] * len(fields(Need)))


def test_attention_maps_are_those_of_an_ordinary_pass(transformer):
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(1, transformer.config.in_channels, 3, 4, 6, generator=draw)
    captions = torch.randn(1, 1, 5, transformer.config.text_dim, generator=draw)
    with torch.no_grad():
        before = transformer.joint(latents, 500.0, captions)
        maps = classroom.attention_maps(transformer, latents, torch.tensor(500.0), captions)
        assert torch.equal(transformer.joint(latents, 500.0, captions), before)
    assert maps.shape[:2] == (transformer.config.num_layers, transformer.config.num_attention_heads)
    torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:3]))


def test_mixed_up_sees_another_ones_hat_and_stripe():
    story, _ = classroom.running_story(3)
    ball, box = story.cast
    mixed = replace(story, cast=(replace(ball, hat=box.hat, stripe=box.stripe), box))
    assert classroom.mixed_up(story, 2, render(story, story.takes[2], 9)) is False
    assert classroom.mixed_up(story, 2, render(mixed, mixed.takes[2], 9)) is True
    assert classroom.mixed_up(mixed, 2, render(mixed, mixed.takes[2], 9)) is None


def test_a_claim_that_does_not_hold_stops_its_notebook_but_not_a_fast_run(monkeypatch, capsys):
    monkeypatch.delenv("SHOTSTREAM_FAST", raising=False)
    classroom.claim("hats right", torch.tensor(0.25), below=0.4)
    with pytest.raises(AssertionError, match="hats right: 0.25 > 0.4 does not hold"):
        classroom.claim("hats right", 0.25, above=0.4)
    monkeypatch.setenv("SHOTSTREAM_FAST", "1")
    classroom.claim("hats right", 0.25, above=0.4)
    printed = capsys.readouterr().out.splitlines()  # as tests/test_notebooks.py reads it
    assert printed == ["claim: hats right: 0.25 < 0.4", *["claim: hats right: 0.25 > 0.4"] * 2]
