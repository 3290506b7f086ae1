"""The work on one page's shots: a queue of wishes, and the shot being made, on the stage's thread.

Wishes come from the page's events, frames are made on the stage's thread; both meet here under one lock.
"""

import itertools
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from shotstream_lite.session import StorySession
from shotstream_lite.story import Shot
from shotstream_lite.studio import messages
from shotstream_lite.studio.outbox import Outbox
from shotstream_lite.studio.stage import Stage
from shotstream_lite.studio.version import Version
from shotstream_lite.take import Take

PATIENCE = 6.0  # seconds a page may leave the stage waiting for it: pages in the background stop asking
take_numbers = itertools.count(1)
_wishes = itertools.count(1)


@dataclass(frozen=True)
class Wish:
    """A shot to be made; `number` (from 1) if it takes the place of one that is there."""

    id: int
    version: Version
    shot: Shot
    global_caption: str
    number: int | None = None

    def summary(self) -> dict[str, Any]:
        """For the page."""
        number = self.number or len(self.version.told) + 1
        return {"id": self.id, "caption": self.shot.caption, "number": number, "retake": self.number is not None}


class Shooting:
    """Makes the wished shots one after the other, each chunk when the page asks for it (`asked_for`)."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.outbox = Outbox()
        self._queue: deque[Wish] = deque()
        self._making: tuple[Take, Wish] | None = None
        self._asked_for = True  # a first chunk is made unasked
        self._held = self._stopping = self._discarding = self._closed = False
        self._place: int | None = None
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    @property
    def making(self) -> bool:
        """A shot is being made."""
        return self._making is not None

    def notice(self, text: str, tone: str = "note") -> None:
        """A line for the visitor; tone is note, warning or error."""
        self.outbox.put({"kind": "notice", "text": text, "tone": tone})

    def told_place(self, place: int | None) -> None:
        """See `stage.Performer`."""
        if place != self._place:
            self._place = place
            self.outbox.put({"kind": "place", "place": place})

    def tell_story(self) -> None:
        """The timeline as it is now."""
        raise NotImplementedError

    def perform(self, hurried: Callable[[], bool]) -> bool:
        """Makes the next shot of the queue; see `stage.Performer`."""
        with self._lock:
            if self._closed or self._held or not self._queue:
                return False
            wish = self._queue.popleft()
            self._stopping = self._discarding = False
            take = None
            try:
                take = self._begin(wish)
                self._making = take, wish
            except Exception as error:
                self._failed(error)
            self.tell_story()
        try:
            if take:
                self._make(take, wish, hurried)
        except Exception as error:  # the page goes on, and so does the stage
            self._failed(error)
        with self._lock:
            self._making = None
            if take and take.unheard and not self._discarding and not self._closed:
                self._came_too_late(wish, take.unheard)
            self.tell_story()
            return bool(self._queue) and self._asked_for and not self._held and not self._closed

    def enqueue(
        self, version: Version, shot: Shot, global_caption: str, number: int | None = None, first: bool = False
    ):
        """Adds a wish to the queue's end, or to its front."""
        wish = Wish(next(_wishes), version, shot, global_caption, number)
        if first:
            self._queue.appendleft(wish)
        else:
            self._queue.append(wish)

    def stand_in_line(self) -> None:
        """Asks for the stage, if there is anything to be made and the page wants it."""
        if self._queue and self._asked_for and not self._held and not self._making and not self._closed:
            self.stage.join(self)

    def leave_take(self) -> None:
        """The shot being made is dropped, as if it never was."""
        with self._changed:
            self._discarding = self._making is not None
            self._changed.notify_all()

    def drop_work(self, version: Version) -> None:
        """Nothing more is made for a version."""
        self._queue = deque(wish for wish in self._queue if wish.version is not version)
        if self._making and self._making[1].version is version:
            self.leave_take()

    def _begin(self, wish: Wish) -> Take:
        version, shot = wish.version, wish.shot
        unsettled = not version.told  # its caption may still be another
        if version.session is None or (unsettled and version.session.story.global_caption != wish.global_caption):
            version.session = StorySession(self.stage.pipeline, wish.global_caption)
        if wish.number is None:
            take = version.session.next_shot(shot.caption, shot.frames, shot.seed, shot.turns, shot.settings)
        else:
            caption = None if shot.turns else shot.caption  # a retake with its turns keeps its caption
            take = version.session.retake(wish.number, caption, shot.frames, shot.seed, shot.settings)
        take.measuring = True
        return take

    def _make(self, take: Take, wish: Wish, hurried: Callable[[], bool]) -> None:
        version, number = wish.version, next(take_numbers)
        shots, stale = version.told, version.stale
        place = wish.number or len(shots) + 1
        self.outbox.put(messages.begin(number, take, place, [told.footage for told in shots[: place - 1]]))
        for frames in take:
            with self._changed:
                if not self._stopping:
                    self.outbox.put(messages.frames_of(number, take, frames))
                    if messages.chunk_is_whole(take):
                        self._asked_for = False
                        if take.frames_made < take.shot.frames:
                            self._await_page(hurried)
                if self._discarding or self._closed:
                    take.close()
                    return
                if self._stopping:
                    take.cut()
                elif self._queue and self._queue[0].version is version and self._queue[0].number is None:
                    take.follow(self._queue[0].shot.caption)
        with self._lock:
            version.joined(shots, stale, place)

    def _await_page(self, hurried: Callable[[], bool]) -> None:
        """Until the page asks for more. If others wait for the stage, the rest of the shot is made at once."""
        waited = 0.0
        while waited < PATIENCE and not hurried():
            if self._asked_for or self._stopping or self._discarding or self._closed:
                return
            self._changed.wait(0.1)
            waited += 0.1

    def _came_too_late(self, wish: Wish, caption: str) -> None:
        shot = Shot(caption, wish.shot.frames, settings=wish.shot.settings)
        self.enqueue(wish.version, shot, wish.global_caption, first=True)
        self.notice("The shot was made already: your change is the next shot.")

    def _failed(self, error: Exception) -> None:
        """Says what went wrong; the story is as it was before the shot."""
        words = messages.apology(error)
        if words is None:
            traceback.print_exception(error, file=sys.stderr)
            words = "Something went wrong while the shot was made. Your story is as it was before it."
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.notice(words, "error")
