"""What a rival costs without a clock: frame pairs, the sum over all passes of (query frames x key frames)."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch

from shotstream_lite import transformer as model
from shotstream_lite.rivals.film import begin_film
from shotstream_lite.rivals.joint import Contexts, Joint
from shotstream_lite.rivals.streams import Rival
from shotstream_lite.rollout import begin_shot, rollout


@contextmanager
def counting(transformer: model.ShotStreamTransformer, frame_tokens: int) -> Iterator[list[float]]:
    """Entered, it yields a list whose one number is the frame pairs of all passes since, a mean over the blocks.

    A batch counts once.
    """
    pairs, ours = [0.0], {id(block.attn1) for block in transformer.blocks}
    attend = model.attend

    def counted(attn, query, keys, values, spans=None):
        if id(attn) in ours:
            everything = ((0, query.shape[2], slice(None)),)
            tokens = torch.arange(keys.shape[2])
            seen = sum((b - a) * len(tokens[seen]) for a, b, seen in spans or everything)
            pairs[0] += seen / frame_tokens**2 / len(ours)
        return attend(attn, query, keys, values, spans)

    with patch.object(model, "attend", counted):
        yield pairs


def stream_pairs(rival: Rival, shots: int, frames: int = 9, steps: int = 4) -> list[float]:
    """Frame pairs of each shot of a film by a streaming rival, clean passes and what is done at cuts included."""
    tiny, counts = _tiny(), []
    film, captions = begin_film(tiny, rival, (1, 1, 2, 2)), tiny.caption_keys(torch.zeros(1, 1, 1, 2))
    for _ in range(shots):
        with torch.no_grad(), counting(tiny, 1) as pairs:
            rival.begin(tiny, film, frames, captions)
            chunks = [rival.chunk] * (frames // rival.chunk)
            list(rival.shot(tiny, film, torch.zeros, torch.linspace(1, 0.4, steps), chunks))
        counts.append(round(pairs[0]))
    return counts


def own_pairs(budget: int = 6, frames: int = 9, steps: int = 4, chunk: int = 3) -> float:
    """The same of ShotStream, whatever shots there are; with the last clean pass, which it never makes."""
    tiny = _tiny()
    with torch.no_grad(), counting(tiny, 1) as pairs:
        told = torch.zeros(1, 1, budget, 2, 2), [0] * budget, 1, torch.zeros(1, 2, 1, 2), frames
        cache = begin_shot(tiny, *told, budget=budget)
        list(rollout(tiny, cache, torch.zeros, torch.linspace(1, 0.4, steps), [chunk] * (frames // chunk)))
    return round(pairs[0]) + chunk * (budget + frames)


def _tiny() -> model.ShotStreamTransformer:
    """A token a frame."""
    sizes = {"num_attention_heads": 1, "attention_head_dim": 12, "in_channels": 1, "out_channels": 1, "text_dim": 2}
    return model.ShotStreamTransformer(**sizes, freq_dim=2, ffn_dim=2, num_layers=1)


def joint_pairs(kind: type[Joint], shots: int, frames: int = 9, **answers) -> float:
    """Frame pairs of a shot in one pass of a joint rival; a guided step has two. answers: as in `Joint.of`."""
    rival, ids = kind.__new__(kind), torch.arange(shots * frames) // frames
    rival.__dict__.update(answers)
    if isinstance(rival, Contexts):  # computed densely here; counted as its routes are meant
        others = ids * frames if rival.earlier else torch.full_like(ids, (shots - 1) * frames)
        return float((frames + others.clamp(max=rival.routed)).sum()) / shots
    mask = rival.mask(ids)
    return float(len(ids) ** 2 if mask is None else mask.sum()) / shots
