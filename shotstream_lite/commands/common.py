"""What the subcommands share: exit codes, signals, options that cannot be read, and where a model goes."""

import importlib.util
import io
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from shotstream_lite.errors import StoryError

if TYPE_CHECKING:
    from shotstream_lite.models.placement import Plan

BAD_INPUT = 2
INTERRUPTED = 130
MOST = 100_000
"""Stories, or shots of one, that are made at once; weeks of work."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP (a closed terminal, a job's end, a classroom's server) stop the work as Ctrl-C does."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):  # Windows has no second
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores it
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def in_one_line(parse: Callable[[], Any]) -> Any:
    """What tyro makes of a command line; what it says of a bad one, boxes and all, in one line: StoryError."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return parse()
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        lines = [line.strip("│ ") for line in said.getvalue().splitlines() if not line.startswith(("╭", "╰"))]
        if lines[1:2] and re.fullmatch("-{5,}", lines[1]):  # a box and its title, where the terminal has no lines
            lines = lines[2:]
        text = re.split("[-─]{5,}", " ".join(lines))[0]
        if wrong := re.match(r"Error parsing (--\S+): .*?\b(int|float)\b[^']*'([^']*)'", text, re.IGNORECASE):
            option, kind, value = wrong.groups()
            fix = "write a whole number" if kind.lower() == "int" else "write a number"
            raise StoryError(f"{option} is {value!r}: {fix}") from None
        text = re.sub(r"Error parsing |usage:.*error: ", "", " ".join(text.split()))
        raise StoryError(f"{text[:300].rstrip('.')}: see --help") from None


def check_count(value: int, option: str) -> None:
    """Raises StoryError unless it is a number of stories or shots that somebody can wait for."""
    if not 1 <= value <= MOST:
        raise StoryError(f"{option} is {value}: write a whole number from 1 to {MOST}")


def check_installed(what: str, *packages: str) -> None:
    """Raises StoryError unless the packages are here that `what` needs."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise StoryError(f"{what} needs {' and '.join(missing)}: pip install 'shotstream_lite[train]'")


def check_unused(command: Any, when: str, *options: str) -> None:
    """Raises StoryError if one of the options was given, which do nothing `when`, such as "with --count"."""
    for field in fields(command):
        if field.name in options and getattr(command, field.name) != field.default:
            raise StoryError(f"--{field.name.replace('_', '-')} does nothing {when}: leave it out")


def place(
    preset: str, device: str | None, float8: bool, changes: dict[str, Any], download: bool = True
) -> "tuple[str, Plan]":
    """The device, and how the model fits there; for a large one that is said before it is loaded."""
    from shotstream_lite.models.folder import find_folder
    from shotstream_lite.models.placement import check_device, choose, default_device
    from shotstream_lite.models.settings import load_settings

    settings = load_settings(find_folder(preset))
    device = check_device(device) if device is not None else default_device(settings)
    try:
        settings.changed(changes)
    except StoryError:  # said later, with the name of the file it stands in
        changes = {}
    fit = choose(preset, device, changes, download, float8)
    if fit.need:
        print(f"shotstream: {fit.line(preset, device)}", file=sys.stderr)
    return device, fit.plan
