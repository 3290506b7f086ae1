"""One page's story: what its visitor may do with it, and what the page is told about it."""

import random
import secrets
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from shotstream_lite.session import StorySession
from shotstream_lite.story import Shot, StoryError, check_caption
from shotstream_lite.story_files import story_json
from shotstream_lite.studio import limits, messages
from shotstream_lite.studio.pictures import side_by_side
from shotstream_lite.studio.shooting import Shooting, take_numbers
from shotstream_lite.studio.stage import Stage
from shotstream_lite.studio.version import Cards, Version


class Director(Shooting):
    """A page's story on a stage. Methods named after buttons raise StoryError with a sentence for the visitor.

    The page asks for frames (`more`) when it will soon need them, so that a shot can still be changed while it plays.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.token = secrets.token_urlsafe(24)  # what the page's script shows instead of a session
        self.versions = [Version("A")]
        self.current = self.versions[0]
        self._replay: Iterator[dict[str, Any]] | None = None
        self._cards = Cards()
        self._stream = 0

    @property
    def global_caption(self) -> str | None:
        """The story's caption once it is settled by a shot, told or on its way."""
        session = self.current.session
        return session.story.global_caption if session and (self.current.told or self.making) else None

    @property
    def latest_seed(self) -> int | None:
        told = self.current.told
        return told[-1].shot.seed if told else None

    # What the visitor may do

    def shoot(
        self,
        global_caption: str,
        caption: str,
        frames: int | None = None,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Queues one more shot."""
        with self._lock:
            self._wish(self.current, Shot(caption, frames, seed, settings=dict(settings or {})), global_caption)

    def turn(self, caption: str) -> bool:
        """Another caption for the shot being made, from its next chunk on. False if there is no such shot."""
        with self._lock:
            if not self._making:
                return False
            self._making[0].turn(caption)
            self._name_unknown_words(caption)
            return True

    def retake(
        self,
        number: Any,
        caption: str | None = None,
        keep_seed: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Queues shot `number` (from 1) once more; shots before it stay, those after it become stale."""
        with self._lock:
            told = self.current.told
            if not isinstance(number, int) or not 1 <= number <= len(told):
                raise StoryError(f"there is no shot {str(number)[:9]} to take again: tell the ones before it first")
            shot = told[number - 1].shot
            if caption is not None and caption != shot.caption:
                shot = replace(shot, caption=caption, turns=())
            if settings is not None:
                shot = replace(shot, settings=dict(settings))
            self._wish(self.current, replace(shot, seed=shot.seed if keep_seed else None), number=number)

    def retell(self) -> None:
        """Queues all stale shots as they were asked for."""
        with self._lock:
            for told in self.current.stale:
                self.enqueue(self.current, told.shot, self.current.session.story.global_caption)
            self.go_on()

    def drop_stale(self) -> None:
        """Takes the stale shots away."""
        with self._lock:
            self.current.drop_stale()
            self.tell_story()

    def undo(self) -> None:
        """The story as it was before the latest shot or retake; a shot being made is dropped instead."""
        with self._lock:
            if self._making and self._making[1].version is self.current:
                self.leave_take()
            elif not self.current.undo():
                raise StoryError("there is nothing to undo yet")
            self.tell_story()

    def branch(self) -> None:
        """A second version of the story from here on; it becomes the current one."""
        with self._lock:
            if len(self.versions) > 1:
                raise StoryError("there are two versions already: close one first")
            if not self.current.told:
                raise StoryError("there is nothing to branch from yet: make a shot first")
            self.versions.append(self.current.branch("B" if self.current.name == "A" else "A"))
            self.choose(len(self.versions) - 1)

    def choose(self, index: int) -> None:
        """Goes on with one of the versions."""
        with self._lock:
            self.current = self.versions[index if 0 <= index < len(self.versions) else 0]
            self.tell_story()

    def close_version(self) -> None:
        """Drops the current one of two versions."""
        with self._lock:
            if len(self.versions) < 2:
                raise StoryError("this is the only version")
            self.drop_work(self.current)
            self.versions.remove(self.current)
            self.choose(0)

    def stop(self) -> None:
        """Ends the shot being made with the frames there are, and holds the queue."""
        with self._changed:
            self._replay = None
            self._held = bool(self._queue)
            if self._making and self._making[0].frames_made == 0:
                self.leave_take()  # nothing to be kept
            self._stopping = self._making is not None
            self._changed.notify_all()
            self.tell_story()
        self.stage.leave(self)

    def go_on(self) -> None:
        """Goes on with a queue that was held."""
        with self._lock:
            self._held = False
            self.stand_in_line()
            self.tell_story()

    def unqueue(self, wish: int) -> None:
        """Takes a shot out of the queue."""
        with self._lock:
            self._queue = deque(waiting for waiting in self._queue if waiting.id != wish)
            self.tell_story()

    def restart(self) -> None:
        """A new story; the old one is gone."""
        with self._lock:
            for version in self.versions:
                self.drop_work(version)
            self.versions = [Version("A")]
            self.current = self.versions[0]
            self.tell_story()

    def load(self, text: str, name: str = "story") -> None:
        """Tells a story file from its first shot on, in place of the story there is. Raises StoryError."""
        story = limits.read_story(text, self.stage.pipeline.settings, name)
        if story.seed is None:
            story = replace(story, seed=random.getrandbits(32))
        session = StorySession.of(self.stage.pipeline, story)
        with self._lock:
            self.restart()
            self.current.session = session
            for shot in story.shots:
                self.enqueue(self.current, shot, story.global_caption)
            self._name_unknown_words(" ".join([story.global_caption, *(shot.caption for shot in story.shots)]))
            self.go_on()

    def save(self) -> str:
        """The story as JSON text. Raises StoryError if there is none yet."""
        if not self.current.session:
            raise StoryError("there is no story to save yet: make a shot first")
        return story_json(self.current.session.story)

    def film(self, number: int | None = None) -> bytes:
        """The story, or its shot `number` (from 1), as an MP4. Raises StoryError."""
        shots = self.current.told if number is None else self.current.shots[number - 1 : number]
        if not shots:
            raise StoryError("there is no film yet: make a shot first")
        return messages.mp4([told.footage for told in shots], self.stage.pipeline.settings.fps)

    def play(self, number: int | None = None) -> None:
        """Shows what is told again: shot `number`, or all of them."""
        with self._lock:
            shots = self.current.shots[number - 1 : number] if number else self.current.shots
            self._show((told.footage.frames() for told in shots), f"shot {number}" if number else "the film")

    def compare(self) -> None:
        """Shows both versions side by side."""
        with self._lock:
            if len(self.versions) < 2:
                raise StoryError("there is one version only: branch first, and tell the other differently")
            left, right = sorted(self.versions, key=lambda version: version.name)
            both = side_by_side(left.session.film(), right.session.film())
            self._show([both], f"version {left.name} on the left, {right.name} on the right")

    def more(self) -> None:
        """The page will soon need frames."""
        with self._changed:
            message = next(self._replay, None) if self._replay else None
            if message:
                self.outbox.put(message)
                return
            self._replay = None
            self._asked_for = True
            self._changed.notify_all()
            self.stand_in_line()

    def close(self) -> None:
        """The page is gone: so is its work, and what it kept."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self.leave_take()
            self.versions, self.current, self._replay = [], Version("A"), None
            self._cards.forget()
        self.outbox.put({"kind": "bye"})  # wakes the stream, which ends
        self.stage.leave(self)

    # What the page is told

    def greet(self) -> int:
        """Tells everything a page needs that knows nothing. Returns the number of its stream, see `heard`."""
        with self._lock:
            self._cards.forget()
            self._stream += 1
            self._asked_for = True
            settings = self.stage.pipeline.settings
            size = {"height": settings.height, "width": settings.width, "fps": settings.fps}
            self.outbox.put({"kind": "hello", "token": self.token, **size})
            self.tell_story()
            self.stand_in_line()
            return self._stream

    def answered(self, text: str, taken: bool) -> None:
        """What was typed became a shot or a change of one, or it was refused and stays in its box."""
        self.outbox.put({"kind": "answered", "text": text, "taken": taken})

    def heard(self, stream: int) -> bool:
        """Whether a stream is still the page's: a page that lost its stream opens another one."""
        return self._stream == stream and not self._closed

    def tell_story(self) -> None:
        """The timeline as it is now."""
        with self._lock:
            if self._closed:
                return
            versions = [self._describe(version) for version in self.versions]
            making = self._making[1] if self._making else None
            self.outbox.put(
                {
                    "kind": "story",
                    "versions": versions,
                    "current": self.versions.index(self.current),
                    "global_caption": self.global_caption,
                    "queue": [wish.summary() for wish in self._queue],
                    "held": self._held,
                    "making": making.summary() if making else None,
                    "undo": self.current.can_undo or making is not None,
                    "saved": self.save() if self.current.told else None,
                }
            )

    def _describe(self, version: Version) -> dict[str, Any]:
        numbers = []
        for told in version.shots:
            number, card = self._cards.number(told)
            numbers.append(number)
            if card:
                self.outbox.put(card)
        return {"name": version.name, "shots": numbers, "stale": len(version.stale)}

    def _name_unknown_words(self, text: str) -> None:
        found = self.stage.pipeline.text.unknown_words(text)
        unknown = [(word, near) for word, near in found if any(map(str.isalnum, word))]
        if unknown:
            self.notice(messages.unknown_words(unknown), "warning")

    def _show(self, films: Iterable[np.ndarray], title: str) -> None:
        """Sends films that are there already, a piece each time the page asks."""
        number = next(take_numbers)
        self._replay = messages.again(films, number)
        self.outbox.put({"kind": "replay", "take": number, "title": title})
        self.more()

    def _wish(self, version: Version, shot: Shot, global_caption: str | None = None, number: int | None = None) -> None:
        if len(self._queue) >= limits.MAX_QUEUE:
            raise StoryError(f"{limits.MAX_QUEUE} shots are waiting already: let some of them play first")
        if version.session and (version.told or global_caption is None):
            global_caption = version.session.story.global_caption
        check_caption(global_caption, "the story")
        check_caption(shot.caption, "the shot")
        limits.check_frames(shot.frames, self.stage.pipeline.settings, "frames")
        self.stage.pipeline.text.check([f"{global_caption}shot0:{shot.caption}"])
        self._name_unknown_words(f"{global_caption} {shot.caption}")
        self.enqueue(version, shot, global_caption, number)
        self._held = False
        self.stand_in_line()
        self.tell_story()
