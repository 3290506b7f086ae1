"""The standing figures say what the live objects hold."""

import base64
import json

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from shotstream_lite.context import Context
from shotstream_lite.course import plots
from shotstream_lite.course.attention import RecordingCache
from shotstream_lite.history import select
from shotstream_lite.models.settings import StreamSettings
from shotstream_lite.rollout import begin_shot, rollout
from shotstream_lite.rope import rope_frequencies
from shotstream_lite.transformer import causal_mask

BLUE, ORANGE, GREY = (plots.COLOURS[name] for name in ("global cache", "local cache", "noise"))


@pytest.fixture
def film():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (33, 16, 24, 3), dtype=np.uint8) for _ in range(4)]


@pytest.fixture
def cache(transformer, shots):
    one = shots.sample(0)
    with torch.no_grad():
        return begin_shot(transformer, one.cond)


def boxes(axis, colour=None):
    rectangles = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
    return [box for box in rectangles if colour is None or colour.lower() in (edge(box), to_hex(box.get_facecolor()))]


def edge(box):
    return to_hex(box.get_edgecolor())


def test_a_strip_has_a_row_a_shot_with_its_caption_and_real_film_above(film):
    alone = plots.strip(film, ["one", "two", "three", "four"])
    assert [axis.get_title(loc="left") for axis in alone.axes] == ["1: one", "2: two", "3: three", "4: four"]
    named = plots.strip({"with memory": film[0], "without": film[1]})
    assert named.words() == "figure: with memory; without"
    both = plots.strip(film[:1], real=film[1:2], columns=3)
    picture = both.axes[0].images[0].get_array()
    np.testing.assert_array_equal(picture[:16, :24], film[1][0])
    np.testing.assert_array_equal(picture[18:34, :24], film[0][0])


def test_history_frames_exactly_the_picked_frames(film):
    picked = select([33] * 4, 6)
    figure = plots.history(film, picked)
    framed = [len(boxes(axis, BLUE)) for axis in figure.axes]
    assert framed == [1, 1, 2, 2]
    shown = [{text.get_text() for text in axis.texts} for axis in figure.axes]
    assert "32" in shown[3] and "0" in shown[0] and "32" not in shown[0]
    neighbours = plots.history(film, [(1, frame) for frame in (5, 6, 7)]).axes[1]
    assert [text.get_text() for text in neighbours.texts] == ["5", "6", "7", "shot 2"]
    assert "nothing remembered" in plots.history(film, []).axes[0].get_title(loc="left")


def test_the_timeline_says_shot_position_phase_and_level_and_where_a_latent_lives():
    settings = StreamSettings(phase=0.5)
    context = Context(torch.zeros(1, 2, 6, 4, 6), (0, 0, 0, 1, 1, 1), 2)
    axis = plots.token_timeline(context, settings, [0, 0, 0, 0.75, 0.75, 0.75, None, None, None]).axes[0]
    assert (len(boxes(axis, BLUE)), len(boxes(axis, ORANGE))) == (6, 3)
    assert len([box for box in boxes(axis, GREY) if box.get_linestyle() == "-"]) == 3
    words = [text.get_text().split("\n") for text in axis.texts]
    assert (
        ["1", "3", "0.50", "0.00"] in words and ["2", "9", "1.00", "0.75"] in words and ["2", "14", "1.00", ""] in words
    )


def test_a_short_memory_leaves_the_shot_at_its_position():
    context = Context(torch.zeros(1, 2, 2, 4, 6), (0, 0), 1)
    axis = plots.token_timeline(context, StreamSettings(), [0.5]).axes[0]
    assert [text.get_text().split("\n")[1] for text in axis.texts[:3]] == ["0", "1", "6"]


def test_mask_and_cache_show_the_mask_and_the_bytes(cache):
    mask = causal_mask(6, 6, 3)
    left, right = plots.mask_and_cache(mask, cache, chunk=3).axes[:2]
    assert len(boxes(left)) == int(mask.sum())
    assert {(int(box.get_y()), int(box.get_x())) for box in boxes(left)} == {tuple(p) for p in mask.nonzero().tolist()}
    stored = sum(x.nbytes for x in (*cache.keys, *cache.values)) / 1024
    assert sum(box.get_width() for box in boxes(right)) == pytest.approx(stored)


def test_clock_hands_stand_at_the_angles():
    figure = plots.clock_faces(3, 2, head_dim=32, phase=0.4)
    frequencies = rope_frequencies(32)[0]
    for axis, frequency in zip(figure.axes, frequencies.tolist(), strict=True):
        same, other = (line.get_xdata()[1] for line in axis.lines)
        assert same == pytest.approx(3 * frequency) and other == pytest.approx(same + 0.8)


def test_attention_budget_stacks_to_one(transformer, cache, shots):
    watched = RecordingCache(**vars(cache))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        list(rollout(transformer, watched, lambda shape: torch.randn(shape, generator=generator), [1.0, 0.5], [3, 3]))
    shares = torch.stack([watched.heads[layer] for layer in (0, 1)])
    assert shares.shape == (2, 2, 12)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 2))
    for layer, axis in enumerate(plots.attention_budget(shares, 6, 3).axes):
        heights = np.array([[bar.get_height() for bar in group] for group in axis.containers])
        np.testing.assert_allclose(heights.sum(0), 1, rtol=1e-5)
        np.testing.assert_allclose(heights[0], shares[layer, :, :6].sum(-1), rtol=1e-5)


def test_particles_draw_the_difference_of_the_two_scores():
    samples, real, fake = torch.randn(3, 50, 2, generator=torch.Generator().manual_seed(0))
    figure = plots.particles(samples, real, fake, samples, arrows=50)
    arrows = [axis.collections[-1] for axis in figure.axes]
    difference = np.stack([arrows[2].U, arrows[2].V], axis=1)
    np.testing.assert_allclose(difference, (real - fake).numpy(), rtol=1e-5)
    (alone,) = plots.particles(samples, real, fake, samples, arrows=50, who=("student",)).axes
    np.testing.assert_allclose(alone.collections[-1].U, arrows[2].U)


def test_a_scorecard_marks_right_wrong_and_not_to_be_seen():
    figure = plots.memory_scorecard({"shot 2": {"hat": True, "sun": None}, "shot 3": {"hat": False, "sun": True}})
    assert [text.get_text() for text in figure.axes[0].texts] == ["✓", "–", "✗", "✓"]


def test_drift_counts_shots_in_whole_numbers():
    figure = plots.drift({"student": [[0, 1], [1, 1], [0, 0]]})
    figure.canvas.draw()
    assert all(tick == round(tick) for tick in figure.axes[0].get_xticks())


def test_drift_and_bars_stand_at_the_means():
    axis = plots.drift({"student": [[0, 1, 1, 1], [0, 0, 0, 1]]}, chance=0.25).axes[0]
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [0.75, 0.25])
    axis = plots.bars({"one": [1, 1, 0, 0], "two": [1, 1, 1, 1]}, "share").axes[0]
    assert [bar.get_height() for bar in axis.patches] == [0.5, 1]


def test_a_score_table_frames_what_reaches_real_film():
    rows = {"real": {"a": 0.5, "b": 1.0}, "cheat": {"a": 0.5, "b": 0.99}, "other": {"a": np.nan, "b": 1.0}}
    axis = plots.score_table(rows, "real").axes[0]
    framed = [(round(box.get_x()), round(box.get_y())) for box in boxes(axis, plots.COLOURS["student"])]
    assert framed == [(0, 1), (1, 2)]
    assert [text.get_text() for text in axis.texts] == ["0.50", "1.00", "0.50", "0.99", "", "1.00"]


def test_rows_are_compared_with_the_first_by_their_intervals():
    def around(mean):
        return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}

    nothing = {"mean": None, "low": None, "high": None}
    rows = {"ours": around(0.5), "near": around(0.65), "far": around(0.75), "lower": around(0.2), "not asked": nothing}
    figure = plots.compared({name: {"action": score} for name, score in rows.items()}, "Table 0")
    points = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in points] == [0.5, 0.65, 0.75, 0.2]
    assert [line.get_markerfacecolor() == "white" for line in points] == [False, False, True, True]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == list(rows)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0", "", "1"]


def test_differences_go_to_both_sides_of_nothing():
    rows = {"ours": {"low": 0, "mean": 0, "high": 0}, "less": {"low": -0.32, "mean": -0.3, "high": -0.28}}
    figure = plots.compared({name: {"action": score} for name, score in rows.items()}, differences=True)
    points = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() == "white" for line in points] == [False, True]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["-0.4", "0", "0.4"]


def test_cuts_stand_at_their_frames():
    axis = plots.cuts([33, 66], [35], 99, "SCA").axes[0]
    planned, found = ([segment[0, 0] for segment in lines.get_segments()] for lines in axis.collections)
    assert (planned, found) == ([33, 66], [35]) and axis.get_xlim() == (0, 99)


def test_every_figure_has_a_picture_and_films_have_even_sides(film, monkeypatch):
    figures = [
        plots.lines([0, 1, 2], {"a": [1, 2, 3]}, "x", "y"),
        plots.pictures({"a": film[0][0], "b": torch.rand(4, 6)}),
    ]
    assert all(figure.png().startswith(b"\x89PNG") for figure in figures)
    shown = []
    monkeypatch.setattr(plots.sheet, "display", lambda data, raw, metadata: shown.append(data | metadata["image/png"]))
    for figure, words in zip(figures, ("figure: x; y; a", "figure: a; b"), strict=True):
        figure._ipython_display_()
        assert base64.b64decode(shown[-1]["image/png"]) == figure.png()
        assert shown[-1]["alt"] == shown[-1]["text/plain"] == words
    still = plots.still(figures[0])
    assert still.dtype == np.uint8 and still.shape[0] % 2 == still.shape[1] % 2 == 0


def test_colours_are_told_apart_and_each_shot_has_its_own_look():
    assert len(set(plots.COLOURS.values())) == 6
    assert len(set(plots.SHOT_TINTS)) == len(set(plots.HATCHES)) == 10


def test_memory_has_a_bar_a_model_a_colour_a_part_and_what_is_free():
    figure = plots.memory({"small": {"caches": 1.0, "codec": 2.0}, "large": {"caches": 4.0}}, free=3.0)
    (axis,) = figure.axes
    assert [bar.get_width() for bar in axis.patches] == [1, 4, 2, 0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["small", "large"]
    assert {text.get_text().strip() for text in axis.texts} == {"3", "4"}
    assert axis.lines[0].get_xdata()[0] == 3.0


def test_looked_at_frames_the_patch_and_writes_each_frames_share(film):
    weights = torch.zeros(2, 4, 6)
    weights[0, 1, 2], weights[1] = 0.25, 0.5 / 24
    figure = plots.looked_at(film[0][0], (1, 2), {"shot 1": film[1][0], "shot 2": film[2][0]}, weights)
    patch = boxes(figure.axes[0], plots.COLOURS["student"])
    assert [box.get_bbox().bounds for box in patch] == [(7.5, 3.5, 4.0, 4.0)]
    titles = {axis.get_title() for axis in figure.axes}
    assert {"shot 1: 25.0%", "shot 2: 50.0%"} <= titles


def test_the_system_shows_what_is_built_and_what_is_new():
    figure = plots.system("story", "text encoder", new=("global cache", "teacher"))
    labelled = {box.get_label(): box for box in boxes(figure.axes[0]) if box.get_label()}
    assert len(labelled) == 14
    there = {name for name, box in labelled.items() if box.get_linestyle() in ("-", "solid")}
    bold = {name for name, box in labelled.items() if box.get_linewidth() == 5}
    assert there == {"story", "text encoder", "global cache", "teacher"} and bold == {"global cache", "teacher"}
    assert edge(labelled["story"]) == GREY and to_hex(labelled["film"].get_facecolor()) == "#ffffff"
    assert plots.system(new="film").words() == "figure: in this notebook: film; " + "; ".join(labelled)
    with pytest.raises(ValueError, match="no part 'memory': the parts are story, text encoder"):
        plots.system("memory")


def test_training_shows_every_loss_a_stage_has_logged(tmp_path):
    rows = [{"step": 20, "seconds": 1, "loss_image": 1.5}, {"step": 40, "seconds": 2, "loss_image": 1.2, "loss": 0.9}]
    (tmp_path / "base.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figure = plots.training({"base": tmp_path / "base.jsonl", "the same": tmp_path / "base.jsonl"})
    assert [axis.get_title() for axis in figure.axes] == ["base", "the same"]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].get_lines()}
    assert drawn == {"loss": [[40, 0.9]], "loss_image": [[20, 1.5], [40, 1.2]]}
