"""Rivals that stream: chunk after chunk, shot after shot, on one `FilmCache` (specification: their papers and code).

Each answers which frames a chunk remembers and where they stand (`keys`), in which order levels are worked off
(`shot`), and what is done when the camera cuts (`begin`). Frame numbers count through the whole film.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor
from torch.nn import functional as F

from shotstream_lite.cache import CaptionKeys
from shotstream_lite.errors import StoryError
from shotstream_lite.flow import TIMESTEPS, add_noise, to_clean
from shotstream_lite.rivals.film import FilmCache, Mark
from shotstream_lite.rollout import Noise, clean_pass, rollout
from shotstream_lite.transformer import ShotStreamTransformer

Keys = tuple[list[int], list[float]]


@dataclass(frozen=True)
class Rival:
    """What streaming rivals share: the first `sink` frames and a window, few steps a chunk, then a clean pass."""

    sink: int = 0
    window: int | None = None  # frames, those of the chunk itself included; None: the whole film
    since: int = 0  # nothing before this frame
    mark: Mark = Mark()
    chunk: int = 3
    latency = 0  # chunks after a change of caption that were begun before it

    def keys(self, film: FilmCache, start: int, stop: int) -> Keys:
        """Which frames start..stop-1 remember, and the temporal id of each; their own are their numbers in the film."""
        first = self.since if self.window is None else max(self.since, stop - self.window)
        frames = sorted({*range(min(self.sink, start)), *range(first, start)})
        return frames, frames

    def remembered(self, film: FilmCache, layer: int, start: int, stop: int, query: Tensor) -> tuple[Tensor, Tensor]:
        """The same as keys and values of a layer; query: of the chunk, not rotated."""
        return film.read(layer, *self.keys(film, start, stop))

    def begin(self, model: ShotStreamTransformer, film: FilmCache, frames: int, captions: CaptionKeys) -> None:
        """The camera cuts to a shot of so many frames."""
        film.begin(frames, captions)

    def shot(
        self, model, film: FilmCache, noise: Noise, sigmas: Tensor, chunks, exit_step=None, clean_sigma=0.0
    ) -> Iterator[Tensor]:
        """The clean chunks of the shot that was begun, as `rollout`, and after the last one its clean pass too."""
        start = 0
        for latents in rollout(model, film, noise, sigmas, chunks, exit_step=exit_step, clean_sigma=clean_sigma):
            yield latents
            self.made(film, latents.detach())
            last, start = start, start + latents.shape[2]
        clean_pass(model, film, noise, latents.detach(), last, clean_sigma)

    def watch(self, model: ShotStreamTransformer, film: FilmCache, latents: Tensor) -> None:
        """A shot that was begun and is known already, [B, C, F, H, W]: only its clean passes are made."""
        for start in range(0, latents.shape[2], self.chunk):
            self.made(film, part := latents[:, :, start : start + self.chunk])
            clean_pass(model, film, torch.randn, part, start)

    def made(self, film: FilmCache, latents: Tensor) -> None:
        """A chunk is finished, and its clean pass is next."""
        film.latents.append(latents)


def by_slot(frames: list[int], start: int) -> list[float]:
    """Ids that close up to the chunk at `start`, whatever was left out between."""
    return [start - len(frames) + slot for slot in range(len(frames))]


class SelfForcing(Rival):
    """Self Forcing (Huang et al. 2025): all since the film began; at a cut the caption changes, and nothing else."""


@dataclass(frozen=True)
class CausVid(Rival):
    """CausVid (Yin et al. 2024): clips one after another, each with the last few latents of the one before.

    Trained without rollouts on noised data, a level for each chunk: there its past is noisy, here it is clean.
    """

    overlap: int = 3

    def keys(self, film: FilmCache, start: int, stop: int) -> Keys:
        frames = list(range(max(0, film.context_frames - self.overlap), start))
        return frames, by_slot(frames, start)


@dataclass(frozen=True)
class LongLive(Rival):
    """LongLive 1.0 (Yang et al. 2025): the first three frames for ever, and a window of nine with the chunk itself.

    At a cut the last twelve latents go through the model once more, clean and with the new caption, and their keys
    take the place of the old ones: the picture stays, what the old prompt wanted of it goes. The sink stays as it is.
    """

    sink: int = 3
    window: int = 9
    recache: bool = True

    def begin(self, model: ShotStreamTransformer, film: FilmCache, frames: int, captions: CaptionKeys) -> None:
        super().begin(model, film, frames, captions)
        end = film.context_frames
        if not self.recache or not end:
            return
        first = max(0, end - self.sink - self.window)
        recached, latents = replace(film, rival=Rival(since=first, mark=self.mark)), torch.cat(film.latents, dim=2)
        for start in range(first or self.sink, end, self.chunk):
            clean_pass(model, recached, torch.randn, latents[:, :, start : start + self.chunk], start - end)


@dataclass(frozen=True)
class InfinityRope(Rival):
    """Infinity-RoPE (Yesiltepe et al. 2025), a rule on Self Forcing's weights: six frames, ids that never leave 0..5.

    The cache is the film's first frame and the latest ones; ids count its slots. A change of prompt flushes it down to
    the first frame and the last two. A hard cut moves the ids of the shot's first chunk, and of no other, to `jump`.
    """

    sink: int = 1
    window: int | None = 5
    flush: int | None = 2
    jump: int | None = 45

    def keys(self, film: FilmCache, start: int, stop: int) -> Keys:
        frames, _ = super().keys(film, start, stop)
        if self.flush is not None:
            frames = [f for f in frames if f < self.sink or f >= film.context_frames - self.flush]
        if self.jump is not None and start == film.context_frames > 0:
            return frames, [start - self.jump + slot for slot in range(len(frames))]
        return frames, by_slot(frames, start)


@dataclass(frozen=True)
class RollingForcing(Rival):
    """Rolling Forcing (Liu et al. 2025): as many chunks at once as there are steps, each a step cleaner than the next.

    They see each other. The oldest comes out clean and is written to the cache by a pass of its own; the others are
    noised to their next level, and a new one enters. Before the window stand the frames just finished and, turned to
    lie right before those, the film's first chunk. At a cut the chunks in flight are the new shot's: they read its
    caption from then on. A pass sees eighteen frames in all.
    """

    sink: int = 3
    window: int | None = 15
    streams: bool = True  # chunks of a shot to come are begun; else a shot's last windows grow shorter, as in training
    latency: int = 3  # chunks in flight: the steps but one

    def keys(self, film: FilmCache, start: int, stop: int) -> Keys:
        frames, _ = super().keys(film, start, stop)
        return frames, by_slot(frames, start)

    def begin(self, model: ShotStreamTransformer, film: FilmCache, frames: int, captions: CaptionKeys) -> None:
        if frames % self.chunk:
            raise StoryError(f"frames: {frames} latents are no whole chunks: choose a multiple of {self.chunk} latents")
        film.begin(frames, captions, ahead=self.latency * self.chunk if self.streams else 0)

    def shot(self, model, film, noise, sigmas, chunks, exit_step=None, clean_sigma=0.0):
        count, steps, shown = (film.shot_frames - film.ahead) // self.chunk, len(sigmas), {}
        if self.streams and steps != self.latency + 1:
            raise StoryError(f"steps: {self.latency + 1} chunks are in flight, a step apart: write as many steps")
        flight, size = film.flight if self.streams else [], (*film.latent_shape[:2], self.chunk, *film.latent_shape[2:])
        first, entered = len(flight) - steps + 1, len(flight)
        for window, (done, _) in enumerate(zip(range(first, count), chain(range(first, 0), chunks), strict=True)):
            if self.streams or entered < count:
                flight.append((noise(size), 0))
                entered += 1
            latents, levels = torch.cat([x for x, _ in flight], 2), torch.tensor([step for _, step in flight])
            sigma = sigmas[levels].repeat_interleave(self.chunk).expand(len(latents), -1)
            start = max(0, done) * self.chunk
            with torch.set_grad_enabled(torch.is_grad_enabled() and window % steps == exit_step):
                clean = to_clean(latents, model.chunk(film, latents, sigma * TIMESTEPS, start), sigma)
            if window % steps == exit_step:
                shown |= dict(enumerate(clean.split(self.chunk, dim=2), start=max(0, done)))
            parts = clean.detach().split(self.chunk, dim=2)
            if levels[0] == steps - 1:
                if exit_step is None:
                    yield parts[0]
                self.made(film, parts[0])
                clean_pass(model, film, noise, parts[0], start, clean_sigma)
                parts, flight[:] = parts[1:], flight[1:]
            further = zip(parts, [step + 1 for _, step in flight], strict=True)
            flight[:] = [(add_noise(x, noise(size), sigmas[step]), step) for x, step in further]
        yield from (shown[c] for c in range(count) if exit_step is not None)


class HiAR(Rival):
    """HiAR (Jacky-hate et al. 2026): the loops swapped. All chunks of a shot take step one, then all take step two.

    So a chunk sees its past at the very level it goes to, and only in the last step clean.
    """

    def shot(self, model, film, noise, sigmas, chunks, exit_step=None, clean_sigma=0.0):
        chunks, last = list(chunks), len(sigmas) - 1 if exit_step is None else exit_step
        starts = [sum(chunks[:c]) for c in range(len(chunks))]
        state = [noise((*film.latent_shape[:2], f, *film.latent_shape[2:])) for f in chunks]
        for step in range(last + 1):
            for c, start in enumerate(starts):
                with torch.set_grad_enabled(torch.is_grad_enabled() and step == exit_step):
                    flow = model.chunk(film, state[c], sigmas[step] * TIMESTEPS, start)
                    clean = to_clean(state[c], flow, sigmas[step])
                if step == last:
                    yield clean
                    self.made(film, clean.detach())
                    clean_pass(model, film, noise, clean.detach(), start, clean_sigma)
                else:
                    state[c] = add_noise(clean, noise(tuple(clean.shape)), sigmas[step + 1])
                    with torch.no_grad():
                        model.chunk(film, state[c], sigmas[step + 1] * TIMESTEPS, start)


@dataclass(frozen=True)
class CausalCine(Rival):
    """CausalCine's content-aware memory routing (2026): a window, and the old frames that the chunk asks for.

    A frame is described by the mean of its keys before rotation, a chunk by the mean of its queries; every layer takes
    the `routed` frames of greatest product from those older than the window. Ids count slots: routed, window, own.
    """

    near: int = 12  # the window, that of the chunk included
    routed: int = 5

    def remembered(self, film: FilmCache, layer: int, start: int, stop: int, query: Tensor) -> tuple[Tensor, Tensor]:
        recent = range(max(0, stop - self.near), start)
        old = start - len(recent)
        found = film.keys[layer][:, :, : old * film.frame_tokens].unflatten(2, (old, film.frame_tokens)).mean(3)
        scores = torch.einsum("bhd,bhfd->bf", query.mean(2).to(found), found)
        chosen = scores.topk(min(self.routed, old)).indices.sort().values
        frames = torch.cat((chosen, torch.tensor(recent, device=chosen.device).expand(len(chosen), -1).long()), dim=1)
        return film.read(layer, frames, by_slot(frames[0].tolist(), start))


@dataclass(frozen=True)
class EmaSink(Rival):
    """Reward Forcing's sink (2025): what leaves the window is mixed into the first frames, a thousandth at a time."""

    sink: int = 3
    window: int = 9
    decay: float = 0.999

    def made(self, film: FilmCache, latents: Tensor) -> None:
        super().made(film, latents)
        leaving, tokens = sum(x.shape[2] for x in film.latents) - self.window - self.chunk, film.frame_tokens
        for memory in (*film.keys, *film.values) if leaving >= self.sink else ():
            kept, gone = (memory[:, :, f * tokens : (f + self.sink) * tokens] for f in (0, leaving))
            kept.mul_(self.decay).add_(gone, alpha=1 - self.decay)


@dataclass(frozen=True)
class FramePack(Rival):
    """FramePack's geometry (Zhang & Agrawala 2025): the past in coarser and coarser patches.

    `packs`: from the newest back, (frames, rows and columns that make one). Rotated keys and values are averaged; a
    projection for each size of patch would be new weights, and is left out.
    """

    window: int | None = 22
    packs: tuple[tuple[int, int], ...] = ((1, 1), (2, 2), (16, 4))

    def remembered(self, film: FilmCache, layer: int, start: int, stop: int, query: Tensor) -> tuple[Tensor, Tensor]:
        parts, (frames, _) = [], self.keys(film, start, stop)
        for count, size in self.packs:
            frames, some = frames[:-count], frames[-count:]
            parts.append([_pooled(x, film.grid, size) for x in film.read(layer, some, some)])
        return tuple(torch.cat(part, dim=2) for part in zip(*reversed(parts), strict=True))


def _pooled(x: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Means over patches of size x size tokens of each frame. Shape: [B, heads, frames * tokens, head_dim]."""
    frames = x.unflatten(2, (x.shape[2] // (grid[0] * grid[1]), *grid)).movedim(-1, 3)
    pooled = F.avg_pool2d(frames.flatten(0, 2), size, ceil_mode=True) if frames.numel() else frames.flatten(0, 2)
    return pooled.unflatten(0, frames.shape[:3]).movedim(3, -1).flatten(2, 4)


STREAMS: dict[str, Rival] = {"self-forcing": SelfForcing(), "causvid": CausVid(), "longlive": LongLive()}
STREAMS |= {"longlive without recache": LongLive(recache=False), "rolling-forcing": RollingForcing(), "hiar": HiAR()}
STREAMS |= {"infinity-rope": InfinityRope(), "causalcine": CausalCine(), "ema-sink": EmaSink()}
STREAMS |= {"framepack": FramePack()}
