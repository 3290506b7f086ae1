"""The making of a story's takes: those that wait, the one that is made, and what the page is told of it all.

Wishes come from the page's requests, frames are made on the worker's thread; both meet here under one lock. The page
asks for frames (`more`) when it will soon need them, so that at most a chunk is made that nobody has seen.
"""

import random
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from shotstream_lite.errors import StoryError
from shotstream_lite.footage import Reel
from shotstream_lite.making import Making
from shotstream_lite.session import StorySession
from shotstream_lite.story import check_caption
from shotstream_lite.studio import messages, pictures, request, timeline
from shotstream_lite.studio.timeline import Project, Take, Version
from shotstream_lite.studio.worker import Worker

PATIENCE = 6.0  # seconds a page may leave the worker waiting for it: pages in the background stop asking
UNDO = 40  # steps back


class Production:
    """A story on a worker, while its takes are made. Its project is changed by `_remember` and by what is made.

    Attributes:
        paced: frames are made as they are asked for; else a shot is made at once.
        encode: frames as the page is sent them.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker, self.pipeline = worker, worker.pipeline
        self.settings = worker.pipeline.settings
        self.outbox = messages.Outbox()
        self.paced = True
        self.encode: Callable[[Any], dict[str, Any]] = lambda frames: {"jpeg": pictures.strip(frames)}
        self.project = Project()
        self._undo: deque[tuple[str, Project]] = deque(maxlen=UNDO)
        self._queue: deque[Take] = deque()
        self._making: tuple[Take, Making] | None = None
        self._asked = True  # a first chunk is made unasked
        self._held = self._cutting = self._dropping = self._closed = False
        self._place: dict[str, Any] = {"kind": "place", "place": None, "seconds": None}
        self._known: set[int] = set()  # takes whose cards the page has
        self._reel = Reel()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    # What the visitor may do with the shot that plays

    def turn(self, caption: Any, seen: tuple[int, int] | None) -> int:
        """Another caption for the shot that is seen, from its next chunk on. Returns the first frame that shows it."""
        with self._lock:
            check_caption(caption, "the change")
            making = self._making
            if making is None or self._dropping or self._cutting or (seen and seen[0] != making[0].id):
                what = "No shot plays" if making is None and not seen else "This shot is made to its end"
                raise StoryError(f"{what}: shoot the change as the next shot")
            first = making[1].turn(caption, seen[1] if seen else None)
            if first is None:
                raise StoryError("Too late, the last part of this shot is on the screen: shoot it as the next shot")
            self._name_unknown_words(caption)
            self.more()
            return first

    def cut(self, seen: tuple[int, int] | None) -> None:
        """Ends the shot that is seen with the last frame that was; the queue goes on."""
        with self._lock:
            self._cut(seen)
            self._asked = True
            self._go()

    def stop(self, seen: tuple[int, int] | None) -> None:
        """As `cut`, and holds the queue."""
        with self._lock:
            self._cut(seen, hold=True)
            self._held = bool(self._queue)
            self.tell_story()
        self.worker.leave(self)

    def go_on(self) -> None:
        """Goes on with a queue that was held."""
        with self._lock:
            self._held = False
            self._go()

    def more(self, seen: tuple[int, int] | None = None) -> None:
        """The page will soon need frames."""
        with self._lock:
            self._asked = True
            self._changed.notify_all()
            self._stand_in_line()

    def close(self) -> None:
        """The session is over: so is its work, and what it kept."""
        with self._lock:
            self._closed = self._dropping = True
            self._queue.clear()
            self._undo.clear()
            self.project = Project()
            self._changed.notify_all()
        self.outbox.put({"kind": "bye"})
        self.worker.leave(self)

    # What the page is told

    def greet(self) -> None:
        """Tells everything a page needs that knows nothing."""
        with self._lock:
            self._known.clear()
            self.outbox.clear()
            self._asked = True
            self.tell_story()
            if self._making:
                self.outbox.put(messages.begin(self._making[0], self.settings))
            self.outbox.put(self._place)
            self._stand_in_line()

    def notice(self, text: str, tone: str = "note") -> None:
        """A line for the visitor; tone is note, warning or error."""
        self.outbox.put({"kind": "notice", "text": text, "tone": tone})

    def told_place(self, place: int | None, seconds: float | None) -> None:
        """Learns how many are before it in line, and about how long they take; 0 is its turn, None is not in line."""
        told = {"kind": "place", "place": place, "seconds": seconds}
        if told != self._place:
            self._place = told
            self.outbox.put(told)

    def tell_story(self) -> None:
        """The timeline as it is now."""
        with self._lock:
            if self._closed:
                return
            if self.outbox.full:  # nobody reads; who comes back is told everything
                self.outbox.clear()
                self._known.clear()
            cards = [take for take in self.project.takes() if take.id not in self._known]
            made = [take for take in cards if take.told]
            self._known |= {take.id for take in made}
            if made:
                self.outbox.put({"kind": "cards", "cards": [take.card() for take in made]})
            story = {
                "cards": [take.card() for take in cards if not take.told],
                "queue": [take.id for take in self._queue],
                "held": self._held,
                "making": self._making[0].id if self._making else None,
                "undo": self._undo[-1][0] if self._undo else None,
            }
            self.outbox.put({"kind": "story", **self.project.describe(), **story})

    def _name_unknown_words(self, text: str) -> None:
        if sentence := request.unknown_words(self.pipeline, text):
            self.notice(sentence, "warning")

    # The work, on the worker's thread

    def work(self, hurried: Callable[[], bool]) -> bool:
        """Makes the next take of the queue; `hurried` says whether others wait. True: has another one to make."""
        with self._lock:
            if not self._may_work():
                return False
            ready = (take for take in self._queue if all(one.told for one in self.project.past(take)))
            take = next(ready, self._queue[0])
            self._queue.remove(take)
            past = take.past
            self._cutting = self._dropping = False
            try:
                making, session = self._begin(take)
                self._making = take, making
            except Exception as error:
                self._failed(take, error)
            self.tell_story()
        try:
            if self._making:
                self._make(take, making, session, hurried)
        except Exception as error:  # the page goes on, and so does the worker
            self._failed(take, error)
        with self._lock:
            self._making = None
            if not take.told:
                take.past = past  # it is settled anew when it is begun again
            elif take.beside:
                self.outbox.put(messages.compare(self.pipeline, take.beside, take))
            self.tell_story()
            return self._asked and self._may_work()

    def _begin(self, take: Take) -> tuple[Making, StorySession]:
        version, place = self.project.find(take) or (self.project.version, None)
        take.aside = place is None or (version.strips[place].take is not take and not take.fresh)
        take.past = self.project.past(take)
        if not all(one.told for one in take.past):
            raise StoryError("a shot before it could not be made: take it out, or make it again")
        shot = take.shot
        frames = shot.frames
        if take.rolling:  # what waits already ends it anyway
            frames = self.settings.shot_frames if self._queue else self.settings.longest_shot
        seed = self._new_seed() if shot.seed is None else shot.seed
        session = StorySession(self.pipeline, version.caption, 0, version.settings, self._reel)
        session.directed = True
        session.remembered = tuple(one.told for one in take.past if one.picture)
        session.shots = tuple(one.told for one in take.past if not one.picture)
        making = session.next_shot(shot.caption, frames, seed, shot.turns, shot.settings)
        making.measuring = True
        take.shot = making.shot
        return making, session

    def _make(self, take: Take, making: Making, session: StorySession, hurried: Callable[[], bool]) -> None:
        take.looks, take.context = [], messages.remembered(take, making.settings) if making.standard else None
        self.outbox.put(messages.begin(take, self.settings))
        for frames in making:
            with self._lock:
                if self._dropping:
                    return making.close()
                if self._cutting or making.redoing:
                    continue
                look = messages.look(making, frames)
                take.looks = [*(one for one in take.looks if one["first"] < look["first"]), look]
                said = {"kind": "frames", "take": take.id, "whole": making.whole}
                self.outbox.put({**said, **self.encode(frames), **look})
                if making.whole:
                    if not take.aside:
                        self._asked = False
                        self._await_page(hurried)
                    if self._dropping:
                        return making.close()
                    if take.ends and making.frames_made >= take.ends:
                        making.cut()
                    if self._queue:
                        making.follow(self._queue[0].shot.caption)
        with self._lock:
            if self._dropping:
                return
            told = session.shots[-1]
            take.unasked = pictures.unasked_cuts(told.footage, self.settings.fps)
            take.finish(told)
            take.rolling = False
            if take.fresh:  # another take is what is wanted now
                self.project = self.project.change(take, lambda strip: strip.choose(take))

    def _await_page(self, hurried: Callable[[], bool]) -> None:
        """Until the page asks for more. If others wait for the device, the rest of the shot is made at once."""
        waited = 0.0
        while self.paced and waited < PATIENCE and not hurried():
            if self._asked or self._cutting or self._dropping:
                return
            self._changed.wait(0.1)
            waited += 0.1

    def _failed(self, take: Take, error: Exception) -> None:
        """Says what went wrong; the story is as it was before the shot."""
        words = messages.apology(error)
        if words is None:
            traceback.print_exception(error, file=sys.stderr)
            words = "Something went wrong while the shot was made. Your story is as it was before it."
        with self._lock:
            if take in self._queue:
                self._queue.remove(take)
            self.project = self.project.change(take, lambda strip: strip.without(take))
        self.notice(words, "error")

    def _may_work(self) -> bool:
        return bool(self._queue) and not self._held and not self._closed and not self.outbox.full

    # What waits

    def _stand_in_line(self) -> None:
        if self._may_work() and self._asked and not self._making:
            self.worker.join(self)

    def _go(self) -> None:
        self._asked = self._asked or not self._making  # who wants a shot wants its first chunk
        self._stand_in_line()
        self.tell_story()

    def _remember(self, what: str, changed: Project | Version) -> None:
        """Changes the story, or its current version; `undo` brings back what there was."""
        self._undo.append((what, self.project))
        self.project = self.project.put(changed) if isinstance(changed, Version) else changed
        self._queue_up()
        self.tell_story()

    def _queue_up(self) -> None:
        """What is to be made waits; no work for takes that are not in the story any more."""
        wanted = timeline.everything(self.project)
        making = self._making[0] if self._making else None
        if making and making not in wanted:
            self._dropping = True
            self._changed.notify_all()
        new = (take for take in wanted if not take.told and take not in self._queue and take is not making)
        self._queue = deque(take for take in (*self._queue, *new) if take in wanted)

    def _cut(self, seen: tuple[int, int] | None, hold: bool = False) -> None:
        """Ends what the visitor sees with the last frame seen. What nobody saw of a later shot is made again."""
        take, making = self._making or (None, None)
        shown = self._take(seen[0]) if seen else None
        if take is not None and take is shown and seen[1] > 0:
            making.cut(seen[1])
            self._cutting = self._asked = True
        else:
            trimmed = shown is not None and shown.told and 0 < seen[1] < shown.told.footage.length
            if trimmed:
                shown.trim(seen[1])
                self._known.discard(shown.id)
            if take is not None and (trimmed or hold):
                self._dropping = True
                self._queue.appendleft(take)
        self._changed.notify_all()
        self.tell_story()

    def _every_take(self) -> Sequence[Take]:
        """Those of the story and those that undo can bring back."""
        projects = (self.project, *(project for _, project in self._undo))
        return list(dict.fromkeys(take for project in projects for take in project.takes()))

    def _take(self, number: Any) -> Take | None:
        """The one of these whose id is `number`."""
        return next((take for take in self._every_take() if take.id == number), None)

    def _new_seed(self) -> int:
        used = {take.shot.seed for take in self._every_take()}
        return next(seed for seed in iter(lambda: random.getrandbits(32), None) if seed not in used)
