"""Pictures of frames: what was made, what is remembered, where a patch looks."""

from collections.abc import Mapping, Sequence
from textwrap import shorten

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from torch import Tensor

from shotstream_lite.course.plots.sheet import COLOURS, Sheet, drawn, subplots
from shotstream_lite.stills import film_strip


@drawn
def strip(
    shots: Sequence[np.ndarray] | Mapping[str, np.ndarray],
    captions: Sequence[str] = (),
    real: Sequence[np.ndarray] = (),
    columns: int = 4,
    names: tuple[str, str] = ("drawn", "made"),
) -> Sheet:
    """Film strip: a row per shot, time to the right, its prompt or name above; real film, if given, above it.

    Args:
        shots, real: uint8 [f, H, W, 3] each, shots with names or without; captions: one per shot.
    """
    titles = list(shots) if isinstance(shots, Mapping) else [f"{i}: {text}" for i, text in enumerate(captions, start=1)]
    shots = list(shots.values()) if isinstance(shots, Mapping) else shots
    rows = [[real[i], shot] if len(real) else [shot] for i, shot in enumerate(shots)]
    aspect = len(rows[0]) * shots[0].shape[1] / (columns * shots[0].shape[2])
    figure, axes = subplots(len(rows), 1, figsize=(11, len(rows) * (11 * aspect + 0.42)), squeeze=False)
    for i, (axis, row) in enumerate(zip(axes[:, 0], rows, strict=True)):
        axis.imshow(film_strip(row, columns))
        axis.set_title(shorten(titles[i], 90, placeholder=" ...") if titles else "", loc="left")
        height = shots[0].shape[1]
        axis.set_xticks([])
        axis.set_yticks([height / 2, 1.5 * height] if len(row) == 2 else [], names[: len(row) if len(row) == 2 else 0])
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    return figure


@drawn
def history(shots: Sequence[np.ndarray], picked: Sequence[tuple[int, int]], columns: int = 9) -> Sheet:
    """Which frames of earlier shots are remembered: those are framed in blue, with their number; the others fade.

    Args:
        shots: uint8 [f, H, W, 3] each; picked: (shot, frame) as from `history.select`.
    """
    height, width = shots[0].shape[1:3]
    size = (11, len(shots) * (11 * height / columns / width + 0.06) + 0.6)
    figure, axes = subplots(len(shots), 1, figsize=size, squeeze=False, layout="none")
    figure.subplots_adjust(left=0.09, right=0.995, top=1 - 0.5 / figure.get_figheight(), bottom=0.02, hspace=0.06)
    for index, (axis, shot) in enumerate(zip(axes[:, 0], shots, strict=True)):
        kept = [frame for owner, frame in picked if owner == index]
        spread = np.linspace(0, len(shot) - 1, columns).round().astype(int)
        for frame in sorted(set(kept) - set(spread)):  # the nearest one that is not remembered gives way to it
            spread[np.where(np.isin(spread, kept), np.inf, np.abs(spread - frame)).argmin()] = frame
        spread.sort()
        row = film_strip([shot[spread]], columns).astype(float)
        axis.imshow(row / 255, alpha=1.0 if kept else 0.35, aspect="auto")
        for column, frame in enumerate(spread):
            left = column * (width + 2)
            if frame in kept:
                box = Rectangle((left, 0), width, height - 1, fill=False, lw=5, ec=COLOURS["global cache"])
                axis.add_patch(box)
                axis.text(
                    left + width // 24,
                    height - height // 13,
                    str(frame),
                    color="white",
                    weight="bold",
                    backgroundcolor="#0072B2",
                )
            elif kept:
                axis.add_patch(Rectangle((left - 1, -1), width + 2, height + 1, color="white", alpha=0.6, lw=0))
        axis.set_axis_off()
        axis.text(-0.01, 0.5, f"shot {index + 1}", transform=axis.transAxes, ha="right", va="center")
    remembered = f"{len(picked)} frames remembered" if picked else "nothing remembered"
    axes[0, 0].set_title(f"{remembered}, of {sum(map(len, shots))}", loc="left")
    return figure


@drawn
def pictures(images: Mapping[str, np.ndarray | Tensor], columns: int = 6, height: float = 1.9) -> Sheet:
    """Small pictures with a name each: uint8 [H, W, 3], or a plane of numbers [H, W], which is shown in grey."""
    rows = -(-len(images) // columns)
    columns = min(columns, len(images))
    figure, axes = subplots(rows, columns, figsize=(13, rows * height), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, image) in zip(axes.flat, images.items(), strict=False):
        image = np.asarray(image)
        axis.imshow(image, cmap=None if image.ndim == 3 else "gray")
        axis.set_title(name, fontsize=13)
    return figure


@drawn
def looked_at(picture: np.ndarray, patch: tuple[int, int], memory: Mapping[str, np.ndarray], weights: Tensor) -> Sheet:
    """Where a patch of a shot looks in the remembered frames: the more, the redder; with each frame's share.

    Args:
        picture: uint8 [H, W, 3]; patch: its row and column of tokens; memory: remembered frames by name, like picture.

    Shape:
        weights: [frames, rows, columns], parts of the patch's whole attention, which is one
    """
    height, width = picture.shape[:2]
    rows, columns = weights.shape[1:]
    figure, axes = subplots(2, -(-len(memory) // 2) + 1, figsize=(13, 5), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    left, *others = *axes[:, 0], *axes[:, 1:].flat
    left.imshow(picture)
    tall, wide = height / rows, width / columns
    place = (patch[1] * wide - 0.5, patch[0] * tall - 0.5)
    left.add_patch(Rectangle(place, wide, tall, fill=False, ec=COLOURS["student"], lw=4))
    left.set_title("the patch that looks", fontsize=13)
    strongest = float(weights.max()) or 1.0
    for axis, (name, image), weight in zip(others[1:], memory.items(), weights, strict=False):
        axis.imshow(image.mean(-1), cmap="gray", vmin=0, vmax=255)
        heat = np.zeros((rows, columns, 4))
        heat[..., :3] = to_rgb(COLOURS["student"])
        heat[..., 3] = 0.85 * np.asarray(weight) / strongest
        axis.imshow(heat, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        axis.set_title(f"{name}: {float(weight.sum()):.1%}", fontsize=13)
    return figure
