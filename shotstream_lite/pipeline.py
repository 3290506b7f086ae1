"""Captions in, frames out: one shot after another, streamed chunk by chunk (paper sec. 4.2).

A frame's journey: earlier shots' pixels -> `history` picks frames -> the codec encodes each alone -> the context
pass fills the global cache -> noise becomes three latents in four steps -> the codec decodes them -> frames leave,
and only then the clean pass writes the local cache for the next chunk.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
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
        """
        settings = settings or self.settings
        self.check(settings)
        return self._stream(captions, past, seed, latent_frames(frames or settings.shot_frames), settings)

    @torch.inference_mode()
    def _stream(
        self,
        captions: Sequence[str],
        past: Sequence[Footage],
        seed: int,
        latents: int,
        settings: StreamSettings,
    ) -> Iterator[np.ndarray]:
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
            latents,
            caption_ids=reads,
            budget=settings.budget,
            phase=settings.phase,
        )
        generator = torch.Generator().manual_seed(seed)
        decoder = self.codec.stream()
        first = True
        for chunk in rollout(
            self.transformer,
            cache,
            lambda shape: torch.randn(shape, generator=generator).to(self.device, context.latents.dtype),
            few_step(settings.steps, settings.shift),
            chunk_sizes(latents, settings.chunk),
        ):
            # The very first latent is one frame, cheap to decode: it leaves before the rest of its chunk.
            for part in chunk.split([1, chunk.shape[2] - 1], dim=2) if first and chunk.shape[2] > 1 else [chunk]:
                yield to_frames(decoder.decode(part)[0].transpose(0, 1)).cpu().numpy()
            first = False

    @torch.inference_mode()
    def context(self, past: Sequence[Footage], settings: StreamSettings) -> Context:
        """The frames sparse history sampling picks (paper sec. 4.1), each encoded alone, in one batch, and once only.

        Before the first shot the released model sees zero latents of shot 0, and itself is shot 1.
        """
        if not past:
            height, width = self.codec.latent_size(settings.height, settings.width)
            zeros = torch.zeros(1, self.codec.channels, settings.budget, height, width, device=self.device)
            return Context(zeros.to(self.transformer.dtype), (0,) * settings.budget, 1)
        picked = select([footage.length for footage in past], settings.budget, settings.policy)
        latents = self._encode([(past[shot], frame) for shot, frame in picked], settings)
        return Context(latents, tuple(shot for shot, _ in picked), len(past))

    def _encode(self, stills: list[tuple[Footage, int]], settings: StreamSettings) -> Tensor:
        """Latents [1, C, n, h, w] of single frames, remembered from shot to shot."""
        new = [still for still in dict.fromkeys(stills) if still not in self._remembered]
        if new:
            pixels = np.concatenate([footage.frames(frame, 1) for footage, frame in new])
            encoded = self.codec.encode_frames(to_pixels(torch.from_numpy(pixels.copy())).to(self.device))
            self._remembered.update(zip(new, encoded, strict=True))
        for still in stills:
            self._remembered.move_to_end(still)
        latents = [self._remembered[still] for still in stills]
        while len(self._remembered) > max(REMEMBERED, len(stills)):
            self._remembered.popitem(last=False)
        if not latents:
            height, width = self.codec.latent_size(settings.height, settings.width)
            return torch.zeros(1, self.codec.channels, 0, height, width, device=self.device)
        return torch.stack(latents, dim=1)[None].to(self.transformer.dtype)


def chunk_sizes(latents: int, chunk: int) -> list[int]:
    """Latent frames of each chunk; the last may be shorter."""
    return [min(chunk, latents - start) for start in range(0, latents, chunk)]
