"""`shotstream studio`, the page, and `shotstream serve`, stories for scripts."""

from dataclasses import dataclass, field
from pathlib import Path

from shotstream_lite.files import check_name


@dataclass
class Server:
    """What a server tells with, and who can reach it."""

    preset: str = "toybox"
    """Model: a preset, or a folder that holds one."""
    weights: str = "student"
    """Which of the model's transformers tells: student or causal-init."""
    port: int | None = None
    """Port; by default the first free one from 7860 on."""
    host: str = "127.0.0.1"
    """Who can reach it: 127.0.0.1 this machine only, 0.0.0.0 everybody who can reach this machine."""
    hosts: list[str] = field(default_factory=list)
    """Names it may be called by, besides addresses and this machine's own name; "*" for all."""
    auth: str | None = None
    """NAME:PASSWORD that everybody must give."""


@dataclass
class Studio(Server):
    """Open the studio: a page on which a film is directed shot by shot while it plays."""

    stories: Path | None = None
    """Folder of story files that everybody finds on the page."""
    share: bool = False
    """Also make a public link, through Gradio."""
    open: bool = False
    """Open the page in the browser."""

    def run(self) -> int:
        """Opens the page and stays until Ctrl-C."""
        if self.stories:
            check_name(self.stories, "--stories")
        from shotstream_lite.studio import launch

        options = dict(vars(self))
        launch(inbrowser=options.pop("open"), block=True, **options)
        return 0


@dataclass
class Serve(Server):
    """Serve stories to scripts: REST for wishes, a WebSocket for frames; /docs describes it."""

    def run(self) -> int:
        """Serves until Ctrl-C."""
        from shotstream_lite.studio.serve import serve

        serve(**vars(self))
        return 0
