"""Exercises of the notebooks 04, 06 and 07: captions bound to frames, two memories, the jump at a cut."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from shotstream_lite.cache import ShotCache
from shotstream_lite.conditioning import Conditioning
from shotstream_lite.course.exercises.verdict import NotYet, ask_for, checker, expect_number, number, whole_numbers
from shotstream_lite.flow import few_step
from shotstream_lite.rollout import begin_shot, denoise_chunk
from shotstream_lite.rope import SHOT_PHASE
from shotstream_lite.transformer import ShotStreamTransformer, with_context

Flow = Callable[[Tensor, Tensor], Tensor]
"""flow(latents, shot_ids): what a teacher answers for all frames, [B, C, F, H, W]."""


@checker
def check_caption_rows(answer: Callable[[Sequence[int], int, int], Sequence[int]]) -> str:
    """answer(context_shots, shot, frames): for each frame of [context | shot] the number of its caption.

    Captions are given only for shots that are there, in order: (1, 1, 3) and shot 5 have captions 0, 1 and 2.
    """
    for context, shot, frames in (([0, 0, 1], 2, 3), ([1, 1, 3], 5, 2), ([2, 3, 4, 5, 6, 7], 8, 9), ([4], 6, 1)):
        ids = [*context, *[shot] * frames]
        used = sorted(set(ids))
        wanted = [used.index(i) for i in ids]
        shown = f"context of shots {context} and {frames} frames of shot {shot}"
        given = ask_for("a list of whole numbers", whole_numbers, answer, context, shot, frames, shown=shown)
        if given == wanted:
            continue
        if len(given) != len(ids):
            raise NotYet(f"for {shown} you give {len(given)} numbers: there are {len(ids)} frames, the context too")
        if given == ids:
            raise NotYet(f"for {shown} you give shot numbers; captions are counted only for shots that are there")
        if len(set(given)) == 1:
            raise NotYet(f"for {shown} all frames read caption {given[0]}: that is the way in which characters mix")
        raise NotYet(f"for {shown} you give {given}, it is {wanted}")
    return "that is all it takes to bind a caption to its frames."


def guided_by_memory(flow: Flow, context: Tensor, noisy: Tensor, shot_ids: Tensor, strength: float) -> Tensor:
    """Flow of the shot with memory, exaggerated against the flow without any, as a first shot knows it.

    Shape: context [B, C, m, H, W]; noisy [B, C, F, H, W]; shot_ids [m + F]; returns: like noisy
    """
    remembered, frames = context.shape[2], noisy.shape[2]
    first = torch.tensor([0] * remembered + [1] * frames)
    without = flow(with_context(torch.zeros_like(context), noisy), first)[:, :, remembered:]
    with_memory = flow(with_context(context, noisy), shot_ids)[:, :, remembered:]
    return without + strength * (with_memory - without)


@checker
def check_memory_guidance(answer: Callable[[Flow, Tensor, Tensor, Tensor, float], Tensor]) -> str:
    """answer(flow, context, noisy, shot_ids, strength): the flow of the shot, its memory exaggerated."""
    draw = torch.Generator().manual_seed(0)
    for ids, frames, strength in (([0, 1, 3], 2, 1.0), ([0, 1, 3], 2, 0.0), ([1, 1], 3, 2.5)):
        context = torch.randn(1, 2, len(ids), 2, 2, generator=draw)
        noisy = torch.randn(1, 2, frames, 2, 2, generator=draw)
        shot_ids = torch.tensor([*ids, *[4] * frames])
        shown = f"{len(ids)} context frames, {frames} frames and strength {strength:g}"
        inputs = context, noisy, shot_ids, strength
        given = ask_for("a tensor", torch.as_tensor, answer, _toy_flow, *inputs, shown=shown)
        wanted = guided_by_memory(_toy_flow, *inputs)
        if given.shape != wanted.shape:
            raise NotYet(
                f"for {shown} you give {tuple(given.shape)}: the flow of the shot alone, {tuple(wanted.shape)}"
            )
        if not torch.allclose(given.float(), wanted, atol=1e-4):
            raise NotYet(f"for {shown} you are off by {float((given - wanted).abs().max()):.3f}{_why(given, inputs)}")
    return "1 is the model itself, 0 has no memory. What does 2 do to the hat, and what to the motion?"


def _toy_flow(latents: Tensor, shot_ids: Tensor) -> Tensor:
    """Any function in which frames and shot numbers matter to each other."""
    ids = torch.as_tensor(shot_ids).float().expand(latents.shape[2]).view(1, 1, -1, 1, 1)
    return torch.tanh(latents + latents.mean(2, keepdim=True) + 0.3 * ids * latents.sum(2, keepdim=True).cos())


def _why(given: Tensor, inputs: tuple[Tensor, Tensor, Tensor, float]) -> str:
    """What is behind a wrong flow, if it is one that is often given."""
    context, noisy, shot_ids, strength = inputs
    m = context.shape[2]
    whole = _toy_flow(with_context(context, noisy), shot_ids)[:, :, m:]
    numbered = _toy_flow(with_context(torch.zeros_like(context), noisy), shot_ids)[:, :, m:]
    without = guided_by_memory(_toy_flow, context, noisy, shot_ids, 0.0)
    often = {
        ": that is the plain model, strength changes nothing": whole,
        ": without memory a shot is numbered like a first one, context 0 and shot 1": numbered
        + strength * (whole - numbered),
        ": strength leads towards memory, not away from it": whole + strength * (without - whole),
        ": begin at the flow without memory, or strength 1 is not the model itself": whole
        + strength * (whole - without),
    }
    return next((why for why, flow in often.items() if torch.allclose(given.float(), flow, atol=1e-4)), "")


@checker
def check_cache_bytes(answer: Callable[[int, int, int, int, int], int]) -> str:
    """answer(layers, heads, head_dim, tokens, bytes_per_number): what keys and values of a shot weigh."""
    for layers, heads, head_dim, tokens, size in ((1, 1, 1, 1, 1), (8, 5, 32, 504, 4), (30, 12, 128, 42120, 2)):
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
    for chunk, (mine, theirs) in enumerate(zip(given, wanted, strict=True), start=1):
        if mine.shape != theirs.shape:
            raise NotYet(f"for {shown} chunk {chunk} has shape {tuple(mine.shape)}, not {tuple(theirs.shape)}")
        if not torch.allclose(mine, theirs, atol=1e-4):
            difference = float((mine - theirs).abs().max())
            raise NotYet(
                f"for {shown} chunk {chunk} is off by {difference:.3f}: predict clean latents, and noise them anew "
                f"between the steps, but not after the last"
            )
    return "12 passes where the library makes 14 (it never cleans the last chunk). What does the film say?"


def _tensors(given: Iterable[Tensor]) -> list[Tensor]:
    return [torch.as_tensor(chunk) for chunk in given]


def _small_model() -> ShotStreamTransformer:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 3, "out_channels": 3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ShotStreamTransformer(**sizes, text_dim=10, freq_dim=16, ffn_dim=40, num_layers=2).eval()
    return model.requires_grad_(False)


@torch.no_grad()
def _small_cache(model: ShotStreamTransformer) -> ShotCache:
    draw = _noise(seed=1)
    context, caption = draw((1, 3, 6, 4, 6)), draw((1, 1, 5, 10))
    return begin_shot(model, Conditioning(caption, torch.tensor([0] * 6 + [1] * 8), context=context))


def _noise(seed: int = 2) -> Callable[[tuple[int, ...]], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator)


SHOTS = 100


@checker
def check_relative_angle(answer: Callable[[float, int, int, int], float]) -> str:
    """answer(frames_apart, shots_apart, pair, pairs): radians a query is turned against a key, in one temporal pair."""
    for frames, shots, pair, pairs in ((4, 0, 1, 6), (3, 1, 0, 6), (7, 2, 5, 6), (10, 3, 11, 22)):
        frequency = 10000 ** (-pair / pairs)
        wanted = frames * frequency + shots * SHOT_PHASE
        hints = {
            (frames + shots * SHOT_PHASE) * frequency: "the phase is added to the angle, not to the position",
            frames * frequency - shots * SHOT_PHASE: "later shots are turned further, not back",
            frames * frequency: "and the cuts between them?",
            frames * 10000 ** (-2 * pair / pairs) + shots * SHOT_PHASE: "the exponent counts pairs, not channels",
        }
        shown = f"{frames} frames and {shots} shots apart, pair {pair} of {pairs}"
        expect_number(answer, frames, shots, pair, pairs, wanted=wanted, shown=shown, hints=hints)
    return "the same extra turn at every frequency: no shift of the position does that."


@checker
def check_phase_schedule(answer: Callable[[int], float]) -> str:
    """answer(shots_apart): radians between two shots so far apart, for stories of up to 100 shots.

    One shot apart is what the model knows (1/6); farther shots are never nearer; the six that can be remembered are
    told apart; and no angle passes pi, from where it comes round again.
    """
    angles = [number(answer, n, shown=f"{n} shots apart") for n in range(SHOTS + 1)]
    if abs(angles[0]) > 1e-9:
        raise NotYet(f"for 0 shots apart you give {angles[0]:.4g}: within a shot nothing is turned, write 0")
    if abs(angles[1] - SHOT_PHASE) > 1e-6:
        raise NotYet(f"for 1 shot apart you give {angles[1]:.4g}: the model was trained with 1/6 = {SHOT_PHASE:.4f}")
    for n in range(1, SHOTS + 1):
        if angles[n] > math.pi:
            raise NotYet(
                f"for {n} shots apart you give {angles[n]:.3f}, beyond pi: a shot farther away then looks nearer again"
            )
        if angles[n] < angles[n - 1] - 1e-9:
            raise NotYet(f"for {n} shots apart you give {angles[n]:.3f}, less than {angles[n - 1]:.3f} for {n - 1}")
    for n in range(2, 7):
        if angles[n] - angles[n - 1] < 0.02:
            step = angles[n] - angles[n - 1]
            raise NotYet(f"for {n} shots apart you add only {step:.3f} to {n - 1}: six remembered shots look alike")
    return f"100 shots stay in order, the last at {angles[-1]:.2f} radians."
