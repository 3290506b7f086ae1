"""One device, one shot at a time: whoever wants a shot stands in line, and sees where."""

import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import Protocol

from shotstream_lite.pipeline import ShotStreamPipeline


class Performer(Protocol):
    """Who may stand in line."""

    def perform(self, hurried: Callable[[], bool]) -> bool:
        """Makes one shot on the stage's thread; `hurried` says whether others wait. True: has another one to make."""

    def told_place(self, place: int | None) -> None:
        """Learns how many are before it; 0 is its turn, None is not in line."""


class Stage:
    """A pipeline and the thread that works with it. After a shot one goes to the end of the line."""

    def __init__(self, pipeline: ShotStreamPipeline) -> None:
        self.pipeline = pipeline
        self._line: deque[Performer] = deque()
        self._changed = threading.Condition()
        self._again = False  # who is served has asked for another turn meanwhile
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="stage", daemon=True)
        self._thread.start()

    def join(self, performer: Performer) -> None:
        """Goes to the end of the line; nothing changes for who stands there already."""
        with self._changed:
            if performer in self._line:
                self._again = self._again or performer is self._line[0]
                return
            self._line.append(performer)
            self._changed.notify_all()
        self._call_places()

    def leave(self, performer: Performer) -> None:
        """Steps out of the line, unless it is its turn: then the shot has to be stopped."""
        with self._changed:
            if performer not in list(self._line)[1:]:
                return
            self._line.remove(performer)
        performer.told_place(None)
        self._call_places()

    def close(self) -> None:
        """Ends the thread after the shot being made."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def waiting(self) -> int:
        """How many stand in line, the one whose turn it is included."""
        return len(self._line)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._line or self._closed)
                if self._closed:
                    return
                performer, self._again = self._line[0], False
            again = False
            try:
                again = performer.perform(lambda: len(self._line) > 1)
            except Exception:  # one page's bad luck must not end the stage for all
                traceback.print_exc(file=sys.stderr)
            with self._changed:
                self._line.popleft()
                again = again or self._again
                if again:
                    self._line.append(performer)
            if not again:
                performer.told_place(None)
            self._call_places()

    def _call_places(self) -> None:
        for place, performer in enumerate(list(self._line)):
            performer.told_place(place)
