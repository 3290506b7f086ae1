"""`shotstream studio`: the page."""

from dataclasses import dataclass
from pathlib import Path

from shotstream_lite.commands.serve import Server
from shotstream_lite.files import check_name


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

        options = {name: value for name, value in vars(self).items() if name not in ("preset", "weights", "open")}
        launch(self.preset, self.weights, inbrowser=self.open, block=True, **options)
        return 0
