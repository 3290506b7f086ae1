"""Notebook 04: which caption each frame reads, and guidance by memory."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from shotstream_lite.course.exercises.verdict import NotYet, ask_for, checker
from shotstream_lite.transformer import with_context

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
        given = ask_for("a list of whole numbers", _whole, answer, context, shot, frames, shown=shown)
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


def _whole(given: Sequence[int]) -> list[int]:
    return [int(number) for number in given]
