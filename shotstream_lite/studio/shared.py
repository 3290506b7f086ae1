"""A caption encoder that pages and the stage may use at the same time."""

import threading
from collections.abc import Sequence

from torch import Tensor

from shotstream_lite.text import CaptionEncoder


class SharedText(CaptionEncoder):
    """The same encoder behind a lock: a tokenizer keeps its padding to itself, and two threads would mix theirs up."""

    def __init__(self, text: CaptionEncoder) -> None:
        self.__dict__.update(vars(text))
        self._lock = threading.RLock()

    def __call__(self, captions: Sequence[str]) -> Tensor:
        with self._lock:
            return super().__call__(captions)

    def check(self, captions: Sequence[str], first: int = 1) -> None:
        with self._lock:
            super().check(captions, first)

    def unknown_words(self, caption: str) -> list[tuple[str, list[str]]]:
        with self._lock:
            return super().unknown_words(caption)
