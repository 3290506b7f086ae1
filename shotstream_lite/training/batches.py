"""Batches of next shots, drawn from films, the miniature world's or real ones, and what every stage does with their
captions (paper sec. 4.1 and supplement)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from statistics import median_low
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from shotstream_lite.codec import FRAMES_PER_LATENT, latent_frames, pixel_frames
from shotstream_lite.conditioning import Conditioning
from shotstream_lite.context import Context, remember
from shotstream_lite.errors import CheckpointError
from shotstream_lite.story import Story
from shotstream_lite.text import encode_captions
from shotstream_lite.training.config import NextShot
from shotstream_lite.training.draws import Draws


class Films(Protocol):
    """Encoded stories, as `train films` leaves them. Shots may be of several lengths."""

    def __len__(self) -> int:
        """How many stories there are."""

    def lengths(self, story: int) -> Sequence[int]:
        """Pixel frames of each shot of a story."""

    def clip(self, story: int, shot: int) -> Tensor:
        """The latents [channels, frames, h, w] of a shot."""

    def keys(self, story: int, shot: int) -> Sequence[int]:
        """The frames of a shot that are encoded alone."""

    def still(self, story: int, shot: int, frame: int) -> Tensor:
        """The latent [channels, h, w] of one of them. Raises CheckpointError for another frame."""

    def captions(self, story: int, words: np.random.Generator) -> list[str]:
        """A caption for each shot as the model reads it, in freshly drawn words if there are any."""

    def scene(self, story: int, shot: int, words: np.random.Generator) -> str:
        """A caption that describes a shot without its story."""

    def questions(self) -> Mapping[str, int]:
        """What an oracle can say of every frame, and how many answers there are; empty where nobody knows."""
        return {}

    def shown(self, story: int, shot: int) -> Mapping[str, np.ndarray]:
        """The answers for each pixel frame of a shot, int [frames], -1 where it is not to be seen."""

    def said(self) -> Sequence[str]:
        """The questions whose answers captions say."""

    def places(self, story: int, shot: int) -> Mapping[str, np.ndarray]:
        """Where the smallest of these things are, [frames, 2]: down and across, from 0 to 1 in the picture."""

    def vocabulary(self) -> list[str]:
        """All words of their captions, for a text encoder that learns along."""

    def example(self, shots: int) -> Story:
        """A written story to look at what a model makes of it."""


Origin = tuple[int, int, int] | None
"""Which story, shot and pixel frame (the last one of a latent) a latent frame is of; None for one that is blank."""


@dataclass(frozen=True)
class NextShotBatch:
    """What a stage learns a next shot from.

    Shape:
        target: [batch, channels, frames, h, w]; context: [batch, channels, budget, h, w], each frame encoded alone
        shot_ids, caption_ids: [batch, budget + frames] over [context | target]; caption_ids index its `captions`
        captions: for each sample the captions its frames read, padded with empty ones to the same number
        origins: for each sample where its frames come from, over [context | target]; not of films that were made up
    """

    target: Tensor
    context: Tensor
    shot_ids: Tensor
    caption_ids: Tensor
    captions: list[list[str]]
    origins: list[list[Origin]] = field(default_factory=list)

    def to(self, device: torch.device) -> "NextShotBatch":
        """The same with its tensors elsewhere."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self)(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in moved.items()})

    def conditioning(self, captions: Tensor, phase: float) -> Conditioning:
        """What its shots are made from. Shape: captions, embedded [batch, n, text_tokens, text_dim]"""
        return Conditioning(captions, self.shot_ids, self.caption_ids, self.context, phase)

    def split(self, parts: int) -> "list[NextShotBatch]":
        """The same samples in so many equal groups, or one by one."""
        columns = [getattr(self, f.name) for f in fields(self)]
        size = max(1, len(self.captions) // parts)
        starts = range(0, len(self.captions), size)
        return [type(self)(*(column[start : start + size] for column in columns)) for start in starts]


Source = torch.Generator | Sequence[torch.Generator]
"""What a batch is drawn from: one generator for all samples, or one for each."""


def next_shot_batch(
    films: Films,
    size: int,
    generator: Source,
    budget: int = 6,
    drop_context: float = 0.1,
    policy: str = "dynamic",
    target_caption: bool = False,
    stills: int = 0,
    latents: int | None = None,
) -> NextShotBatch:
    """Draws shots at random places of random stories with the memory each would have had.

    A first shot, and one in ten of the others, remembers nothing: zero latents of shot 0, the target being shot 1, one
    caption. (The released trainer gives such a target the second caption of its story; here it reads its own.)

    Args:
        target_caption: context frames read the target's caption and not their own (paper Table 3).
        stills: the target is so many single frames of the shot, each encoded alone.
        latents: of the targets, the beginnings of shots that are at least so long; by default of the shortest shots.

    Raises CheckpointError if no shot is long enough.
    """
    latents = 1 if stills else latents or shortest(films)
    samples, origins = [], []
    for source in each_of(generator, size):
        row, shot, words = draw_shot(films, source, latents)
        dropped = float(torch.rand(1, generator=source, dtype=torch.float32, device="cpu")) < drop_context
        target, at = films.clip(row, shot)[:, :latents], range(0, pixel_frames(latents), FRAMES_PER_LATENT)
        if stills:
            looks = [_a_still(films, row, shot, source) for _ in range(stills)]
            target, at = torch.cat([look for look, _ in looks], 1), [frame for _, frame in looks]
        context = remembered(films, row, 0 if dropped else shot, budget, policy, target)
        told = films.captions(row, words)[: shot + 1]
        samples.append((target, *context.told(told, target.shape[1], own=not target_caption)))
        seen = [(row, *place) for place in context.picked] or [None] * len(context.shot_ids)
        origins.append(seen + [(row, shot, frame) for frame in at])
    return replace(collate(samples), origins=origins)


def step_batch(films: Films, draws: Draws, config: NextShot, stills: int = 0) -> NextShotBatch:
    """What a step learns from as the configuration says, on its device; stills as in `next_shot_batch`."""
    latents, theirs = drawn_length(draws, config.lengths), config.captions == "target"
    memory = (config.budget, config.drop_context, config.policy, theirs)
    return next_shot_batch(films, len(draws), draws.each, *memory, stills, latents).to(draws.device)


def remembered(films: Films, row: int, shots: int, budget: int, policy: str, like: Tensor) -> Context:
    """What `context.remember` keeps of the first so many shots of a story."""
    stills = lambda picked: [films.still(row, *place) for place in picked]  # noqa: E731
    return remember(films.lengths(row)[:shots], budget, policy, stills, like)


def collate(samples: Sequence[tuple]) -> NextShotBatch:
    """Samples (target, *memory) as one batch; captions are filled up with empty ones that nobody reads."""
    longest = max(len(captions) for *_, captions in samples)
    tensors = [torch.stack(column) for column in list(zip(*samples, strict=True))[:4]]
    return NextShotBatch(*tensors, [captions + [""] * (longest - len(captions)) for *_, captions in samples])


def each_of(generator: Source, size: int) -> Sequence[torch.Generator]:
    """A generator for each of `size` samples."""
    return [generator] * size if isinstance(generator, torch.Generator) else generator


def still_batch(films: Films, size: int, generator: Source) -> tuple[Tensor, list[list[str]], list[list[Origin]]]:
    """Draws single frames: targets [size, channels, 1, h, w], a caption each, and where they come from.

    Half of the captions describe the shot alone, from which words are learnt soonest; half are the story's (global
    caption, shot caption), where the words about others have to be told apart.
    """
    stills, captions, origins = [], [], []
    for source in each_of(generator, size):
        row, shot, words = draw_shot(films, source, 1)
        still, frame = _a_still(films, row, shot, source)
        stills.append(still)
        origins.append([(row, shot, frame)])
        alone = float(torch.rand(1, generator=source, dtype=torch.float32, device="cpu")) < 0.5
        captions.append([films.scene(row, shot, words) if alone else films.captions(row, words)[shot]])
    return torch.stack(stills), captions, origins


def drawn_length(draws: Draws, lengths: Sequence[int]) -> int | None:
    """Latents of the shots of a step, one of `lengths`, the same for all samples and processes; None if none are."""
    return lengths[draws.shared_index(len(lengths))] if lengths else None


def shortest(films: Films) -> int:
    """Latents of the shortest shot."""
    return latent_frames(min(min(films.lengths(row)) for row in range(len(films))))


def usual(films: Films) -> int:
    """Latents of a shot of middle length."""
    return latent_frames(median_low(n for row in range(min(100, len(films))) for n in films.lengths(row)))


def draw_shot(films: Films, generator: torch.Generator, latents: int) -> tuple[int, int, np.random.Generator]:
    """A story, one of its shots that are long enough, and a source of words for captions."""
    enough = pixel_frames(latents)
    for _ in range(1000):
        row = int(torch.randint(len(films), (1,), generator=generator, device="cpu"))
        shots = [shot for shot, frames in enumerate(films.lengths(row)) if frames >= enough]
        if shots:
            shot = shots[int(torch.randint(len(shots), (1,), generator=generator, device="cpu"))]
            return row, shot, np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator, device="cpu")))
    raise CheckpointError(f"films: hardly any shot has {latents} latents ({enough} frames): choose smaller --lengths")


def _a_still(films: Films, row: int, shot: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """One of a shot's key frames, [channels, 1, height, width], and its number."""
    keys = films.keys(row, shot)
    frame = keys[int(torch.randint(len(keys), (1,), generator=generator, device="cpu"))]
    return films.still(row, shot, frame)[:, None], frame


def embed(
    text_encoder: UMT5EncoderModel, tokenizer: PreTrainedTokenizerFast, captions: list[list[str]], length: int
) -> Tensor:
    """Captions of a batch, n a sample, to [B, n, length, text_dim]; zero beyond each text."""
    flat = [caption for sample in captions for caption in sample]
    rows = {caption: row for row, caption in enumerate(dict.fromkeys(flat))}  # each is read once
    states = encode_captions(text_encoder, tokenizer, list(rows), length, truncate=True)
    return states[[rows[caption] for caption in flat]].unflatten(0, (len(captions), -1))


class FrozenText(nn.Module):
    """Captions to embeddings of `length` rows, as all stages after the base model read them."""

    def __init__(self, text_encoder: UMT5EncoderModel, tokenizer: PreTrainedTokenizerFast, length: int) -> None:
        super().__init__()
        self.text_encoder, self.tokenizer, self.length = text_encoder, tokenizer, length

    @torch.no_grad()
    def forward(self, captions: list[list[str]]) -> Tensor:
        """Captions of a batch, n a sample, to [B, n, length, text_dim]."""
        return embed(self.text_encoder, self.tokenizer, captions, self.length)


def drop_captions(captions: Tensor, rate: float, draws: Draws) -> Tensor:
    """Zeroes all captions of some samples, which is what guidance later calls the unconditional case."""
    keep = ~draws.chance(rate).to(captions.device)
    return captions * keep[:, None, None, None]
