"""The standing figures of the notebooks, each one function, drawn from live objects.

Colours mean the same everywhere and are told apart by colour-blind readers; every shot has its own tint and hatch.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from textwrap import shorten

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from shotstream_lite.cache import ShotCache
from shotstream_lite.evaluation.statistics import interval
from shotstream_lite.film import film_strip
from shotstream_lite.pipeline import Context
from shotstream_lite.presets import StreamSettings
from shotstream_lite.rope import SHOT_PHASE, rope_frequencies

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
_MARKS = ("o", "s", "^", "D", "v", "P")


class Sheet(Figure):
    """A figure that goes to the page in few bytes: notebooks are stored with their pictures."""

    def png(self) -> bytes:
        """The figure as a PNG file of 256 colours."""
        drawn, small = io.BytesIO(), io.BytesIO()
        self.savefig(drawn, format="png", dpi=80, bbox_inches="tight")
        Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        return small.getvalue()

    def words(self) -> str:
        """What it shows, for who cannot see it: all titles, and the names of axes and lines."""
        said = [self.get_suptitle()]
        for axis in self.axes:
            said += [axis.get_title(), axis.get_xlabel(), axis.get_ylabel(), *axis.get_legend_handles_labels()[1]]
        words = dict.fromkeys(" ".join(text.split()) for text in said if text)
        return f"figure: {'; '.join(words)}" if words else "figure"

    def _ipython_display_(self) -> None:  # goes before what matplotlib has told IPython about figures
        picture = {"image/png": base64.b64encode(self.png()).decode(), "text/plain": self.words()}
        display(picture, metadata={"image/png": {"alt": self.words()}}, raw=True)


_subplots = partial(plt.subplots, FigureClass=Sheet)


def _figure(draw: Callable[..., Sheet]) -> Callable[..., Sheet]:
    """In our style, and handed over instead of being shown twice."""

    @wraps(draw)
    def styled(*args, **options) -> Sheet:
        with plt.rc_context(_STYLE):
            figure = draw(*args, **options)
        plt.close(figure)
        return figure

    return styled


@_figure
def strip(
    shots: Sequence[np.ndarray],
    captions: Sequence[str] = (),
    real: Sequence[np.ndarray] = (),
    columns: int = 6,
    names: tuple[str, str] = ("drawn", "made"),
) -> Sheet:
    """Film strip: a row a shot, time to the right, the prompt above; real film, if given, above what was made.

    Args:
        shots, real: uint8 [f, H, W, 3] each; captions: one a shot.
    """
    rows = [[real[i], shot] if len(real) else [shot] for i, shot in enumerate(shots)]
    aspect = len(rows[0]) * shots[0].shape[1] / (columns * shots[0].shape[2])
    figure, axes = _subplots(
        len(rows), 1, figsize=(11, len(rows) * (11 * aspect + 0.42)), squeeze=False, layout="constrained"
    )
    for i, (axis, row) in enumerate(zip(axes[:, 0], rows, strict=True)):
        axis.imshow(film_strip(row, columns), interpolation="nearest")
        title = f"{i + 1}: {captions[i]}" if len(captions) else ""
        axis.set_title(shorten(title, 90, placeholder=" ..."), loc="left")
        height = shots[0].shape[1]
        axis.set_xticks([])
        axis.set_yticks([height / 2, 1.5 * height] if len(row) == 2 else [], names[: len(row) if len(row) == 2 else 0])
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    return figure


@_figure
def history(shots: Sequence[np.ndarray], picked: Sequence[tuple[int, int]], columns: int = 9) -> Sheet:
    """Which frames of earlier shots are remembered: those are framed in blue, with their number; the others fade.

    Args:
        shots: uint8 [f, H, W, 3] each; picked: (shot, frame) as from `history.select`.
    """
    height, width = shots[0].shape[1:3]
    figure, axes = _subplots(
        len(shots), 1, figsize=(11, len(shots) * (11 * height / columns / width + 0.06) + 0.6), squeeze=False
    )
    figure.subplots_adjust(left=0.09, right=0.995, top=1 - 0.5 / figure.get_figheight(), bottom=0.02, hspace=0.06)
    for index, (axis, shot) in enumerate(zip(axes[:, 0], shots, strict=True)):
        kept = [frame for owner, frame in picked if owner == index]
        spread = np.linspace(0, len(shot) - 1, columns).round().astype(int)
        for frame in kept:  # the shown frame nearest to a remembered one gives way to it
            spread[np.abs(spread - frame).argmin()] = frame
        row = film_strip([shot[spread]], columns).astype(float)
        axis.imshow(row / 255, alpha=1.0 if kept else 0.35, interpolation="nearest", aspect="auto")
        for column, frame in enumerate(spread):
            left = column * (width + 2)
            if frame in kept:
                box = Rectangle((left, 0), width, height - 1, fill=False, lw=5, ec=COLOURS["global cache"])
                axis.add_patch(box)
                axis.text(left + 4, height - 5, str(frame), color="white", weight="bold", backgroundcolor="#0072B2")
            elif kept:
                axis.add_patch(Rectangle((left - 1, -1), width + 2, height + 1, color="white", alpha=0.6, lw=0))
        axis.set_axis_off()
        axis.text(-0.01, 0.5, f"shot {index + 1}", transform=axis.transAxes, ha="right", va="center")
    remembered = f"{len(picked)} frames remembered" if picked else "nothing remembered"
    axes[0, 0].set_title(f"{remembered}, of {sum(map(len, shots))}", loc="left")
    return figure


@_figure
def token_timeline(context: Context, settings: StreamSettings, sigmas: Sequence[float | None]) -> Sheet:
    """One box a latent frame: its shot, position, phase, noise level, and which memory it lives in.

    Args:
        sigmas: noise level of each latent of the shot; None where nothing is yet, 0 once in the local cache.
    """
    figure, axis = _subplots(figsize=(13, 3.6), layout="constrained")
    ids = [*context.shot_ids, *[context.shot_id] * len(sigmas)]
    first = settings.budget - len(context.shot_ids)  # fewer context frames leave the shot where it is
    for slot, shot in enumerate(ids):
        x = slot if slot < len(context.shot_ids) else slot + first
        sigma = 0.0 if slot < len(context.shot_ids) else sigmas[slot - len(context.shot_ids)]
        memory = "global cache" if slot < len(context.shot_ids) else "local cache" if sigma == 0 else "noise"
        empty = sigma is None
        axis.add_patch(
            Rectangle(
                (x + 0.06, 0),
                0.88,
                1,
                fc="white" if empty else SHOT_TINTS[shot % 10],
                ec=COLOURS[memory],
                lw=1.5 if empty else 5,
                ls="--" if empty else "-",
                hatch="" if empty else HATCHES[shot % 10],
            )
        )
        lines = f"{shot}\n{x}\n{shot * settings.phase:.2f}\n{'' if empty else f'{float(sigma):.2f}'}"
        plate = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        axis.text(x + 0.5, 0.5, lines, ha="center", va="center", bbox=plate, linespacing=1.5)
    for chunk in range(settings.chunk, len(sigmas), settings.chunk):
        axis.axvline(settings.budget + chunk, 0, 0.9, color="#555555", lw=1, ls=":")
    axis.text(-0.15, 0.5, "shot\nposition\nphase (rad)\nnoise level", ha="right", va="center", linespacing=1.5)
    axis.set(xlim=(-2.4, settings.budget + len(sigmas)), ylim=(-0.08, 1.1))
    axis.set_axis_off()
    memories = {"global cache": "in the global cache", "local cache": "in the local cache", "noise": "being made"}
    handles = [Patch(fc="white", ec=COLOURS[name], lw=4, label=label) for name, label in memories.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


@_figure
def mask_and_cache(mask: Tensor, cache: ShotCache, chunk: int) -> Sheet:
    """Who may look at whom, beside what is really stored for it.

    Args:
        mask: bool [context + shot] squared, rows look at columns (`transformer.causal_mask`).
    """
    context, frames = cache.context_frames, len(mask) - cache.context_frames
    own = torch.cat((torch.zeros(context), torch.arange(frames) // chunk + 1))
    kinds = torch.where(own[:, None] == own[None, :], 3, torch.where(own[None, :] == 0, 1, 2)) * mask
    palette = ("#ffffff", COLOURS["global cache"], COLOURS["local cache"], COLOURS["noise"])
    figure, (left, right) = _subplots(1, 2, figsize=(13, 5.6), width_ratios=(1, 1), layout="constrained")
    for row, column in mask.nonzero().tolist():
        kind = int(kinds[row, column])
        kind = 1 if column < context else kind
        style = {"fc": palette[kind], "hatch": ("", "", "//", "..")[kind], "ec": "white", "lw": 1}
        left.add_patch(Rectangle((column, row), 1, 1, **style))
    for edge in (context, *range(context + chunk, len(mask), chunk)):
        left.axhline(edge, color="#444444", lw=1)
        left.axvline(edge, color="#444444", lw=1)
    left.set(xlim=(0, len(mask)), ylim=(len(mask), 0), xlabel="looked at: latent frame", ylabel="looking: latent frame")
    left.set_aspect("equal")
    left.set_title("who may look at whom")
    frame_bytes = sum(x[:1, :, : cache.frame_tokens].nbytes for x in (*cache.keys, *cache.values))
    names = ["global cache", "local cache"]
    kibs = [context * frame_bytes / 1024, frames * frame_bytes / 1024]
    bars = right.barh(names, kibs, color=[COLOURS[name] for name in names], hatch=["", "//"], ec="white")
    right.bar_label(bars, [f" {kib:,.0f} KiB, {n} frames" for kib, n in zip(kibs, (context, frames), strict=True)])
    right.set(xlabel="keys and values, KiB", xlim=(0, 1.75 * max(kibs)))
    right.invert_yaxis()
    right.set_title("what is stored")
    patches = [
        Patch(fc=palette[1], label="global"),
        Patch(fc=palette[2], hatch="//", label="earlier chunks"),
        Patch(fc=palette[3], hatch="..", label="own chunk"),
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, title="the chunk being made looks at")
    return figure


@_figure
def clock_faces(frames_apart: float, shots_apart: int, head_dim: int, phase: float = SHOT_PHASE) -> Sheet:
    """One clock a temporal frequency: how far a key is turned against a query without a cut between them, and with.

    Args:
        frames_apart: query position minus key position; head_dim: of the model, settles the frequencies.
    """
    frequencies = rope_frequencies(head_dim)[0]
    columns = min(6, len(frequencies))
    shown = torch.linspace(0, len(frequencies) - 1, columns).round().long()
    figure, axes = _subplots(
        1, columns, figsize=(13, 3.4), subplot_kw={"projection": "polar"}, squeeze=False, layout="constrained"
    )
    for axis, pair in zip(axes[0], shown.tolist(), strict=True):
        before = frames_apart * float(frequencies[pair])
        after = before + shots_apart * phase
        axis.set_theta_zero_location("N")
        axis.set_theta_direction(-1)
        axis.plot([0, before], [0, 1], color=COLOURS["noise"], lw=5, label="same shot")
        axis.plot([0, after], [0, 1], color=COLOURS["student"], lw=3, label=f"{shots_apart} shots apart")
        axis.set_xticks(np.arange(4) * np.pi / 2, ["0", "π/2", "π", "3π/2"], fontsize=12)
        axis.set_yticks([])
        axis.set_title(f"pair {pair}\n{float(frequencies[pair]):.2g} rad a frame", fontsize=12)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@_figure
def attention_budget(shares: Tensor, context_frames: int, chunk: int) -> Sheet:
    """Share of attention on global cache, local cache and own chunk: a panel a layer, a bar a head.

    Args:
        shares: [layers, heads, frames], summing to one along the frames (see `classroom.Watched`).
    """
    layers, heads, frames = shares.shape
    parts = {
        "global cache": shares[..., :context_frames].sum(-1),
        "local cache": shares[..., context_frames : frames - chunk].sum(-1),
        "noise": shares[..., frames - chunk :].sum(-1),
    }
    figure, axes = _subplots(1, layers, figsize=(13, 3.8), sharey=True, squeeze=False, layout="constrained")
    for layer, axis in enumerate(axes[0]):
        bottom = np.zeros(heads)
        for (name, part), hatch in zip(parts.items(), ("", "//", ".."), strict=True):
            label = "own chunk" if name == "noise" else name
            axis.bar(
                range(heads), part[layer], bottom=bottom, color=COLOURS[name], hatch=hatch, ec="white", label=label
            )
            bottom += part[layer].numpy()
        axis.set_title(f"layer {layer + 1}")
        axis.set_xticks(range(heads), [str(head + 1) for head in range(heads)])
    axes[0, 0].set_ylabel("share of attention")
    figure.supxlabel("head", fontsize=14)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


@_figure
def particles(
    samples: Tensor,
    real_x0: Tensor,
    fake_x0: Tensor,
    data: Tensor,
    arrows: int = 40,
    who: Sequence[str] = ("teacher", "critic", "student"),
) -> Sheet:
    """The generator's samples on the plane and who pushes them: teacher, critic, and the difference of the two.

    Args:
        who: whose arrows, a panel each.

    Shape:
        samples, real_x0, fake_x0: [n, 2], what teacher and critic see in each sample; data: [m, 2]
    """
    panels = {
        "teacher": ("the teacher pulls to the data", real_x0 - samples),
        "critic": ("the critic pulls to where samples are", fake_x0 - samples),
        "student": ("the difference moves the student", real_x0 - fake_x0),
    }
    width = 14 if len(who) > 1 else 6.4
    size = (width, 0.65 * width / len(who) + 0.6)
    figure, axes = _subplots(1, len(who), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained")
    some = torch.linspace(0, len(samples) - 1, min(arrows, len(samples))).long()
    for axis, name in zip(axes[0], who, strict=True):
        title, push = panels[name]
        axis.scatter(*data.T, s=8, color=COLOURS["noise"], alpha=0.35, label="data")
        axis.scatter(*samples.T, s=10, color=COLOURS["student"], marker="^", alpha=0.5, label="samples")
        axis.quiver(
            *samples[some].T, *push[some].T, color=COLOURS[name], angles="xy", scale_units="xy", scale=1, width=0.007
        )
        axis.set_title(title, fontsize=14)
        axis.set_aspect("equal")
        axis.set(xlim=(-3.2, 3.2), ylim=(-2, 2))
    axes[0, 0].legend(loc="upper left", markerscale=2, fontsize=12)
    return figure


@_figure
def memory_scorecard(shots: Mapping[str, Mapping[str, bool | None]]) -> Sheet:
    """Which unmentioned attributes came through the cut, shot by shot; None is not to be seen in that shot.

    Args:
        shots: by the name of the shot (or of the run), attribute to right or wrong.
    """
    attributes = list(dict.fromkeys(name for seen in shots.values() for name in seen))
    figure, axis = _subplots(figsize=(2.6 + 1.5 * len(shots), 1.0 + 0.62 * len(attributes)), layout="constrained")
    looks = {
        True: ("#0072B2", "white", "✓"),
        False: ("#f4d9cc", "#8a3000", "✗"),
        None: ("#f2f2f2", "#777777", "–"),
    }
    for column, seen in enumerate(shots.values()):
        for row, name in enumerate(attributes):
            fill, ink, mark = looks[seen.get(name)]
            axis.add_patch(Rectangle((column, row), 1, 1, fc=fill, ec="white", lw=3))
            axis.text(column + 0.5, row + 0.5, mark, color=ink, ha="center", va="center", fontsize=20)
    axis.set(xlim=(0, len(shots)), ylim=(len(attributes), 0))
    axis.set_xticks(np.arange(len(shots)) + 0.5, list(shots))
    axis.set_yticks(np.arange(len(attributes)) + 0.5, attributes)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


@_figure
def drift(
    curves: Mapping[str, Sequence[Sequence[float]]],
    x: Sequence[float] | None = None,
    xlabel: str = "shot",
    ylabel: str = "quality",
    chance: float | None = None,
) -> Sheet:
    """Quality by shot (or by whatever is turned), mean and 95 % bootstrap interval of many films.

    Args:
        curves: by name, for each place on the x axis the values of all films; chance: what blind guessing would get.
    """
    figure, axis = _subplots(figsize=(9, 4.6), layout="constrained")
    for number, (name, values) in enumerate(curves.items()):
        where = list(range(1, len(values) + 1)) if x is None else list(x)
        mean, low, high = np.array([_mean_and_interval(v) for v in values]).T
        colour = COLOURS.get(name, list(COLOURS.values())[number % len(COLOURS)])
        errors = (np.maximum(0, mean - low), np.maximum(0, high - mean))
        axis.errorbar(where, mean, errors, color=colour, marker=_MARKS[number % 6], ms=8, capsize=4, label=name)
    if chance is not None:
        axis.axhline(chance, color="#555555", ls=":", lw=2, label="blind guess")
    if x is None:  # shots and chunks are counted
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel=xlabel, ylabel=ylabel)
    _legend_above(figure, axis)
    return figure


@_figure
def lines(
    x: Sequence[float] | Tensor, curves: Mapping[str, Sequence[float] | Tensor], xlabel: str, ylabel: str
) -> Sheet:
    """Plain curves over one axis, told apart by colour and marker; a later one lies thinner on those before it."""
    figure, axis = _subplots(figsize=(9, 4.2), layout="constrained")
    every = max(1, len(x) // 10)
    for number, (name, values) in enumerate(curves.items()):
        colour = COLOURS.get(name, list(COLOURS.values())[number % len(COLOURS)])
        wider = 5 * (len(curves) - 1 - number) / len(curves)  # so that curves of one height are all seen
        size = {"lw": 2.5 + wider, "ms": 7 + wider}
        axis.plot(x, values, color=colour, marker=_MARKS[number % 6], markevery=every, label=name, **size)
    if all(float(value).is_integer() for value in x):  # shots, chunks and steps are counted
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel=xlabel, ylabel=ylabel)
    _legend_above(figure, axis)
    return figure


@_figure
def bars(scores: Mapping[str, Sequence[float]], ylabel: str, chance: float | None = None) -> Sheet:
    """One bar a variant with its 95 % bootstrap interval, over single values of 0..1 or any other unit."""
    figure, axis = _subplots(figsize=(max(6, 1.7 * len(scores)), 4.2), layout="constrained")
    mean, low, high = np.array([_mean_and_interval(v) for v in scores.values()]).T
    palette = list(COLOURS.values())
    colours = [COLOURS.get(name, palette[i % len(palette)]) for i, name in enumerate(scores)]
    errors = (np.maximum(0, mean - low), np.maximum(0, high - mean))
    axis.bar(range(len(scores)), mean, color=colours, hatch=list(HATCHES[: len(scores)]), ec="white")
    axis.errorbar(range(len(scores)), mean, errors, fmt="none", ecolor="#222222", capsize=6)
    if chance is not None:
        axis.axhline(chance, color="#555555", ls=":", lw=2)
        axis.text(1.01, chance, "blind\nguess", transform=axis.get_yaxis_transform(), va="center", color="#333333")
    axis.set_xticks(range(len(scores)), list(scores))
    axis.set_ylabel(ylabel)
    return figure


@_figure
def score_table(rows: Mapping[str, Mapping[str, float]], reference: str) -> Sheet:
    """Scores of 0..1, a row a kind of film, a column a measure; what reaches the film `reference` is framed.

    nan is not asked and left empty.
    """
    columns = list(rows[reference])
    figure, axis = _subplots(figsize=(3.4 + 1.6 * len(columns), 1.2 + 0.55 * len(rows)), layout="constrained")
    axis.imshow([list(row.values()) for row in rows.values()], cmap="Blues", vmin=0, vmax=1.4, aspect="auto")
    for line, (name, row) in enumerate(rows.items()):
        for column, (measure, value) in enumerate(row.items()):
            axis.text(column, line, "" if np.isnan(value) else f"{value:.2f}", ha="center", va="center")
            if name != reference and value >= rows[reference][measure]:
                box = Rectangle((column - 0.46, line - 0.42), 0.92, 0.84, fill=False, ec=COLOURS["student"], lw=4)
                axis.add_patch(box)
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), list(rows))
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


@_figure
def cuts(planned: Sequence[int], found: Sequence[int], frames: int, title: str) -> Sheet:
    """A film as a bar, the planned cuts above and the found ones below; frames are counted from 0."""
    figure, axis = _subplots(figsize=(11, 2.4), layout="constrained")
    axis.add_patch(Rectangle((0, 0), frames, 1, fc="#eeeeee", ec="none"))
    axis.vlines(planned, 0.5, 1, color=COLOURS["global cache"], lw=6)
    axis.vlines(found, 0, 0.5, color=COLOURS["student"], lw=6, ls=(0, (0.6, 0.3)))
    axis.set(xlim=(0, frames), ylim=(0, 1), xlabel="frame")
    axis.set_yticks([0.25, 0.75], ["found", "planned"])
    axis.set_title(title, loc="left")
    return figure


@_figure
def pictures(images: Mapping[str, np.ndarray | Tensor], columns: int = 6, height: float = 1.9) -> Sheet:
    """Small pictures with a name each: uint8 [H, W, 3], or a plane of numbers [H, W], which is shown in grey."""
    rows = -(-len(images) // columns)
    columns = min(columns, len(images))
    figure, axes = _subplots(rows, columns, figsize=(13, rows * height), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, image) in zip(axes.flat, images.items(), strict=False):
        image = np.asarray(image)
        axis.imshow(image, cmap=None if image.ndim == 3 else "gray", interpolation="nearest")
        axis.set_title(name, fontsize=13)
    return figure


@_figure
def memory(needs: Mapping[str, Mapping[str, float]], free: float | None = None) -> Sheet:
    """What models or ways to place one take: a bar each, a colour a part, in GiB; `free` is what there is."""
    figure, axis = _subplots(figsize=(11, 2.2 + 0.6 * len(needs)), layout="constrained")
    parts = list(dict.fromkeys(part for need in needs.values() for part in need))
    palette = list(COLOURS.values())
    left = np.zeros(len(needs))
    for i, part in enumerate(parts):
        sizes = np.array([need.get(part, 0.0) for need in needs.values()])
        look = {"color": palette[i % len(palette)], "hatch": HATCHES[i % len(HATCHES)]}
        axis.barh(range(len(needs)), sizes, left=left, ec="white", label=part, **look)
        left += sizes
    for row, total in enumerate(left):
        axis.text(total, row, f" {total:.3g}", va="center")
    if free is not None:
        axis.axvline(free, color="#222222", ls=":", label="free now")
    axis.set(xlabel="GiB", xlim=(0, 1.12 * max(*left, free or 0)))
    axis.set_yticks(range(len(needs)), list(needs))
    axis.invert_yaxis()
    _legend_above(figure, axis)
    return figure


@_figure
def looked_at(picture: np.ndarray, patch: tuple[int, int], memory: Mapping[str, np.ndarray], weights: Tensor) -> Sheet:
    """Where a patch of a shot looks in the remembered frames: the more, the redder; with each frame's share.

    Args:
        picture: uint8 [H, W, 3]; patch: its row and column of tokens; memory: remembered frames by name, like picture.

    Shape:
        weights: [frames, rows, columns], parts of the patch's whole attention, which is one
    """
    height, width = picture.shape[:2]
    rows, columns = weights.shape[1:]
    figure, axes = _subplots(2, -(-len(memory) // 2) + 1, figsize=(13, 5), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    left, *others = *axes[:, 0], *axes[:, 1:].flat
    left.imshow(picture, interpolation="nearest")
    tall, wide = height / rows, width / columns
    place = (patch[1] * wide - 0.5, patch[0] * tall - 0.5)
    left.add_patch(Rectangle(place, wide, tall, fill=False, ec=COLOURS["student"], lw=4))
    left.set_title("the patch that looks", fontsize=13)
    strongest = float(weights.max()) or 1.0
    for axis, (name, image), weight in zip(others[1:], memory.items(), weights, strict=False):
        axis.imshow(image.mean(-1), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        heat = np.zeros((rows, columns, 4))
        heat[..., :3] = to_rgb(COLOURS["student"])
        heat[..., 3] = 0.85 * np.asarray(weight) / strongest
        axis.imshow(heat, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest")
        axis.set_title(f"{name}: {float(weight.sum()):.1%}", fontsize=13)
    return figure


def _legend_above(figure: Sheet, axis: plt.Axes) -> None:
    """Where no curve can run through it."""
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(3, len(names)))


def _mean_and_interval(values: Sequence[float]) -> tuple[float, float, float]:
    return tuple(interval(np.asarray(values, dtype=float)[:, None]))


def still(figure: Figure) -> np.ndarray:
    """A figure as one frame of a film. Shape: uint8 [H, W, 3], even sides."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3]
    return picture[: len(picture) // 2 * 2, : picture.shape[1] // 2 * 2].copy()
