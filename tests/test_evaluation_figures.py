"""From scores to figures: intervals by story, distances of films, and the whole command on a small random model."""

import json

import numpy as np
import pytest
import torch

from shotstream_lite.cli import main
from shotstream_lite.errors import StoryError
from shotstream_lite.evaluation import run as running
from shotstream_lite.evaluation.films import Film
from shotstream_lite.evaluation.pictures import contact_sheet, stills
from shotstream_lite.evaluation.run import FRECHET, Evaluation, evaluate, model_specs
from shotstream_lite.evaluation.statistics import (
    FrechetSpace,
    Interval,
    as_json,
    change,
    difference,
    interval,
    ratio,
    resamples,
)
from shotstream_lite.evaluation.store import Kept
from shotstream_lite.toybox.probe import Probe, save_probe

SMALL = "height=128,width=224,shot_frames=5"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_intervals_hold_the_mean_and_shrink(rng):
    few, many = rng.integers(0, 2, (10, 5)).astype(float), rng.integers(0, 2, (1000, 5)).astype(float)
    small, large = interval(few), interval(many)
    assert large.mean == pytest.approx(many.mean()) and large.low < large.mean < large.high
    assert large.high - large.low < 0.05 < small.high - small.low
    assert interval(few) == small
    assert all(np.isnan(interval(np.full((3, 2), np.nan))))


def test_stories_are_resampled_whole(rng):
    """Five shots that always agree say no more than one: the interval is that of the stories."""
    alone = rng.integers(0, 2, (60, 1)).astype(float)
    assert interval(alone.repeat(5, axis=1)) == pytest.approx(interval(alone))
    counts = resamples(7)
    assert counts.shape == (1000, 7) and (counts.sum(1) == 7).all() and counts.std() > 0


def test_one_story_has_no_interval(rng):
    real = rng.normal(0, 1, (1, 3, 4))
    for figure in (interval(real[..., 0]), change(real[..., 0]), FrechetSpace(real).distance(real + 1, real)):
        assert np.isfinite(figure.mean) and np.isnan(figure.low) and np.isnan(figure.high)


def test_what_was_not_asked_does_not_count():
    scores = np.array([[np.nan, 1, 1, 1], [np.nan, np.nan, 0, np.nan]])
    assert interval(scores).mean == 0.75


def test_a_share_of_real_film_is_certain_where_both_err_together(rng):
    real = rng.uniform(0.2, 1, (40, 5))
    half = ratio(real / 2, real)
    assert half == pytest.approx((0.5, 0.5, 0.5))
    assert np.isnan(ratio(real, 0 * real)).all()  # a share of nothing, such as of what bleeds in real film


def test_a_difference_is_certain_where_both_err_together(rng):
    real = rng.uniform(0.2, 1, (40, 5))
    assert difference(real - 0.1, real) == pytest.approx((-0.1, -0.1, -0.1))
    one, other = (rng.normal(0, 1, (40, 5)) for _ in range(2))
    mean, low, high = difference(one, other)
    assert low < mean < high and mean == pytest.approx(one.mean() - other.mean())


def test_change_is_the_rise_of_a_line(rng):
    falling = np.linspace(1, 0.5, 6)[None].repeat(30, 0) + rng.normal(0, 0.01, (30, 6))
    mean, low, high = change(falling)
    assert mean == pytest.approx(-0.5, abs=0.02) and low < mean < high < 0
    _, low, high = change(rng.normal(0, 1, (200, 6)))
    assert low < 0 < high
    late = np.concatenate([np.full((30, 1), np.nan), falling], axis=1)  # a first shot carries nothing
    assert change(late) == pytest.approx(change(falling))
    assert np.isnan(change(falling[:, :1]).mean)


def test_frechet_distance_is_that_of_gaussians(rng):
    real = rng.normal(0, 1, (200, 5, 4))
    space = FrechetSpace(real)
    assert space.distance(real, real).mean == pytest.approx(0, abs=1e-6)
    assert space.distance(real + [3.0, 0, 0, 0], real) == pytest.approx(np.full(3, 9 / space.spread))
    mean = real.reshape(-1, 4).mean(0)
    assert space.spread == pytest.approx(np.trace(np.cov(real.reshape(-1, 4).T, ddof=0)))
    # Twice as wide: (2 - 1)^2 times the variance, which is the spread itself.
    assert space.distance(mean + 2 * (real - mean), real).mean == pytest.approx(1)
    far, near = space.distance(real * [3, 1, 1, 1], real), space.distance(real * [1.5, 1, 1, 1], real)
    assert far.low > near.high


def test_frechet_distance_does_not_hang_on_the_scale(rng):
    real, told = rng.normal(0, 1, (50, 4, 6)), rng.normal(1, 2, (50, 4, 6))
    assert FrechetSpace(9 * real).distance(9 * told, 9 * real) == pytest.approx(FrechetSpace(real).distance(told, real))


def test_frechet_distance_over_the_shots(rng):
    real = rng.normal(0, 1, (100, 4, 6))
    drifting = real + np.arange(4)[None, :, None] * [1.0, 0, 0, 0, 0, 0]
    space = FrechetSpace(real)
    by_shot, rise = space.change(drifting, real)
    expected = np.array([0, 1, 4, 9]) / space.spread
    assert [at.mean for at in by_shot] == pytest.approx(expected, abs=1e-6) and rise.low > expected[2]
    _, flat = space.change(rng.normal(0, 1, real.shape), real)
    assert flat.low < 0 < flat.high


def test_json_has_no_nan():
    given = {"a": [Interval(1.0, 0.5, float("nan"))], "b": {"c": "text"}}
    assert as_json(given) == {"a": [{"mean": 1.0, "low": 0.5, "high": None}], "b": {"c": "text"}}


@pytest.fixture(scope="module")
def probe_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("probe") / "model.safetensors"
    save_probe(Probe(), path)
    return path


def small(model_folder, probe_file, names=(f"student@{SMALL}",), **options):
    """A random model whose shots are of two latents, in the size the probe reads."""
    settings = {"stories": 2, "shots": 2, "probe": probe_file} | options
    return Evaluation(model_specs(names, model_folder), **settings)


def test_an_evaluation_compares_tellers_with_real_film(model_folder, probe_file, tmp_path):
    names = (f"student@{SMALL}", f"student@{SMALL},budget=2")
    report, table = evaluate(small(model_folder, probe_file, names, pictures=tmp_path / "sheets"))
    assert list(report["films"]) == ["real film", *names]
    json.dumps(report, allow_nan=False)
    real = report["films"]["real film"]
    assert real["figures"]["quality"][FRECHET]["mean"] == pytest.approx(0, abs=1e-4)
    assert real["of real film"]["transition control"]["SCA"]["mean"] == 1
    assert len(real["by shot"]["said/character"]["shots"]) == 2
    words = ("character", "setting", "camera", "action", "hat", "landmarks", "SCA", "dynamic degree", "by chance")
    assert all(word in table for word in (*words, FRECHET, *names, "real film", "change"))
    assert {p.name for p in (tmp_path / "sheets").iterdir()} == {"story-0000.png", "story-0001.png"}


def test_an_interrupted_evaluation_goes_on(model_folder, probe_file, tmp_path, monkeypatch, calls):
    whole = evaluate(small(model_folder, probe_file))
    tell = running.tell

    def stop_at_second(pipeline, story, seed, given):
        if seed == 1:
            raise KeyboardInterrupt
        return tell(pipeline, story, seed, given)

    keep = tmp_path / "kept"
    monkeypatch.setattr(running, "tell", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        evaluate(small(model_folder, probe_file, keep=keep))
    monkeypatch.setattr(running, "tell", tell)
    seen = calls(running, "tell")
    assert evaluate(small(model_folder, probe_file, keep=keep)) == whole
    assert [seed for _, _, seed, *_ in seen] == [1]
    assert evaluate(small(model_folder, probe_file, keep=keep, pictures=tmp_path)) == whole and len(seen) == 1
    assert (tmp_path / "story-0001.png").is_file() and (keep / f"student@{SMALL}" / "story-0001.mp4").is_file()


def test_other_seeds_probes_and_weights_are_told_again(model_folder, probe_file, tmp_path, calls):
    seen = calls(running, "tell")
    evaluate(small(model_folder, probe_file, keep=tmp_path, stories=1))
    evaluate(small(model_folder, probe_file, keep=tmp_path, stories=1, seed=1))
    other = tmp_path / "probe.safetensors"
    save_probe(Probe(), other)
    evaluate(small(model_folder, other, keep=tmp_path, stories=1, seed=1))
    assert [seed for _, _, seed, *_ in seen] == [0, 1_000_000, 1_000_000]


def test_damaged_scores_are_not_taken(tmp_path):
    kept = Kept(tmp_path, "a/b: c", "me")
    film = Film(None, [np.zeros((5, 32, 48, 3), np.uint8)] * 2)
    assert kept.load(0) is None
    kept.save(0, film, {"said/hat": np.ones((1, 2))}, 16)
    assert list(kept.load(0)) == ["said/hat"] and [len(s) for s in kept.shots(0, [5, 5])] == [5, 5]
    assert Kept(tmp_path, "a/b: c", "somebody else").load(0) is None
    path = next(kept.folder.glob("*.npz"))
    path.write_bytes(path.read_bytes()[:100])
    assert kept.load(0) is None


def test_a_contact_sheet_has_a_row_a_shot_and_a_block_a_teller():
    films = {"real": [np.full((9, 8, 12, 3), 10, np.uint8)] * 2, "student": [np.full((5, 8, 12, 3), 200, np.uint8)] * 2}
    sheet = contact_sheet(["one", "two"], {name: stills(shots) for name, shots in films.items()})
    width = 4 * 14 - 2
    assert sheet.shape == (14 + 2 * (14 + 8), 2 * width + 8, 3)
    for top in (28, 50):
        assert (sheet[top : top + 8, :12] == 10).all() and (sheet[top : top + 8, width + 8 : width + 20] == 200).all()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--stories", "0"], "--stories is 0"),
        (["--weights", "student@budget"], "is no setting"),
        (["--weights", "student", "student"], "names student twice"),
        (["--weights", "student", "student@shot_frames=13"], "makes shots of 13 frames, the first 45"),
        (["--weights", "codec", "--sentences", "1"], "--weights codec: tells nothing"),
        (["--films", "nowhere"], "--films nowhere: is no folder"),
        (["--films", "nowhere", "--weights", "teacher"], "--weights does nothing with --films"),
        (["--films", "nowhere", "--sentences", "1"], "--sentences does nothing with --films"),
        (["--sentences", "1", "--given", "2"], "--given does nothing with --sentences"),
        (["--clip", "name"], "--clip does nothing without --films"),
        (["--sentences", "1", "--weights", "student", "teacher"], "--sentences measures one model"),
    ],
)
def test_bad_wishes_end_in_one_line(wrong, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *wrong]) == 2
    error = capsys.readouterr().err.strip()
    assert says in error and "\n" not in error


def test_a_model_of_another_size_is_refused(model_folder, probe_file, capsys):
    with pytest.raises(StoryError, match="makes 32 x 48, the probe reads 128 x 224"):
        evaluate(small(model_folder, probe_file, ["student"]))
    assert main(["evaluate", "--preset", str(model_folder), "--sentences", "1"]) == 2
    assert "makes 32 x 48" in capsys.readouterr().err


def test_a_place_that_is_a_file_is_refused(model_folder, probe_file, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoryError, match="--keep"):
        small(model_folder, probe_file, keep=tmp_path / "file")
