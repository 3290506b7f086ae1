"""A shot while it is made: an iterator of its frames that can be given another caption, cut short, and looked into."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shotstream_lite.cache import ShotCache
from shotstream_lite.codec import latent_frames, pixel_frames
from shotstream_lite.footage import Footage
from shotstream_lite.models.placement import giving_back
from shotstream_lite.models.settings import StreamSettings
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.rollout import chunk_sizes
from shotstream_lite.story import CaptionChange, Lines, Shot, Story, captions, check_caption, line_at


class Making(Iterator[np.ndarray]):
    """One shot in the making. Frames are made when asked for: uint8 [f, height, width, 3], see `ShotStreamPipeline`.

    Args:
        story: ends with the shot to be made; the turns it has from an earlier telling are made again.
        number: the shot's, for complaints; `story` may begin with pictures of one's own, which are no shots.
        finish: called with the take and all its frames when it is through; not when it is left early.
        keep: how many of the frames are handed out and kept; None for all.
        directed: a chunk may be made anew, see `turn`; what the decoder remembers is then kept once more.

    Attributes:
        shot: what was asked, and when the take is through what was made, with its turns.
        frames_made: pixel frames handed out so far.
        whole: they end with a chunk, so that the next frame asked for begins another one.
        redoing: the frames handed out last are out of date, and come anew.
        shares: if `measuring`, the attention the latest chunk spent on each stored frame, float32
            [context + shot latents so far]: the mean of its last step over layers and heads. Sums to one.
        first_frame_seconds, seconds: work until the first frame, and in all.
        standard: made by the method itself, see `ShotStreamPipeline`.
        model_seconds: the part of `seconds` before the codec; 0 for models that do not stream.
    """

    def __init__(
        self,
        pipeline: ShotStreamPipeline,
        story: Story,
        number: int,
        past: Sequence[Footage],
        settings: StreamSettings,
        finish: Callable[["Making", np.ndarray], None],
        keep: int | None,
        directed: bool,
    ) -> None:
        self.shot: Shot = story.shots[-1]
        self.settings = settings
        self.frames_made = 0
        self.measuring = False
        self.shares: Tensor | None = None
        self.first_frame_seconds = self.seconds = self.model_seconds = 0.0
        self._pipeline, self._story, self._number, self._finish = pipeline, story, number, finish
        self._planned, self._turned = list(self.shot.turns), []
        self._wanted: str | None = None
        self._redo: str | None = None
        self._cut, self._keep = False, keep
        self.standard = pipeline.standard
        self._may_redo = directed and self.standard
        sizes = chunk_sizes(latent_frames(self.shot.frames), settings.chunk)
        self._ends = [pixel_frames(end) for end in accumulate(sizes)]
        self._chunk: int | None = None  # which chunk was begun last
        self._raw: list[np.ndarray] = []
        self._directing = threading.Lock()  # the wish comes from one thread, the frames from another
        self._follower: str | None = None
        self._denoised: Any = None
        made = pipeline.shot(
            self._lines(self.shot.caption),
            past,
            seed=self.shot.seed,
            frames=self.shot.frames,
            settings=settings,
            before=self._before,
            after=self._after,
            again=self._again if self._may_redo else None,
        )
        self._pieces = self._run(made)

    def __next__(self) -> np.ndarray:
        return next(self._pieces)

    def close(self) -> None:
        """Leaves the take; it never was."""
        self._pieces.close()

    def turn(self, caption: str, seen: int | None = None) -> int | None:
        """Gives the shot another caption from its next chunk on. Raises StoryError if it is no good.

        Args:
            seen: how many frames of the shot were shown. If none of the latest chunk was, it is made anew
                (if `directed`).

        Returns:
            The first frame that is made with the new caption; None, and nothing changes, if the last chunk is begun.
        """
        check_caption(caption, "the new caption")
        self._pipeline.text.check(self._lines(caption)[-1:], first=self._number)
        with self._directing:
            first = self._start(self._chunk)
            if self._may_redo and seen is not None and self._chunk is not None and seen <= first:
                self._redo = caption
                return first
            following = 0 if self._chunk is None else self._ends[self._chunk]
            if following >= self._ends[-1]:
                return None
            self._wanted = caption
            return following

    @property
    def caption(self) -> str:
        """What the chunk handed out last was made from."""
        return self._turned[-1].caption if self._turned else self.shot.caption

    @property
    def whole(self) -> bool:
        return self._made in self._ends

    @property
    def redoing(self) -> bool:
        return self._redo is not None

    def cut(self, frames: int | None = None) -> None:
        """Ends the shot with the chunk being handed out: a shorter shot, that tells itself again like any other.

        Args:
            frames: of those handed out, how many are kept; None for all.
        """
        self._cut = True
        self._keep = self._keep if frames is None else max(1, frames)

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

    @property
    def _made(self) -> int:
        return sum(map(len, self._raw))

    def _start(self, chunk: int | None) -> int:
        """The first frame of a chunk."""
        return self._ends[chunk - 1] if chunk else 0

    def _run(self, made: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        resumed, began = time.perf_counter(), _now(self._pipeline.device)
        for frames in giving_back(made):
            self.seconds += time.perf_counter() - resumed
            if self._denoised:
                self.model_seconds += _seconds(began, self._denoised)
            self._denoised = None
            self.first_frame_seconds = self.first_frame_seconds or self.seconds
            if self._redo is None:  # or else they belong to a chunk that is made anew
                self._raw.append(frames)
                frames = frames[: max(0, (self._keep or self._made) - self.frames_made)]
                self.frames_made += len(frames)
                if len(frames):
                    yield frames
            if self._cut and self.whole:
                made.close()
                break
            # What the listener does with the frames is not our time.
            resumed, began = time.perf_counter(), _now(self._pipeline.device)
        film = np.concatenate(self._raw)[: self._keep]
        self.frames_made = len(film)
        settings = {key: value for key, value in self.shot.settings.items() if key != "keep"}
        if len(film) < self._made:
            settings["keep"] = len(film)
        self.shot = replace(self.shot, frames=self._made, turns=tuple(self._turned), settings=settings)
        self._finish(self, film)

    def _again(self) -> str | None:
        """Says that the latest chunk is made anew, and with which caption."""
        with self._directing:
            caption, self._redo = self._redo, None
            if caption is None or self._cut:
                self._may_redo = self._chunk < len(self._ends) - 1  # or the shot ends here
                return None
            first = self._start(self._chunk)
            while self._made > first:
                self._raw.pop()
            self.frames_made = first
            self._planned, self._wanted = [], None
            self._turned = [*(turn for turn in self._turned if turn.frame < first), CaptionChange(first, caption)]
        return self._lines(caption)[-1]

    def _before(self, cache: ShotCache, frame: int) -> str | None:
        """Says which caption begins here: one just wished for, or one of an old telling."""
        cache.shares = {} if self.measuring else None
        with self._directing:
            self._chunk = 0 if self._chunk is None else self._chunk + 1
            due = [turn for turn in self._planned if turn.frame <= frame]
            self._planned = self._planned[len(due) :]
            caption, self._wanted = self._wanted, None
            if caption is not None:
                self._planned = []  # a new wish is worth more than old ones
            elif due:
                caption = due[-1].caption
            if caption is None:
                return None
            self._turned.append(CaptionChange(frame, caption))
        return self._lines(caption)[-1]

    def _after(self, cache: ShotCache) -> None:
        if self._chunk == len(self._ends) - 1 and self._follower is not None:
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
