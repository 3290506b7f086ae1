"""What notebooks put on the page answers to its controls and shows something without a kernel."""

import base64

import numpy as np
import pytest

from shotstream_lite.course import plots, widgets
from shotstream_lite.film import read_film


def draw(level, word="a"):
    return plots.lines([0, 1], {word: [0, level]}, "x", "y")


def test_moving_a_control_draws_the_picture_again():
    explorer = widgets.Explorer(draw, level=widgets.slider("level", 0, 9, 1), word=widgets.choice("word", ["a", "b"]))
    first = bytes(explorer.image.value)
    explorer.children[0].value = 7
    second = bytes(explorer.image.value)
    explorer.children[1].value = "b"
    assert first.startswith(b"\x89PNG") and first != second != bytes(explorer.image.value)
    explorer.children[0].value, explorer.children[1].value = 1, "a"
    assert bytes(explorer.image.value) == first


def test_a_page_without_a_kernel_shows_the_first_picture():
    explorer = widgets.Explorer(draw, level=widgets.slider("level", 0, 9, 1))
    bundle = explorer._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]) == bytes(explorer.image.value)
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_a_page_without_scripts_shows_a_still_where_the_widget_would_be(monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", lambda thing, **options: shown.append(thing))
    explorer = widgets.Explorer(draw, level=widgets.slider("level", 0, 9, 1))
    explorer._ipython_display_()
    bundle, still = shown
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert f"base64,{bundle['image/png']}" in still.data
    assert 'class="still" hidden' in still.data  # a live notebook shows the widget alone


def test_sliders_are_whole_or_fractions_and_wait_until_let_go():
    assert isinstance(widgets.slider("n", 1, 9, 4).value, int)
    assert widgets.slider("x", 0.0, 1.0, 0.5, 0.1).value == pytest.approx(0.5)
    assert not widgets.slider("n", 1, 9, 4).continuous_update


def test_films_are_played_side_by_side_with_stills_below(tmp_path, monkeypatch):
    film = np.zeros((9, 16, 24, 3), np.uint8)
    film[..., 0] = 200
    shown = []
    monkeypatch.setattr(widgets, "display", lambda thing, **options: shown.append(thing))
    widgets.play({"one": film, "<two>": film[:5]})
    page, stills = shown
    assert page.data.count("<video") == 2 and "&lt;two&gt;" in page.data
    assert stills.words() == "figure: one; <two>"  # a row per film, for pages that play nothing
    path = tmp_path / "film.mp4"
    path.write_bytes(base64.b64decode(widgets.film_url(film).partition(",")[2]))
    back = read_film(path)
    assert back.shape == (9, 32, 48, 3)
    assert np.abs(back.astype(int) - film[0, 0, 0]).max() < 12
    monkeypatch.setattr(widgets, "h264_encoder", lambda: ("mpeg4", {}))  # as of an ffmpeg without libx264
    assert b"mp4v" in base64.b64decode(widgets.film_url(film).partition(",")[2])


def test_a_shot_is_watched_while_it_is_made_and_then_plays(monkeypatch):
    class Screen:
        seen = []

        def update(self, thing):
            self.seen.append(thing)

    shown = []
    monkeypatch.setattr(widgets, "display", lambda thing, **options: shown.append(thing) or Screen())
    pieces = [np.full((length, 16, 24, 3), 40 * length, np.uint8) for length in (1, 2)]
    film = widgets.watch(iter(pieces), "shot", fps=1000)
    np.testing.assert_array_equal(film, np.concatenate(pieces))
    assert len(Screen.seen) == 3 + 1  # every frame, and then an empty page
    assert any("<video" in getattr(thing, "data", "") for thing in shown)


def test_a_desk_shows_its_widget_and_on_a_page_its_picture():
    inner = widgets.slider("n", 1, 9, 4)
    desk = widgets.Desk(inner, lambda: draw(3), "a film")
    assert desk.children == (inner,) and desk.picture()[1] == "a film"
    assert desk.picture()[0].startswith(b"\x89PNG")
