"""Captions in, frames out: one shot after another, streamed chunk by chunk (paper sec. 4.2).

A frame's journey: earlier shots' pixels -> `history` picks frames -> the codec encodes each alone -> the context
pass fills the global cache -> noise becomes three latents in four steps -> the codec decodes them -> frames leave,
and only then the clean pass writes the local cache for the next chunk.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shotstream_lite.codec import Codec, latent_frames, to_frames, to_pixels
from shotstream_lite.flow import few_step
from shotstream_lite.history import select
from shotstream_lite.presets import (
    StreamSettings,
    load_codec,
    load_settings,
    load_text,
    load_transformer,
    model_folder,
)
from shotstream_lite.reel import Footage
from shotstream_lite.rollout import begin_shot, rollout
from shotstream_lite.text import CaptionEncoder
from shotstream_lite.transformer import ShotStreamTransformer

REMEMBERED = 64  # context latents kept, many more than one shot looks at


@dataclass(frozen=True)
class Context:
    """What a shot knows of the story so far.

    Shape:
        latents: [1, channels, budget, h, w]; shot_ids: one a latent; shot_id: of the shot to come
    """

    latents: Tensor
    shot_ids: tuple[int, ...]
    shot_id: int


class ShotStreamPipeline:
    """Transformer, codec and text encoder, and the settings they stream with. Holds no story: see `StorySession`."""

    def __init__(
        self,
        transformer: ShotStreamTransformer,
        codec: Codec,
        text: CaptionEncoder,
        settings: StreamSettings,
        name: str = "custom",
    ) -> None:
        self.transformer, self.codec, self.text = transformer, codec, text
        self.settings, self.name = settings, name
        self._remembered: OrderedDict[tuple[Footage, int], Tensor] = OrderedDict()

    @classmethod
    def from_pretrained(cls, name: str | Path = "toybox", weights: str = "student") -> "ShotStreamPipeline":
        """A preset ("toybox") or a model folder, on the CPU.

        Args:
            weights: which transformer of the folder, see `presets.WEIGHTS`.

        Raises:
            CheckpointError: an unknown name, or files that are missing, damaged or do not fit; one line.
        """
        folder = model_folder(name)
        settings = load_settings(folder)
        transformer = load_transformer(folder, weights)
        text = CaptionEncoder(*load_text(folder), settings.text_tokens)
        return cls(transformer, Codec(load_codec(folder)), text, settings, str(name))

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    def check(self, settings: StreamSettings) -> None:
        """Raises CodecError if the picture's size does not fit the codec and the transformer's patches."""
        self.codec.latent_size(settings.height, settings.width, self.transformer.config.patch_size[-1])

    def shot(
        self,
        captions: Sequence[str],
        past: Sequence[Footage] = (),
        *,
        seed: int,
        frames: int | None = None,
        settings: StreamSettings | None = None,
    ) -> Iterator[np.ndarray]:
        """Makes the next shot of a story.

        Args:
            captions: of all shots so far and, last, of this one, as the model reads them (`story.captions`).
            past: the footage of all earlier shots.
            seed: of all noise in this shot; the same seed and past give the same frames.
            frames: pixel frames, 4k+1.

        Yields:
            uint8 [f, height, width, 3] as soon as they are known: 1 frame, 8 more of the first chunk, then 12 a chunk.

        Raises:
            CodecError: a length or a size that does not fit; at once, before a frame is asked for.
        """
        settings = settings or self.settings
        self.check(settings)
        length = latent_frames(settings.shot_frames if frames is None else frames)
        return self.decoded(self.latents(captions, past, seed, length, settings))

    @torch.inference_mode()
    def latents(
        self,
        captions: Sequence[str],
        past: Sequence[Footage],
        seed: int,
        length: int,
        settings: StreamSettings,
    ) -> Iterator[Tensor]:
        """The same shot before the codec: `length` latents in chunks [1, channels, f, h, w]."""
        context = self.context(past, settings)
        # Only what is read is encoded: the captions of the remembered shots and of this one.
        used = sorted({*context.shot_ids, context.shot_id}) if past else [len(captions) - 1]
        reads = [used.index(i) for i in (*context.shot_ids, context.shot_id)] if past else None
        cache = begin_shot(
            self.transformer,
            context.latents,
            context.shot_ids,
            context.shot_id,
            self.text([captions[i] for i in used])[None],
            length,
            caption_ids=reads,
            budget=settings.budget,
            phase=settings.phase,
        )
        generator = torch.Generator().manual_seed(seed)
        yield from rollout(
            self.transformer,
            cache,
            lambda shape: torch.randn(shape, generator=generator).to(self.device, self.transformer.dtype),
            few_step(settings.steps, settings.shift),
            chunk_sizes(length, settings.chunk),
        )

    @torch.inference_mode()
    def decoded(self, chunks: Iterable[Tensor]) -> Iterator[np.ndarray]:
        """The frames of a shot's latents, uint8 [f, height, width, 3], as their chunks come."""
        decoder = self.codec.stream()
        # The very first latent is one frame, cheap to decode: it leaves before the rest of its chunk.
        lead = 1
        for chunk in chunks:
            for part in chunk.tensor_split([lead], dim=2):
                if part.shape[2]:
                    yield to_frames(decoder.decode(part)[0].transpose(0, 1)).cpu().numpy()
            lead = 0

    @torch.inference_mode()
    def context(self, past: Sequence[Footage], settings: StreamSettings) -> Context:
        """The frames sparse history sampling picks (paper sec. 4.1), each encoded alone and once only.

        Before the first shot the released model sees zero latents of shot 0, and itself is shot 1.
        """
        if not past:
            return Context(self._blank(settings.budget, settings), (0,) * settings.budget, 1)
        picked = select([footage.length for footage in past], settings.budget, settings.policy)
        latents = [self._still(past[shot], frame) for shot, frame in picked]
        while len(self._remembered) > max(REMEMBERED, len(picked)):
            self._remembered.popitem(last=False)
        stacked = torch.stack(latents, dim=1)[None] if latents else self._blank(0, settings)
        return Context(stacked, tuple(shot for shot, _ in picked), len(past))

    def _blank(self, count: int, settings: StreamSettings) -> Tensor:
        size = self.codec.latent_size(settings.height, settings.width)
        return torch.zeros(1, self.codec.channels, count, *size, device=self.device, dtype=self.transformer.dtype)

    def _still(self, footage: Footage, frame: int) -> Tensor:
        """The latent [C, h, w] of one frame, remembered from shot to shot.

        Never encoded together with others: the last bits of a batch depend on its size, and after a retake the frames
        that are new are others than when the saved story is told again.
        """
        key = (footage, frame)
        if key not in self._remembered:
            pixels = to_pixels(torch.from_numpy(footage.frames(frame, 1).copy()))
            self._remembered[key] = self.codec.encode_frames(pixels)[0].to(self.device, self.transformer.dtype)
        self._remembered.move_to_end(key)
        return self._remembered[key]


def chunk_sizes(latents: int, chunk: int) -> list[int]:
    """Latent frames of each chunk; the last may be shorter."""
    return [min(chunk, latents - start) for start in range(0, latents, chunk)]
