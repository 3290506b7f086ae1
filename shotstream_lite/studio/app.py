"""The studio as a Gradio app: Gradio opens, embeds and shares it; the page in it, and all it asks for, are ours."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def private_folder() -> None:
    """Gives Gradio a temporary folder of its own where the usual one is somebody else's: it reads this when loaded."""
    usual = Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")
    if usual.exists() and not os.access(usual, os.W_OK | os.X_OK):
        os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="gradio-")


@contextmanager
def _direct(hosts: str) -> Iterator[None]:
    """Calls to these hosts go past any proxy: Gradio asks its own page whether it is there."""
    before = {name: os.environ.get(name) for name in ("no_proxy", "NO_PROXY")}
    os.environ.update(dict.fromkeys(before, hosts))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


private_folder()
with _direct("*"):  # Gradio makes a client when it is loaded, which a proxy that is no HTTP would break
    import gradio as gr
from gradio.tunneling import CURRENT_TUNNELS  # noqa: E402
from starlette.applications import Starlette  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402
from starlette.routing import Mount  # noqa: E402

# One frame that fills Gradio's page, whatever Gradio puts around its components.
PAGE = '<iframe id="studio" src="studio/" title="shotstream studio" allow="fullscreen"></iframe>'
CSS = (
    "#studio { position: fixed; inset: 0; width: 100%; height: 100%; border: 0; z-index: 1; } footer { display: none }"
)
OFF = {"run_history": False, "enable_monitoring": False, "footer_links": [], "ssr_mode": False, "pwa": False}


class StudioApp(gr.Blocks):
    """A Gradio app that shows the studio's page.

    Attributes:
        sessions: what the page directs.
    """

    def __init__(self, sessions: Any, page: Starlette, guard: Middleware) -> None:
        super().__init__(analytics_enabled=False, title="shotstream studio")
        self.sessions, self._page, self._guard = sessions, page, guard
        with self:
            gr.HTML(PAGE)

    def launch(self, **options: Any) -> Any:
        """As `gradio.Blocks.launch`, with the page on the same server; what a studio does not use is off."""
        kept = {"routes": [Mount("/studio", self._page)], "middleware": [self._guard]}
        kept["lifespan"] = self._page.router.lifespan_context  # a mounted application's own is never called
        theme = gr.themes.Base(font=["system-ui"], font_mono=["monospace"])  # no fonts from elsewhere
        looks = {"theme": theme, "css": CSS, "mcp_server": False, "quiet": True}
        with _direct("localhost,127.0.0.1,0.0.0.0,::1" if options.get("share") else "*"):
            return super().launch(**{**OFF, **looks, **options, "app_kwargs": kept})

    def close(self, verbose: bool = False) -> None:
        """Ends the server, the public link, all sessions and the models' work."""
        self.sessions.close()
        if self.is_running:
            self.server.config.timeout_graceful_shutdown = 1  # seconds
        super().close(verbose)
        for tunnel in CURRENT_TUNNELS:
            if self.share_url and tunnel.local_port == self.server_port:
                tunnel.kill()
