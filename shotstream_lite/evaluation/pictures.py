"""Contact sheets: a story a sheet, a shot a row, real film beside what each teller made of it."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from shotstream_lite.files import whole_file
from shotstream_lite.stills import film_strip

STILLS = 4
LINE, GAP = 14, 8  # a line of text, the white between two tellers; pixels


def stills(shots: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The frames of each shot that a sheet shows, uint8 [STILLS, H, W, 3]."""
    return [shot[np.linspace(0, len(shot) - 1, STILLS).round().astype(int)] for shot in shots]


def contact_sheet(captions: Sequence[str], films: Mapping[str, Sequence[np.ndarray]]) -> np.ndarray:
    """A picture of one story.

    Args:
        captions: one a shot, written above its row.
        films: by their names, the shots of each, uint8 [frames, H, W, 3]; sizes may differ.

    Returns:
        uint8 [rows, columns, 3].
    """
    strips = {name: [film_strip([shot], STILLS) for shot in shots] for name, shots in films.items()}
    widths = [max(strip.shape[1] for strip in rows) for rows in strips.values()]
    heights = [max(rows[shot].shape[0] for rows in strips.values()) for shot in range(len(captions))]
    *tops, bottom = accumulate((LINE + height for height in heights), initial=LINE)
    *lefts, right = accumulate((width + GAP for width in widths), initial=0)
    sheet = Image.new("RGB", (right - GAP, bottom), "white")
    pen = ImageDraw.Draw(sheet)
    for left, (name, rows) in zip(lefts, strips.items(), strict=True):
        pen.text((left, 0), name, "black")
        for top, strip in zip(tops, rows, strict=True):
            sheet.paste(Image.fromarray(strip), (left, top + LINE))
    for number, (top, caption) in enumerate(zip(tops, captions, strict=True), start=1):
        pen.text((0, top), f"{number}. {caption}", "gray")
    return np.asarray(sheet)


def write_sheet(sheet: np.ndarray, path: Path) -> None:
    """Saves a picture as .png, whole or not at all."""
    with whole_file(path) as part:
        Image.fromarray(sheet).save(part, format="PNG")
