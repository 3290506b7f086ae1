"""The inside of the model: tokens, masks and caches, phases, attention, the gradient of distillation."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from shotstream_lite.cache import ShotCache
from shotstream_lite.context import Context
from shotstream_lite.course.plots.sheet import COLOURS, HATCHES, SHOT_TINTS, Sheet, drawn, subplots
from shotstream_lite.models.settings import StreamSettings
from shotstream_lite.rope import SHOT_PHASE, rope_frequencies


@drawn
def token_timeline(context: Context, settings: StreamSettings, sigmas: Sequence[float | None]) -> Sheet:
    """One box a latent frame: its shot, position, phase, noise level, and which memory it lives in.

    Args:
        sigmas: noise level of each latent of the shot; None where nothing is yet, 0 once in the local cache.
    """
    figure, axis = subplots(figsize=(13, 3.6))
    past = [(slot, shot, 0.0, "global cache") for slot, shot in enumerate(context.shot_ids)]
    own = enumerate(sigmas, start=settings.budget)  # fewer context frames leave the shot where it is
    own = [(x, context.shot_id, sigma, "local cache" if sigma == 0 else "noise") for x, sigma in own]
    for x, shot, sigma, memory in (*past, *own):
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


@drawn
def mask_and_cache(mask: Tensor, cache: ShotCache, chunk: int) -> Sheet:
    """Who may look at whom, beside what is really stored for it.

    Args:
        mask: bool [context + shot] squared, rows look at columns (`transformer.causal_mask`).
    """
    context, frames = cache.context_frames, len(mask) - cache.context_frames
    own = torch.cat((torch.zeros(context, device="cpu"), torch.arange(frames, device="cpu") // chunk + 1))
    kinds = torch.where(own[:, None] == own[None, :], 3, torch.where(own[None, :] == 0, 1, 2)) * mask
    palette = ("#ffffff", COLOURS["global cache"], COLOURS["local cache"], COLOURS["noise"])
    figure, (left, right) = subplots(1, 2, figsize=(13, 5.6), width_ratios=(1, 1))
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


@drawn
def clock_faces(frames_apart: float, shots_apart: int, head_dim: int, phase: float = SHOT_PHASE) -> Sheet:
    """One clock a temporal frequency: how far a key is turned against a query without a cut between them, and with.

    Args:
        frames_apart: query position minus key position; head_dim: of the model, settles the frequencies.
    """
    frequencies = rope_frequencies(head_dim)[0]
    columns = min(6, len(frequencies))
    shown = torch.linspace(0, len(frequencies) - 1, columns, device="cpu").round().long()
    figure, axes = subplots(1, columns, figsize=(13, 3.4), subplot_kw={"projection": "polar"}, squeeze=False)
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


@drawn
def attention_budget(shares: Tensor, context_frames: int, chunk: int) -> Sheet:
    """Share of attention on global cache, local cache and own chunk: a panel a layer, a bar a head.

    Args:
        shares: [layers, heads, frames], summing to one along the frames (see `attention.RecordingCache`).
    """
    layers, heads, frames = shares.shape
    parts = {
        "global cache": shares[..., :context_frames].sum(-1),
        "local cache": shares[..., context_frames : frames - chunk].sum(-1),
        "noise": shares[..., frames - chunk :].sum(-1),
    }
    figure, axes = subplots(1, layers, figsize=(13, 3.8), sharey=True, squeeze=False)
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


@drawn
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
    figure, axes = subplots(1, len(who), figsize=size, sharex=True, sharey=True, squeeze=False)
    some = torch.linspace(0, len(samples) - 1, min(arrows, len(samples)), device="cpu").long()
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
