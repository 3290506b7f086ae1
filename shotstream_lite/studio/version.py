"""One telling of a story as the page shows it: what is told, what is out of date, and the way back."""

import itertools
from dataclasses import dataclass, field
from typing import Any

from shotstream_lite.session import StorySession, ToldShot
from shotstream_lite.studio.pictures import fingerprint, stills

_ids = itertools.count(1)


@dataclass
class Version:
    """A session, and the shots after a retake that still show the old story (stale)."""

    name: str
    session: StorySession | None = None
    stale: tuple[ToldShot, ...] = ()
    _before: list[tuple[tuple[ToldShot, ...], tuple[ToldShot, ...]]] = field(default_factory=list)

    @property
    def told(self) -> tuple[ToldShot, ...]:
        """The shots of the story as it is now."""
        return self.session.shots if self.session else ()

    @property
    def shots(self) -> tuple[ToldShot, ...]:
        """All shots to be seen, the stale ones last."""
        return self.told + self.stale

    @property
    def can_undo(self) -> bool:
        return bool(self._before)

    def joined(self, shots: tuple[ToldShot, ...], stale: tuple[ToldShot, ...], number: int) -> None:
        """Shot `number` (from 1) was just told; `shots` and `stale` are what there was before.

        What came after it is out of date, and the first shot out of date is the one it replaced, if any.
        """
        self._before.append((shots, stale))
        self.stale = (shots + stale)[number:]

    def drop_stale(self) -> None:
        """Takes the shots that are out of date off the timeline."""
        self._before.append((self.told, self.stale))
        self.stale = ()

    def undo(self) -> bool:
        """The story as it was before the latest shot, retake or removal; False if there is nothing to undo."""
        if not self._before or not self.session:
            return False
        self.session.shots, self.stale = self._before.pop()
        return True

    def branch(self, name: str) -> "Version":
        """A second version that shares everything so far."""
        session = self.session.branch() if self.session else None
        return Version(name, session, self.stale, list(self._before))


class Cards:
    """What the timeline knows of a shot; its pictures are sent once, later only its number."""

    def __init__(self) -> None:
        self._known: dict[ToldShot, int] = {}

    def number(self, told: ToldShot) -> tuple[int, dict[str, Any] | None]:
        """The shot's number on this page and, the first time, its card."""
        if told in self._known:
            return self._known[told], None
        self._known[told] = number = next(_ids)
        return number, card(told, number)

    def forget(self) -> None:
        """Sends every card once more: the page is new."""
        self._known.clear()


def card(told: ToldShot, number: int) -> dict[str, Any]:
    """A shot as JSON for the page. Seeds are texts: they may be longer than a script's numbers."""
    shot, length = told.shot, told.footage.length
    return {
        "kind": "card",
        "id": number,
        "caption": shot.caption,
        "turns": [vars(turn) for turn in shot.turns],
        "seed": str(shot.seed),
        "frames": length,
        "settings": dict(shot.settings),
        "fps": length / told.seconds if told.seconds else None,
        "model_fps": length / told.model_seconds if told.model_seconds else None,
        "first_frame_seconds": told.first_frame_seconds,
        "print": fingerprint(told.footage),
        "stills": stills(told.footage),
    }
