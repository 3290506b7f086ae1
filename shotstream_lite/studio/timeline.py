"""A visitor's story as the page shows it: strips in order, each a stack of takes of which one is chosen.

Strips and versions never change, they are replaced: what was there can always come back (`Undo`). A take does not know
whether it is out of date; it knows which takes it remembered, and is *stale* while others stand before it.
"""

import itertools
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shotstream_lite.errors import StoryError
from shotstream_lite.footage import Reel
from shotstream_lite.models.settings import StreamSettings
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.session import ToldShot, following_seed
from shotstream_lite.stills import read_picture, write_picture
from shotstream_lite.story import CaptionChange, Picture, Shot, Story, check_caption, check_shot, is_whole
from shotstream_lite.story_files import OTHERS, story_json
from shotstream_lite.studio import pictures, request

MAX_PICTURES = 6
_ids = itertools.count(1)


@dataclass(eq=False)
class Take:
    """One telling of a shot: what was asked, and when it is made what came of it.

    Attributes:
        past: the takes it remembered; None as long as nobody has settled that.
        note: what is different about it, in words, if it shows what is lost without something.
        rolling: its length is open until somebody cuts.
        looks: what each chunk looked at, for the page; context: the frames it remembered.
        unasked: frames at which it holds a cut nobody asked for.
        fresh: it is put into the film when it is made; beside: it is shown side by side with that take when it is made;
            ends: the frames after which another shot follows; aside: it is made though it is not in the film, and
            nobody watches; picture: it is a picture that somebody gave, not a take.
    """

    shot: Shot
    past: tuple["Take", ...] | None = None
    note: str = ""
    rolling: bool = False
    fresh: bool = False
    beside: "Take | None" = None
    ends: int | None = None
    aside: bool = False
    picture: bool = False
    told: ToldShot | None = None
    looks: list[dict[str, Any]] = field(default_factory=list)
    context: list[dict[str, Any]] = field(default_factory=list)
    unasked: list[int] = field(default_factory=list)
    id: int = field(default_factory=lambda: next(_ids))

    def finish(self, told: ToldShot) -> None:
        """It is made, or cut shorter."""
        self.told, self.shot, self._card = told, told.shot, None
        self.looks = [look for look in self.looks if look["first"] < told.footage.length]

    def trim(self, frames: int) -> None:
        """Only the first frames of it are kept."""
        shot = replace(self.shot, settings={**self.shot.settings, "keep": frames})
        self.finish(replace(self.told, shot=shot, footage=replace(self.told.footage, length=frames)))

    def card(self) -> dict[str, Any]:
        """For the page; its pictures are computed once. Seeds are texts: they may be longer than a script's numbers."""
        shot, told = self.shot, self.told
        asked = {"id": self.id, "caption": shot.caption, "note": self.note, "settings": dict(shot.settings)}
        if not told:
            return asked | {"seed": "" if shot.seed is None else str(shot.seed), "frames": shot.frames}
        if getattr(self, "_card", None) is None:
            length = told.footage.length
            self._card = {
                "print": pictures.frames_digest(told.footage),
                "stills": pictures.stills(told.footage, 1 if self.picture else pictures.TILES),
                "unasked": self.unasked,
                "frames": length,
                "turns": [vars(turn) for turn in shot.turns],
                "fps": length / told.seconds if told.seconds else None,
                "model_fps": length / told.model_seconds if told.model_seconds else None,
                "first_frame_seconds": told.first_frame_seconds,
            }
        return asked | {"seed": str(shot.seed)} | self._card


@dataclass(frozen=True, eq=False)
class Strip:
    """A place in the story."""

    takes: tuple[Take, ...]
    chosen: int = 0

    @property
    def take(self) -> Take:
        return self.takes[self.chosen]

    def with_take(self, take: Take) -> "Strip":
        """One more take; the chosen one stays."""
        if len(self.takes) >= request.MAX_TAKES:
            raise StoryError(f"this shot has {request.MAX_TAKES} takes already: remove one first")
        return replace(self, takes=(*self.takes, take))

    def find(self, number: Any) -> Take | None:
        """The take whose id is `number`."""
        return next((take for take in self.takes if take.id == number), None)

    def choose(self, take: Take) -> "Strip":
        return replace(self, chosen=self.takes.index(take))

    def without(self, take: Take) -> "Strip | None":
        """One take fewer; None if it was the only one."""
        takes = tuple(one for one in self.takes if one is not take)
        if not takes:
            return None
        return Strip(takes, takes.index(self.take) if self.take is not take else max(0, self.chosen - 1))


@dataclass(frozen=True, eq=False)
class Version:
    """One way the story goes."""

    name: str = "A"
    caption: str | None = None
    strips: tuple[Strip, ...] = ()
    pictures: tuple[Take, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def before(self, index: int) -> tuple[Take, ...]:
        """The takes a shot at place `index` (from 0) would remember."""
        return (*self.pictures, *(strip.take for strip in self.strips[:index]))

    @property
    def film(self) -> list[ToldShot]:
        """The chosen takes that are made, in order, stale ones included."""
        return [strip.take.told for strip in self.strips if strip.take.told]

    def stale(self, index: int) -> bool:
        """Whether the take at place `index` was made after other shots than those before it now."""
        take = self.strips[index].take
        return take.told is not None and take.past != self.before(index)

    def with_strips(self, strips: Iterable[Strip | None]) -> "Version":
        strips = tuple(strip for strip in strips if strip)
        if len(strips) > request.MAX_SHOTS:
            raise StoryError(f"the story has {request.MAX_SHOTS} shots, the most this page tells: begin a new one")
        return replace(self, strips=strips)

    def place(self, number: Any) -> int:
        """The place (from 0) of shot `number` (from 1). Raises StoryError."""
        if not is_whole(number) or not 1 <= number <= len(self.strips):
            raise StoryError(f"there is no shot {str(number)[:9]}")
        return number - 1

    def strip(self, number: Any) -> Strip:
        """That of shot `number`. Raises StoryError."""
        return self.strips[self.place(number)]

    def put(self, number: Any, strip: Strip | None) -> "Version":
        """Another strip for shot `number`, or none. Raises StoryError."""
        place = self.place(number)
        return self.with_strips([*self.strips[:place], strip, *self.strips[place + 1 :]])

    def insert(self, takes: Iterable[Take], before: Any = None) -> "Version":
        """New strips at the end, or before shot `before`. Raises StoryError."""
        place = len(self.strips) if before is None else self.place(before)
        return self.with_strips([*self.strips[:place], *(Strip((take,)) for take in takes), *self.strips[place:]])

    def move(self, number: Any, by: Any) -> "Version":
        """Shot `number` earlier (-1) or later (1). Raises StoryError."""
        place, strips = self.place(number), list(self.strips)
        other = place + (1 if by == 1 else -1)
        if not 0 <= other < len(strips):
            raise StoryError("the shot is at the end already")
        strips[place], strips[other] = strips[other], strips[place]
        return self.with_strips(strips)

    def describe(self) -> dict[str, Any]:
        """For the page."""
        strips = [
            {"takes": [take.id for take in strip.takes], "chosen": strip.chosen, "stale": self.stale(i)}
            for i, strip in enumerate(self.strips)
        ]
        return {"name": self.name, "strips": strips, "pictures": [take.id for take in self.pictures]}


@dataclass(frozen=True, eq=False)
class Project:
    """All a visitor has: one or two versions."""

    versions: tuple[Version, ...] = (Version(),)
    current: int = 0

    @property
    def version(self) -> Version:
        return self.versions[self.current]

    def put(self, version: Version, index: int | None = None) -> "Project":
        """A version replaced: the current one, or number `index`."""
        index = self.current if index is None else index
        return replace(self, versions=(*self.versions[:index], version, *self.versions[index + 1 :]))

    def describe(self) -> dict[str, Any]:
        """For the page."""
        versions = [version.describe() for version in self.versions]
        return {"versions": versions, "current": self.current, "caption": self.version.caption}

    def takes(self) -> Iterator[Take]:
        """All takes on all strips, each once."""
        pictures = (take for version in self.versions for take in version.pictures)
        takes = (take for version in self.versions for strip in version.strips for take in strip.takes)
        yield from dict.fromkeys((*pictures, *takes))

    def find(self, take: Take) -> tuple[Version, int] | None:
        """The version and the place (from 0) of the strip that a take lies on."""
        places = ((version, place) for version in self.versions for place in range(len(version.strips)))
        return next((found for found in places if take in found[0].strips[found[1]].takes), None)

    def past(self, take: Take) -> tuple[Take, ...]:
        """What a take remembers, or will."""
        if take.past is None and (found := self.find(take)):
            return found[0].before(found[1])
        return take.past or ()

    def change(self, take: Take, how: Callable[[Strip], Strip | None]) -> "Project":
        """The strip that a take lies on, if there is one, changed."""
        if not (found := self.find(take)):
            return self
        version, place = found
        return self.put(version.put(place + 1, how(version.strips[place])), self.versions.index(version))


# Files: a story that `shotstream tell` reads too, and beside it everything else the page had


def save(project: Project) -> str:
    """The current version as a story file, and all takes and versions in the key "studio". Raises StoryError."""
    version = project.version
    if not version.film:
        raise StoryError("there is no story to save yet: make a shot first")
    pictures = tuple(Picture(one.shot.caption, write_picture(one.told.footage.frames()[0])) for one in version.pictures)
    shots = tuple(told.shot for told in version.film)
    story = Story(version.caption, shots, settings=version.settings, remembered=pictures)
    made = in_order(take for take in project.takes() if take.told)
    order = {take: place for place, take in enumerate(made)}
    takes = [_as_json(take, order) for take in made]
    versions = []
    for one in project.versions:
        strips = [[order[take] for take in strip.takes if take in order] for strip in one.strips]
        chosen = [order.get(strip.take) for strip in one.strips]
        shown = [order[take] for take in one.pictures]
        said = {"name": one.name, "global_caption": one.caption, "strips": strips, "chosen": chosen}
        versions.append(said | ({"pictures": shown} if shown else {}))
    studio = {"takes": takes, "versions": versions, "current": project.current}
    return json.dumps(json.loads(story_json(story)) | {"studio": studio}, ensure_ascii=False, indent=1)


def _as_json(take: Take, order: Mapping[Take, int]) -> dict[str, Any]:
    shot = take.shot
    said = {"caption": shot.caption, "frames": shot.frames, "seed": shot.seed, "note": take.note}
    said |= {"turns": [vars(turn) for turn in shot.turns], "settings": dict(shot.settings)}
    if take.picture:
        said["picture"] = b64encode(write_picture(take.told.footage.frames()[0])).decode()
    return {key: value for key, value in said.items() if value} | {"past": [order[one] for one in take.past or ()]}


def picture(png: bytes, caption: str, settings: StreamSettings, reel: Reel) -> Take:
    """A picture that somebody gave, as a take of one frame. Raises StoryError."""
    check_caption(caption, "the picture's caption")
    frame = read_picture(png, settings.height, settings.width)
    take = Take(Shot(caption, 1), (), picture=True)
    take.finish(ToldShot(take.shot, reel.append(frame[None]), 0.0, 0.0))
    return take


def load(text: Any, pipeline: ShotStreamPipeline, reel: Reel, name: str = "story") -> Project:
    """A story file as a project whose takes are still to be made. Raises StoryError, one line."""
    settings = pipeline.settings
    story = request.read_story(text, settings, name)
    data = None if Path(name).suffix.lower() in OTHERS else json.loads(text).get("studio")
    if data is None:
        shots, seed = [], story.seed
        for shot in story.shots:  # with the seeds that `shotstream tell` gives them
            if shot.seed is None and seed is not None:
                shot = replace(shot, seed=following_seed(seed))
            seed = shot.seed
            shots.append(replace(shot, frames=shot.frames or settings.changed(story.settings).shot_frames))
        strips = tuple(Strip((Take(shot),)) for shot in shots)
        pictures = tuple(picture(one.png, one.caption, settings, reel) for one in story.remembered[:MAX_PICTURES])
        return Project((Version("A", story.global_caption, strips, pictures, dict(story.settings)),))
    try:
        takes: dict[int, Take] = {}  # by their numbers, of which a list would take negative ones
        for number, one in enumerate(data["takes"]):
            turns = tuple(CaptionChange(turn["frame"], turn["caption"]) for turn in one.get("turns", ()))
            shot = Shot(one["caption"], one.get("frames"), one.get("seed"), turns, one.get("settings", {}))
            check_shot(shot, f"take {number + 1}")
            request.check_limits(shot, story.settings, settings, f"take {number + 1}")
            past = tuple(takes[index] for index in one["past"])
            if "picture" in one:
                takes[number] = picture(b64decode(one["picture"]), shot.caption, settings, reel)
            else:
                takes[number] = Take(shot, past, str(one.get("note", ""))[:80])
        versions = []
        for one, label in zip(data["versions"], "AB", strict=False):
            check_caption(one["global_caption"], "global_caption")
            strips = []
            for indices, chosen in zip(one["strips"], one["chosen"], strict=True):
                if indices:
                    stack = tuple(takes[index] for index in indices)[: request.MAX_TAKES]
                    strips.append(Strip(stack, indices.index(chosen) if chosen in indices else 0))
            shown = tuple(takes[index] for index in one.get("pictures", ()))[:MAX_PICTURES]
            version = Version(label, one["global_caption"], (), shown, dict(story.settings))
            versions.append(version.with_strips(strips))
        most = request.MAX_SHOTS * 3
        if not versions or len(takes) > most:
            raise StoryError(f"holds no version, or more than {most} takes")
        return Project(tuple(versions), data["current"] if data["current"] in range(len(versions)) else 0)
    except StoryError as error:
        raise StoryError(f"{name}: studio: {error}") from None
    except (TypeError, KeyError, ValueError, AttributeError):  # binascii's own is a ValueError
        raise StoryError(f"{name}: studio is not what the page saved: remove that key, and the story is told") from None


def everything(project: Project) -> list[Take]:
    """All takes, what others remember before them; the chosen film before everything else."""
    return in_order((*(strip.take for strip in project.version.strips), *project.takes()))


def in_order(takes: Iterable[Take]) -> list[Take]:
    """These takes and all that they remembered, each once and after what it remembered."""
    found: dict[Take, None] = {}

    def add(take: Take) -> None:
        if take not in found:
            for one in take.past or ():
                add(one)
            found[take] = None

    for take in takes:
        add(take)
    return list(found)
