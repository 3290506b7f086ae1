"""A story being told: what may be changed, what stays as it was, and that a saved story is the same film again."""

import hashlib
import json
import shutil
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from shotstream_lite.codec import CodecError
from shotstream_lite.errors import CheckpointError, OutOfMemory, StoryError
from shotstream_lite.history import select
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.session import StorySession
from shotstream_lite.stills import write_picture
from shotstream_lite.story import CaptionChange, Shot, Story, captions
from shotstream_lite.story_files import load_story, parse_story
from shotstream_lite.training import base

GLOBAL = "A story about a red ball and a blue box, by the sea."
LINES = ("Wide shot: the red ball jumps.", "Close-up: the blue box waves.", "Medium shot: the red ball spins.")


def told(pipeline, shots: int = 3, **options) -> StorySession:
    session = StorySession(pipeline, GLOBAL, **({"seed": 0} | options))
    for line in LINES[:shots]:
        run(session.next_shot(line, frames=5))
    return session


def run(pieces) -> np.ndarray:
    return np.concatenate(list(pieces))


def hashes(session: StorySession) -> list[str]:
    """One a frame."""
    return [hashlib.sha256(frame).hexdigest() for frame in session.film()]


def replayed(pipeline, session: StorySession, path) -> StorySession:
    """Saved, loaded and told again on a pipeline that remembers nothing."""
    session.save(path)
    pipeline._remembered.clear()
    pipeline.text._one.cache_clear()
    again = StorySession.load(pipeline, path)
    run(again.tell())
    return again


def test_the_same_seed_is_the_same_film_another_seed_another(pipeline):
    assert hashes(told(pipeline)) == hashes(told(pipeline))
    assert not set(hashes(told(pipeline))) & set(hashes(told(pipeline, seed=1)))


def test_a_story_without_a_seed_is_a_new_one_each_time(pipeline):
    assert StorySession(pipeline, GLOBAL).seed != StorySession(pipeline, GLOBAL).seed


def test_what_is_streamed_is_what_is_kept(pipeline):
    session = StorySession(pipeline, GLOBAL, seed=0)
    streamed = [run(session.next_shot(line)) for line in LINES]
    assert np.array_equal(session.film(), np.concatenate(streamed))
    assert [shot.footage.length for shot in session.shots] == [13, 13, 13]
    assert all(0 < shot.first_frame_seconds < shot.seconds for shot in session.shots)


def test_a_saved_story_replays_frame_by_frame(pipeline, tmp_path):
    session = told(pipeline)
    again = replayed(pipeline, session, tmp_path / "story.json")
    assert hashes(again) == hashes(session) and again.story == session.story
    run(session.next_shot(LINES[0])), run(again.next_shot(LINES[0]))
    assert hashes(again) == hashes(session)  # and goes on alike


def test_retakes_branches_and_undone_shots_replay(pipeline, tmp_path):
    """A retake changes which context frames are new when; the numbers must not depend on that."""
    session = told(pipeline)
    run(session.retake(2, frames=9))
    run(session.next_shot(LINES[2], frames=5))
    session.undo()
    branch = session.branch()
    run(session.next_shot(LINES[2], seed=9))
    run(branch.next_shot(LINES[0]))
    run(branch.retake(1))
    run(branch.next_shot(LINES[1], frames=1))
    run(branch.next_shot(LINES[2], frames=5))
    for version in (session, branch):
        assert hashes(replayed(pipeline, version, tmp_path / "story.json")) == hashes(version)


def test_changed_settings_replay(pipeline, tmp_path):
    changes = {"height": 48, "policy": "first-last", "steps": [1000, 500], "phase": 0.5, "shot_frames": 9}
    session = StorySession(pipeline, GLOBAL, settings=changes)
    for line in LINES:
        run(session.next_shot(line))
    assert session.film().shape == (27, 48, 48, 3)
    assert session.story.settings == changes
    assert hashes(replayed(pipeline, session, tmp_path / "story.json")) == hashes(session)


def test_the_saved_story_says_everything(pipeline, tmp_path):
    session = told(pipeline, 2)
    session.save(tmp_path / "story.json")
    story = load_story(tmp_path / "story.json")
    assert story == session.story
    assert [shot.caption for shot in story.shots] == list(LINES[:2])
    assert all(shot.frames == 5 and shot.seed is not None for shot in story.shots)


def test_a_retake_keeps_the_shots_before_and_drops_those_after(pipeline):
    session = told(pipeline)
    before, shots = hashes(session), session.shots
    run(session.retake(2))
    assert session.shots[0] is shots[0] and len(session.shots) == 2
    assert hashes(session)[:5] == before[:5] and not set(hashes(session)[5:]) & set(before)
    assert session.shots[1].shot.caption == LINES[1] and session.shots[1].shot.seed != shots[1].shot.seed


def test_a_retake_with_the_old_seed_is_the_old_take(pipeline):
    session = told(pipeline)
    before = hashes(session)
    run(session.retake(seed=session.shots[-1].shot.seed))
    assert hashes(session) == before
    run(session.retake(caption=LINES[0], frames=9))
    assert session.shots[-1].shot.caption == LINES[0] and session.shots[-1].footage.length == 9


def test_retake_after_retake_is_new(pipeline):
    session = told(pipeline, 1)
    takes = {run(session.retake()).tobytes() for _ in range(4)}
    assert len(takes) == 4


def test_undo_takes_the_last_shot_back(pipeline):
    session, two = told(pipeline), told(pipeline, 2)
    last = session.undo()
    assert last.shot.caption == LINES[2] and hashes(session) == hashes(two)
    run(session.next_shot(LINES[2], frames=5))
    assert hashes(session) == hashes(told(pipeline))  # the same caption is the same shot again
    for _ in range(3):
        session.undo()
    with pytest.raises(StoryError, match="nothing to undo"):
        session.undo()
    assert session.film().shape == (0, 32, 48, 3)


def test_branches_share_the_past_and_nothing_else(pipeline):
    session = told(pipeline, 2)
    past, branch = hashes(session), session.branch()
    run(session.next_shot(LINES[0], frames=5))
    assert hashes(branch) == past
    run(branch.retake(2, caption=LINES[2]))
    run(branch.next_shot(LINES[1], frames=5))
    assert hashes(session)[:10] == past and hashes(branch)[:5] == past[:5]
    assert not set(hashes(session)[5:]) & set(hashes(branch)[5:])
    assert session.shots[0] is branch.shots[0]


def test_branches_may_be_told_at_the_same_time(pipeline):
    session = told(pipeline, 1)
    branch, third = session.branch(), session.branch()
    pairs = list(zip(session.next_shot(LINES[1]), branch.next_shot(LINES[2]), strict=True))
    assert len(pairs) == 3 and len(session.shots) == len(branch.shots) == 2
    run(third.next_shot(LINES[2]))
    assert hashes(third) == hashes(branch)


@pytest.mark.parametrize("pieces", [0, 1, 2])
def test_an_abandoned_shot_leaves_no_trace(pipeline, pieces):
    session = told(pipeline, 2)
    for abandoned in (session.next_shot(LINES[0]), session.retake(1)):
        list(islice(abandoned, pieces))
        abandoned.close()
    run(session.next_shot(LINES[2], frames=5))
    assert hashes(session) == hashes(told(pipeline))


def test_a_refused_shot_leaves_no_trace(pipeline):
    session = told(pipeline, 2)
    for bad in ({"caption": ""}, {"caption": "red " * 80}, {"frames": 4}, {"seed": -1}):
        with pytest.raises(StoryError):
            session.next_shot(**{"caption": LINES[0], **bad})
        with pytest.raises(StoryError):
            session.retake(**bad)
    run(session.next_shot(LINES[2], frames=5))
    assert hashes(session) == hashes(told(pipeline))


def test_a_shot_does_not_swallow_what_happened_meanwhile(pipeline):
    session = told(pipeline, 2)
    late = session.next_shot(LINES[2])
    next(late)
    session.undo()
    with pytest.raises(StoryError, match="ask for it again"):
        run(late)
    assert len(session.shots) == 1


def test_tell_goes_through_the_script_and_on_after_a_stop(pipeline):
    shots = [Shot(LINES[0], 5), Shot(LINES[1], seed=7), Shot(LINES[2], 9)]
    whole = StorySession.of(pipeline, Story(GLOBAL, shots, seed=3))
    run(whole.tell())
    assert not whole.script and [told.footage.length for told in whole.shots] == [5, 13, 9]
    assert whole.shots[1].shot.seed == 7
    stopped = StorySession.of(pipeline, Story(GLOBAL, shots, seed=3))
    pieces = stopped.tell()
    list(islice(pieces, 4))  # in the middle of shot 2
    pieces.close()
    assert len(stopped.shots) == 1 and len(stopped.script) == 2
    run(stopped.tell())
    assert hashes(stopped) == hashes(whole)


def test_the_next_caption_is_prepared_when_all_latents_of_a_shot_are_known(pipeline, monkeypatch):
    prepared = []
    monkeypatch.setattr(pipeline.text, "prepare", lambda lines: prepared.append((session.shots, lines)))
    session = StorySession.of(pipeline, Story(GLOBAL, [Shot(LINES[0], 21), Shot(LINES[1], 5)], seed=3))
    lines = captions(Story(GLOBAL, [Shot(LINES[0]), Shot(LINES[1])]), 1)
    for frames in session.tell():
        if not session.shots and len(prepared) == 1:
            assert len(frames) == 12  # the last chunk
    assert prepared == [((), [lines[1]])]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: s.next_shot(" "), "shot3 is empty"),
        (lambda s: s.next_shot(3), "shot3 is a number: write a text"),
        (lambda s: s.next_shot("A ball.", frames=0), "frames of shot3 is 0"),
        (lambda s: s.next_shot("A ball.", frames=6), "frames of shot3 is 6, .*write 5 or 9"),
        (lambda s: s.next_shot("A ball.", seed=-1), "seed of shot3 is -1"),
        (lambda s: s.next_shot("red " * 80), "global_caption with shot3 has .* tokens, the model reads 64"),
        (lambda s: s.retake(0), "there is no shot 0"),
        (lambda s: s.retake(3), "there is no shot 3"),
        (lambda s: s.retake(caption=""), "shot2 is empty"),
        (lambda s: s.retake(1, frames=0), "frames of shot1 is 0"),
    ],
)
def test_bad_wishes_are_refused_before_work_starts(pipeline, call, words):
    with pytest.raises(StoryError, match=words):
        call(told(pipeline, 2))


def test_nothing_to_save_or_retake_yet(pipeline, tmp_path):
    session = StorySession(pipeline, GLOBAL)
    with pytest.raises(StoryError, match="no shots"):
        session.save(tmp_path / "story.json")
    with pytest.raises(StoryError, match="there is no shot 0"):
        session.retake()
    assert not list(tmp_path.iterdir())


def test_bad_stories_are_refused_before_work_starts(pipeline):
    with pytest.raises(StoryError, match="global_caption with shot2 has .* tokens"):
        StorySession.of(pipeline, Story(GLOBAL, [Shot(LINES[0]), Shot("red " * 80)]))
    with pytest.raises(StoryError, match="settings: 'hight' is unknown"):
        StorySession(pipeline, GLOBAL, settings={"hight": 32})
    with pytest.raises(CodecError, match="width is 50"):
        StorySession(pipeline, GLOBAL, settings={"width": 50})
    with pytest.raises(StoryError, match="seed is a text"):
        StorySession(pipeline, GLOBAL, seed="7")
    with pytest.raises(StoryError, match="global_caption is empty"):
        StorySession(pipeline, "")


def turned(session: StorySession, number: int, caption: str = LINES[1], **options) -> np.ndarray:
    """A shot that gets another caption when `number` pieces of it are out."""
    take = session.next_shot(LINES[0], frames=37, **options)
    pieces = list(islice(take, number))
    take.turn(caption)
    return np.concatenate([*pieces, *take])


def test_a_turn_changes_what_follows_and_nothing_before(pipeline):
    plain, session = StorySession(pipeline, GLOBAL, seed=0), StorySession(pipeline, GLOBAL, seed=0)
    straight, film = run(plain.next_shot(LINES[0], frames=37)), turned(session, 2)
    assert np.array_equal(film[:9], straight[:9]) and not np.array_equal(film[9:21], straight[9:21])
    assert session.shots[0].shot.turns == (CaptionChange(9, LINES[1]),)
    assert session.shots[0].shot.caption == LINES[0]


def test_a_turn_reads_the_new_caption_and_keeps_both_memories(pipeline, calls):
    keys, context = calls(pipeline.transformer, "caption_keys"), calls(pipeline.transformer, "context")
    turned(StorySession(pipeline, GLOBAL, seed=0), 2)
    assert len(keys) == 2 and len(context) == 1
    assert torch.equal(keys[1][0], pipeline.text([f"{GLOBAL}shot0:{LINES[1]}"])[None])


def test_the_same_caption_again_is_no_turn_to_see(pipeline):
    plain, session = StorySession(pipeline, GLOBAL, seed=0), StorySession(pipeline, GLOBAL, seed=0)
    assert np.array_equal(run(plain.next_shot(LINES[0], frames=37)), turned(session, 2, LINES[0]))


@pytest.mark.parametrize("pieces", [0, 1, 2, 3])
def test_a_story_with_turns_replays(pipeline, tmp_path, pieces):
    """The shot after a turned one remembers frames from before and after the turn, each with its own caption."""
    session = StorySession(pipeline, GLOBAL, seed=0)
    turned(session, pieces)
    run(session.next_shot(LINES[2], frames=9))
    assert session.shots[0].shot.turns[0].frame == (0, 9, 9, 21)[pieces]
    assert hashes(replayed(pipeline, session, tmp_path / "story.json")) == hashes(session)


def test_remembered_frames_read_the_caption_they_were_made_with(pipeline, calls):
    session = StorySession(pipeline, GLOBAL, seed=0)
    turned(session, 2)
    context = calls(pipeline.transformer, "context")
    run(session.next_shot(LINES[2], frames=5))
    ((_, _, captions, ids),) = context
    assert len(captions) == 3  # before the turn, after it, the new shot
    assert ids.tolist() == [[0, 0, 1, 1, 1, 1]]  # frames 0, 7, 14, 22, 29, 36; the turn is at 9


def test_remembered_frames_may_read_the_new_shots_caption_instead(pipeline, calls):
    session = told(pipeline, 1)
    run(session.branch().next_shot(LINES[1], frames=5))
    read = calls(pipeline.transformer, "caption_keys")
    film = run(session.branch().next_shot(LINES[1], frames=5, settings={"own_captions": False}))
    assert [captions.shape[1] for (captions,) in read] == [1]  # one caption for all
    assert not np.array_equal(film, run(session.branch().next_shot(LINES[1], frames=5)))


def test_a_retake_turns_again_unless_it_has_a_caption(pipeline):
    session = StorySession(pipeline, GLOBAL, seed=0)
    film = turned(session, 2)
    assert np.array_equal(run(session.retake(seed=session.shots[0].shot.seed)), film)
    run(session.retake(caption=LINES[2]))
    assert session.shots[0].shot.turns == ()


def test_a_turn_comes_too_late_for_the_last_chunk(pipeline):
    session = StorySession(pipeline, GLOBAL, seed=0)
    take = session.next_shot(LINES[0], frames=13)
    list(islice(take, 3))
    assert take.turn(LINES[1]) is None and not list(take) and session.shots[0].shot.turns == ()
    for bad in ("", "red " * 80, 7):
        with pytest.raises(StoryError):
            take.turn(bad)


@pytest.mark.parametrize(("pieces", "seen", "first"), [(3, 9, 9), (4, 20, 21), (5, 33, 33), (2, 0, 0), (1, 0, 0)])
def test_a_chunk_that_nobody_saw_is_made_anew_with_the_new_caption(pipeline, tmp_path, pieces, seen, first):
    """At the moment of the change `pieces` of 1, 8, 12, 12, 4 frames were handed out and `seen` frames shown."""
    session, plain = StorySession(pipeline, GLOBAL, seed=0), StorySession(pipeline, GLOBAL, seed=0)
    session.directed = True
    take = session.next_shot(LINES[0], frames=37)
    list(islice(take, pieces))
    assert take.turn(LINES[1], seen) == first and take.turn(LINES[2], seen) == first  # the latest wish holds
    list(take)
    (told_shot,) = session.shots
    assert (
        told_shot.shot.turns == (CaptionChange(first, LINES[2]),) and told_shot.footage.length == take.frames_made == 37
    )
    run(plain.next_shot(LINES[0], frames=37))
    same = (session.film() == plain.film()).all(axis=(1, 2, 3))
    assert same[:first].all() and not same[first:].any()
    run(session.next_shot(LINES[1], frames=5))
    assert hashes(replayed(pipeline, session, tmp_path / "story.json")) == hashes(session)


@pytest.mark.parametrize(("pieces", "keep"), [(1, 1), (3, 15), (5, 37), (4, 33)])
def test_a_shot_is_cut_to_the_frame_and_replays(pipeline, tmp_path, pieces, keep):
    session = told(pipeline, 1)
    take = session.next_shot(LINES[1], frames=37)
    list(islice(take, pieces))
    take.cut(keep)
    list(take)
    assert session.shots[1].footage.length == keep == take.frames_made
    run(session.next_shot(LINES[2], frames=5))
    again = replayed(pipeline, session, tmp_path / "story.json")
    assert hashes(again) == hashes(session)
    run(again.retake(2, seed=1))
    assert again.shots[1].footage.length == session.shots[1].shot.frames  # another take is whole


def test_another_take_does_not_take_the_next_shots_seed(pipeline):
    session = told(pipeline, 2)
    second = session.shots[1].shot.seed
    run(session.retake(1))
    assert session.shots[0].shot.seed not in (second, None)


@pytest.mark.parametrize(("pieces", "frames"), [(1, 9), (2, 9), (3, 21), (4, 33), (5, 37)])
def test_a_shot_that_is_cut_is_a_shorter_shot(pipeline, tmp_path, pieces, frames):
    session = told(pipeline, 1)
    take = session.next_shot(LINES[1], frames=37)
    list(islice(take, pieces))
    take.cut()
    list(take)
    assert session.shots[1].footage.length == session.shots[1].shot.frames == frames
    run(session.next_shot(LINES[2], frames=5))
    assert hashes(replayed(pipeline, session, tmp_path / "story.json")) == hashes(session)


def test_attention_is_measured_when_asked_for_and_changes_nothing(pipeline):
    plain, session = told(pipeline, 1), told(pipeline, 1)
    take = session.next_shot(LINES[1], frames=25)
    assert take.shares is None
    take.measuring = True
    seen = [take.shares.clone() for _ in take]
    assert [len(shares) for shares in seen] == [9, 9, 12, 13]
    assert all(abs(float(shares.sum()) - 1) < 1e-5 and shares.min() > 0 for shares in seen)
    run(plain.next_shot(LINES[1], frames=25))
    assert hashes(plain) == hashes(session)


def test_time_is_told_apart(pipeline):
    (shot,) = told(pipeline, 1).shots
    assert 0 < shot.model_seconds < shot.seconds


def test_settings_of_one_shot_hold_for_it_alone_and_replay(pipeline, tmp_path):
    session, plain = told(pipeline, 1), told(pipeline, 3)
    run(session.next_shot(LINES[1], frames=5, settings={"policy": "none", "phase": 0, "steps": [1000, 500]}))
    run(session.next_shot(LINES[2], frames=5))
    assert not set(hashes(session)[5:]) & set(hashes(plain)[5:])
    assert [dict(shot.settings) for shot in session.story.shots][::2] == [{}, {}]
    assert hashes(replayed(pipeline, session, tmp_path / "story.json")) == hashes(session)
    run(session.retake(2, settings={}, seed=plain.shots[1].shot.seed))
    assert hashes(session) == hashes(plain)[:10]


def test_without_a_history_a_shot_does_not_know_the_others(pipeline):
    one, other = told(pipeline, 1, seed=1), told(pipeline, 1, seed=2)
    alone = [run(s.next_shot(LINES[1], frames=5, seed=5, settings={"policy": "none"})) for s in (one, other)]
    knowing = [run(s.retake(2, seed=5, settings={})) for s in (one, other)]
    assert np.array_equal(*alone) and not np.array_equal(*knowing)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"height": 48}, StoryError, "settings of shot2: 'height' is not one shot's: write one of policy, budget"),
        ({"policy": "newest"}, StoryError, "policy is 'newest'"),
        ({"weights": "../teacher"}, CheckpointError, "this model has student"),
        ({"weights": ["student"]}, CheckpointError, "this model has student"),
    ],
)
def test_bad_settings_of_one_shot(model_folder, settings, error, words):
    pipeline = ShotStreamPipeline.from_pretrained(model_folder)
    with pytest.raises(error, match=words):
        told(pipeline, 1).next_shot(LINES[1], settings=settings)
    with pytest.raises(error):
        StorySession.of(pipeline, Story(GLOBAL, [Shot(LINES[0]), Shot(LINES[1], settings=settings)]))


def test_another_transformer_for_one_shot(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    torch.manual_seed(7)
    base.build_transformer(8).save_pretrained(folder / "causal-init")
    pipeline = ShotStreamPipeline.from_pretrained(folder)
    assert pipeline.streaming_weights == ["student", "causal-init"]
    session = told(pipeline, 1)
    run(session.next_shot(LINES[1], frames=5, settings={"weights": "causal-init"}))
    assert not set(hashes(session)[5:]) & set(hashes(told(pipeline, 2)))
    run(session.next_shot(LINES[2], frames=5))
    assert hashes(replayed(pipeline, session, tmp_path / "story.json")) == hashes(session)
    assert pipeline.with_weights("causal-init") is pipeline.with_weights("causal-init")
    assert pipeline.with_weights("student") is pipeline


def test_another_transformer_is_loaded_once_and_not_by_opening_a_story(model_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    shutil.copytree(folder / "transformer", folder / "causal-init")
    pipeline, loads = ShotStreamPipeline.from_pretrained(folder), []
    monkeypatch.setattr("shotstream_lite.pipeline.load_another", lambda *_: loads.append(1) or time.sleep(0.1))
    StorySession.of(pipeline, Story(GLOBAL, [Shot(LINES[0], settings={"weights": "causal-init"})]))
    assert not loads  # a visitor's file is only checked
    with ThreadPoolExecutor(3) as threads:
        assert len(set(threads.map(pipeline.with_weights, ["causal-init"] * 3))) == len(loads) == 1


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ([7], "turns of shot1: write a list"),
        ([[{"frame": 9}]], "turns of shot1: write a list"),
        ([[{"frame": 9, "caption": ""}]], "a turn of shot1 is empty"),
        ([[{"frame": "9", "caption": "A ball."}]], "frame is a text: write rising frames"),
        ([[{"frame": 9, "caption": "A ball."}] * 2], "write rising frames"),
        ([[{"frame": 10**9, "caption": "A ball."}]], "write rising frames"),
        ([], "turns is a list of 0 for 1 shots"),
    ],
)
def test_bad_turns_of_a_story_file(turns, words):
    with pytest.raises(StoryError, match=words):
        parse_story(json.dumps({"global_caption": GLOBAL, "shot1": LINES[0], "turns": turns}))


def test_a_turn_too_long_for_the_model_is_refused_before_work_starts(pipeline):
    story = Story(GLOBAL, [Shot(LINES[0], turns=(CaptionChange(9, "red " * 80),))])
    with pytest.raises(StoryError, match="global_caption with shot1 has .* tokens"):
        StorySession.of(pipeline, story)


def test_running_out_of_memory_leaves_a_session_that_goes_on(pipeline, monkeypatch):
    """What the shot held is given back, one line says what to do, and the next try is what it would have been."""
    caches, chunk, encoder = [], type(pipeline.transformer).chunk, pipeline.text.text_encoder

    def told(run_out: tuple[int, ...]) -> np.ndarray:
        calls = count()

        def chunk_or_full(self, cache, *args):
            caches.append(weakref.ref(cache.keys[0]))
            if next(calls) in run_out:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return chunk(self, cache, *args)

        monkeypatch.setattr(type(pipeline.transformer), "chunk", chunk_or_full)
        session = StorySession(pipeline, "A story about a red ball.", seed=1)
        for _ in range(2):
            for _ in run_out:
                with pytest.raises(OutOfMemory, match="^the device ran out of memory.*shorter shot.*budget") as caught:
                    list(session.next_shot("the red ball jumps", frames=5))
                assert not any(cache() is not None for cache in caches) and caught.value.__context__ is None
            run_out = ()
            list(session.next_shot("the red ball jumps", frames=5))
        return session.film()

    undisturbed = told(())
    assert np.array_equal(told((1, 3)), undisturbed)
    run = type(encoder.encoder.block[1]).forward
    monkeypatch.setattr(type(encoder.encoder.block[1]), "forward", Mock(side_effect=torch.OutOfMemoryError("full")))
    with pytest.raises(OutOfMemory):
        list(StorySession(pipeline, "Another story.").next_shot("the blue box waves", frames=5))
    monkeypatch.setattr(type(encoder.encoder.block[1]), "forward", run)
    assert list(StorySession(pipeline, "Another story.").next_shot("the blue box waves", frames=5))


def test_what_a_following_shot_remembers_is_encoded_when_its_shot_ends(pipeline, calls):
    """And only if one follows: `tell` knows, and then the first frame does not wait for it."""
    encoded = calls(pipeline.codec, "encode_frames")
    session = told(pipeline, 1)
    assert len(encoded) == 0
    session = StorySession(pipeline, GLOBAL, seed=0)
    take = session.next_shot(LINES[0], frames=5)
    take.follow(LINES[1])
    list(take)
    assert len(encoded) == len(set(select([5], 6, "dynamic"))) and 0 < take.model_seconds < take.seconds
    list(session.next_shot(LINES[1], frames=5))
    assert len(encoded) == len(set(select([5], 6, "dynamic")))
    assert np.array_equal(session.film(), told(pipeline, 2).film())


def test_a_picture_of_ones_own_is_remembered_with_its_caption_and_saved(pipeline, tmp_path, calls):
    frame = np.random.default_rng(0).integers(0, 256, (80, 160, 3), dtype=np.uint8)
    (tmp_path / "hat.png").write_bytes(write_picture(frame))
    session, plain = StorySession(pipeline, GLOBAL, seed=0), StorySession(pipeline, GLOBAL, seed=0)
    session.remember(tmp_path / "hat.png", LINES[1])
    read = calls(pipeline, "context")
    run(session.next_shot(LINES[0], frames=5))
    assert read[0][0][0].frames().shape == (1, 32, 48, 3)
    run(session.next_shot(LINES[2], frames=5))
    run(plain.next_shot(LINES[0], frames=5))
    assert not set(hashes(session)) & set(hashes(plain))
    assert len(session.film()) == 10 and len(session.story.shots) == 2  # it is no shot of the film
    assert hashes(replayed(pipeline, session, tmp_path / "story.json")) == hashes(session)
    with pytest.raises(StoryError, match="no picture that can be read"):
        session.remember(b"PNG", LINES[0])
    with pytest.raises(StoryError, match="caption is empty"):
        session.remember(write_picture(frame), " ")
    with pytest.raises(StoryError, match="global_caption with shot3 has .* tokens"):  # pictures do not count
        session.next_shot(LINES[0], frames=5).turn("red " * 80)
    with pytest.raises(StoryError, match="remembered: write a list"):
        parse_story(json.dumps({"global_caption": GLOBAL, "shot1": LINES[0], "remembered": [{"caption": "A hat."}]}))
