"""What the page has still to be told, from whatever thread, in order."""

import asyncio
import threading
from collections import deque
from typing import Any

Message = dict[str, Any]


class Outbox:
    """Messages for one page: put in from any thread, taken out by the page's own stream."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._lock = threading.Lock()
        self._wake: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def put(self, message: Message) -> None:
        """Adds a message and wakes the stream."""
        with self._lock:
            self._messages.append(message)
            wake = self._wake
        if wake:
            loop, event = wake
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    def drain(self) -> list[Message]:
        """Everything there is, oldest first; perhaps nothing."""
        with self._lock:
            messages, self._messages = list(self._messages), deque()
        return messages

    async def collect(self, patience: float) -> list[Message]:
        """Everything there is, as soon as there is something; nothing after `patience` seconds."""
        event = asyncio.Event()
        with self._lock:
            self._wake = (asyncio.get_running_loop(), event)
            waiting = not self._messages
        if waiting:
            try:
                await asyncio.wait_for(event.wait(), patience)
            except TimeoutError:
                return []
        return self.drain()
