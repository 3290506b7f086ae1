"""What the subcommands share: exit codes, and where a model goes."""

import sys
from typing import TYPE_CHECKING, Any

from shotstream_lite.errors import StoryError

if TYPE_CHECKING:
    from shotstream_lite.fit import Plan

BAD_INPUT = 2
INTERRUPTED = 130


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
