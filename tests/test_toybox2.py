"""The second edition of the miniature world: same seed, same film; what captions say is drawn; what changed stays."""

import re

import numpy as np
import pytest
import torch

from shotstream_lite.codec import latent_frames
from shotstream_lite.errors import CheckpointError
from shotstream_lite.toybox import renderer
from shotstream_lite.toybox.captions import (
    MAX_WORDS,
    WORDS,
    global_caption,
    scene_caption,
    shot_caption,
    vocabulary,
    words,
)
from shotstream_lite.toybox.dataset import LENGTHS, ToyFilms, key_frames, lengths_of, story_of
from shotstream_lite.toybox.probe import Probe
from shotstream_lite.toybox.renderer import paint, render, shapes_of
from shotstream_lite.toybox.sentences import SENTENCES
from shotstream_lite.toybox.truth import HIDDEN, IN_FRAME, IN_MOTION, truth
from shotstream_lite.toybox.world import HATS, LONGEST_ABSENCE, draw_story
from shotstream_lite.training.batches import drawn_length, next_shot_batch
from shotstream_lite.training.draws import Draws


def takes(stories: int, shots: int = 12):
    """Shots of some stories, with their stories."""
    return [(story, take) for seed in range(stories) for story in [story_of(seed, shots)] for take in story.takes]


def test_the_same_seed_is_the_same_film():
    one, two = (draw_story(np.random.default_rng(3), 4) for _ in range(2))
    assert one == two
    assert torch.equal(render(one, one.takes[0], 9), render(two, two.takes[0], 9))
    assert draw_story(np.random.default_rng(4), 4) != one


def test_a_longer_shot_begins_as_the_shorter_one_and_a_part_is_a_part_of_the_whole():
    for story, take in takes(1)[:3]:
        whole = render(story, take, 25)
        assert torch.equal(render(story, take, 17), whole[:17])
        assert (render(story, take, 5, start=20).int() - whole[20:25].int()).abs().max() <= 1


def test_painting_only_where_a_shape_is_changes_nothing(monkeypatch):
    some = [next(t for t in takes(9) if t[1].action == action) for action in ("meet", "spin", "walk_left")]
    quick = [render(story, take, 3, start=40) for story, take in some]
    monkeypatch.setattr(renderer, "_window", lambda *_: (slice(None), slice(None)))
    monkeypatch.setattr(renderer, "_still", lambda *_: False)
    for (story, take), frames in zip(some, quick, strict=True):
        assert (render(story, take, 3, start=40).int() - frames.int()).abs().max() <= 1


def test_frames_of_many_films_are_painted_at_once():
    tables = [shapes_of(story, take, 3) for story, take in takes(1) if len(take.cast) == 1][:2]
    most = max(shapes.shape[1] for shapes, *_ in tables)
    nowhere = np.zeros((3, most, 12), np.float32)
    nowhere[..., 7] = -9  # a shape of negative size
    padded = [np.concatenate([shapes, nowhere[:, shapes.shape[1] :]], 1) for shapes, *_ in tables]
    together = paint(
        *(torch.from_numpy(np.concatenate(t)) for t in (padded, *zip(*[t[1:] for t in tables], strict=True)))
    )
    alone = torch.cat([paint(*map(torch.from_numpy, table)) for table in tables])
    assert (together.int() - alone.int()).abs().max() <= 1


def test_what_the_wind_took_and_the_bell_raised_stays_so():
    events = 0
    for seed in range(40):
        story, looks, places = story_of(seed), {}, {}
        for take in story.takes:
            for who in take.cast:
                key = (who.shape, who.colour)
                assert looks.get(key, who) == who
            assert places.get(take.place.setting, take.place) == take.place
            cast, place = take.after
            looks |= {(who.shape, who.colour): who for who in cast}
            places[place.setting] = place
            events += take.event != "none"
            assert (take.event == "wind") == (cast != take.cast)
    assert events > 40


def test_absences_reach_from_one_to_twelve_shots():
    gaps = set()
    for seed in range(150):
        last = {}
        for shot, take in enumerate(story_of(seed, 20).takes):
            for who in take.cast:
                key = (who.shape, who.colour)
                gaps.add(shot - last.get(key, shot) - 1)
                last[key] = shot
    assert set(range(LONGEST_ABSENCE + 1)) <= gaps


def test_captions_use_known_words_only_and_never_say_what_is_hidden():
    known, rng = set(vocabulary()), np.random.default_rng(0)
    hidden = {*" ".join(HATS[:4]).split(), "hat", "stripe", "emblem", "flag", "sun", "left-hand"} - {"top"}
    for story, take in takes(60):
        whole, shot = global_caption(story, rng), shot_caption(story, take, rng)
        spoken = words(f"{whole} shot : {shot}")
        assert set(spoken) <= known and set(words(scene_caption(story, take, rng))) <= known
        assert len(spoken) < MAX_WORDS
        assert not hidden & set(spoken)
        assert not re.search(r"\{|\}|  ", whole + shot)


def test_a_caption_says_where_unless_it_is_the_usual_place():
    rng = np.random.default_rng(1)
    for story, take in takes(20):
        if take.place.setting != story.home:
            caption = shot_caption(story, take, rng).lower()
            assert any(place in caption for place in WORDS[take.place.setting]), caption


def test_sixty_sentences_have_twins_in_known_words():
    known = set(vocabulary())
    assert len({sentence.text for sentence in SENTENCES}) == 60
    for sentence in SENTENCES:
        assert set(words(sentence.twin)) <= known
    unknown = {word for sentence in SENTENCES for word in words(sentence.text)} - known
    assert unknown <= {"dances"}


def test_lengths_and_key_frames():
    lengths = [n for seed in range(50) for n in lengths_of(seed)]
    assert set(lengths) == set(LENGTHS)
    for n in LENGTHS:
        assert n % 4 == 1 and key_frames(n)[0] == 0 and key_frames(n)[-1] == n - 1


def test_the_truth_of_each_frame():
    questions = IN_FRAME | IN_MOTION
    seen = {name: set() for name in questions}
    for story, take in takes(40):
        answers = truth(story, take, np.arange(45))
        assert set(answers) == set(questions)
        for name, column in answers.items():
            assert column.shape == (45,) and column.max() < len(questions[name])
            seen[name] |= set(column.tolist())
        if take.event == "wind":
            assert answers["hat"][0] == HATS.index(take.cast[0].hat) and answers["hat"][20] == HIDDEN
            assert answers["hat"][-1] in (HATS.index("none"), HIDDEN)
    for name, options in questions.items():
        assert set(range(len(options))) <= seen[name], name


@pytest.mark.parametrize("frames", [1, 33, 45])
def test_the_probe_reads_every_frame(frames):
    torch.manual_seed(0)
    read = Probe().read(torch.zeros(frames, 128, 224, 3, dtype=torch.uint8))
    assert read["hat"].shape == (frames, 5)
    assert read["camera"].shape == (max(1, (frames - 1) // 4 - 7), 4)


def random_films(stories: int) -> ToyFilms:
    """Latents without a meaning, in the lengths the stories have."""
    noise = torch.Generator().manual_seed(0)
    films = ToyFilms(list(range(stories)), [], [])
    for seed in films.seeds:
        latents = [latent_frames(n) for n in lengths_of(seed)]
        films.clips.append([torch.randn(4, n, 2, 3, generator=noise) for n in latents])
        films.stills.append([torch.randn(len(key_frames(n)), 4, 2, 3, generator=noise) for n in lengths_of(seed)])
    return films


@pytest.mark.parametrize("latents", [3, 12, 21, None])
def test_a_batch_of_one_length_is_made_of_beginnings_of_shots(latents):
    films = random_films(4)
    batch = next_shot_batch(films, 30, torch.Generator().manual_seed(0), drop_context=0.0, latents=latents)
    frames = latents or 9
    assert batch.target.shape == (30, 4, frames, 2, 3) and batch.shot_ids.shape == (30, 6 + frames)
    whole = [clip for story in films.clips for clip in story]
    stills = torch.cat([stills for story in films.stills for stills in story])
    for target, context in zip(batch.target, batch.context, strict=True):
        assert any(len(clip[0]) >= frames and torch.equal(clip[:, :frames], target) for clip in whole)
        for frame in context.unbind(1):
            assert not frame.any() or (stills == frame).flatten(1).all(1).any()


def test_no_shot_is_long_enough():
    with pytest.raises(CheckpointError, match="22 latents .85 frames.: choose smaller --lengths"):
        next_shot_batch(random_films(2), 1, torch.Generator().manual_seed(0), latents=22)


def test_a_step_of_training_has_one_length_for_all_its_samples():
    drawn = {drawn_length(part, (3, 9, 12, 21)) for step in range(40) for part in Draws(0, step, range(4)).split(2)}
    assert drawn == {3, 9, 12, 21} and drawn_length(Draws(0, 0, [0]), ()) is None
    for step in range(5):
        assert len({drawn_length(part, (3, 9, 12, 21)) for part in Draws(0, step, range(4)).split(2)}) == 1
