"""What all figures share: colours, style, and how a figure comes to the page.

Colours mean the same everywhere and are told apart by colour-blind readers; every shot has its own tint and hatch.
"""

import base64
import io
from collections.abc import Callable
from functools import partial, wraps

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

COLOURS = {
    "global cache": "#0072B2",
    "local cache": "#E69F00",
    "noise": "#999999",
    "teacher": "#009E73",
    "student": "#D55E00",
    "critic": "#CC79A7",
}
SHOT_TINTS = (
    "#cfe3f2",
    "#fbe3b8",
    "#cdeee2",
    "#f6d3c2",
    "#f1dce8",
    "#e3e3e3",
    "#dfe8c8",
    "#d8d4ef",
    "#f7efb0",
    "#cfeaea",
)
HATCHES = ("", "//", "..", "\\\\", "xx", "--", "oo", "||", "++", "**")

_STYLE = {
    "figure.dpi": 80,
    "font.size": 14,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.color": "#8a8a8a",
    "hatch.linewidth": 0.5,
    "lines.linewidth": 2.5,
    "legend.frameon": False,
}
MARKS = ("o", "s", "^", "D", "v", "P")


class Sheet(Figure):
    """A figure that goes to the page in few bytes: notebooks are stored with their pictures."""

    def png(self) -> bytes:
        """The figure as a PNG file of 96 colours."""
        drawn, small = io.BytesIO(), io.BytesIO()
        self.savefig(drawn, format="png", dpi=80, bbox_inches="tight")
        Image.open(drawn).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        return small.getvalue()

    def words(self) -> str:
        """What it shows, for who cannot see it: all titles, and the names of axes and lines."""
        said = [self.get_suptitle()]
        for axis in self.axes:
            said += [
                axis.get_title(),
                axis.get_title(loc="left"),
                axis.get_xlabel(),
                axis.get_ylabel(),
                *axis.get_legend_handles_labels()[1],
            ]
        words = dict.fromkeys(" ".join(text.split()) for text in said if text)
        return f"figure: {'; '.join(words)}" if words else "figure"

    def _ipython_display_(self) -> None:  # goes before what matplotlib has told IPython about figures
        picture = {"image/png": base64.b64encode(self.png()).decode(), "text/plain": self.words()}
        display(picture, metadata={"image/png": {"alt": self.words()}}, raw=True)


subplots = partial(plt.subplots, FigureClass=Sheet, layout="constrained")


def drawn(draw: Callable[..., Sheet]) -> Callable[..., Sheet]:
    """In our style, and handed over instead of being shown twice."""

    @wraps(draw)
    def styled(*args, **options) -> Sheet:
        with plt.rc_context(_STYLE):
            figure = draw(*args, **options)
        plt.close(figure)
        return figure

    return styled


def legend_above(figure: Sheet, axis: plt.Axes) -> None:
    """Where no curve can run through it."""
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(3, len(names)))


def still(figure: Figure) -> np.ndarray:
    """A figure as one frame of a film. Shape: uint8 [H, W, 3], even sides."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3]
    return picture[: len(picture) // 2 * 2, : picture.shape[1] // 2 * 2].copy()
