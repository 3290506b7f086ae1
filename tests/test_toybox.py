"""The miniature world: same seed, same film; what captions say is drawn; what changed stays."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from shotstream_lite.codec import latent_frames
from shotstream_lite.errors import CheckpointError
from shotstream_lite.history import select
from shotstream_lite.models.folder import PRESETS, load_text
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
from shotstream_lite.toybox.dataset import LENGTHS, ToyFilms, captions_of, key_frames, lengths_of, story_of
from shotstream_lite.toybox.language import build_text_encoder, build_tokenizer
from shotstream_lite.toybox.probe import Probe
from shotstream_lite.toybox.renderer import paint, render, shapes_of
from shotstream_lite.toybox.sentences import SENTENCES
from shotstream_lite.toybox.truth import HIDDEN, IN_FRAME, IN_MOTION, TOLD, told, truth
from shotstream_lite.toybox.world import ACTIONS, HATS, LONGEST_ABSENCE, Character, Place, Take, ToyStory, draw_story
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


WHO = Character("ball", "red", "crown", "low", "dot"), Character("box", "blue", "beanie", "high", "square")
STANDING = Take(WHO[:1], Place("meadow", (0, 3), "left", "tent", "down"), "pan", "stand", "none", 0.8)


def drawn(take: Take = STANDING, tint: str = "neutral", frames: int = 45) -> np.ndarray:
    return render(ToyStory(WHO, "meadow", tint, (take,)), take, frames).numpy().astype(int)


@pytest.mark.parametrize("action", ACTIONS)
def test_actions_move_and_standing_does_not(action):
    cast = WHO if action == "meet" else WHO[:1]
    moved = np.ptp(drawn(replace(STANDING, camera="wide", cast=cast, action=action)), axis=0).max()
    assert moved == 0 if action == "stand" else moved > 50


@pytest.mark.parametrize("action, way", [("walk_left", -1), ("walk_right", 1)])
def test_walking_goes_where_it_says(action, way):
    film = drawn(replace(STANDING, camera="wide", action=action))
    red = (film[..., 0] > 200) & (film[..., 1:].max(-1) < 90)
    middle = (red.sum(1) * np.arange(224)).sum(1) / red.sum((1, 2))
    assert np.sign(middle[-1] - middle[0]) == way and abs(middle[-1] - middle[0]) > 40


def test_who_spins_shows_the_back_and_comes_round():
    """The emblem is to be seen from behind only, and truth says when."""
    spinning = replace(STANDING, camera="medium", action="spin")
    other = replace(spinning, cast=(replace(WHO[0], emblem="triangle"),))
    shows = (drawn(spinning) != drawn(other)).any((1, 2, 3))
    story = ToyStory(WHO, "meadow", "neutral", (spinning,))
    answered = truth(story, spinning, np.arange(45))["emblem"] != HIDDEN
    assert answered.any() and not answered.all() and (shows | ~answered).all() and not shows[0]


UNSAID = {"hat": "beanie", "stripe": "high", "sun": "right", "landmarks": (1, 2), "far": "house", "flag": "up"}


@pytest.mark.parametrize("name", [*UNSAID, "tint"])
def test_what_is_unsaid_is_seen_but_never_written(name):
    """Two stories that differ in it alone look different and have the same captions."""
    change, other = {name: UNSAID.get(name)}, STANDING
    if name in ("hat", "stripe"):
        other = replace(STANDING, cast=(replace(WHO[0], **change),))
    elif name != "tint":
        other = replace(STANDING, place=replace(STANDING.place, **change))
    assert (drawn() != drawn(other, "warm" if name == "tint" else "neutral")).any()
    one, two = (captions_of(ToyStory(WHO, "meadow", "warm", (t,)), np.random.default_rng(0)) for t in (STANDING, other))
    assert one == two


def test_a_tint_leaves_colours_apart():
    for tint in renderer.TINT.values():
        shades = np.array([np.multiply(rgb, tint) for rgb in renderer.RGB.values()])
        gaps = np.linalg.norm(shades[:, None] - shades[None], axis=-1)
        assert gaps[~np.eye(len(shades), dtype=bool)].min() > 60


def test_what_a_caption_tells_is_what_is_drawn():
    """Wherever it is to be seen; nothing else is asked of a reader."""
    for story, take in takes(20):
        said, right = told(take), truth(story, take, np.arange(45))
        assert set(said) == set(TOLD) and TOLD["event"][said["event"]] == take.event
        assert all(set(right[name]) <= {said[name], HIDDEN} for name in said if name != "event")


def test_every_word_is_known_and_every_caption_fits():
    tokenizer, rng = build_tokenizer(), np.random.default_rng(0)
    for seed in range(60):
        for line in captions_of(story_of(seed), rng):
            tokens = tokenizer(line).input_ids
            assert tokenizer.unk_token_id not in tokens and len(tokens) <= MAX_WORDS


def test_the_cast_is_read_in_words_of_its_own_and_the_number_of_a_shot_is_not_read():
    tokenizer = build_tokenizer()
    spoken = tokenizer("A red ball.shot3:The red ball").input_ids
    assert spoken == tokenizer("a red ball.shot41:the red ball").input_ids
    tokens = tokenizer.convert_ids_to_tokens(spoken)
    assert tokens == ["_a", "_red", "_ball", ".", "shot", ":", "the", "red", "ball", "</s>"]


def test_what_ships_is_what_is_built():
    """The tokenizer word for word, and an encoder of the same sizes."""
    encoder, tokenizer = load_text(PRESETS["toybox"])
    assert build_tokenizer().backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    ours, theirs = (model.state_dict() for model in (build_text_encoder(tokenizer), encoder))
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}


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
        for shots in range(1, 12):
            assert {frame for _, frame in select([n] * shots, 6)} <= set(key_frames(n, policies=("dynamic",)))


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


def test_next_shots_carry_their_own_captions_and_memory():
    batch = next_shot_batch(random_films(3), 40, torch.Generator().manual_seed(0), drop_context=0.2)
    for row in range(40):
        ids, reads = batch.shot_ids[row], batch.caption_ids[row]
        first = bool((batch.context[row] == 0).all())
        assert (ids[:6].max() == 0 and ids[-1] == 1) if first else ids[-1] == ids[5] + 1
        assert torch.equal(ids.diff().clamp(min=0), ids.diff())
        # Whoever shares a shot id shares a caption, and the target's is the last of its own.
        used = [line for line in batch.captions[row] if line]
        assert reads[-1] == len(used) - 1
        assert len(used) == 1 if first else f"shot{int(ids[-1])}:" in used[-1]
        assert first or all(f"shot{int(i)}:" in used[int(r)] for i, r in zip(ids, reads, strict=True))


def test_a_next_shot_may_be_a_single_frame():
    films = random_films(3)
    stills = torch.cat([shot for story in films.stills for shot in story])
    batch = next_shot_batch(films, 20, torch.Generator().manual_seed(0), stills=1)
    assert batch.target.shape == (20, 4, 1, 2, 3) and batch.shot_ids.shape == batch.caption_ids.shape == (20, 7)
    for target, context in zip(batch.target, batch.context, strict=True):
        assert (stills == target[:, 0]).flatten(1).all(1).sum() == 1
        assert not (context == target).flatten(2).all(-1).all(0).any()  # of this shot, not of those before


def test_no_shot_is_long_enough():
    with pytest.raises(CheckpointError, match="22 latents .85 frames.: choose smaller --lengths"):
        next_shot_batch(random_films(2), 1, torch.Generator().manual_seed(0), latents=22)


def test_a_step_of_training_has_one_length_for_all_its_samples():
    drawn = {drawn_length(part, (3, 9, 12, 21)) for step in range(40) for part in Draws(0, step, range(4)).split(2)}
    assert drawn == {3, 9, 12, 21} and drawn_length(Draws(0, 0, [0]), ()) is None
    for step in range(5):
        assert len({drawn_length(part, (3, 9, 12, 21)) for part in Draws(0, step, range(4)).split(2)}) == 1
