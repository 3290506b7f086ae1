"""What notebooks put on the page to play with: films that loop, and pictures with sliders."""

import base64
import io
import time
from collections.abc import Callable, Iterable, Mapping
from html import escape

import ipywidgets
import numpy as np
from IPython.display import HTML, display
from PIL import Image

from shotstream_lite.course.plots import Sheet, strip
from shotstream_lite.film import h264_encoder, pyav

FILM_WIDTH = 288  # pixels on the page
SMALL = 240  # films no wider than that are of the toybox's size, and are enlarged

# What a page made of a notebook shows where a widget would be, as long as no script has drawn the widget itself.
_STILL = """<style>
body.jp-Notebook .still[hidden], .reveal .still[hidden] {{ display: block }}
.jp-OutputArea-child:has(.widget-vbox) + .jp-OutputArea-child .still[hidden] {{ display: none }}
</style>
<div class="still" hidden><img src="{url}" alt="{name}" style="max-width:100%"></div>"""


def play(films: Mapping[str, np.ndarray], fps: int = 16, width: int = FILM_WIDTH) -> None:
    """Shows films side by side, looping, each with its name; below them the same as stills.

    The stills are for pages that play nothing, such as a code host's.

    Args:
        films: by name, uint8 [frames, H, W, 3]; width: of each on the page, in pixels.
    """
    boxes = "".join(film_figure(film, name, fps, width) for name, film in films.items())
    display(HTML(f'<div style="display:flex;flex-wrap:wrap">{boxes}</div>'))
    small = all(film.shape[2] <= SMALL for film in films.values())
    display(strip(films, columns=4 if small else 2))


def watch(take: Iterable[np.ndarray], name: str, fps: int = 16, width: int = FILM_WIDTH) -> np.ndarray:
    """Shows a shot at the film's pace while it is made, then as `play` does, and hands it over.

    Args:
        take: pieces of film as they are made, uint8 [f, H, W, 3].

    Shape: uint8 [frames, H, W, 3]
    """
    screen = display(HTML(""), display_id=True)
    pieces, due = [], time.monotonic()
    for piece in take:
        pieces.append(piece)
        for frame in piece:
            due = max(due + 1 / fps, time.monotonic())
            screen.update(Image.fromarray(frame).resize((width, width * frame.shape[0] // frame.shape[1])))
            time.sleep(max(0.0, due - time.monotonic()))
    screen.update(HTML(""))
    film = np.concatenate(pieces)
    play({name: film}, fps, width)
    return film


def film_figure(film: np.ndarray, name: str, fps: int = 16, width: int = FILM_WIDTH) -> str:
    """A film that loops, with its name below, as HTML."""
    video = f'<video src="{film_url(film, fps)}" width="{width}" autoplay loop muted controls playsinline></video>'
    caption = f'<figcaption style="font:15px sans-serif">{escape(name)}</figcaption>'
    return f'<figure style="margin:0 12px 8px 0">{video}{caption}</figure>'


def film_url(frames: np.ndarray, fps: int = 16) -> str:
    """A film, uint8 [f, H, W, 3], as a data URL (H.264) to stand in a page: small, because notebooks store it.

    Each pixel of a small film becomes 2 x 2, so that it keeps its colour in 4:2:0 video.
    """
    file = io.BytesIO()
    scale = 2 if frames.shape[2] <= SMALL else 1
    with pyav().open(file, "w", format="mp4") as container:
        encoder, options = h264_encoder()
        options = {"crf": "29", "preset": "slow"} if encoder == "libx264" else options
        stream = container.add_stream(encoder, rate=fps, options=options)
        stream.height, stream.width = scale * frames.shape[1], scale * frames.shape[2]
        stream.pix_fmt = "yuv420p"
        for frame in frames.repeat(scale, axis=1).repeat(scale, axis=2):
            container.mux(stream.encode(pyav().VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return "data:video/mp4;base64," + base64.b64encode(file.getvalue()).decode()


class Pictured(ipywidgets.VBox):
    """A widget that pages without a kernel show as a picture; a still of it, unseen in a notebook, is for pages."""

    def picture(self) -> tuple[bytes, str]:
        """What it looks like, as a PNG file, and in words."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **options) -> dict:
        png = base64.b64encode(self.picture()[0]).decode()
        return {**super()._repr_mimebundle_(**options), "image/png": png}

    def _ipython_display_(self) -> None:
        bundle, words = self._repr_mimebundle_(), self.picture()[1]
        display(bundle, metadata={"image/png": {"alt": words}}, raw=True)
        display(HTML(_STILL.format(url=f"data:image/png;base64,{bundle['image/png']}", name=escape(words))))


class Explorer(Pictured):
    """A picture that is drawn anew when a control moves.

    Args:
        draw: called with the values of the controls by name; returns a figure.
    """

    def __init__(self, draw: Callable[..., Sheet], **controls: ipywidgets.Widget) -> None:
        self._draw, self._controls = draw, controls
        self.image = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%", object_fit="contain"))
        super().__init__([*controls.values(), self.image])
        for control in controls.values():
            control.observe(self._redraw, names="value")
        self._redraw()

    def _redraw(self, change: object = None) -> None:
        sheet = self._draw(**{name: control.value for name, control in self._controls.items()})
        self.image.value, self._words = sheet.png(), sheet.words()

    def picture(self) -> tuple[bytes, str]:
        """As `Pictured.picture`."""
        return bytes(self.image.value), f"{self._words}; to be changed: {', '.join(self._controls)}"


class Desk(Pictured):
    """Any widget, with a picture of what it does for pages without a kernel.

    Args:
        still: called for that picture when the page is stored.
    """

    def __init__(self, widget: ipywidgets.Widget, still: Callable[[], Sheet], words: str) -> None:
        self._still, self._words = still, words
        super().__init__([widget])

    def picture(self) -> tuple[bytes, str]:
        """As `Pictured.picture`."""
        return self._still().png(), self._words


_LOOK = {"layout": {"width": "480px"}, "style": {"description_width": "180px"}}  # of controls


def slider(label: str, low: float, high: float, value: float, step: float = 1) -> ipywidgets.Widget:
    """A slider that reports when it is let go; whole numbers for a whole step."""
    kind = ipywidgets.IntSlider if isinstance(step, int) else ipywidgets.FloatSlider
    limits = {"min": low, "max": high, "step": step}
    return kind(value=value, description=label, continuous_update=False, **limits, **_LOOK)


def choice(label: str, options: list, value: object = None) -> ipywidgets.Widget:
    """A list to choose one thing from."""
    value = options[0] if value is None else value
    return ipywidgets.Dropdown(options=options, value=value, description=label, **_LOOK)
