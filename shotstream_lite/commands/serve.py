"""`shotstream serve`: stories for scripts."""

from dataclasses import dataclass, field


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
class Serve(Server):
    """Serve stories to scripts: REST for wishes, a WebSocket for frames; /docs describes it."""

    def run(self) -> int:
        """Serves until Ctrl-C."""
        from shotstream_lite.studio.serve import serve

        serve(**vars(self))
        return 0
