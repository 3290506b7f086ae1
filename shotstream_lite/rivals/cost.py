"""What a rival costs without a clock: frame pairs of a shot (over all passes, the sum of query frames x key frames),
how late a new caption shows, and what has to be kept."""

from types import SimpleNamespace

import torch

from shotstream_lite.codec import latent_frames
from shotstream_lite.pipeline import ShotStreamPipeline, TeacherPipeline
from shotstream_lite.rivals.film import begin_film
from shotstream_lite.rivals.joint import KINDS, Contexts, Joint
from shotstream_lite.rivals.streams import HiAR, Rival
from shotstream_lite.rollout import chunk_sizes
from shotstream_lite.transformer import ShotStreamTransformer

COUNTED = ("frame pairs a shot", "chunks late", "memory, MB")
"""Costs: a mean over the shots of a film; how many chunks a change of caption comes late; keys and values."""


def stream_pairs(rival: Rival, shots: int, frames: int = 9, steps: int = 4) -> list[int]:
    """Counted in each shot of a film by a streaming rival, clean passes and what is done at cuts included."""
    # Sixteen tokens a frame: FramePack's patches take four by four.
    sizes = {"num_attention_heads": 1, "attention_head_dim": 12, "in_channels": 1, "out_channels": 1, "text_dim": 2}
    tiny = ShotStreamTransformer(**sizes, freq_dim=2, ffn_dim=2, num_layers=1)
    film, captions, counts = begin_film(tiny, rival, (1, 1, 8, 8)), tiny.caption_keys(torch.zeros(1, 1, 1, 2)), []
    for _ in range(shots):
        before = film.pairs[0]
        with torch.no_grad():
            rival.begin(tiny, film, frames, captions)
            list(rival.shot(tiny, film, torch.zeros, torch.linspace(1, 0.4, steps), chunk_sizes(frames, rival.chunk)))
        counts.append(round(film.pairs[0] - before))
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


def costs(pipeline: ShotStreamPipeline, name: str, shots: int) -> dict[str, float]:
    """What a film of so many shots costs without a clock: see `COUNTED`; name: what the pipeline tells as.

    Memory is the keys and values that the film's last chunk still needs, of all layers; of what makes a shot or a film
    in one piece they are of one layer, for nothing is kept.
    """
    settings, model = pipeline.settings, pipeline.transformer
    frames, steps, budget = latent_frames(settings.shot_frames), len(settings.steps), settings.budget
    layers, at_once, rival = len(model.blocks), 0, getattr(pipeline, "rival", None)
    if rival:
        pairs = sum(stream_pairs(rival, shots, frames, steps)) / shots
        held = layers * frames_held(rival, shots, frames)
        at_once = frames if isinstance(rival, HiAR) else (1 + rival.latency) * rival.chunk
    elif name in KINDS:
        kind, answers = KINDS[name]
        pairs = 2 * pipeline.sampling_steps * joint_pairs(kind, shots, frames, **answers)
        held = at_once = shots * frames
    elif name == "keyframes":  # pictures of all shots see each other, then a shot sees its own
        pairs = 2 * pipeline.sampling_steps * shots + own_pairs(1, frames, steps, settings.chunk)
        held, at_once = layers * (1 + frames), shots * frames
    elif isinstance(pipeline, TeacherPipeline):
        pairs, held, at_once = 2 * pipeline.sampling_steps * (budget + frames) ** 2, budget + frames, frames
    else:  # before the first shot everybody remembers so many empty frames
        later = 0 if settings.policy == "none" else budget
        pairs = sum(own_pairs(b, frames, steps, settings.chunk) for b in [budget, *[later] * (shots - 1)]) / shots
        held = layers * (later + frames)
    late = max(0, -(-at_once // settings.chunk) - 1)
    height, width = model.token_grid(*pipeline.codec.latent_size(settings.height, settings.width))
    values = 2 * height * width * model.config.num_attention_heads * model.config.attention_head_dim
    memory = held * values * model.dtype.itemsize / 2**20
    return dict(zip(COUNTED, (pairs, late, memory), strict=True))


def frames_held(rival: Rival, shots: int, frames: int) -> int:
    """Of a film of a streaming rival those whose keys its last shot may ask for, and its own."""
    film, size = SimpleNamespace(context_frames=(shots - 1) * frames), rival.chunk * (1 + rival.latency)
    starts = range(film.context_frames, shots * frames, rival.chunk)
    return max(len(rival.keys(film, start, start + size)[0]) + size for start in starts)
