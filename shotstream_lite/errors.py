"""What this library says of bad input: one line that names the file or the option, what is wrong, and how to fix it.

Catch `ShotStreamError` to catch them all. Anything else that is raised is a fault of ours.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_KINDS = {bool: "true or false", int: "a number", float: "a fraction", str: "a text", list: "a list", dict: "an object"}


class ShotStreamError(ValueError):
    """Bad input, or a place that cannot be read or written; the message is one line."""


class StoryError(ShotStreamError):
    """A story, an option or a file of the user's that cannot be used."""


class FilmError(ShotStreamError):
    """A film that cannot be written or read."""


class CodecError(ShotStreamError):
    """Frames of a size or number that do not fit the codec."""


class CheckpointError(ShotStreamError):
    """A checkpoint or model folder that cannot be read, or does not fit."""


class OutOfMemory(ShotStreamError):
    """A shot that did not fit beside what else uses the device; the story is as it was before it."""


def reason(error: BaseException) -> str:
    """Why something of others failed, in one line."""
    said = getattr(error, "strerror", None) or str(error)  # PyAV's errors have one too
    return next(iter(said.strip().splitlines()), "") or type(error).__name__


def one_line(error: BaseException) -> str:
    """An error for a terminal: no control characters, and no name or value longer than a line."""
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(error))
    return re.sub(r"\S{200,}", lambda long: f"{long[0][:100]}...{long[0][-60:]}", text)


def kind(value: Any) -> str:
    """What a value of a JSON file is, in words."""
    return "null" if value is None else _KINDS.get(type(value), f"a {type(value).__name__}")


@contextmanager
def about(place: object) -> Iterator[None]:
    """Puts a file, a line or an option before an error of ours that does not name it yet."""
    try:
        yield
    except ShotStreamError as error:
        if str(error).startswith(f"{place}: "):
            raise
        raise type(error)(f"{place}: {error}") from None
