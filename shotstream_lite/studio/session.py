"""One visitor's session: what may be done with the story, and what may be taken home."""

import secrets
import threading
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic
from typing import Any

from shotstream_lite.errors import StoryError
from shotstream_lite.story import Shot, check_caption, is_whole
from shotstream_lite.studio import messages, pictures, request, timeline
from shotstream_lite.studio.production import Production
from shotstream_lite.studio.timeline import Project, Take, Version
from shotstream_lite.studio.worker import Worker


class Session(Production):
    """A visitor's story on a worker. Methods that the page calls raise StoryError with a sentence for the visitor."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self.token = secrets.token_urlsafe(24)
        self.heard = monotonic()  # when the page last asked for something
        self.page: Any = None  # which page it is, of those that know the token
        self.answered: tuple[int, dict[str, Any]] = (0, {})  # number of the latest request, and its answer
        self.requests = threading.Lock()  # a page's requests are served one after the other

    # What the visitor may do with the story

    def shoot(
        self,
        story: str | None,
        caption: str,
        frames: int | None = None,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
        seen: tuple[int, int] | None = None,
        before: int | None = None,
    ) -> bool:
        """Queues one more shot at the end, or before strip `before` (from 1). True if it ends one that rolls.

        Args:
            story: what holds for all shots, None for what was said already; after the first shot nobody reads it.
            frames: None to roll on until somebody cuts.
            seen: (take, frames) the visitor has seen; a shot that rolls on ends there.
        """
        with self._lock:
            version = self._settled(story)
            take = self._checked(version, Take(Shot(caption, frames, seed, settings=dict(settings or {}))))
            self._order("a new shot", version.insert([take], before))
            playing = self._making[0] if self._making else None
            if playing is None or not playing.rolling:
                return False
            if seen and seen[0] == playing.id and seen[1] > 0:
                self._cut(seen)
                return True
            playing.ends = self.settings.shot_frames
            return False

    def storyboard(
        self, story: str, text: Any, frames: int | None = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        """Queues a whole storyboard, a shot a line, each of so many frames (None: as many as usual)."""
        lines = [line.strip() for line in text.splitlines() if line.strip()] if isinstance(text, str) else []
        if not lines:
            raise StoryError("the storyboard is empty: write one shot a line")
        with self._lock:
            version, frames = self._settled(story), frames or self.settings.shot_frames
            shots = [Shot(line, frames, settings=dict(settings or {})) for line in lines]
            self._order("a storyboard", version.insert([self._checked(version, Take(shot)) for shot in shots]))

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
            old = self.project.version.strip(number).take.shot
            frames = frames or (old.frames if "keep" not in old.settings else None)
            same = {key: value for key, value in old.settings.items() if key != "keep"}
            shot = replace(old, seed=seed, frames=frames, settings=same if settings is None else dict(settings))
            if caption is not None and caption != old.caption:
                shot = replace(shot, caption=caption, turns=())
            self._add_take(number, Take(shot, fresh=True), f"another take of shot {number}")

    def without(self, number: Any, what: Any) -> None:
        """Queues the same shot from the same seed without something (see `request.WITHOUT`) and shows both."""
        names = request.lessons(self.pipeline)
        if not isinstance(what, str) or what not in names:
            raise StoryError(f"there is no such lesson: choose one of {', '.join(names)}")
        with self._lock:
            strip = self.project.version.strip(number)
            whole = strip.take
            if not whole.told:
                raise StoryError(f"shot {number} is not made yet: wait for it")
            name, changes = request.WITHOUT[what]
            made = [one for one in strip.takes if one.told and one.note == name and one.shot.seed == whole.shot.seed]
            if made and made[0].past == whole.past:
                self.outbox.put(messages.compare(self.pipeline, whole, made[0]))
                return
            shot = replace(whole.shot, settings={**whole.shot.settings, **changes})
            self._add_take(number, Take(shot, whole.past, name, beside=whole), f"shot {number} {name}")

    def compare(self, number: Any, one: Any, other: Any) -> None:
        """Shows two takes of a shot side by side."""
        strip = self.project.version.strip(number)
        takes = [take for take in strip.takes if take.id in (one, other) and take.told]
        if len(takes) != 2:
            raise StoryError("two takes of the shot are needed that are both made")
        self.outbox.put(messages.compare(self.pipeline, *takes))

    def remake(self, number: Any = 1) -> None:
        """Queues every shot from `number` on that is out of date, as it was asked for."""
        with self._lock:
            version = changed = self.project.version
            for place in range(version.place(number), len(version.strips)):
                if version.stale(place):
                    strip = version.strips[place]
                    take = Take(strip.take.shot, note=strip.take.note)
                    changed = changed.put(place + 1, strip.with_take(take).choose(take))
            if changed is version:
                raise StoryError("no shot is out of date")
            self._order("making again", changed)

    def choose(self, number: Any, take: Any) -> None:
        """Puts another take of shot `number` into the film."""
        with self._lock:
            version = self.project.version
            strip = version.strip(number)
            if (chosen := strip.find(take)) is None:
                raise StoryError("there is no such take")
            self._remember(f"the choice of a take of shot {number}", version.put(number, strip.choose(chosen)))

    def remove(self, number: Any, take: Any = None) -> None:
        """Takes a shot, or one of its takes, out of the story."""
        with self._lock:
            version = self.project.version
            strip = version.strip(number)
            one = strip.find(take)
            what = f"a take of shot {number}" if one else f"shot {number}"
            self._remember(f"removing {what}", version.put(number, strip.without(one) if one else None))

    def move(self, number: Any, by: Any) -> None:
        """Moves a shot earlier (-1) or later (1)."""
        with self._lock:
            self._remember("moving a shot", self.project.version.move(number, by))

    def unqueue(self, take: Any) -> None:
        """Takes a shot out of the queue."""
        with self._lock:
            waiting = next((one for one in self._queue if one.id == take), None)
            if waiting is None or self.project.find(waiting) is None:
                raise StoryError("this shot does not wait any more")
            changed = self.project.change(waiting, lambda strip: strip.without(waiting))
            self._remember("taking a shot out of the queue", changed)

    def remember(self, story: Any, picture: Any, caption: Any) -> None:
        """A picture of the visitor's own, base64, is remembered from the first shot on, with its caption."""
        try:
            png = b64decode(picture, validate=True)
        except (TypeError, ValueError):
            raise StoryError("the picture did not arrive: choose it once more") from None
        with self._lock:
            version = self._settled(story)
            take = timeline.picture(png, caption, self.settings, self._reel)
            request.check_fit(self.pipeline, version.caption, take.shot)
            self._name_unknown_words(caption)
            if len(version.pictures) >= timeline.MAX_PICTURES:
                raise StoryError(f"{timeline.MAX_PICTURES} pictures are remembered already: forget one first")
            self._remember("the picture", replace(version, pictures=(*version.pictures, take)))

    def forget(self, take: Any) -> None:
        """A picture is not remembered any more."""
        with self._lock:
            version = self.project.version
            kept = tuple(one for one in version.pictures if one.id != take)
            if len(kept) == len(version.pictures):
                raise StoryError("there is no such picture")
            self._remember("forgetting a picture", replace(version, pictures=kept))

    def undo(self) -> None:
        """The story as it was before the latest change."""
        with self._lock:
            if not self._undo:
                raise StoryError("there is nothing to undo")
            what, self.project = self._undo.pop()
            self._queue_up()
            self.notice(f"Undone: {what}.")
            self.tell_story()

    def branch(self) -> None:
        """A second version of the story from here on; it becomes the current one."""
        with self._lock:
            if len(self.project.versions) > 1:
                raise StoryError("there are two versions already: close one first")
            version = self.project.version
            made = tuple(strip for strip in version.strips if strip.take.told)
            if not made:
                raise StoryError("there is nothing to branch from yet: make a shot first")
            copy = replace(version, name="B" if version.name == "A" else "A", strips=made)
            self._remember("the second version", Project((*self.project.versions, copy), 1))

    def version(self, number: Any) -> None:
        """Goes on with one of the versions (from 0)."""
        with self._lock:
            if not is_whole(number) or not 0 <= number < len(self.project.versions):
                raise StoryError("there is no such version")
            self.project = replace(self.project, current=number)
            self.tell_story()

    def close_version(self) -> None:
        """Drops the current one of two versions."""
        with self._lock:
            if len(self.project.versions) < 2:
                raise StoryError("this is the only version")
            rest = tuple(v for v in self.project.versions if v is not self.project.version)
            self._remember(f"closing version {self.project.version.name}", Project(rest))

    def new(self) -> None:
        """A new story."""
        with self._lock:
            self._remember("a new story", Project())

    def open(self, caption: str) -> None:
        """Says what holds for the whole story, before its first shot."""
        check_caption(caption, "the story")
        with self._lock:
            request.check_fit(self.pipeline, caption, Shot("x"))
            self.project = self.project.put(replace(self.project.version, caption=caption))

    def load(self, text: Any, name: Any = "story") -> None:
        """Tells a story file in place of the story there is; if it cannot, nothing is lost."""
        project = timeline.load(text, self.pipeline, self._reel, request.file_name(name))
        for version in project.versions:
            for strip in version.strips:
                for take in strip.takes:
                    request.check_fit(self.pipeline, version.caption, take.shot)
        said = [v.caption for v in project.versions] + [take.shot.caption for take in project.takes()]
        with self._lock:
            self._name_unknown_words(" ".join(said))
            self._order(f"loading {request.file_name(name)}", project)

    # What may be taken home

    def save(self) -> str:
        """Everything as JSON text."""
        return timeline.save(self.project)

    def film(self, number: Any = None) -> bytes:
        """The story, or its shot `number` (from 1), as an MP4."""
        version = self.project.version
        shots = version.film if number is None else [version.strip(number).take.told]
        if not all(shots) or not shots:
            raise StoryError("there is no film yet: make a shot first")
        return pictures.mp4([told.footage for told in shots], self.settings.fps)

    def frames(self, number: Any) -> dict[str, Any]:
        """A take that is made, to be played again."""
        take = self._take(number)
        if take is None or not take.told:
            raise StoryError("this take is not there any more")
        told = {"take": take.id, "frames": take.told.footage.length, "strips": pictures.strips(take.told.footage)}
        return told | {"looks": take.looks, "begin": messages.begin(take, self.settings)}

    # Helpers

    def _settled(self, story: Any) -> Version:
        """The current version; its caption is the visitor's until it has a shot or a picture."""
        version = self.project.version
        if story is not None and not (version.strips or version.pictures):
            version = replace(version, caption=story)
        check_caption(version.caption, "the story")
        return version

    def _checked(self, version: Version, take: Take) -> Take:
        """A take that can be made in this version. Raises StoryError."""
        shot = take.shot
        if len(self._queue) >= request.MAX_QUEUE:
            raise StoryError(f"{request.MAX_QUEUE} shots are waiting already: let some of them play first")
        check_caption(shot.caption, "the shot")
        request.check_length(shot.frames, self.settings, "frames")
        request.check_fit(self.pipeline, version.caption, shot)
        self._name_unknown_words(f"{version.caption} {shot.caption}")
        take.rolling = shot.frames is None
        return take

    def _add_take(self, number: Any, take: Take, what: str) -> None:
        version = self.project.version
        strip = version.strip(number).with_take(self._checked(version, take))
        self._order(what, version.put(number, strip))

    def _order(self, what: str, changed: Project | Version) -> None:
        """Changes the story, and what is new in it is made."""
        self._remember(what, changed)
        self._held = False
        self._go()
