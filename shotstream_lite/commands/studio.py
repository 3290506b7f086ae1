"""`shotstream studio`: the page."""

from dataclasses import dataclass, field
from pathlib import Path

from shotstream_lite.files import check_name


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
    hosts: list[str] = field(default_factory=list)
    """Names the page may be called by, besides addresses and this machine's own name; "*" for all."""
    auth: str | None = None
    """NAME:PASSWORD that everybody must give."""
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

        options = {name: value for name, value in vars(self).items() if name not in ("preset", "weights", "open")}
        launch(self.preset, self.weights, inbrowser=self.open, block=True, **options)
        return 0
