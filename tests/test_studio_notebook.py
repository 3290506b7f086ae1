"""The small studio of a notebook: its buttons do to the session what their names say."""

import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from shotstream_lite.session import StorySession

pytest.importorskip("ipywidgets")

from shotstream_lite.studio.notebook import StoryWidget  # noqa: E402

LINES = ("Wide shot: the red ball jumps.", "Close-up: the blue box waves.")


@pytest.fixture
def widget(pipeline) -> StoryWidget:
    return StoryWidget(StorySession(pipeline, "A red ball and a blue box, by the sea.", seed=0))


def press(widget: StoryWidget, name: str, prompt: str | None = None, wait: bool = True) -> None:
    if prompt is not None:
        widget.prompt.value = prompt
    widget.buttons[name].click()
    if wait:
        widget.wait(120)


def listed(widget: StoryWidget) -> list[str]:
    return [label.value for label in widget.film.children]


def test_shots_are_told_and_shown(widget, monkeypatch):
    threads, make = [], widget._make
    monkeypatch.setattr(widget, "_make", lambda *args: threads.append(threading.get_ident()) or make(*args))
    assert Image.open(io.BytesIO(widget.picture.value)).size == (48 * 15, 32 * 15)
    black = widget.picture.value
    press(widget, "Shoot", LINES[0])
    press(widget, "Shoot", LINES[1])
    assert listed(widget) == [f"1. {LINES[0]}", f"2. {LINES[1]}"]
    assert [told.footage.length for told in widget.session.shots] == [13, 13]
    assert widget.picture.value != black and "13 frames" in widget.status.value
    assert len(threads) == 2 and len(set(threads)) == 1  # what cuDNN measured is a thread's own


def test_retake_and_undo(widget):
    press(widget, "Shoot", LINES[0])
    first = widget.session.shots[0]
    press(widget, "Take again", "")
    assert widget.session.shots[0].shot.caption == LINES[0]
    assert widget.session.shots[0].shot.seed != first.shot.seed
    press(widget, "Take again", LINES[1])
    assert listed(widget) == [f"1. {LINES[1]}"]
    press(widget, "Undo")
    assert listed(widget) == [] and not widget.session.shots


def test_change_and_stop_while_it_plays(widget):
    """Stop keeps what was seen, to the frame; a change is heard in the first chunk that was not."""
    widget.session.settings = widget.session.settings.changed({"shot_frames": 61})
    press(widget, "Shoot", LINES[0], wait=False)
    press(widget, "Shoot", LINES[1], wait=False)
    assert "A shot plays" in widget.status.value
    press(widget, "Change now", LINES[1], wait=False)
    while widget._shown < 11:
        time.sleep(0.01)
    press(widget, "Stop")
    (told,) = widget.session.shots
    assert told.footage.length == widget._shown < 30 and told.shot.turns[0].caption == LINES[1]
    assert np.array_equal(told.footage.frames(), np.stack(widget._frames))
    press(widget, "Change now", LINES[1])  # nothing plays
    assert len(widget.session.shots) == 1 and "shoot the change as the next shot" in widget.status.value


def test_enter_shoots_and_close_ends_what_plays(widget):
    widget.prompt.value = LINES[0]
    widget.prompt._handle_custom_msg({"event": "submit"}, [])
    assert widget._take is not None
    thread = widget._thread
    widget.close()
    assert not thread.is_alive() and widget._take is None


@pytest.mark.parametrize(("name", "words"), [("Shoot", "is empty"), ("Undo", "nothing to undo")])
def test_complaints_are_a_line(widget, name, words):
    press(widget, name, " ")
    assert words in widget.status.value and not widget.session.shots
