"""Stories told by rivals: those that stream take part in a `StorySession`, the others make a story in one piece."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from shotstream_lite.cache import CaptionKeys
from shotstream_lite.codec import latent_frames, to_frames, to_pixels
from shotstream_lite.conditioning import Conditioning
from shotstream_lite.flow import euler_sigmas, few_step
from shotstream_lite.footage import Footage
from shotstream_lite.models.settings import StreamSettings
from shotstream_lite.pipeline import WHOLE_SHOTS, ShotStreamPipeline
from shotstream_lite.rivals.film import FilmCache, begin_film
from shotstream_lite.rivals.joint import Consistent, Joint, pyramid, sample_film
from shotstream_lite.rivals.streams import STREAMS, Rival, SelfForcing
from shotstream_lite.rollout import begin_shot, chunk_sizes, rollout
from shotstream_lite.story import Lines, Story, captions, line_at
from shotstream_lite.transformer import ShotStreamTransformer

KEPT = 4  # films that may be gone on with, as after a retake


class RivalPipeline(ShotStreamPipeline):
    """A storyteller by a streaming rival: goes on with what it made itself, encodes and watches what others made."""

    standard = False
    rival: Rival = SelfForcing()
    endless = False  # True: shots are cut out of one clip, as of a rival trained on single shots

    def __init__(self, *parts) -> None:
        super().__init__(*parts)
        self._films: dict[tuple[Footage, ...], FilmCache] = {}  # by the shots they hold
        self._past: tuple[Footage, ...] = ()  # of the latest shot
        self._film: FilmCache | None = None  # with that shot
        self._last: np.ndarray | None = None  # its last frame

    @classmethod
    def of(cls, pipeline: ShotStreamPipeline, name: str) -> "RivalPipeline":
        """A student under the rule of a rival, a key of `streams.STREAMS`, whether it was trained as that or not."""
        teller = cls(pipeline.transformer, pipeline.codec, pipeline.text, pipeline.settings, pipeline.name)
        teller.rival = STREAMS[name]
        return teller

    @torch.inference_mode()
    def latents(self, captions, past, seed, length, settings, before=None, after=None, again=None) -> Iterator[Tensor]:
        """As in `ShotStreamPipeline`; a chunk is never made again."""
        film = self._film = self._so_far(captions, tuple(past), settings).copy()
        self._past, self._last, generator = tuple(past), None, torch.Generator().manual_seed(seed)
        self.rival.begin(self.transformer, film, length, self._read(captions[-1]))
        sizes = self._directed(film, chunk_sizes(length, self.rival.chunk), generator, before, None)
        levels = few_step(settings.steps, settings.shift)
        for chunk in self.rival.shot(self.transformer, film, self.noise(generator), levels, sizes):
            if after:
                after(film)
            yield chunk

    @torch.inference_mode()
    def decoded(self, chunks: Iterable[Tensor], decoder) -> Iterator[np.ndarray]:
        """As in `ShotStreamPipeline`; where a clip goes on, its first latent's three frames too many are left out."""
        chunks = iter(chunks)
        first = next(chunks)  # from here on there is a film
        film, skipped = self._film, 3 * (self.endless and self._film.clip is not None)
        if skipped:
            decoder.stream.back(film.clip)
        for frames in super().decoded(chain([first], chunks), decoder):
            yield frames[skipped:]
            skipped = 0
        film.clip = decoder.stream.mark()
        if film is self._film:
            self._last = frames[-1]

    def context(self, *_) -> None:
        """Nothing has to be encoded before the next shot."""

    def _read(self, lines: Lines) -> CaptionKeys:
        return self.transformer.caption_keys(self.text([line_at(lines, 0)])[None])

    def _so_far(self, captions: Sequence[Lines], past: tuple[Footage, ...], settings: StreamSettings) -> FilmCache:
        """The film of some shots: as it was made, if the last of them is the latest shot, whole; else watched."""
        if past not in self._films and past and past[:-1] == self._past and self._last is not None:
            *_, last = past[-1].frames()
            if np.array_equal(last, self._last):
                self._films[past] = self._film
        if past not in self._films:
            size = self.codec.latent_size(settings.height, settings.width)
            film = self._films[past] = begin_film(self.transformer, self.rival, (1, self.codec.channels, *size))
            for lines, footage in zip(captions, past, strict=False):
                frames = to_pixels(torch.from_numpy(footage.frames().copy()).to(self.device))
                clip = self.codec.encode_clip(frames.transpose(0, 1)[None]).to(self.transformer.dtype)
                self.rival.begin(self.transformer, film, clip.shape[2], self._read(lines))
                self.rival.watch(self.transformer, film, clip)
        while len(self._films) > KEPT:
            del self._films[next(iter(self._films))]
        return self._films[past]


def offer_rivals(pipeline: ShotStreamPipeline) -> None:
    """From here on a shot's `weights` may be "as longlive": the same student, untrained, by that rule."""
    if pipeline.weights not in WHOLE_SHOTS:
        pipeline._by_weights |= {f"as {name}": RivalPipeline.of(pipeline, name) for name in STREAMS}


@torch.inference_mode()
def tell_jointly(pipeline: ShotStreamPipeline, story: Story, rival: Joint, steps: int = 25) -> list[np.ndarray]:
    """All shots of a story, uint8 [frames, height, width, 3] each, by a joint rival; a causal one's in their order."""
    length = latent_frames(pipeline.settings.shot_frames)
    ids = torch.arange(len(story.shots)).repeat_interleave(length)
    return [_pictures(pipeline, shot) for shot in _sampled(pipeline, rival, story, ids, steps).split(length, dim=2)]


@torch.inference_mode()
def tell_from_keyframes(
    pipeline: ShotStreamPipeline, story: Story, base: ShotStreamTransformer, steps: int = 25
) -> list[np.ndarray]:
    """Keyframes, then animate: a picture of every shot made together, then each shot from its own picture alone.

    base: a model of single frames (see `joint.Consistent`); the pipeline's student takes the picture as its context.
    """
    settings, model, film = pipeline.settings, pipeline.transformer, []
    rival = Consistent.of(base, source=torch.Generator().manual_seed(story.seed))
    pictures = _sampled(pipeline, rival, story, torch.arange(len(story.shots)), steps)
    noise, length = pipeline.noise(torch.Generator().manual_seed(story.seed)), latent_frames(settings.shot_frames)
    levels, sizes = few_step(settings.steps, settings.shift), chunk_sizes(length, settings.chunk)
    for shot, lines in enumerate(captions(story, len(story.shots) - 1)):
        text, picture = pipeline.text([line_at(lines, 0)])[None], pictures[:, :, shot : shot + 1]
        ids = torch.full((1 + length,), shot)
        cache = begin_shot(model, Conditioning(text, ids, context=picture, phase=settings.phase), budget=1)
        film.append(_pictures(pipeline, torch.cat(list(rollout(model, cache, noise, levels, sizes)), dim=2)))
    return film


def _sampled(pipeline: ShotStreamPipeline, rival: Joint, story: Story, ids: Tensor, steps: int) -> Tensor:
    """Latents of frames whose shots are `ids`."""
    settings = pipeline.settings
    texts = pipeline.text([line_at(lines, 0) for lines in captions(story, len(story.shots) - 1)])[None]
    size = pipeline.codec.latent_size(settings.height, settings.width)
    draw = pipeline.noise(torch.Generator().manual_seed(story.seed))
    noise = draw((1, pipeline.codec.channels, len(ids), *size))
    matrix = pyramid(steps, (ids * steps * rival.causal).tolist())
    options = {"uncond": torch.zeros_like(texts[:, :1]), "guidance": settings.guidance}
    *_, latents = sample_film(rival, noise, texts, euler_sigmas(steps, settings.shift), ids, matrix, **options)
    return latents


def _pictures(pipeline: ShotStreamPipeline, latents: Tensor) -> np.ndarray:
    return to_frames(pipeline.codec.decode(latents)[0].transpose(0, 1)).cpu().numpy()
