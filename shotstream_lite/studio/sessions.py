"""All sessions of a studio, on a model on every device; a session whose page is gone is closed."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch

from shotstream_lite.errors import CheckpointError, StoryError, about
from shotstream_lite.files import read_text
from shotstream_lite.models.placement import choose
from shotstream_lite.pipeline import WHOLE_SHOTS, ShotStreamPipeline
from shotstream_lite.rivals.telling import offer_rivals
from shotstream_lite.studio import request
from shotstream_lite.studio.session import Session
from shotstream_lite.studio.worker import Worker

MAX_SESSIONS = 64
KEEP = 600.0  # seconds a session lives without its page: a sleeping laptop finds its story again
SHORT = 30.0  # the same for a session that has told nothing, once the studio is full


class Sessions:
    """All sessions of one studio; a page knows its own by a token."""

    def __init__(self, pipelines: Sequence[ShotStreamPipeline], stories: Mapping[str, str] | None = None) -> None:
        self.workers = [Worker(pipeline) for pipeline in pipelines]
        self.stories = dict(stories or {})  # prepared ones, by name
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self) -> Session:
        """A new session on the device with the fewest. Raises StoryError when the studio is full."""
        self.sweep()
        with self._lock:
            if len(self._sessions) >= MAX_SESSIONS:
                raise StoryError(f"the studio is full: {MAX_SESSIONS} people are in it; try again in a few minutes")
            taken = [session.worker for session in self._sessions.values()]
            session = Session(min(self.workers, key=taken.count))
            self._sessions[session.token] = session
            return session

    def of(self, token: Any) -> Session | None:
        """The session of a token, which is alive as of now."""
        session = self._sessions.get(token) if isinstance(token, str) else None
        if session:
            session.heard = time.monotonic()
        return session

    def sweep(self) -> None:
        """Closes sessions whose page is gone."""
        now = time.monotonic()
        full = len(self._sessions) >= MAX_SESSIONS
        for session in list(self._sessions.values()):
            silent = now - session.heard
            if silent > KEEP or (full and silent > SHORT and not session.project.version.strips):
                self.end(session)

    @asynccontextmanager
    async def sweeping(self, *_: Any) -> AsyncIterator[None]:
        """Closes them again and again while a server runs: its `lifespan`."""

        async def sweep() -> None:
            while True:
                await asyncio.sleep(KEEP / 20)
                await asyncio.to_thread(self.sweep)

        task = asyncio.create_task(sweep())
        yield
        task.cancel()

    def end(self, session: Session) -> None:
        """A session is over, and with it all it kept."""
        with self._lock:
            self._sessions.pop(session.token, None)
        session.close()

    def close(self) -> None:
        """Ends all work, and lets the models go."""
        for session in list(self._sessions.values()):
            self.end(session)
        for worker in self.workers:
            worker.close()


def open_sessions(preset: str | Path, weights: str, stories: str | Path | None = None) -> Sessions:
    """No sessions yet, on a model on every device as it fits there. Raises CheckpointError and StoryError."""
    if weights in WHOLE_SHOTS:
        raise CheckpointError(f"weights is {weights!r}, which makes whole shots: choose one that streams")
    plans = {device: choose(preset, device).plan for device in devices()}
    pipelines = [ShotStreamPipeline.from_pretrained(preset, weights, *where) for where in plans.items()]
    for pipeline in pipelines:
        offer_rivals(pipeline)
    return Sessions(pipelines, read_stories(stories, pipelines[0]) if stories else {})


def devices() -> list[str]:
    """Every CUDA device, or else the CPU."""
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]


def read_stories(folder: str | Path, pipeline: ShotStreamPipeline) -> dict[str, str]:
    """The story files of a folder, by name. Raises StoryError if there are none, or one cannot be told here."""
    folder = Path(folder).expanduser()
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not paths:
        raise StoryError(f"--stories {folder}: there are no story files (.json): name a folder that holds some")
    found = {}
    for path in paths:
        text = read_text(path)
        with about(path):
            request.read_story(text, pipeline.settings, path.name)
        found[path.stem] = text
    return found
