"""What the subcommands share: exit codes, complaints, and where a model goes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shotstream_lite.story import StoryError

if TYPE_CHECKING:
    from shotstream_lite.fit import Plan

BAD_INPUT = 2
INTERRUPTED = 130


def is_complaint(error: ValueError) -> bool:
    """StoryError, FilmError, CodecError, CheckpointError, ParityError: one line that says what to mend."""
    return type(error).__module__.startswith("shotstream_lite.")


@contextmanager
def about(place: str | Path) -> Iterator[None]:
    """Puts the file or the option before a complaint."""
    try:
        yield
    except ValueError as error:
        if not is_complaint(error):
            raise
        raise StoryError(f"{place}: {error}") from None


def place(
    preset: str, device: str | None, float8: bool, changes: dict[str, Any], download: bool = True
) -> "tuple[str, Plan]":
    """The device, and how the model fits there; for a large one that is said before it is loaded."""
    from shotstream_lite.fit import check_device, choose, default_device
    from shotstream_lite.presets import find_folder, load_settings

    settings = load_settings(find_folder(preset))
    device = check_device(device) if device else default_device(settings)
    try:
        settings.changed(changes)
    except StoryError:  # said later, with the name of the file it stands in
        changes = {}
    fit = choose(preset, device, changes, download, float8)
    if fit.need:
        print(f"shotstream: {fit.line(preset, device)}", file=sys.stderr)
    return device, fit.plan
