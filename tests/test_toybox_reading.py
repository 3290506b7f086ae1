"""What is measured of a film: a perfect film scores all, and each planted error where it is."""

import numpy as np
import pytest
import torch

from shotstream_lite.evaluation import sentences
from shotstream_lite.evaluation.films import coded, rendered_film, tell
from shotstream_lite.evaluation.run import KEPT, REAL, figures, table
from shotstream_lite.measures import Film
from shotstream_lite.toybox.dataset import lengths_of, story_of
from shotstream_lite.toybox.probe import Probe, draw_window
from shotstream_lite.toybox.reading import CHUNKS, EVENTS, GAPS, KINDS, compare, measure
from shotstream_lite.toybox.renderer import render
from shotstream_lite.toybox.sentences import SENTENCES
from shotstream_lite.toybox.truth import HIDDEN, IN_FRAME, IN_MOTION, truth
from shotstream_lite.toybox.world import FLAGS, HATS

SHOTS = 12
RIGHT = ("said/", "kept/", "steady/", "chunk/identity")


def readings(story, lengths, rng):
    """As a probe without fault reads real film; what is not to be seen it makes up."""
    shots = []
    for take, frames in zip(story.takes, lengths, strict=True):
        right = truth(story, take, np.arange(frames))
        logits = {}
        for name, options in (IN_FRAME | IN_MOTION).items():
            answers = right[name][:3] if name in IN_MOTION else right[name]
            made_up = rng.integers(len(options), size=len(answers))
            logits[name] = 9.0 * np.eye(len(options))[np.where(answers == HIDDEN, made_up, answers)]
        shots.append(logits)
    return shots


@pytest.fixture(scope="module")
def films():
    rng = np.random.default_rng(0)
    return [(story_of(seed), readings(story_of(seed), lengths_of(seed), rng)) for seed in range(24)]


def test_real_film_scores_all_of_everything_and_everything_is_asked(films):
    parts = [compare(*film) for film in films]
    scores = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for name, values in scores.items():
        assert values.shape[:2] == (24, SHOTS) and not np.isnan(values).all(), name
        if name.startswith(RIGHT):
            assert np.nanmin(values) == 1, name
        if name.startswith("bleed/"):
            assert np.nanmax(values) == 0, name
    for kind in KINDS:
        gaps = scores[f"gap/{kind}"]
        assert np.isnan(gaps[:, 0]).all() and np.nanmin(gaps) == 1
        assert (np.isnan(gaps) == np.isnan(scores[f"kept/{kind}"])).all()
    assert np.nanmax(scores["changed/hat"]) == np.nanmax(scores["changed/flag"]) == 1
    assert np.nanmax(scores["gap/hat"]) > 6


def test_a_hat_that_changes_is_wrong_from_then_on(films):
    """Against the last time it was seen it would be wrong once."""
    story, read, mine = next(found for film in films if (found := _without_wind(*film)))
    wrong = [dict(shot) for shot in read]
    for shot in mine[1:]:
        wrong[shot]["hat"] = np.roll(read[shot]["hat"], 1, axis=1)
    scores = compare(story, wrong)
    asked = [s for s in mine[1:] if not np.isnan(scores["kept/hat"][0, s, 0])]
    assert len(asked) > 1 and (scores["kept/hat"][0, asked, 0] == 0).all()
    given = compare(story, wrong, given=mine[0] + 1)  # the first appearance is real film's: the truth
    assert (given["kept/hat"][0, asked, 0] == 0).all()
    assert np.isnan(given["said/camera"][0, : mine[0] + 1]).all()
    given = compare(story, wrong, given=mine[1] + 1)  # so is the second, whatever the probe says
    assert (given["kept/hat"][0, asked[1:], 0] == 0).all() and np.isnan(given["kept/hat"][0, mine[1], 0])


def _without_wind(story, read):
    """Somebody who is the left one in several shots and loses no hat, by the numbers of those shots."""
    for who in story.cast:
        mine = [s for s, t in enumerate(story.takes) if (t.cast[0].shape, t.cast[0].colour) == (who.shape, who.colour)]
        if len(mine) > 3 and not any(story.takes[s].event == "wind" for s in mine):
            return story, read, mine
    return None


def test_what_does_not_change_as_it_should(films):
    for event, question, answers in (("wind", "hat", HATS), ("bell", "flag", FLAGS)):
        story, read = next(f for f in films if any(t.event == event for t in f[0].takes))
        at = next(s for s, t in enumerate(story.takes) if t.event == event)
        held = [dict(shot) for shot in read]
        held[at][question] = np.repeat(read[at][question][:1], len(read[at][question]), 0)
        scores = compare(story, held)
        assert scores[f"said/{event}"][0, at] == 0 and compare(story, read)[f"said/{event}"][0, at] == 1
        assert len(answers) == held[at][question].shape[1]


def test_one_wrong_frame_is_unsteady_and_a_wrong_chunk_is_told_by_its_number(films):
    story, read = films[0]
    shot = next(s for s, n in enumerate(lengths_of(0)) if n == 81 and story.takes[s].event == "none")
    wrong = [dict(one) for one in read]
    wrong[shot]["shape"] = read[shot]["shape"].copy()
    wrong[shot]["shape"][69:] = np.roll(read[shot]["shape"][69:], 1, axis=1)
    scores, good = compare(story, wrong), compare(story, read)
    assert scores["steady/shape"][0, shot] == 0 < good["steady/shape"][0, shot]
    course = scores["chunk/identity"][0, shot]
    assert course[CHUNKS - 1] < 1 and (course[: CHUNKS - 1] == 1).all()


def test_what_bleeds_is_what_the_caption_before_asked_for(films):
    story, read = films[1]
    places = [take.place.setting for take in story.takes]
    at = next(s for s in range(1, SHOTS) if places[s] != places[s - 1])
    wrong = [dict(one) for one in read]
    wrong[at]["setting"] = np.repeat(read[at - 1]["setting"][:1], len(read[at]["setting"]), 0)
    assert compare(story, wrong)["bleed/setting"][0, at] == 1
    assert compare(story, read)["bleed/setting"][0, at] == 0


def test_a_hat_is_passed_on_if_a_newcomer_wears_the_last_ones(films):
    def newcomer(story, shot):  # alone, after somebody else alone who wears another hat, in no wind
        before, now = story.takes[shot - 1 : shot + 1]
        known = {(who.shape, who.colour) for take in story.takes[:shot] for who in take.cast}
        calm = before.event == now.event == "none" and len(before.cast) == len(now.cast) == 1
        return calm and (now.cast[0].shape, now.cast[0].colour) not in known and now.cast[0].hat != before.cast[0].hat

    at, story, read = next((shot, *film) for film in films for shot in range(1, SHOTS) if newcomer(film[0], shot))
    assert compare(story, read)["passed/hat"][0, at, 0] == 0
    wrong = [dict(one) for one in read]
    wrong[at]["hat"] = np.repeat(read[at - 1]["hat"][:1], len(read[at]["hat"]), 0)
    assert compare(story, wrong)["passed/hat"][0, at, 0] == 1
    later = compare(story, wrong)["passed/hat"][0, at + 1 :]
    assert np.isnan(later[~np.isnan(compare(story, wrong)["kept/hat"][0, at + 1 :])]).all()  # a newcomer only once


def test_a_film_is_measured_from_its_pixels_and_windows_are_what_is_drawn():
    torch.manual_seed(0)
    story = story_of(3, 2)
    shots = [render(story, take, frames).numpy() for take, frames in zip(story.takes, (9, 33), strict=True)]
    scores = measure(Film(story, shots), Probe())
    assert scores["features"].shape == (1, 2, 256) and scores["chunk/sharpness"].shape == (1, 2, CHUNKS)
    assert np.isnan(scores["chunk/sharpness"][0, 0, 1:]).all() and scores["chunk/sharpness"][0, 1, 2] > 0
    assert 0 < scores["cuts/SCA"][0, 0] <= 1
    frames, answers = draw_window(torch.Generator().manual_seed(1))
    again, _ = draw_window(torch.Generator().manual_seed(1))
    assert torch.equal(frames, again) and all(column.shape == (9,) for column in answers.values())


def test_figures_by_kind_by_gap_by_chunk_and_by_shot(films):
    real = [compare(*film) for film in films]
    forgetful = [compare(story, [shot | {"tint": shot["tint"][:, ::-1]} for shot in read]) for story, read in films]
    rng = np.random.default_rng(1)
    columns = {}
    for name, parts in ((REAL, real), ("model", forgetful)):
        scores = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        extra = {f"quality/{key}": np.ones((12, SHOTS)) for key in ("dynamic degree", "sharpness")}
        extra |= {"quality/PSNR, dB": np.full((12, SHOTS), np.nan if name == REAL else 30.5)}
        columns[name] = scores | extra | {"cuts/SCA": np.ones((12, 1)), "features": rng.normal(size=(12, SHOTS, 40))}
    report = figures(columns)
    kept = report[REAL]["figures"][KEPT]
    assert {name: figure.mean for name, figure in kept.items() if name != "all, by chance"} == {
        name: 1 for name in (*KINDS, "all", *GAPS, "changed before")
    }
    assert 0.2 < kept["all, by chance"].mean < 0.6
    assert report["model"]["figures"][KEPT]["tint"].mean == 1  # a film of its own light: it kept what it showed
    assert report["model"]["figures"]["within a shot"]["identity, chunk 7"].mean == 1
    text = table(report, 12, SHOTS)
    assert "seen 1 shot ago" in text and "PSNR, dB" in text and "30.5" in text and "kept/flag" in text


def test_the_first_shots_may_be_given(pipeline):
    story = story_of(3, 3)
    film = tell(pipeline, story, 5, given=2)
    lengths = [pipeline.settings.shot_frames] * 2
    real = rendered_film(story, pipeline.settings.shot_frames).shots
    assert film.given == 2 and len(film.shots) == 3
    assert all(np.array_equal(a, b) for a, b in zip(film.shots, real[:2], strict=False))
    assert [len(shot) for shot in film.shots[:2]] == lengths
    again = coded(pipeline, Film(story, film.shots))
    assert [shot.shape for shot in again.shots] == [shot.shape for shot in film.shots] and again.original.shots


class Guessing:
    """A probe that answers by the time of day."""

    def read(self, shot):
        rng = np.random.default_rng(int(shot.sum()) % 2**32)
        return {name: torch.from_numpy(rng.normal(size=(9, len(o)))) for name, o in sentences.QUESTIONS.items()}


def test_sentences_are_followed_when_all_of_them_is_to_be_seen(pipeline):
    for sentence in SENTENCES:
        right = sentences.asked(sentence)
        read = {name: rng_free(options, right.get(name)) for name, options in sentences.QUESTIONS.items()}
        if sentence.event != "none":
            question, result = EVENTS[sentence.event]
            assert not sentences.followed(sentence, read | {question: rng_free(range(5), (result + 1) % 2)})
            read[question] = rng_free(range(5), result)
        assert sentences.followed(sentence, read), sentence
        if len(sentence.who) == 2:  # a sentence rarely says who is on the left
            turned = {f"{p}{q}": read[f"{o}{q}"] for p, o in (("", "other "), ("other ", "")) for q in LOOK}
            assert sentences.followed(sentence, read | turned), sentence
        for name in right:
            wrong = read | {name: np.roll(read[name], 1, axis=1)}
            assert not sentences.followed(sentence, wrong), (sentence, name)


LOOK = ("shape", "colour")


def rng_free(options, value):
    """Twenty frames that all say `value`, or the first answer."""
    options = list(options)
    return np.tile(9.0 * np.eye(len(options))[options.index(value) if value in options else 0], (20, 1))


def test_each_sentence_is_told_beside_its_twin(pipeline, monkeypatch):
    monkeypatch.setattr(sentences, "SENTENCES", SENTENCES[:3])
    figures, text = sentences.evaluate_sentences(pipeline, Guessing(), 1)
    assert set(figures) == {"sentences", "twins", "difference", "ratio", "worse"}
    assert "3 sentences, 1 seeds each" in text
