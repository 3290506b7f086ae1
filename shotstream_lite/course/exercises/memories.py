"""Notebook 06: what the caches weigh, and a rollout without the clean pass."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from shotstream_lite.cache import ShotCache
from shotstream_lite.course.exercises.verdict import NotYet, ask_for, checker, expect_number
from shotstream_lite.flow import few_step
from shotstream_lite.rollout import begin_shot, denoise_chunk
from shotstream_lite.transformer import ShotStreamTransformer


@checker
def check_cache_bytes(answer: Callable[[int, int, int, int, int], int]) -> str:
    """answer(layers, heads, head_dim, tokens, bytes_per_number): what keys and values of a shot weigh."""
    for layers, heads, head_dim, tokens, size in ((1, 1, 1, 1, 1), (6, 4, 32, 360, 4), (30, 12, 128, 42120, 2)):
        wanted = 2 * layers * heads * head_dim * tokens * size
        hints = {
            wanted / 2: "keys are stored, and so are values",
            wanted / heads: "every head has its own",
            wanted / layers: "every layer has its own",
            wanted * 8: "those are bits",
            wanted / size: "that counts the numbers, not their bytes",
        }
        shown = f"{layers} layers, {heads} heads of {head_dim}, {tokens} tokens, {size} bytes a number"
        inputs = layers, heads, head_dim, tokens, size
        expect_number(answer, *inputs, wanted=wanted, shown=shown, hints=hints)
    return f"the full model keeps {wanted / 1e9:.1f} GB for one shot."


def without_clean_pass(
    transformer: ShotStreamTransformer, cache: ShotCache, noise: Callable, sigmas: Tensor, chunks: Sequence[int]
) -> list[Tensor]:
    """The rollout in which a chunk's last denoising step is what later chunks remember. Chunks [B, C, f, H, W]."""
    made, start = [], 0
    for frames in chunks:
        made.append(denoise_chunk(transformer, cache, noise, sigmas, start, frames, exit_step=None))
        start += frames
    return made


@checker
def check_without_clean_pass(answer: Callable[..., list[Tensor]]) -> str:
    """answer(transformer, cache, noise, sigmas, chunks): a list of clean chunks, no pass spent on remembering them."""
    model = _small_model()
    sigmas, chunks = few_step(), [3, 3, 2]
    wanted = without_clean_pass(model, _small_cache(model), _noise(), sigmas, chunks)
    passes: list[tuple[int, float]] = []
    original = model.chunk

    def counted(cache: ShotCache, latents: Tensor, timestep: Tensor | float, start: int) -> Tensor:
        passes.append((start, float(torch.as_tensor(timestep).flatten()[0])))
        return original(cache, latents, timestep, start)

    model.chunk = counted
    shown = "chunks of 3, 3 and 2 latents in four steps"
    with torch.no_grad():
        inputs = model, _small_cache(model), _noise(), sigmas, chunks
        given = ask_for("a list of chunks", _tensors, answer, *inputs, shown=shown)
    if len(given) != 3:
        raise NotYet(f"for {shown} you give {len(given)} chunks: one for each")
    if any(timestep == 0 for _, timestep in passes):
        raise NotYet(f"for {shown} there is still a pass at timestep 0: that is the clean pass to be saved")
    if len(passes) != 12:
        raise NotYet(f"for {shown} you make {len(passes)} passes, three chunks of four steps are 12")
    if sorted({start for start, _ in passes}) != [0, 3, 6]:
        raise NotYet(f"for {shown} your chunks start at {sorted({s for s, _ in passes})}, not at 0, 3 and 6")
    for number, (mine, theirs) in enumerate(zip(given, wanted, strict=True), start=1):
        if mine.shape != theirs.shape:
            raise NotYet(f"for {shown} chunk {number} has shape {tuple(mine.shape)}, not {tuple(theirs.shape)}")
        if not torch.allclose(mine, theirs, atol=1e-4):
            difference = float((mine - theirs).abs().max())
            raise NotYet(
                f"for {shown} chunk {number} is off by {difference:.3f}: predict clean latents, and noise them anew "
                f"between the steps, but not after the last"
            )
    return "12 passes where the library makes 14 (it never cleans the last chunk). What does the film say?"


def _tensors(given: Iterable[Tensor]) -> list[Tensor]:
    return [torch.as_tensor(chunk) for chunk in given]


def _small_model() -> ShotStreamTransformer:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 3, "out_channels": 3}
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = ShotStreamTransformer(**sizes, text_dim=10, freq_dim=16, ffn_dim=40, num_layers=2).eval()
    torch.random.set_rng_state(torch_state)
    return model.requires_grad_(False)


@torch.no_grad()
def _small_cache(model: ShotStreamTransformer) -> ShotCache:
    draw = _noise(seed=1)
    return begin_shot(model, draw((1, 3, 6, 4, 6)), [0] * 6, 1, draw((1, 1, 5, 10)), 8)


def _noise(seed: int = 2) -> Callable[[tuple[int, ...]], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator)
