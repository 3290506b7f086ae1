"""All pages of one studio: who is here, and on which device each works."""

import threading

from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.story import StoryError
from shotstream_lite.studio.director import Director
from shotstream_lite.studio.stage import Stage


class House:
    """One stage a device, one director a page. A page is known by its browser session, its script by a token."""

    def __init__(self, pipelines: list[ShotStreamPipeline]) -> None:
        self.stages = [Stage(pipeline) for pipeline in pipelines]
        self._directors: dict[str, Director] = {}
        self._lock = threading.Lock()

    @property
    def pages(self) -> int:
        return len(self._directors)

    def open(self, page: str) -> Director:
        """The page's director; a new one on the stage with the fewest pages if it has none."""
        with self._lock:
            if page not in self._directors:
                taken = [director.stage for director in self._directors.values()]
                self._directors[page] = Director(min(self.stages, key=taken.count))
            return self._directors[page]

    def of_page(self, page: str) -> Director:
        """The page's director. Raises StoryError for a page that is not open."""
        director = self._directors.get(page)
        if director is None:
            raise StoryError("this page is not connected any more: reload it")
        return director

    def of_token(self, token: str) -> Director:
        """The director whose token this is. Raises StoryError for any other."""
        with self._lock:
            director = next((d for d in self._directors.values() if d.token == token), None)
        if director is None:
            raise StoryError("this page is not connected any more: reload it")
        return director

    def close(self, page: str) -> None:
        """The page is gone, and with it all it kept."""
        with self._lock:
            director = self._directors.pop(page, None)
        if director:
            director.close()

    def shut(self) -> None:
        """Ends all work."""
        for page in list(self._directors):
            self.close(page)
        for stage in self.stages:
            stage.close()
