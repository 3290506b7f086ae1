"""One visitor's session: what may be done with the story, the shot in the making, and what the page is told.

Wishes come from the page's requests, frames are made on the worker's thread; both meet here under one lock. The page
asks for frames (`more`) when it will soon need them, so that at most a chunk is made that nobody has seen.
"""

import asyncio
import random
import secrets
import sys
import threading
import traceback
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

from shotstream_lite.codec import latent_frames
from shotstream_lite.errors import StoryError
from shotstream_lite.film import Reel
from shotstream_lite.history import select
from shotstream_lite.making import Making
from shotstream_lite.session import StorySession
from shotstream_lite.story import Shot, check_caption
from shotstream_lite.studio import messages, request, timeline
from shotstream_lite.studio.timeline import Project, Strip, Take, Version
from shotstream_lite.studio.worker import Worker

PATIENCE = 6.0  # seconds a page may leave the worker waiting for it: pages in the background stop asking
UNDO = 40  # steps back
UNREAD = 200  # messages a page may leave unread; then they are dropped, and it is told everything anew


class Outbox:
    """Messages for one page, numbered, kept until the page says that it has them: a line that breaks loses nothing."""

    def __init__(self) -> None:
        self._messages: deque[tuple[int, dict[str, Any]]] = deque()
        self._count = 0
        self._lock = threading.Lock()
        self._wake: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def put(self, message: dict[str, Any]) -> None:
        """Adds a message and wakes the page's request. Of those that say how things are, only the latest stays."""
        with self._lock:
            if message["kind"] in ("story", "place"):
                self._messages = deque(m for m in self._messages if m[1]["kind"] != message["kind"])
            self._count += 1
            self._messages.append((self._count, message))
            wake = self._wake
        if wake and not wake[0].is_closed():
            wake[0].call_soon_threadsafe(wake[1].set)

    @property
    def full(self) -> bool:
        """The page reads nothing."""
        return len(self._messages) > UNREAD

    def after(self, number: int) -> list[tuple[int, dict[str, Any]]]:
        """What comes after message `number`; the ones up to there are dropped."""
        with self._lock:
            while self._messages and self._messages[0][0] <= number:
                self._messages.popleft()
            return list(self._messages)

    def clear(self) -> None:
        with self._lock:
            self._messages.clear()

    async def wait(self, number: int, seconds: float) -> list[tuple[int, dict[str, Any]]]:
        """As `after`, as soon as there is something; nothing after so many seconds."""
        event = asyncio.Event()
        with self._lock:
            previous, self._wake = self._wake, (asyncio.get_running_loop(), event)
        if previous and not previous[0].is_closed():
            previous[0].call_soon_threadsafe(previous[1].set)  # a page that lost its request asks anew
        found = self.after(number)
        if not found:
            try:
                await asyncio.wait_for(event.wait(), seconds)
            except TimeoutError:
                return []
            found = self.after(number)
        return found


class Session:
    """A visitor's story on a worker. Methods that the page calls raise StoryError with a sentence for the visitor."""

    def __init__(self, worker: Worker) -> None:
        self.worker, self.pipeline = worker, worker.pipeline
        self.settings = worker.pipeline.settings
        self.token = secrets.token_urlsafe(24)
        self.outbox = Outbox()
        self.heard = monotonic()  # when the page last asked for something
        self.page: Any = None  # which page it is, of those that know the token
        self.paced = True  # frames are made as they are asked for; else a shot is made at once
        self.encode: Callable[[Any], dict[str, Any]] = lambda frames: {"jpeg": messages.strip(frames)}
        self.answered: tuple[int, dict[str, Any]] = (0, {})  # number of the latest request, and its answer
        self.project = Project()
        self.requests = threading.Lock()  # a page's requests are served one after the other
        self._undo: deque[tuple[str, Project]] = deque(maxlen=UNDO)
        self._queue: deque[Take] = deque()
        self._then: dict[Take, Callable[[Take], None]] = {}  # what a take is made for
        self._making: tuple[Take, Making] | None = None
        self._asked = True  # a first chunk is made unasked
        self._held = self._cutting = self._dropping = self._closed = False
        self._place: tuple[int | None, float | None] = (None, None)
        self._known: set[int] = set()  # takes whose cards the page has
        self._reel = Reel()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    # What the visitor may do

    def shoot(
        self,
        story: str,
        caption: str,
        frames: int | None = None,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
        seen: tuple[int, int] | None = None,
        before: int | None = None,
    ) -> bool:
        """Queues one more shot at the end, or before strip `before` (from 1). True if it ends one that rolls.

        Args:
            frames: None to roll on until somebody cuts.
            seen: (take, frames) the visitor has seen; a shot that rolls on ends there.
        """
        with self._changed:
            take = Take(self._checked(Shot(caption, frames, seed, settings=dict(settings or {})), story))
            take.rolling = frames is None
            version = self._settled(story)
            place = len(version.strips) if before is None else self._index(before)
            strips = version.strips
            changed = version.with_strips([*strips[:place], Strip((take,)), *strips[place:]])
            self._remember("a new shot", self.project.put(changed))
            self._enqueue(take)
            cut = False
            if self._making and self._making[0].rolling:
                rolling = self._making[0]
                if cut := bool(seen and seen[0] == rolling.id and seen[1] > 0):
                    self._cut(seen)
                else:
                    rolling.ends = self.settings.shot_frames
            self._go()
            return cut

    def storyboard(self, story: str, text: Any, frames: int | None, settings: Mapping[str, Any] | None = None) -> None:
        """Queues a whole storyboard, a shot a line."""
        lines = [line.strip() for line in text.splitlines() if line.strip()] if isinstance(text, str) else []
        if not lines:
            raise StoryError("the storyboard is empty: write one shot a line")
        with self._lock:
            takes = [Take(self._checked(Shot(line, frames, settings=dict(settings or {})), story)) for line in lines]
            version = self._settled(story)
            changed = version.with_strips([*version.strips, *(Strip((take,)) for take in takes)])
            self._remember("a storyboard", self.project.put(changed))
            for take in takes:
                self._enqueue(take, MAX_BOARD)
            self._go()

    def turn(self, caption: Any, seen: tuple[int, int] | None) -> int:
        """Another caption for the shot that is seen, from its next chunk on. Returns the first frame that shows it."""
        with self._changed:
            check_caption(caption, "the change")
            making = self._making
            if making is None or self._dropping or self._cutting or (seen and seen[0] != making[0].id):
                what = "No shot plays" if making is None and not seen else "This shot is made to its end"
                raise StoryError(f"{what}: shoot the change as the next shot")
            first = making[1].turn(caption, seen[1] if seen else None)
            if first is None:
                raise StoryError("Too late, the last part of this shot is on the screen: shoot it as the next shot")
            self._name_unknown_words(caption)
            self._asked = True
            self._changed.notify_all()
            return first

    def retake(
        self,
        number: Any,
        caption: str | None = None,
        seed: int | None = None,
        frames: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Queues another take of shot `number` (from 1), with a new seed; the takes there are stay on its strip."""
        with self._lock:
            old = self._strip(number).take.shot
            wishes: dict[str, Any] = {"frames": frames or (old.frames if "keep" not in old.settings else None)}
            wishes["settings"] = {k: v for k, v in old.settings.items() if k != "keep"}
            if settings is not None:
                wishes["settings"] = dict(settings)
            if caption is not None and caption != old.caption:
                wishes |= {"caption": caption, "turns": ()}
            self._add_take(number, replace(old, seed=seed, **wishes), f"another take of shot {number}")

    def without(self, number: Any, what: Any) -> None:
        """Queues the same shot from the same seed without something (see `request.WITHOUT`) and shows both."""
        names = request.lessons(self.pipeline)
        if not isinstance(what, str) or what not in names:
            raise StoryError(f"there is no such lesson: choose one of {', '.join(names)}")
        with self._lock:
            strip = self._strip(number)
            whole = strip.take
            if not whole.told:
                raise StoryError(f"shot {number} is not made yet: wait for it")
            name, changes = request.WITHOUT[what]
            made = [one for one in strip.takes if one.told and one.note == name and one.shot.seed == whole.shot.seed]
            if made and made[0].past == whole.past:
                self._compare(whole, made[0])
                return
            shot = replace(whole.shot, settings={**whole.shot.settings, **changes})
            self._add_take(number, shot, f"shot {number} {name}", Take(shot, whole.past, name), self._shown(whole))

    def compare(self, number: Any, one: Any, other: Any) -> None:
        """Shows two takes of a shot side by side."""
        strip = self._strip(number)
        takes = [take for take in strip.takes if take.id in (one, other) and take.told]
        if len(takes) != 2:
            raise StoryError("two takes of the shot are needed that are both made")
        self._compare(*takes)

    def remake(self, number: Any = 1) -> None:
        """Queues every shot from `number` on that is out of date, as it was asked for."""
        with self._lock:
            version = self.project.version
            places = [i for i in range(self._index(number), len(version.strips)) if version.stale(i)]
            if not places:
                raise StoryError("no shot is out of date")
            strips, takes = list(version.strips), []
            for place in places:
                old = strips[place].take
                takes.append(Take(old.shot, note=old.note))
                strips[place] = strips[place].with_take(takes[-1])
                strips[place] = strips[place].choose(takes[-1])
            self._remember("making again", self.project.put(version.with_strips(strips)))
            for take in takes:
                self._enqueue(take, MAX_BOARD)
            self._go()

    def choose(self, number: Any, take: Any) -> None:
        """Puts another take of shot `number` into the film."""
        with self._lock:
            strip = self._strip(number)
            chosen = next((one for one in strip.takes if one.id == take), None)
            if chosen is None:
                raise StoryError("there is no such take")
            self._replace(number, strip.choose(chosen), f"the choice of a take of shot {number}")

    def remove(self, number: Any, take: Any = None) -> None:
        """Takes a shot, or one of its takes, out of the story."""
        with self._lock:
            strip = self._strip(number)
            one = next((one for one in strip.takes if one.id == take), None)
            what = f"a take of shot {number}" if one else f"shot {number}"
            self._replace(number, strip.without(one) if one else None, f"removing {what}")

    def move(self, number: Any, by: Any) -> None:
        """Moves a shot earlier (-1) or later (1)."""
        with self._lock:
            index = self._index(number)
            strips = list(self.project.version.strips)
            other = index + (1 if by == 1 else -1)
            if not 0 <= other < len(strips):
                raise StoryError("the shot is at the end already")
            strips[index], strips[other] = strips[other], strips[index]
            self._remember("moving a shot", self.project.put(self.project.version.with_strips(strips)))

    def remember(self, story: Any, picture: Any, caption: Any) -> None:
        """A picture of the visitor's own, base64, is remembered from the first shot on, with its caption."""
        try:
            png = b64decode(picture, validate=True)
        except (TypeError, ValueError):
            raise StoryError("the picture did not arrive: choose it once more") from None
        with self._lock:
            version = self._settled(story)
            check_caption(version.caption, "the story")
            take = timeline.picture(png, caption, self.settings, self._reel)
            self._fits(version.caption, take.shot)
            self._name_unknown_words(caption)
            if len(version.pictures) >= timeline.MAX_PICTURES:
                raise StoryError(f"{timeline.MAX_PICTURES} pictures are remembered already: forget one first")
            changed = replace(version, pictures=(*version.pictures, take))
            self._remember("the picture", self.project.put(changed))

    def forget(self, take: Any) -> None:
        """A picture is not remembered any more."""
        with self._lock:
            version = self.project.version
            pictures = tuple(one for one in version.pictures if one.id != take)
            if len(pictures) == len(version.pictures):
                raise StoryError("there is no such picture")
            self._remember("forgetting a picture", self.project.put(replace(version, pictures=pictures)))

    def undo(self) -> None:
        """The story as it was before the latest change."""
        with self._lock:
            if not self._undo:
                raise StoryError("there is nothing to undo")
            what, self.project = self._undo.pop()
            self._drop_lost()
            self.notice(f"Undone: {what}.")
            self.tell_story()

    def branch(self) -> None:
        """A second version of the story from here on; it becomes the current one."""
        with self._lock:
            if len(self.project.versions) > 1:
                raise StoryError("there are two versions already: close one first")
            if not self.project.version.film:
                raise StoryError("there is nothing to branch from yet: make a shot first")
            version = self.project.version
            made = [strip for strip in version.strips if strip.take.told]
            copy = replace(version, name="B" if version.name == "A" else "A", strips=tuple(made))
            self._remember("the second version", Project((*self.project.versions, copy), 1))

    def show_version(self, index: Any) -> None:
        """Goes on with one of the versions."""
        with self._lock:
            if index not in range(len(self.project.versions)):
                raise StoryError("there is no such version")
            self.project = replace(self.project, current=index)
            self.tell_story()

    def close_version(self) -> None:
        """Drops the current one of two versions."""
        with self._lock:
            if len(self.project.versions) < 2:
                raise StoryError("this is the only version")
            rest = tuple(v for v in self.project.versions if v is not self.project.version)
            self._remember(f"closing version {self.project.version.name}", Project(rest))

    def restart(self) -> None:
        """A new story."""
        with self._lock:
            self._remember("a new story", Project())

    def load(self, text: Any, name: Any = "story") -> None:
        """Tells a story file in place of the story there is. Raises StoryError, and then nothing is lost."""
        project = timeline.load(text, self.pipeline, self._reel, request.file_name(name))
        said = [v.caption for v in project.versions] + [take.shot.caption for take in project.takes()]
        for version in project.versions:
            for strip in version.strips:
                for take in strip.takes:
                    self._fits(version.caption, take.shot)
        with self._lock:
            self._name_unknown_words(" ".join(said))
            self._remember(f"loading {request.file_name(name)}", project)
            self._held = False
            self._go()

    def cut(self, seen: tuple[int, int] | None) -> None:
        """Ends the shot that is seen with the last frame that was; the queue goes on."""
        with self._changed:
            self._cut(seen)
            self._asked = True
            self._go()

    def stop(self, seen: tuple[int, int] | None) -> None:
        """As `cut`, and holds the queue."""
        with self._changed:
            self._cut(seen, hold=True)
            self._held = bool(self._queue)
            self.tell_story()
        self.worker.leave(self)

    def go_on(self) -> None:
        """Goes on with a queue that was held."""
        with self._lock:
            self._held = False
            self._go()

    def unqueue(self, take: Any) -> None:
        """Takes a shot out of the queue."""
        with self._lock:
            waiting = next((one for one in self._queue if one.id == take), None)
            if waiting is None or (place := self.project.find(waiting)) is None:
                raise StoryError("this shot does not wait any more")
            version = self.project.versions[place[0]]
            strips = list(version.strips)
            strips[place[1]] = strips[place[1]].without(waiting)
            self._remember("taking a shot out of the queue", self.project.put(version.with_strips(strips), place[0]))

    def more(self, seen: tuple[int, int] | None = None) -> None:
        """The page will soon need frames."""
        with self._changed:
            self._asked = True
            self._changed.notify_all()
            self._stand_in_line()

    # What may be taken home

    def open(self, caption: str) -> None:
        """Says what holds for the whole story, before its first shot. Raises StoryError."""
        check_caption(caption, "the story")
        with self._lock:
            self._fits(caption, Shot("x"))
            self.project = self.project.put(replace(self.project.version, caption=caption))

    def save(self) -> str:
        """Everything as JSON text. Raises StoryError if there is nothing yet."""
        return timeline.save(self.project)

    def film(self, number: Any = None) -> bytes:
        """The story, or its shot `number` (from 1), as an MP4. Raises StoryError."""
        shots = self.project.version.film if number is None else [self._strip(number).take.told]
        if not all(shots) or not shots:
            raise StoryError("there is no film yet: make a shot first")
        return messages.mp4([told.footage for told in shots], self.settings.fps)

    def frames(self, number: Any) -> dict[str, Any]:
        """A take that is made, to be played again."""
        take = next((take for take in self._every_take() if take.id == number and take.told), None)
        if take is None:
            raise StoryError("this take is not there any more")
        told = {"take": take.id, "frames": take.told.footage.length, "strips": messages.strips(take.told.footage)}
        return told | {"looks": take.looks, "begin": self._begin_message(take, take.past or ())}

    # What the page is told

    def greet(self) -> None:
        """Tells everything a page needs that knows nothing."""
        with self._lock:
            self._known.clear()
            self.outbox.clear()
            self._asked = True
            self.tell_story()
            if self._making:
                self.outbox.put(self._begin_message(self._making[0], self._making[0].past or ()))
            place, seconds = self._place
            self.outbox.put({"kind": "place", "place": place, "seconds": seconds})
            self._stand_in_line()

    def notice(self, text: str, tone: str = "note") -> None:
        """A line for the visitor; tone is note, warning or error."""
        self.outbox.put({"kind": "notice", "text": text, "tone": tone})

    def told_place(self, place: int | None, seconds: float | None) -> None:
        """See `worker.Client`."""
        if (place, seconds) != self._place:
            self._place = place, seconds
            self.outbox.put({"kind": "place", "place": place, "seconds": seconds})

    def tell_story(self) -> None:
        """The timeline as it is now."""
        with self._lock:
            if self._closed:
                return
            if self.outbox.full:  # nobody reads; who comes back is told everything
                self.outbox.clear()
                self._known.clear()
            cards = [take for take in self.project.takes() if not take.told or take.id not in self._known]
            self._known |= {take.id for take in cards if take.told}
            made = [take for take in cards if take.told]
            if made:
                self.outbox.put({"kind": "cards", "cards": [take.card() for take in made]})
            making = self._making[0] if self._making else None
            self.outbox.put(
                {
                    "kind": "story",
                    "versions": [version.describe() for version in self.project.versions],
                    "current": self.project.current,
                    "caption": self.project.version.caption,
                    "cards": [take.card() for take in cards if not take.told],
                    "queue": [take.id for take in self._queue],
                    "held": self._held,
                    "making": making.id if making else None,
                    "undo": self._undo[-1][0] if self._undo else None,
                }
            )

    def close(self) -> None:
        """The session is over: so is its work, and what it kept."""
        with self._changed:
            self._closed = self._dropping = True
            self._queue.clear()
            self._undo.clear()
            self._then.clear()
            self.project = Project()
            self._changed.notify_all()
        self.outbox.put({"kind": "bye"})
        self.worker.leave(self)

    # The work, on the worker's thread

    def work(self, hurried: Callable[[], bool]) -> bool:
        """Makes the next take of the queue; see `worker.Client`."""
        with self._lock:
            if not self._may_work():
                return False
            take = next((one for one in self._queue if all(before.told for before in self._past(one))), self._queue[0])
            self._queue.remove(take)
            past = take.past
            self._cutting = self._dropping = False
            making = session = None
            try:
                making, session = self._begin(take)
                self._making = take, making
            except Exception as error:
                self._failed(take, error)
            self.tell_story()
        try:
            if making:
                self._make(take, making, session, hurried)
        except Exception as error:  # the page goes on, and so does the worker
            self._failed(take, error)
        with self._lock:
            self._making = None
            if not take.told:
                take.past = past  # it is settled anew when it is begun again
            then = self._then.pop(take, None)
            if take.told and then:
                then(take)
            self.tell_story()
            return self._asked and self._may_work()

    def _begin(self, take: Take) -> tuple[Making, StorySession]:
        found = self.project.find(take)
        number, place = found or (self.project.current, 0)
        version = self.project.versions[number]
        take.aside = found is None or (version.strips[place].take is not take and not take.fresh)
        take.past = self._past(take)
        if not all(one.told for one in take.past):
            raise StoryError("a shot before it could not be made: take it out, or make it again")
        shot = take.shot
        frames = shot.frames
        if take.rolling:  # what waits already ends it anyway
            frames = self.settings.shot_frames if self._queue else request.longest(self.settings)
        seed = self._new_seed() if shot.seed is None else shot.seed
        session = StorySession(self.pipeline, version.caption, 0, version.settings, self._reel)
        session.directed = True
        session.shots = tuple(one.told for one in take.past)
        making = session.next_shot(shot.caption, frames, seed, shot.turns, shot.settings)
        making.measuring = True
        take.shot = making.shot
        return making, session

    def _past(self, take: Take) -> tuple[Take, ...]:
        """What a take will remember."""
        if take.past is None and (found := self.project.find(take)) is not None:
            return self.project.versions[found[0]].before(found[1])
        return take.past or ()

    def _make(self, take: Take, making: Making, session: StorySession, hurried: Callable[[], bool]) -> None:
        take.looks, take.context = [], self._remembered(take, making.settings) if making.standard else None
        self.outbox.put(self._begin_message(take, take.past))
        count = 0
        for frames in making:
            with self._changed:
                if self._dropping or self._closed:
                    making.close()
                    return
                if self._cutting or making.redoing:
                    continue
                if making.frames_made - len(frames) < count:
                    take.looks = [look for look in take.looks if look["first"] < making.frames_made - len(frames)]
                count = making.frames_made
                self.outbox.put(self._frames_message(take, making, frames))
                if making.whole:
                    if not take.aside:
                        self._asked = False
                        self._await_page(hurried)
                    if self._dropping or self._closed:
                        making.close()
                        return
                    if take.ends and making.frames_made >= take.ends:
                        making.cut()
                    if self._queue:
                        making.follow(self._queue[0].shot.caption)
        with self._lock:
            if self._dropping or self._closed:
                return
            told = session.shots[-1]
            take.unasked = messages.unasked_cuts(told.footage, self.settings.fps)
            take.finish(told)
            take.rolling = False
            if (found := self.project.find(take)) is not None and take not in self._then and take.fresh:
                version, place = found  # another take is what is wanted now
                self._put_strip(version, place, self.project.versions[version].strips[place].choose(take))

    def _await_page(self, hurried: Callable[[], bool]) -> None:
        """Until the page asks for more. If others wait for the device, the rest of the shot is made at once."""
        waited = 0.0
        while self.paced and waited < PATIENCE and not hurried():
            if self._asked or self._cutting or self._dropping or self._closed:
                return
            self._changed.wait(0.1)
            waited += 0.1

    def _may_work(self) -> bool:
        return bool(self._queue) and not self._held and not self._closed and not self.outbox.full

    def _stand_in_line(self) -> None:
        if self._may_work() and self._asked and not self._making:
            self.worker.join(self)

    def _failed(self, take: Take, error: Exception) -> None:
        """Says what went wrong; the story is as it was before the shot."""
        words = messages.apology(error)
        if words is None:
            traceback.print_exception(error, file=sys.stderr)
            words = "Something went wrong while the shot was made. Your story is as it was before it."
        with self._lock:
            self._then.pop(take, None)
            self._lose(take)
        self.notice(words, "error")

    # Helpers

    def _go(self) -> None:
        self._asked = self._asked or not self._making  # who wants a shot wants its first chunk
        self._stand_in_line()
        self.tell_story()

    def _remember(self, what: str, project: Project) -> None:
        """Changes the story; `undo` brings back what there was."""
        self._undo.append((what, self.project))
        self.project = project
        self._drop_lost()
        self.tell_story()

    def _drop_lost(self) -> None:
        """No work for takes that are not in the story any more; what came back unmade waits again."""
        wanted = set(timeline.everything(self.project))
        making = self._making[0] if self._making else None
        if making and making not in wanted:
            self._dropping = True
            self._changed.notify_all()
        back = [take for take in timeline.to_make(self.project) if take not in self._queue and take is not making]
        self._queue = deque(take for take in (*self._queue, *back) if take in wanted)

    def _cut(self, seen: tuple[int, int] | None, hold: bool = False) -> None:
        """Ends what the visitor sees with the last frame seen. What nobody saw of a later shot is made again."""
        take, making = self._making or (None, None)
        shown = next((one for one in self._every_take() if seen and one.id == seen[0]), None)
        if take is not None and take is shown and seen[1] > 0:
            making.cut(seen[1])
            self._cutting = self._asked = True
        else:
            trimmed = shown is not None and shown.told and 0 < seen[1] < shown.told.footage.length
            if trimmed:
                told, count = shown.told, seen[1]
                shot = replace(told.shot, settings={**told.shot.settings, "keep": count})
                shown.finish(replace(told, shot=shot, footage=replace(told.footage, length=count)))
                self._known.discard(shown.id)
            if take is not None and (trimmed or hold):
                self._dropping = True
                self._queue.appendleft(take)
        self._changed.notify_all()
        self.tell_story()

    def _lose(self, take: Take) -> None:
        """A take that was not made is taken off its strip."""
        if take in self._queue:
            self._queue.remove(take)
        if (found := self.project.find(take)) is not None:
            version = self.project.versions[found[0]]
            self._put_strip(*found, version.strips[found[1]].without(take))

    def _put_strip(self, version: int, place: int, strip: Strip | None) -> None:
        strips = list(self.project.versions[version].strips)
        strips[place] = strip
        self.project = self.project.put(self.project.versions[version].with_strips(strips), version)

    def _replace(self, number: int, strip: Strip | None, what: str) -> None:
        strips = list(self.project.version.strips)
        strips[self._index(number)] = strip
        self._remember(what, self.project.put(self.project.version.with_strips(strips)))

    def _add_take(
        self,
        number: int,
        shot: Shot,
        what: str,
        take: Take | None = None,
        then: Callable[[Take], None] | None = None,
    ) -> None:
        strip = self._strip(number)
        take = take or Take(shot, fresh=True)
        take.rolling = shot.frames is None
        self._checked(shot)
        self._fits(self.project.version.caption, shot)
        self._replace(number, strip.with_take(take), what)
        if then:
            self._then[take] = then
        self._enqueue(take)
        self._go()

    def _index(self, number: Any) -> int:
        if number not in range(1, len(self.project.version.strips) + 1) or isinstance(number, bool):
            raise StoryError(f"there is no shot {str(number)[:9]}")
        return number - 1

    def _strip(self, number: Any) -> Strip:
        return self.project.version.strips[self._index(number)]

    def _every_take(self) -> Sequence[Take]:
        """Those of the story and those that undo can bring back."""
        projects = (self.project, *(project for _, project in self._undo))
        return list(dict.fromkeys(take for project in projects for take in project.takes()))

    def _settled(self, story: Any) -> Version:
        """The current version; its caption is the visitor's until a shot is told."""
        version = self.project.version
        if version.caption is None or not (version.strips or version.pictures):
            version = replace(version, caption=story)
        return version

    def _checked(self, shot: Shot, story: Any = None) -> Shot:
        """The shot, if it can be told. Raises StoryError."""
        if len(self._queue) >= request.MAX_QUEUE:
            raise StoryError(f"{request.MAX_QUEUE} shots are waiting already: let some of them play first")
        version = self.project.version
        story = version.caption if version.strips or version.pictures or story is None else story
        check_caption(story, "the story")
        check_caption(shot.caption, "the shot")
        request.check_length(shot.frames, self.settings, "frames")
        self._fits(story, shot)
        self._name_unknown_words(f"{story} {shot.caption}")
        return shot

    def _fits(self, story: str, shot: Shot) -> None:
        for caption in (shot.caption, *(turn.caption for turn in shot.turns)):
            self.pipeline.text.check([f"{story}shot0:{caption}"])
        weights = shot.settings.get("weights")
        if weights is not None and weights not in self.pipeline.streaming_weights:
            known = ", ".join(self.pipeline.streaming_weights) or "none but its own"
            raise StoryError(f"weights is {str(weights)[:40]!r}: this model has {known}")

    def _enqueue(self, take: Take, most: int = request.MAX_QUEUE) -> None:
        self._queue = deque(one for one in self._queue if one is not take)
        if len(self._queue) >= most:
            raise StoryError(f"{most} shots are waiting already: let some of them play first")
        self._queue.append(take)
        self._held = False

    def _new_seed(self) -> int:
        used = {take.shot.seed for take in self._every_take()}
        return next(seed for seed in iter(lambda: random.getrandbits(32), None) if seed not in used)

    def _shown(self, whole: Take) -> Callable[[Take], None]:
        return lambda other: self._compare(whole, other)

    def _compare(self, one: Take, other: Take) -> None:
        """Shows two takes side by side, from where they differ, with what each kept of the shots before."""
        films = [take.told.footage for take in (one, other)]
        before = [take.told.footage for take in one.past or () if take.told and not take.picture]
        labels = ["as told" if not take.note else take.note for take in (one, other)]
        if labels[0] == labels[1]:
            labels = [f"seed {take.shot.seed}" for take in (one, other)]
        self.outbox.put(
            {
                "kind": "compare",
                "takes": [one.id, other.id],
                "labels": labels,
                "from": messages.first_difference(*(film.frames() for film in films)),
                "card": messages.scorecard(self.pipeline, before, films),
            }
        )

    def _name_unknown_words(self, text: str) -> None:
        found = self.pipeline.text.unknown_words(text)
        unknown = [(word, near) for word, near in found if any(map(str.isalnum, word))]
        if unknown:
            self.notice(request.unknown_sentence(unknown), "warning")

    def _remembered(self, take: Take, settings: Any) -> list[dict[str, Any]]:
        past, captions = [one.told.footage for one in take.past], [one.shot.caption for one in (*take.past, take)]
        lengths = [footage.length for footage in past]
        return [
            {
                "shot": shot + 1 - sum(one.picture for one in take.past),
                "frame": frame,
                "picture": messages.strip(past[shot].frames(frame, 1)),
            }
            for shot, frame in select(lengths, settings.budget, settings.policy, captions)
        ]

    def _begin_message(self, take: Take, past: Sequence[Take]) -> dict[str, Any]:
        settings = self.settings.changed({k: v for k, v in take.shot.settings.items() if k not in ("keep", "weights")})
        return {
            "kind": "begin",
            "take": take.id,
            "shot": len(past) + 1 - sum(one.picture for one in past),
            "caption": take.shot.caption,
            "note": take.note,
            "rolling": take.rolling,
            "aside": take.aside,
            "frames": take.shot.frames,
            "latents": latent_frames(take.shot.frames),
            "chunk": settings.chunk,
            "empty": 0 if past or take.context is None else settings.budget,
            "context": take.context or [],
        }

    def _frames_message(self, take: Take, making: Making, frames: Any) -> dict[str, Any]:
        first = making.frames_made - len(frames)
        shares = None if making.shares is None else [round(share, 4) for share in making.shares.tolist()]
        look = {"first": first, "count": len(frames), "caption": making.caption, "shares": shares}
        take.looks.append(look)
        return {"kind": "frames", "take": take.id, "whole": making.whole, **self.encode(frames), **look}


MAX_BOARD = request.MAX_SHOTS  # a storyboard waits as a whole
