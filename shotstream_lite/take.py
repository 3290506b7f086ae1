"""A shot while it is made: an iterator of its frames that can be given another caption, cut short, and looked into."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shotstream_lite.cache import ShotCache
from shotstream_lite.codec import latent_frames
from shotstream_lite.fit import giving_back
from shotstream_lite.pipeline import ShotStreamPipeline, chunk_sizes
from shotstream_lite.presets import StreamSettings
from shotstream_lite.reel import Footage
from shotstream_lite.story import Lines, Shot, Story, Turn, captions, check_caption, line_at


class Take(Iterator[np.ndarray]):
    """One shot in the making. Frames are made when asked for: uint8 [f, height, width, 3], see `ShotStreamPipeline`.

    Args:
        story: ends with the shot to be made; the turns it has from an earlier telling are made again.
        finish: called with the take and all its frames when it is through; not when it is left early.

    Attributes:
        shot: what was asked, and when the take is through what was made, with its turns.
        frames_made: pixel frames handed out so far.
        shares: if `measuring`, the attention the latest chunk spent on each stored frame, float32
            [context + shot latents so far]: the mean of its last step over layers and heads. Sums to one.
        first_frame_seconds, seconds: work until the first frame, and in all.
        model_seconds: the part of `seconds` before the codec; 0 for models that do not stream.
    """

    def __init__(
        self,
        pipeline: ShotStreamPipeline,
        story: Story,
        past: Sequence[Footage],
        settings: StreamSettings,
        finish: Callable[["Take", np.ndarray], None],
    ) -> None:
        self.shot: Shot = story.shots[-1]
        self.settings = settings
        self.frames_made = 0
        self.measuring = False
        self.shares: Tensor | None = None
        self.first_frame_seconds = self.seconds = self.model_seconds = 0.0
        self._pipeline, self._story, self._finish = pipeline, story, finish
        self._planned, self._turned = list(self.shot.turns), []
        self._wanted: str | None = None
        self._cut = False
        self._chunks_to_come = len(chunk_sizes(latent_frames(self.shot.frames), settings.chunk))
        self._follower: str | None = None
        self._resumed, self._denoised = 0.0, None
        made = pipeline.shot(
            self._lines(self.shot.caption),
            past,
            seed=self.shot.seed,
            frames=self.shot.frames,
            settings=settings,
            before=self._before,
            after=self._after,
        )
        self._pieces = self._run(made)

    def __next__(self) -> np.ndarray:
        return next(self._pieces)

    def close(self) -> None:
        """Leaves the take; it never was."""
        self._pieces.close()

    def turn(self, caption: str) -> None:
        """Gives the shot another caption from its next chunk on. Raises StoryError if it is no good."""
        check_caption(caption, "the new caption")
        self._pipeline.text.check(self._lines(caption)[-1:], first=len(self._story.shots))
        self._wanted = caption

    @property
    def caption(self) -> str:
        """What the chunk handed out last was made from."""
        return self._turned[-1].caption if self._turned else self.shot.caption

    @property
    def unheard(self) -> str | None:
        """A caption given by `turn` that no chunk has read."""
        return self._wanted

    def cut(self) -> None:
        """Ends the shot with the chunk being handed out: a shorter shot, that tells itself again like any other."""
        self._cut = True

    def follow(self, caption: str) -> None:
        """Says what the next shot will read: encoded while this one's last chunk is decoded."""
        self._follower = caption

    def look_back(self, story: Sequence[Footage]) -> None:
        """Encodes what the next shot will remember, while it is not waited for: on a GPU, or if a next one is known."""
        if self._follower is not None or self._pipeline.device.type == "cuda":
            start = time.perf_counter()
            with suppress(torch.OutOfMemoryError):  # the next shot will try, and say so
                self._pipeline.context(story, self.settings)
            self.seconds += time.perf_counter() - start

    def _run(self, made: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        pieces: list[np.ndarray] = []
        self._resumed, self._began = time.perf_counter(), _now(self._pipeline.device)
        for frames in giving_back(made):
            self.seconds += time.perf_counter() - self._resumed
            if self._denoised:
                self.model_seconds += _seconds(self._began, self._denoised)
            self._denoised = None
            self.first_frame_seconds = self.first_frame_seconds or self.seconds
            pieces.append(frames)
            self.frames_made += len(frames)
            yield frames
            if self._cut and latent_frames(self.frames_made) % self.settings.chunk == 0:
                made.close()
                break
            # What the listener does with the frames is not our time.
            self._resumed, self._began = time.perf_counter(), _now(self._pipeline.device)
        self.shot = replace(self.shot, frames=self.frames_made, turns=tuple(self._turned))
        self._finish(self, np.concatenate(pieces))

    def _before(self, cache: ShotCache, frame: int) -> str | None:
        """Says which caption begins here: one just wished for, or one of an old telling."""
        cache.shares = {} if self.measuring else None
        due = [turn for turn in self._planned if turn.frame <= frame]
        self._planned = self._planned[len(due) :]
        caption, self._wanted = self._wanted, None
        if caption is not None:
            self._planned = []  # a new wish is worth more than old ones
        elif due:
            caption = due[-1].caption
        if caption is None:
            return None
        self._turned.append(Turn(frame, caption))
        return self._lines(caption)[-1]

    def _after(self, cache: ShotCache) -> None:
        self._chunks_to_come -= 1
        if not self._chunks_to_come and self._follower is not None:
            story = replace(self._story, shots=(*self._story.shots, Shot(self._follower)))
            self._pipeline.text.prepare([line_at(captions(story, len(self._story.shots))[-1], 0)])
        if cache.shares:
            self.shares = torch.stack(list(cache.shares.values())).mean(0).cpu()
        self._denoised = _now(self._pipeline.device)

    def _lines(self, caption: str) -> list[Lines]:
        """What the model reads if this shot says nothing but `caption`."""
        shot = replace(self.shot, caption=caption, turns=())
        return captions(replace(self._story, shots=(*self._story.shots[:-1], shot)), len(self._story.shots))


def _now(device: torch.device) -> Any:
    """A mark in a device's work: on a GPU no wait for what comes before it."""
    if device.type != "cuda":
        return time.perf_counter()
    mark = torch.cuda.Event(enable_timing=True)
    mark.record(torch.cuda.current_stream(device))
    return mark


def _seconds(start: Any, end: Any) -> float:
    """Between two marks that lie behind us."""
    return end - start if isinstance(end, float) else start.elapsed_time(end) / 1000
