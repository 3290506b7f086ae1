"""What a rival costs without a clock: frame pairs of a shot, the sum over all passes of (query frames x key frames)."""

import torch

from shotstream_lite.rivals.film import begin_film
from shotstream_lite.rivals.joint import Contexts, Joint
from shotstream_lite.rivals.streams import Rival
from shotstream_lite.rollout import chunk_sizes
from shotstream_lite.transformer import ShotStreamTransformer


def stream_pairs(rival: Rival, shots: int, frames: int = 9, steps: int = 4) -> list[int]:
    """Counted in each shot of a film by a streaming rival, clean passes and what is done at cuts included."""
    sizes = {"num_attention_heads": 1, "attention_head_dim": 12, "in_channels": 1, "out_channels": 1, "text_dim": 2}
    tiny = ShotStreamTransformer(**sizes, freq_dim=2, ffn_dim=2, num_layers=1)
    film, captions, counts = begin_film(tiny, rival, (1, 1, 2, 2)), tiny.caption_keys(torch.zeros(1, 1, 1, 2)), []
    for _ in range(shots):
        before = film.pairs[0]
        with torch.no_grad():
            rival.begin(tiny, film, frames, captions)
            list(rival.shot(tiny, film, torch.zeros, torch.linspace(1, 0.4, steps), chunk_sizes(frames, rival.chunk)))
        counts.append(film.pairs[0] - before)
    return counts


def own_pairs(budget: int = 6, frames: int = 9, steps: int = 4, chunk: int = 3) -> int:
    """Of ShotStream, whatever shots there are: the context's pass, then steps and a clean pass over each chunk."""
    return budget**2 + (steps + 1) * sum(chunk * (budget + end) for end in range(chunk, frames + 1, chunk))


def joint_pairs(kind: type[Joint], shots: int, frames: int = 9, **answers) -> float:
    """Of a shot in one pass of a joint rival; a guided step has two. answers: as in `Joint.of`."""
    rival, ids = kind.__new__(kind), torch.arange(shots * frames) // frames
    rival.__dict__.update(answers)
    if isinstance(rival, Contexts):  # computed densely here; counted as its routes are meant
        others = ids * frames if rival.earlier else torch.full_like(ids, (shots - 1) * frames)
        return float((frames + others.clamp(max=rival.routed)).sum()) / shots
    mask = rival.mask(ids)
    return float(len(ids) ** 2 if mask is None else mask.sum()) / shots
