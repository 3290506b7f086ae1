"""The whole system in one picture, which grows from notebook to notebook."""

from collections.abc import Sequence

from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from shotstream_lite.course.plots.sheet import COLOURS, Sheet, drawn, subplots

_WIDE, _TALL = 1.5, 0.62
# centre of each box, and whose colour it has; training stands above, memory below
_PARTS = {
    "story": (0.8, 2, "noise"),
    "text encoder": (2.7, 2, "noise"),
    "transformer": (4.6, 2, "student"),
    "rollout": (6.5, 2, "student"),
    "decode": (8.4, 2, "noise"),
    "film": (10.3, 2, "noise"),
    "history": (10.3, 0.7, "global cache"),
    "encode": (8.4, 0.7, "global cache"),
    "global cache": (4.6, 0.7, "global cache"),
    "local cache": (2.7, 0.7, "local cache"),
    "real score": (2.4, 4.3, "teacher"),
    "teacher": (8.9, 4.3, "teacher"),
    "fake score": (4.6, 3.3, "critic"),
    "critic": (6.5, 3.3, "critic"),
}
_ARROWS = (
    ("story", "text encoder", "->"),
    ("text encoder", "transformer", "->"),
    ("transformer", "rollout", "<->"),
    ("rollout", "decode", "->"),
    ("decode", "film", "->"),
    ("film", "history", "->"),
    ("history", "encode", "->"),
    ("encode", "global cache", "->"),
    ("global cache", "transformer", "->"),
    ("local cache", "transformer", "<->"),
    ("rollout", "critic", "->"),
    ("rollout", "teacher", "->"),
    ("critic", "fake score", "->"),
    ("teacher", "real score", "->"),
    ("fake score", "transformer", "->"),
    ("real score", "transformer", "->"),
)


@drawn
def system(*built: str, new: str | Sequence[str] = ()) -> Sheet:
    """The parts of the system and what passes between them: those built so far in colour, the rest pale and dashed.

    `encode` and `decode` are the codec's two halves; film goes round by history and global cache into the next shot.

    Args:
        built: "story", "text encoder", "history", "encode", "global cache", "local cache", "transformer", "rollout",
            "decode", "film"; for training "teacher", "critic", "real score", "fake score".
        new: what this notebook adds, outlined boldly; it is built too.

    Raises ValueError for a part that there is not.
    """
    new = (new,) if isinstance(new, str) else tuple(new)
    if strange := [part for part in (*built, *new) if part not in _PARTS]:
        raise ValueError(f"there is no part {strange[0]!r}: the parts are {', '.join(_PARTS)}")
    there = {*built, *new}
    figure, axis = subplots(figsize=(13, 4.9))
    for one, other, style in _ARROWS:
        ends = [_PARTS[part][:2] for part in (one, other)]
        both = {one, other} <= there
        look = {"arrowstyle": style, "lw": 2.5 if both else 1, "ls": "-" if both else "--"}
        look |= {"color": "#222222" if both else "#bbbbbb", "shrinkA": 0, "shrinkB": 2, "mutation_scale": 18}
        boxes = [axis.add_patch(_box(*end)) for end in ends]  # arrows end at their edges
        axis.annotate("", ends[1], ends[0], arrowprops=look | {"patchA": boxes[0], "patchB": boxes[1]})
    for part, (x, y, whose) in _PARTS.items():
        box = axis.add_patch(_box(x, y))
        box.set(fc="white", ec="#bbbbbb", ls="--", lw=1, label=part)
        if part in there:
            light = [0.55 + 0.45 * channel for channel in to_rgb(COLOURS[whose])]
            box.set(fc=light, ec=COLOURS[whose], ls="-", lw=2)
        if part in new:
            box.set(ec="black", lw=5)
        axis.text(x, y, part, ha="center", va="center", color="black" if part in there else "#777777")
    axis.set(xlim=(-0.1, 11.2), ylim=(0.2, 4.75))
    axis.set_axis_off()
    axis.set_title(f"in this notebook: {', '.join(new)}" if new else "what is built")
    return figure


def _box(x: float, y: float) -> Rectangle:
    return Rectangle((x - _WIDE / 2, y - _TALL / 2), _WIDE, _TALL, fc="none", ec="none")
