"""`shotstream studio`: the page."""

import importlib.util
from dataclasses import dataclass

from shotstream_lite.story import StoryError


@dataclass
class Studio:
    """Open the studio: a page on which a film is directed shot by shot while it plays."""

    preset: str = "toybox"
    """Model: a preset, or a folder that holds one."""
    weights: str = "student"
    """Which of the model's transformers tells: student or causal-init."""
    port: int | None = None
    """Port of the page; by default the first free one from 7860 on."""
    host: str = "127.0.0.1"
    """Who can reach the page: 127.0.0.1 this machine only, 0.0.0.0 everybody who can reach this machine."""
    share: bool = False
    """Also make a public link, through Gradio's tunnel."""
    open: bool = False
    """Open the page in the browser."""

    def run(self) -> int:
        """Opens the page and stays until Ctrl-C."""
        if self.port is not None and not 1 <= self.port <= 65535:
            raise StoryError(f"--port is {self.port}: write a number from 1 to 65535, or leave it out")
        if importlib.util.find_spec("gradio") is None:
            raise StoryError("the studio needs Gradio: pip install 'shotstream_lite[studio]'")
        from shotstream_lite.studio import launch

        options = {"server_name": self.host, "server_port": self.port, "share": self.share}
        try:
            launch(self.preset, self.weights, inbrowser=self.open, **options)
        except OSError as error:
            raise StoryError(f"the page cannot be opened ({error}): choose another --port or --host") from None
        return 0
