"""The studio: a page on which a film is directed while it plays. `launch("toybox")` opens it."""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from shotstream_lite.errors import StoryError, reason
from shotstream_lite.studio.guard import guarded, listen, name_and_password
from shotstream_lite.studio.page import application
from shotstream_lite.studio.sessions import Sessions, open_sessions

__all__ = ["Studio", "build", "launch"]


class Studio(AbstractContextManager):
    """A page that is open. `close` ends it: its thread, its sessions, and the models if nobody else holds them.

    Attributes:
        url: where it is.
    """

    def __init__(self, app: Any) -> None:
        self.sessions: Sessions | None = app.sessions
        self.url: str = app.share_url or app.local_url.replace("//[::]:", "//[::1]:")  # :: is no address to go to
        self._app = app

    def close(self) -> None:
        """Ends the studio."""
        if self.sessions:
            self._app.close()
            self.sessions = self._app = None

    def wait(self) -> None:
        """Stays until Ctrl-C."""
        thread = self._app.server.thread
        try:
            while thread.is_alive():
                thread.join(0.5)
        except KeyboardInterrupt:
            print()
        finally:
            self.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def launch(
    preset: str | Path = "toybox",
    weights: str = "student",
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    hosts: Sequence[str] = (),
    auth: str | tuple[str, str] | None = None,
    stories: str | Path | None = None,
    share: bool = False,
    inbrowser: bool = False,
    height: int | None = None,
    block: bool | None = None,
) -> Studio:
    """Loads a model on every device, as it fits there, and opens the page; in a notebook it appears below the cell.

    Args:
        preset: a preset or a model folder.
        weights: which of the folder's transformers tells, see `folder.WEIGHTS`.
        host: who can reach the page: 127.0.0.1 this machine only, 0.0.0.0 everybody who can reach this machine.
        port: None for the first free one from 7860 on.
        hosts: names the page may be called by, besides addresses and this machine's own name.
        auth: "NAME:PASSWORD" that everybody must give.
        stories: a folder of story files that everybody finds on the page.
        share: also a public link, through Gradio.
        inbrowser: opens the page in the browser.
        height: of the page in a notebook, in pixels.
        block: stay until Ctrl-C; by default in a program, not in a notebook.

    Raises:
        StoryError: an option that is no good, a port that is taken, a story that cannot be told.
        CheckpointError: as `ShotStreamPipeline.from_pretrained`, and for weights that do not stream.
    """
    host = host.strip("[]")  # of an IPv6 address
    listen(host, port).close()  # what cannot be opened is said before the model is loaded
    app = build(preset, weights, hosts=(*hosts, "*" if share else host), auth=auth, stories=stories)
    notebook = in_notebook()
    try:
        if ":" in host and port is None:  # Gradio looks for a free one of IPv4
            with listen(host, None) as found:
                port = found.getsockname()[1]
        app.launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port,
            share=share,
            inbrowser=inbrowser,
            inline=notebook,
            height=height or 820,
            prevent_thread_lock=True,
        )
    except Exception as error:  # Gradio raises many kinds
        app.close()
        raise StoryError(
            f"the page cannot be opened ({reason(error)}): choose another --port, or another GRADIO_TEMP_DIR"
        ) from None
    studio = Studio(app)
    if share and not app.share_url:
        studio.close()
        raise StoryError("--share: there is no public link (see above): leave it out, or try later")
    print(f"shotstream studio: {studio.url}", flush=True)
    if block or (block is None and not notebook):
        studio.wait()
    return studio


def build(
    preset: str | Path = "toybox",
    weights: str = "student",
    *,
    hosts: Sequence[str] = (),
    auth: str | tuple[str, str] | None = None,
    stories: str | Path | None = None,
) -> Any:
    """The studio as a Gradio app, with a model on every device: `build().launch()`. Arguments as of `launch`."""
    password = name_and_password(auth)
    try:
        from starlette.middleware import Middleware

        from shotstream_lite.studio.app import StudioApp
    except ImportError:
        raise StoryError("the studio needs Gradio: pip install 'shotstream_lite[studio]'") from None
    sessions = open_sessions(preset, weights, stories)
    return StudioApp(sessions, application(sessions), Middleware(guarded, hosts, password))


def in_notebook() -> bool:
    """Whether a notebook runs this."""
    shell = sys.modules.get("IPython")
    found = shell.get_ipython() if shell else None
    return found is not None and hasattr(found, "kernel")
