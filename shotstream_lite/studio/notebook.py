"""A small studio for notebooks that cannot open a port: `StoryWidget(session)` below a cell directs the session.

It is the session of the rest of the notebook: what is told here can be saved, evaluated or told further there.
"""

import io
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import ipywidgets as widgets
import numpy as np
from PIL import Image

from shotstream_lite.film import default_scale
from shotstream_lite.session import StorySession
from shotstream_lite.take import Take


class StoryWidget(widgets.VBox):
    """Shoot, change now, stop, take again, undo; the picture plays while the shot is made.

    Attributes:
        session: the story being told, free to be used while nothing plays.
    """

    def __init__(self, session: StorySession) -> None:
        self.session = session
        self._take: Take | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._maker = ThreadPoolExecutor(1, "maker")  # one for all shots: what a GPU measured is a thread's own
        self.picture = widgets.Image(format="jpeg", layout=widgets.Layout(max_width="100%"))
        self.prompt = widgets.Text(placeholder="What happens next?", layout=widgets.Layout(width="100%"))
        self.status = widgets.Label("Say what happens, and press Shoot.")
        self.film = widgets.VBox()
        deeds: dict[str, Callable[[], None]] = {
            "Shoot": self.shoot,
            "Change now": self.turn,
            "Stop": self.stop,
            "Take again": self.retake,
            "Undo": self.undo,
        }
        self.buttons = {name: widgets.Button(description=name) for name in deeds}
        for name, deed in deeds.items():
            self.buttons[name].on_click(lambda _, deed=deed: self._try(deed))
        self._show(np.zeros((session.settings.height, session.settings.width, 3), np.uint8))
        self._list_shots()
        super().__init__([self.picture, self.status, self.prompt, widgets.HBox([*self.buttons.values()]), self.film])

    def shoot(self) -> None:
        """Tells the next shot from what is typed."""
        self._idle()
        self._play(self.session.next_shot(self.prompt.value))

    def turn(self) -> None:
        """Gives the shot that plays another caption from its next chunk on; the next shot, if none plays."""
        if self._take is None:
            self.shoot()
        else:
            self._take.turn(self.prompt.value)

    def stop(self) -> None:
        """Ends the shot that plays with the chunk there is."""
        if self._take:
            self._stopped = True
            self._take.cut()

    def retake(self) -> None:
        """Tells the last shot once more, from what is typed or, if nothing is, with its own caption."""
        self._idle()
        self._play(self.session.retake(caption=self.prompt.value.strip() or None))

    def undo(self) -> None:
        """Takes the last shot back."""
        self._idle()
        self.session.undo()
        self._list_shots()
        self.status.value = "The last shot is taken back."

    def wait(self, seconds: float | None = None) -> None:
        """Returns when the shot that plays is through; for cells below."""
        if self._thread:
            self._thread.join(seconds)

    def _try(self, deed: Callable[[], None]) -> None:
        try:
            deed()
        except ValueError as error:
            self.status.value = str(error)

    def _idle(self) -> None:
        if self._take:
            raise ValueError("A shot plays: stop it, or wait for its end.")

    def _play(self, take: Take) -> None:
        self._take, self._stopped = take, False
        self.status.value = f"Making: {take.shot.caption}"
        self._thread = threading.Thread(target=self._run, args=(take,), daemon=True)
        self._thread.start()

    def _run(self, take: Take) -> None:
        """Shows frames at the film's pace while another thread makes the next chunk."""
        pieces: queue.Queue[np.ndarray | Exception | None] = queue.Queue(maxsize=1)
        self._maker.submit(_make, take, pieces)
        problem: Exception | None = None
        due = time.monotonic()
        while (piece := pieces.get()) is not None:
            if isinstance(piece, Exception):
                problem = piece
                continue
            for frame in piece:
                if self._stopped:
                    break
                due = max(due + 1 / self.session.settings.fps, time.monotonic())
                self._show(frame)
                time.sleep(max(0.0, due - time.monotonic()))
        self._take = None
        self._list_shots()
        self.status.value = str(problem) if problem else _facts(take)

    def _show(self, frame: np.ndarray) -> None:
        scale, file = default_scale(*frame.shape[:2]), io.BytesIO()
        size = (frame.shape[1] * scale, frame.shape[0] * scale)
        Image.fromarray(frame).resize(size, Image.Resampling.NEAREST).save(file, "JPEG")
        self.picture.value = file.getvalue()

    def _list_shots(self) -> None:
        lines = (f"{number}. {told.shot.caption}" for number, told in enumerate(self.session.shots, start=1))
        self.film.children = tuple(widgets.Label(line) for line in lines)  # a label shows text, never HTML


def _make(take: Iterator[np.ndarray], pieces: queue.Queue) -> None:
    try:
        for piece in take:
            pieces.put(piece)
    except Exception as error:  # shown by the other thread
        pieces.put(error)
    finally:
        pieces.put(None)


def _facts(take: Take) -> str:
    speed = take.frames_made / take.seconds
    return f"{take.frames_made} frames, seed {take.shot.seed}, {speed:.0f} frames a second"
