"""A small studio for notebooks that cannot open a port: `StoryWidget(session)` below a cell directs the session.

It is the session of the rest of the notebook: what is told here can be saved, evaluated or told further there.
"""

import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import ipywidgets as widgets
import numpy as np
from PIL import Image

from shotstream_lite.errors import StoryError
from shotstream_lite.film import default_scale
from shotstream_lite.making import Making
from shotstream_lite.session import StorySession


class StoryWidget(widgets.VBox):
    """Shoot, change now, stop, take again, undo; the picture plays while the shot is made.

    Attributes:
        session: the story being told, free to be used while nothing plays.
    """

    def __init__(self, session: StorySession) -> None:
        self.session = session
        session.directed = True
        self._take: Making | None = None
        self._thread: threading.Thread | None = None
        self._frames: list[np.ndarray] = []  # of the shot that plays
        self._shown = 0  # how many of them were seen
        self._done = True  # no more come
        self._changed = threading.Condition()
        self._maker = ThreadPoolExecutor(1, "maker")  # one for all shots: what a GPU measured is a thread's own
        layout = widgets.Layout(max_width="100%", max_height="300px", object_fit="contain")
        self.picture = widgets.Image(format="jpeg", layout=layout)  # small enough to see the buttons below it
        self.prompt = widgets.Text(placeholder="What happens next?", layout=widgets.Layout(width="100%"))
        self.prompt.on_msg(lambda _, message, __: message.get("event") == "submit" and self._try(self.shoot))
        self.status = widgets.Label("Say what happens, and press Shoot.")
        self.film = widgets.VBox()
        actions: dict[str, Callable[[], None]] = {
            "Shoot": self.shoot,
            "Change now": self.turn,
            "Stop": self.stop,
            "Take again": self.retake,
            "Undo": self.undo,
        }
        self.buttons = {name: widgets.Button(description=name) for name in actions}
        for name, action in actions.items():
            self.buttons[name].on_click(lambda _, action=action: self._try(action))
        self._show(np.zeros((session.settings.height, session.settings.width, 3), np.uint8))
        self._list_shots()
        super().__init__([self.picture, self.status, self.prompt, widgets.HBox([*self.buttons.values()]), self.film])

    def shoot(self) -> None:
        """Tells the next shot from what is typed."""
        self._idle()
        self._play(self.session.next_shot(self.prompt.value))

    def turn(self) -> None:
        """Gives the shot that plays another caption, from the first chunk on that was not seen yet.

        Raises StoryError when its last chunk is on the screen, or nothing plays.
        """
        with self._changed:
            if self._take is None:
                raise StoryError("No shot plays: shoot the change as the next shot.")
            first = self._take.turn(self.prompt.value, self._shown)
            if first is None:
                raise StoryError("Too late, the last part of this shot is on the screen: shoot it as the next shot.")
            del self._frames[first:]
            self._changed.notify_all()

    def stop(self) -> None:
        """Ends the shot that plays with the last frame that was seen."""
        with self._changed:
            if self._take:
                self._take.cut(self._shown)
                del self._frames[self._shown :]
                self._stopped = True
                self._changed.notify_all()

    def close(self) -> None:
        """Ends what plays, and takes the widget away."""
        self.stop()
        self.wait(60)
        self._maker.shutdown()
        super().close()

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

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except ValueError as error:
            self.status.value = str(error)

    def _idle(self) -> None:
        if self._take:
            raise ValueError("A shot plays: stop it, or wait for its end.")

    def _play(self, take: Making) -> None:
        self._take, self._frames, self._shown = take, [], 0
        self._done = self._stopped = False
        self.status.value = f"Making: {take.shot.caption}"
        self._thread = threading.Thread(target=self._run, args=(take,), daemon=True)
        self._thread.start()

    def _run(self, take: Making) -> None:
        """Shows frames at the film's pace while a second thread makes the next chunk."""
        made = self._maker.submit(self._make, take)
        due = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._done or self._shown < len(self._frames))
                if self._shown >= len(self._frames):
                    break
                frame = self._frames[self._shown]
                self._shown += 1
                self._changed.notify_all()
            due = max(due + 1 / self.session.settings.fps, time.monotonic())
            self._show(frame)
            time.sleep(max(0.0, due - time.monotonic()))
        problem = made.exception()
        self._list_shots()
        self.status.value = str(problem) if problem else _facts(take)
        self._take = None  # last: a shot that is begun now writes its own status

    def _make(self, take: Making) -> None:
        """Makes a chunk when the one before it is being shown, so that a change is seen soon."""
        begun = 0  # the first frame of the latest chunk
        try:
            for piece in take:
                with self._changed:
                    first = take.frames_made - len(piece)
                    if not (self._stopped or take.redoing):
                        self._frames[first:] = piece
                        self._changed.notify_all()
                    if take.whole:
                        ready = lambda at=begun: self._stopped or take.redoing or self._shown > at  # noqa: E731
                        self._changed.wait_for(ready)
                        begun = take.frames_made
        finally:
            with self._changed:
                self._done = True
                self._changed.notify_all()

    def _show(self, frame: np.ndarray) -> None:
        scale, file = default_scale(*frame.shape[:2]), io.BytesIO()
        size = (frame.shape[1] * scale, frame.shape[0] * scale)
        Image.fromarray(frame).resize(size, Image.Resampling.NEAREST).save(file, "JPEG")
        self.picture.value = file.getvalue()

    def _list_shots(self) -> None:
        lines = (f"{number}. {told.shot.caption}" for number, told in enumerate(self.session.shots, start=1))
        self.film.children = tuple(widgets.Label(line) for line in lines)  # a label shows text, never HTML


def _facts(take: Making) -> str:
    speed = take.frames_made / take.seconds
    return f"{take.frames_made} frames, seed {take.shot.seed}, {speed:.0f} frames a second"
