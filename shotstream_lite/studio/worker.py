"""One device, one shot at a time: whoever wants a shot stands in line, and sees where and for how long."""

import sys
import threading
import traceback
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

from shotstream_lite.pipeline import ShotStreamPipeline

if TYPE_CHECKING:
    from shotstream_lite.studio.production import Production


class Worker:
    """A pipeline and the thread that works with it. After a shot one goes to the end of the line."""

    def __init__(self, pipeline: ShotStreamPipeline) -> None:
        self.pipeline: ShotStreamPipeline | None = pipeline
        self._line: deque[Production] = deque()
        self._changed = threading.Condition()
        self._again = False  # who is served has asked for another turn meanwhile
        self._closed = False
        self._seconds: float | None = None  # that a shot takes while others wait
        self._thread = threading.Thread(target=self._run, name="studio worker", daemon=True)
        self._thread.start()

    def join(self, client: "Production") -> None:
        """Goes to the end of the line; nothing changes for who stands there already."""
        with self._changed:
            if client in self._line:
                self._again = self._again or client is self._line[0]
                return
            self._line.append(client)
            self._changed.notify_all()
        self._tell_places()

    def leave(self, client: "Production") -> None:
        """Steps out of the line, unless it is its turn: then the shot has to be stopped."""
        with self._changed:
            if client not in list(self._line)[1:]:
                return
            self._line.remove(client)
        client.told_place(None, None)
        self._tell_places()

    def close(self) -> None:
        """Ends the thread after the shot being made, and lets the model go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self.pipeline = None

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._line or self._closed)
                if self._closed:
                    return
                client, self._again = self._line[0], False
            again, began = False, monotonic()
            try:
                again = client.work(lambda: len(self._line) > 1)
            except Exception:  # one page's bad luck must not end the work for all
                traceback.print_exc(file=sys.stderr)
            with self._changed:
                took = monotonic() - began
                if len(self._line) > 1:
                    self._seconds = took if self._seconds is None else 0.7 * self._seconds + 0.3 * took
                self._line.popleft()
                again = again or self._again
                if again:
                    self._line.append(client)
            if not again:
                client.told_place(None, None)
            del client
            self._tell_places()

    def _tell_places(self) -> None:
        for place, client in enumerate(list(self._line)):
            client.told_place(place, self._seconds and place * self._seconds)
