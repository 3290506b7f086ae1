"""The files of users: asked before they are read, replaced whole or not at all.

A file that grows is called NAME.xxxxxxxx.part, each writer's its own, and is locked while its writer lives: so what a
killed process left behind can be told from what another one is writing.
"""

import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from glob import escape
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from shotstream_lite.errors import ShotStreamError, StoryError, about, kind, reason

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed anyway
    fcntl = None

MEBIBYTE = 2**20
MAX_TEXT = 16 * MEBIBYTE
"""Bytes of a story or a table; a thousand shots with the longest captions are a third of that."""

Error = type[ShotStreamError]
_PART, _OLD = ".????????.part", ".????????.old"  # for glob


def check_file(path: str | Path, most: int | None = None, error: Error = StoryError, again: str = "") -> Path:
    """The path of a regular file of at most `most` bytes.

    Args:
        error: what is raised if it is none: missing, a folder, a pipe, a device, too large.
        again: how to fix it, if not by another name.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as problem:  # ValueError: the name holds a zero byte
        wrong = reason(problem)
    else:
        if not stat.S_ISREG(found.st_mode):
            wrong = "it is a folder" if stat.S_ISDIR(found.st_mode) else "it is no regular file"
        elif most is None or found.st_size <= most:
            return Path(path)
        else:
            wrong = f"{found.st_size / MEBIBYTE:.0f} MiB, at most {most / MEBIBYTE:.0f} are read"
    raise error(f"{shown(path)}: cannot be read ({wrong}): {again or 'check the name'}")


def read_text(path: str | Path, most: int = MAX_TEXT, error: Error = StoryError, again: str = "") -> str:
    """The text of a UTF-8 file, as `check_file` wants it."""
    try:
        return check_file(path, most, error, again).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        fix = again or "save the file as UTF-8"
        raise error(f"{shown(path)}: not UTF-8 text (byte {problem.start}): {fix}") from None
    except OSError as problem:
        raise error(f"{shown(path)}: cannot be read ({reason(problem)}): {again or 'check the name'}") from None


def read_json(path: str | Path, most: int = MAX_TEXT, error: Error = StoryError, again: str = "") -> dict[str, Any]:
    """The object in a JSON file, as `read_text` wants it."""
    with about(shown(path)):
        return parse_json(read_text(path, most, error, again), error, again)


def parse_json(text: str, error: Error = StoryError, again: str = "") -> dict[str, Any]:
    """The object that JSON text holds, each of its keys once."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        data = dict(pairs)
        if len(data) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise error(f"{json.dumps(twice)[:60]} is there twice: {again or 'rename or remove one'}")
        return data

    try:
        data = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as problem:
        where = f"line {problem.lineno}, column {problem.colno}"
        raise error(f"not JSON at {where} ({problem.msg}): {again or 'correct the file there'}") from None
    except ShotStreamError:
        raise
    except (RecursionError, ValueError):  # lists within lists, a number of thousands of digits
        raise error(f"nested too deep, or a number too long: {again or 'write an object'}") from None
    if not isinstance(data, dict):
        raise error(f"holds {kind(data)}: {again or 'write an object, {...}'}")
    return data


class Part:
    """An unfinished file beside `path`, of this writer alone, which takes the name when it is finished.

    Raises OSError.
    """

    def __init__(self, path: str | Path) -> None:
        self.target = Path(os.path.realpath(path))  # a link stays a link
        self.path = self.target.with_name(f"{self.target.name}.{secrets.token_hex(4)}.part")
        lock = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)  # less the umask, as open() does it
        self._mode, self._lock = stat.S_IMODE(os.fstat(lock).st_mode), lock
        if fcntl:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            self._unlock()

    def keep(self, path: str | Path | None = None) -> None:
        """Gives the file its name, or another one. Raises OSError; the file then stays as it is."""
        os.chmod(self.path, self._mode)  # some libraries replace it by one that others may not read
        os.replace(self.path, self.target if path is None else path)
        self._unlock()

    def drop(self) -> None:
        """Removes it, if it did not get its name."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def remove_left(path: str | Path) -> list[Path]:
    """Removes what killed writers of `path` left beside it, and returns the names.

    A folder that was moved away for a new one, which then did not take its place, comes back.
    """
    gone, path = [], Path(os.path.realpath(path))
    for old in path.parent.glob(escape(path.name) + _OLD):
        part = old.with_suffix(".part")
        with suppress(OSError), _locked(part if part.exists() else old):
            shutil.rmtree(old) if path.exists() else os.replace(old, path)
    for part in path.parent.glob(escape(path.name) + _PART):
        with suppress(OSError):  # somebody is writing it
            with _locked(part):
                shutil.rmtree(part) if part.is_dir() else part.unlink()
            gone.append(part)
    return gone


@contextmanager
def _locked(part: Path) -> Iterator[None]:
    """A file or folder that nobody else writes meanwhile. Raises OSError if somebody does, or who knows."""
    folder = part.is_dir()
    if not fcntl:
        if folder:
            raise OSError(f"{part}: cannot be locked here")
        yield
        return
    lock = os.open(part, os.O_RDONLY if folder else os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)


@contextmanager
def part_folder(folder: Path) -> Iterator[Path]:
    """An unfinished folder beside `folder`, of this writer alone, which is gone when the block ends, if it is still
    there; so is what killed writers left. Raises OSError."""
    remove_left(folder)
    part = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.part")
    part.mkdir(parents=True)
    try:
        with _locked(part) if fcntl else nullcontext():
            yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def whole_file(path: str | Path, error: Error = StoryError) -> Iterator[Path]:
    """A path to write to: the file takes its place when the block ends well, and is gone otherwise.

    Raises `error` if the disk refuses.
    """
    with writing(path, error):
        remove_left(path)
        part = Part(path)
        try:
            yield part.path
            part.keep()
        finally:
            part.drop()


def write_text(path: str | Path, text: str, error: Error = StoryError) -> None:
    """Writes text, whole or not at all; a device or a pipe is written to as it is. Raises `error`."""
    with writing(path, error):
        if Path(path).exists() and not Path(path).is_file():
            Path(path).write_text(text, encoding="utf-8")
            return
    with whole_file(path, error) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def whole_folder(folder: str | Path, error: Error = StoryError, replace: bool = False) -> Iterator[Path]:
    """A folder to write into, which takes its name when the block ends well and is gone otherwise.

    replace: a folder that is there already goes when the new one is whole; otherwise it must be empty.

    Raises `error` if it cannot be written, or is there already.
    """
    with writing(folder, error):
        remove_left(folder)
        if not replace:
            check_new(folder, error)
        folder = Path(os.path.realpath(folder))
        with part_folder(folder) as part:
            old = part.with_suffix(".old")
            try:
                yield part
                share(part)
                if folder.exists():
                    os.replace(folder, old)
                os.replace(part, folder)
            finally:
                if old.exists() and not folder.exists():
                    os.replace(old, folder)
                shutil.rmtree(old, ignore_errors=True)


def check_name(path: Path, option: str) -> None:
    """Raises StoryError for a name that no file can have: too long, with a zero byte."""
    with writing(option, StoryError), suppress(FileNotFoundError, NotADirectoryError):
        path.stat()


def check_new(folder: str | Path, error: Error = StoryError) -> None:
    """Raises `error` unless a new folder can take the name, or an empty one has it."""
    with writing(folder, error), suppress(FileNotFoundError):
        if any(Path(folder).iterdir()):
            raise error(f"{shown(folder)}: is there already: name a new folder")


def share(folder: Path) -> None:
    """Lets others read the weights in a folder as they may read the folder; safetensors writes for the owner alone."""
    for file in folder.rglob("*.safetensors"):
        file.chmod(stat.S_IMODE(folder.stat().st_mode) & 0o666)


@contextmanager
def writing(path: str | Path, error: Error, fix: str = "") -> Iterator[None]:
    """Says in one line that the disk refused, and how to fix it if not in the usual way."""
    try:
        yield
    except ShotStreamError:
        raise
    except (SafetensorError, RuntimeError) as problem:
        if isinstance(problem, RuntimeError) and "inline_container" not in str(problem):  # not torch.save's
            raise
        raise error(f"{shown(path)}: cannot be written ({reason(problem)}): {fix or 'make room there'}") from None
    except (OSError, ValueError) as problem:
        if isinstance(problem, ValueError) and str(problem) != "embedded null byte":  # not the name's
            raise
        full = getattr(problem, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = fix or ("make room there" if full else "choose another place")
        raise error(f"{shown(path)}: cannot be written ({reason(problem)}): {fix}") from None


def shown(path: str | Path) -> str:
    """A file's name as a line can hold it."""
    name = str(path)
    name = name if name.isprintable() else ascii(name)[1:-1]
    return name if len(name) <= 200 else f"{name[:100]}...{name[-60:]}"
