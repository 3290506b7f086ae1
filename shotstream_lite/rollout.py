"""One shot, chunk by chunk, a few steps a chunk (paper sec. 4.2): the same rollout for use and for training.

Below it the teacher's sampling, many steps over all frames at once.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from shotstream_lite.cache import ShotCache
from shotstream_lite.conditioning import Conditioning
from shotstream_lite.flow import TIMESTEPS, add_noise, to_clean
from shotstream_lite.rope import rope_table
from shotstream_lite.transformer import ShotStreamTransformer

CONTEXT_BUDGET = 6
"""Context frames of the released model; positions 0 to 5 are theirs, a shot starts at 6 (paper sec. 5.1)."""

Noise = Callable[[tuple[int, ...]], Tensor]


def begin_shot(transformer: ShotStreamTransformer, cond: Conditioning, budget: int = CONTEXT_BUDGET) -> ShotCache:
    """The memories of a new shot: the global one filled by one context pass, the local one empty.

    For the first shot of a story the released code gives `budget` zero latents of id 0 as context, and the
    shot id 1. Without context frames this is plain self-forcing; the shot still starts at position `budget`.
    With gradient enabled the caption keys carry it; the context pass never does.

    Args:
        cond: with shot ids, and with a context of 0 to `budget` frames; the shot reads its last frame's caption.

    Raises ValueError if there are more context frames than `budget`.
    """
    batch, channels, remembered, height, width = cond.context.shape
    if remembered > budget:
        raise ValueError(f"{remembered} context frames do not fit a budget of {budget}")
    config, device = transformer.config, cond.context.device
    positions = torch.cat((torch.arange(remembered, device="cpu"), budget + torch.arange(cond.frames, device="cpu")))
    grid, head_dim = transformer.token_grid(height, width), config.attention_head_dim
    table = rope_table(positions, cond.shot_ids, *grid, head_dim, cond.phase, device)
    keys = transformer.caption_keys(cond.captions)
    reads = torch.atleast_2d(cond.reads).to(device, torch.long).expand(batch, len(positions))
    own = keys.only(reads[:, -1])
    size = (batch, config.num_attention_heads, table.shape[1], head_dim)
    room = partial(torch.empty, size, dtype=transformer.dtype, device=device)
    cache = ShotCache(
        keys=[room() for _ in transformer.blocks],
        values=[room() for _ in transformer.blocks],
        captions=own,
        table=table,
        latent_shape=(batch, channels, height, width),
        context_frames=remembered,
        shot_frames=cond.frames,
    )
    if remembered:
        theirs = reads[:, :remembered] if len(keys) > 1 else None
        transformer.context(replace(cache, only_writes=True), cond.context, keys, theirs)
    return cache


def chunk_sizes(latents: int, chunk: int) -> list[int]:
    """Latent frames of each chunk; the last may be shorter."""
    return [min(chunk, latents - start) for start in range(0, latents, chunk)]


def rollout(
    transformer: ShotStreamTransformer,
    cache: ShotCache,
    noise: Noise,
    sigmas: Tensor | Sequence[float],
    chunks: Iterable[int],
    *,
    exit_step: int | None = None,
    clean_sigma: Tensor | float = 0.0,
) -> Iterator[Tensor]:
    """Yield the clean latents of each chunk as soon as they are known (paper sec. 4.2).

    After a chunk a clean pass at timestep 0 writes its keys to the local cache. It runs when the next chunk
    is asked for, so after this one was handed out, and never after the last; it reads the caption the chunk
    was made with. `cache.captions` may be replaced between two chunks.

    Inference leaves `exit_step` out: every step runs, nothing carries gradient. Self-forcing training stops
    each chunk at `exit_step`, the only step with gradient (where enabled), and shows the clean pass the
    chunk at noise level `clean_sigma` (released training: .00794, the last row of the `SigmaTable`).

    `noise(shape)` is called for the start of a chunk, then before each further step, then, if `clean_sigma`
    is not 0, for the clean pass.

    Shape:
        sigmas: [steps], falling from 1; exit_step counts from 0
        chunks: the latent frames of each chunk; may be endless or decided on the way. A negative number makes the
            latest chunk, of so many frames, once more: nothing has read it yet
        yields: [B, C, f, H, W]
    """
    sigmas = sigmas.float() if isinstance(sigmas, Tensor) else torch.tensor(sigmas, dtype=torch.float32, device="cpu")
    start, finish = 0, None
    for frames in chunks:
        if frames < 0:
            start, finish, frames = start + frames, None, -frames
        if finish is not None:
            finish()
        made_with = replace(cache)
        latents = denoise_chunk(transformer, cache, noise, sigmas, start, frames, exit_step)
        finish = partial(clean_pass, transformer, made_with, noise, latents.detach(), start, clean_sigma)
        start += frames
        yield latents


def denoise_chunk(
    transformer: ShotStreamTransformer,
    cache: ShotCache,
    noise: Noise,
    sigmas: Tensor,
    start: int,
    frames: int,
    exit_step: int | None,
) -> Tensor:
    """A chunk in a few steps: predict the clean latents, noise them to the next level, predict again."""
    batch, channels, height, width = cache.latent_shape
    shape = (batch, channels, frames, height, width)
    last = len(sigmas) - 1 if exit_step is None else exit_step
    latents = noise(shape)
    for step in range(last + 1):
        with torch.set_grad_enabled(torch.is_grad_enabled() and step == exit_step):
            flow = transformer.chunk(cache, latents, sigmas[step] * TIMESTEPS, start)
            clean = to_clean(latents, flow, sigmas[step])
        if step < last:
            latents = add_noise(clean, noise(shape), sigmas[step + 1])
    return clean


@torch.no_grad()
def clean_pass(
    transformer: ShotStreamTransformer,
    cache: ShotCache,
    noise: Noise,
    latents: Tensor,
    start: int,
    sigma: Tensor | float = 0.0,
) -> None:
    """Write a finished chunk to the local cache, as the model sees it at timestep 0."""
    if sigma > 0:
        latents = add_noise(latents, noise(tuple(latents.shape)), sigma)
    transformer.chunk(replace(cache, only_writes=True), latents, 0.0, start)


@torch.no_grad()
def joint_states(
    transformer: ShotStreamTransformer,
    noise: Tensor,
    cond: Conditioning,
    sigmas: Tensor,
    *,
    uncond: Conditioning | None = None,
    guidance: float = 6.0,
) -> Iterator[Tensor]:
    """The latents before each Euler step of the bidirectional teacher, and at the end the clean ones.

    ``flow = uncond + guidance * (cond - uncond)``. The context is clean at every step and carries the
    target's timestep (paper sec. 4.1). States 0, 13, 25, 37 and 50 of 50 steps at shift 8 are what causal
    initialisation learns from. Without context this samples a plain text-to-video model.

    Shape:
        noise: [B, C, F, H, W]; uncond: see `Conditioning.unconditional`, None: no guidance
        sigmas: [steps + 1], the last 0 (see `flow.euler_sigmas`)
        yields: steps + 1 times [B, C, F, H, W]
    """
    cond, uncond = (c and replace(c, captions=transformer.caption_keys(c.captions)) for c in (cond, uncond))
    latents = noise
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        yield latents
        flow = cond.flow(transformer, latents, sigma * TIMESTEPS)
        if uncond:
            unguided = uncond.flow(transformer, latents, sigma * TIMESTEPS)
            flow = unguided + guidance * (flow - unguided)
        latents = latents + (following - sigma) * flow.type_as(latents)
    yield latents


def sample_joint(
    transformer: ShotStreamTransformer, noise: Tensor, cond: Conditioning, sigmas: Tensor, **options
) -> Tensor:
    """The clean latents at the end of `joint_states`, which says what the options are."""
    return deque(joint_states(transformer, noise, cond, sigmas, **options), maxlen=1).pop()
