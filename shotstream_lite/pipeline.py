"""Captions in, frames out: one shot after another, streamed chunk by chunk (paper sec. 4.2).

A frame's journey: earlier shots' pixels -> `history` picks frames -> the codec encodes each alone -> the context
pass fills the global cache -> noise becomes three latents in four steps -> the codec decodes them -> frames leave,
and only then the clean pass writes the local cache for the next chunk.
"""

import copy
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from shotstream_lite.cache import ShotCache
from shotstream_lite.codec import Codec, latent_frames, pixel_frames, to_frames, to_pixels
from shotstream_lite.conditioning import Conditioning
from shotstream_lite.context import Context, remember
from shotstream_lite.errors import CheckpointError
from shotstream_lite.flow import euler_sigmas, few_step
from shotstream_lite.footage import Footage
from shotstream_lite.models.folder import model_folder, weights_in
from shotstream_lite.models.placement import Plan, load_another, load_parts
from shotstream_lite.models.settings import StreamSettings, load_settings
from shotstream_lite.rollout import Noise, begin_shot, chunk_sizes, rollout, sample_joint
from shotstream_lite.story import Lines
from shotstream_lite.text import CaptionEncoder
from shotstream_lite.transformer import ShotStreamTransformer

WHOLE_SHOTS = {"teacher", "base"}  # weights that make a shot in one piece
REMEMBERED = 64  # context latents kept, many more than one shot looks at

Before = Callable[[ShotCache, int], str | None]
"""Called before each chunk with its first pixel frame; a text it gives is what the model reads from there on."""
After = Callable[[ShotCache], None]
"""Called after each chunk's last step, before it is decoded."""
Again = Callable[[], str | None]
"""Called when more is asked for after a chunk; a text it gives is what that chunk is made anew with, from its noise."""


class ShotStreamPipeline:
    """Transformer, codec and text encoder, and the settings they stream with. Holds no story: see `StorySession`."""

    standard = True  # a shot remembers what `context` picks, and a chunk can be made `again`

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
        self._remembered: OrderedDict[tuple[weakref.ref[Footage], int], Tensor] = OrderedDict()
        self._folder: Path | None = None
        self._plan = Plan()
        self._by_weights: dict[str, ShotStreamPipeline] = {}
        self._loading = Lock()

    @classmethod
    def from_pretrained(
        cls, name: str | Path = "toybox", weights: str = "student", device: str = "cpu", plan: Plan | None = None
    ) -> "ShotStreamPipeline":
        """A preset ("toybox") or a model folder.

        Args:
            weights: which transformer of the folder, see `folder.WEIGHTS`.
            device: where it works, as torch names it.
            plan: where its parts are, see `placement.choose`; None: all on `device`.

        Raises:
            CheckpointError: an unknown name, or files that are missing, damaged or do not fit; one line.
        """
        folder = model_folder(name, weights)
        plan = plan or Plan()
        pipeline = cls(*load_parts(folder, weights, device, plan), load_settings(folder), str(name))
        pipeline._folder, pipeline._plan = folder, plan
        pipeline._by_weights[weights] = pipeline
        return pipeline

    @property
    def weights(self) -> str | None:
        """The name of this transformer among those of its folder."""
        return next((name for name, pipeline in self._by_weights.items() if pipeline is self), None)

    @property
    def streaming_weights(self) -> list[str]:
        """The transformers beside this one that can tell a shot chunk by chunk, this one included."""
        there = weights_in(self._folder) if self._folder else []
        return [name for name in dict.fromkeys((*there, *self._by_weights)) if name not in WHOLE_SHOTS]

    def with_weights(self, weights: str) -> "ShotStreamPipeline":
        """The same storyteller with another transformer of its folder, loaded once; codec and memory are shared.

        Raises CheckpointError if the folder has none by that name that streams.
        """
        self.check_weights(weights)
        with self._loading:  # three visitors who ask at once wait for one load
            if weights not in self._by_weights:
                other = copy.copy(self)
                other.transformer = load_another(self._folder, weights, str(self.device), self._plan)
                self._by_weights[weights] = other
            return self._by_weights[weights]

    def check_weights(self, weights: str) -> None:
        """Raises CheckpointError if the folder has no transformer by that name that streams; loads nothing."""
        if weights not in self.streaming_weights:
            known = ", ".join(self.streaming_weights) or "none but its own"
            raise CheckpointError(f"weights is {str(weights)[:40]!r}: this model has {known}")

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    def check(self, settings: StreamSettings) -> None:
        """Raises CodecError if the picture's size does not fit the codec and the transformer's patches."""
        self.codec.latent_size(settings.height, settings.width, self.transformer.config.patch_size[-1])

    def shot(
        self,
        captions: Sequence[Lines],
        past: Sequence[Footage] = (),
        *,
        seed: int,
        frames: int | None = None,
        settings: StreamSettings | None = None,
        before: Before | None = None,
        after: After | None = None,
        again: Again | None = None,
    ) -> Iterator[np.ndarray]:
        """Makes the next shot of a story.

        Args:
            captions: of all shots so far and, last, of this one, as the model reads them (`story.captions`).
            past: the footage of all earlier shots.
            seed: of all noise in this shot; the same seed and past give the same frames.
            frames: pixel frames, 4k+1.
            before, after, again: look on, and change the caption between two chunks or of the latest one; what is
                made is otherwise the same.

        Yields:
            uint8 [f, height, width, 3] as soon as they are known: 1 frame, 8 more of the first chunk, then 12 a chunk.

        Raises:
            CodecError: a length or a size that does not fit; at once, before a frame is asked for.
        """
        settings = settings or self.settings
        self.check(settings)
        length = latent_frames(settings.shot_frames if frames is None else frames)
        decoder = _Rewinding(self.codec, again)
        return self.decoded(self.latents(captions, past, seed, length, settings, before, after, decoder.again), decoder)

    @torch.inference_mode()
    def latents(
        self,
        captions: Sequence[Lines],
        past: Sequence[Footage],
        seed: int,
        length: int,
        settings: StreamSettings,
        before: Before | None = None,
        after: After | None = None,
        again: Again | None = None,
    ) -> Iterator[Tensor]:
        """The same shot before the codec: `length` latents in chunks [1, channels, f, h, w]."""
        cond = self.conditioning(captions, self.context(past, settings, captions), length, settings)
        cache = begin_shot(self.transformer, cond, settings.budget)
        generator = torch.Generator().manual_seed(seed)
        chunks = rollout(
            self.transformer,
            cache,
            self.noise(generator),
            few_step(settings.steps, settings.shift),
            self._directed(cache, chunk_sizes(length, settings.chunk), generator, before, again),
        )
        for latents in chunks:
            if after:
                after(cache)
            yield latents

    def conditioning(
        self, captions: Sequence[Lines], context: Context, length: int, settings: StreamSettings
    ) -> Conditioning:
        """What a shot of `length` latents is made from. Only captions that are read are encoded: those of the
        remembered frames and, last, its own."""
        latents, ids, reads, used = context.told(captions, length, settings.own_captions)
        return Conditioning(self.text(used)[None], ids, reads, latents, settings.phase)

    def noise(self, generator: torch.Generator) -> Noise:
        """Drawn on the CPU, so that a seed means the same everywhere; a GPU copies it while it is still at work."""
        pinned = self.device.type == "cuda"

        def draw(shape: tuple[int, ...]) -> Tensor:
            noise = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu", pin_memory=pinned)
            return noise.to(self.device, non_blocking=pinned).to(self.transformer.dtype)

        return draw

    def _directed(
        self,
        cache: ShotCache,
        sizes: Iterable[int],
        generator: torch.Generator,
        before: Before | None,
        again: Again | None,
    ) -> Iterator[int]:
        """The chunks' sizes. A new caption has its keys computed here and both memories stay: the rollout asks for a
        size before the clean pass of the chunk that came before, which still reads its own caption."""
        start = 0
        for size in sizes:
            line = before(cache, max(0, pixel_frames(start))) if before else None
            if line is not None:
                cache.captions = self.transformer.caption_keys(self.text([line])[None])
            noise = generator.get_state()
            yield size
            while again and (line := again()) is not None:
                cache.captions = self.transformer.caption_keys(self.text([line])[None])
                generator.set_state(noise)
                yield -size
            start += size

    @torch.inference_mode()
    def decoded(self, chunks: Iterable[Tensor], decoder: "_Rewinding | None" = None) -> Iterator[np.ndarray]:
        """The frames of a shot's latents, uint8 [f, height, width, 3], as their chunks come."""
        decoder = decoder or _Rewinding(self.codec)
        for chunk in chunks:
            # The very first latent is one frame, cheap to decode: it leaves before the rest of its chunk.
            for part in chunk.tensor_split([decoder.begin()], dim=2):
                if part.shape[2]:
                    pixels = decoder.stream.decode(part)[0].transpose(0, 1)
                    if not pixels.isfinite().all():
                        cause = "weights damaged, or precision too low for them"
                        fix = "fetch them again, or tell without float8"
                        raise CheckpointError(f"{self.name}: frames came out that are not finite ({cause}): {fix}")
                    yield to_host(to_frames(pixels)).numpy()

    @torch.inference_mode()
    def context(self, past: Sequence[Footage], settings: StreamSettings, captions: Sequence[Lines] = ()) -> Context:
        """The frames sparse history sampling picks (paper sec. 4.1), each encoded alone and once only.

        captions: of all shots and of the one to come, see `context.remember`
        """
        size = self.codec.latent_size(settings.height, settings.width)
        blank = torch.zeros(self.codec.channels, 1, *size, device=self.device, dtype=self.transformer.dtype)
        lengths = [footage.length for footage in past]

        def encoded(picked: Sequence[tuple[int, int]]) -> list[Tensor]:
            stills = [self._still(past[shot], frame) for shot, frame in picked]
            while len(self._remembered) > max(REMEMBERED, len(picked)):
                self._remembered.popitem(last=False)
            return stills

        context = remember(lengths, settings.budget, settings.policy, encoded, blank, captions)
        return replace(context, latents=context.latents[None])

    def _still(self, footage: Footage, frame: int) -> Tensor:
        """The latent [C, h, w] of one frame, remembered from shot to shot.

        Never encoded together with others: the last bits of a batch depend on its size, and after a retake the frames
        that are new are others than when the saved story is told again.
        """
        key = (weakref.ref(footage), frame)  # what is remembered of a story does not keep its reel
        if key not in self._remembered:
            still = torch.from_numpy(footage.frames(frame, 1).copy())  # bytes travel, not floats
            pixels = to_pixels(still.to(self.device, non_blocking=True))
            self._remembered[key] = self.codec.encode_frames(pixels)[0].to(self.transformer.dtype)
        self._remembered.move_to_end(key)
        return self._remembered[key]


class TeacherPipeline(ShotStreamPipeline):
    """Tells stories with a bidirectional transformer, whole shots at once (paper sec. 4.1): slow, and what the student
    is measured against. Load it with `from_pretrained(name, "teacher")`.

    `sampling_steps` Euler steps with classifier-free guidance, as strong as the settings say, against their negative
    prompt; without one against an embedding of zeros.
    """

    sampling_steps = 50

    @torch.inference_mode()
    def latents(
        self,
        captions: Sequence[Lines],
        past: Sequence[Footage],
        seed: int,
        length: int,
        settings: StreamSettings,
        *_: Before | After | Again | None,
    ) -> Iterator[Tensor]:
        """The whole shot in one piece, [1, channels, length, h, w]; it reads its first caption, and nobody looks on."""
        cond = self.conditioning(captions, self.context(past, settings, captions), length, settings)
        negative = settings.negative_prompt
        batch, channels, _, height, width = cond.context.shape
        yield sample_joint(
            self.transformer,
            self.noise(torch.Generator().manual_seed(seed))((batch, channels, length, height, width)),
            cond,
            euler_sigmas(self.sampling_steps, settings.shift),
            uncond=cond.unconditional(self.text([negative])[None] if negative else None),
            guidance=settings.guidance,
        )


def load_pipeline(
    name: str | Path = "toybox", weights: str = "student", device: str = "cpu", plan: Plan | None = None
) -> ShotStreamPipeline:
    """The storyteller that goes with some weights (see `folder.WEIGHTS`): streaming, or whole shots at once.

    plan: where its parts are, see `placement.choose`; None: all on `device`. Raises CheckpointError as
    `ShotStreamPipeline.from_pretrained`.
    """
    kind = TeacherPipeline if weights in WHOLE_SHOTS else ShotStreamPipeline
    pipeline = kind.from_pretrained(name, weights, device, plan)
    if weights == "base":  # plain text-to-video: it never learnt to look back
        pipeline.settings = pipeline.settings.changed({"budget": 0})
    return pipeline


def to_host(frames: Tensor) -> Tensor:
    """A tensor on the CPU; from a GPU through pinned memory, at the bus's full speed."""
    if frames.is_cuda:
        frames = torch.empty_like(frames, device="cpu", pin_memory=True).copy_(frames, non_blocking=True)
        torch.cuda.current_stream().synchronize()
    return frames.cpu()


class _Rewinding:
    """A shot's decoder, which goes back by a chunk when that chunk is made again."""

    def __init__(self, codec: Codec, again: Again | None = None) -> None:
        self.stream = codec.stream()
        self._again, self._chunks, self._mark = again, 0, None

    def begin(self) -> int:
        """A chunk comes. Returns how many of its latents are decoded alone."""
        self._mark = self.stream.mark() if self._again else None
        self._chunks += 1
        return int(self._chunks == 1)

    def again(self) -> str | None:
        """See `Again`."""
        line = self._again() if self._again else None
        if line is not None:
            self.stream.back(self._mark)
            self._chunks -= 1
        return line
