"""A story on ZeroGPU: a GPU comes for one shot and goes, so what is known of the story travels with each request."""

import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import gradio as gr
import numpy as np

from shotstream_lite.errors import ShotStreamError
from shotstream_lite.film import FilmWriter
from shotstream_lite.footage import Reel
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.session import StorySession, ToldShot
from shotstream_lite.story import Shot

MOST = 12  # shots of a story; their frames stay in memory


class Made(NamedTuple):
    """A shot as it travels: what was asked, and uint8 [f, height, width, 3]."""

    caption: str
    seed: int
    frames: np.ndarray


def build(preset: str, gpu: Callable, device: str = "cpu") -> gr.Blocks:
    """The page. `gpu` decorates what needs the GPU: it then runs in a process of its own."""
    pipeline = ShotStreamPipeline.from_pretrained(preset, device=device)

    @gpu
    def shot(story: str, past: list[Made], caption: str, seed: int) -> Iterator[np.ndarray]:
        reel = Reel()
        session = StorySession(pipeline, story, 0, reel=reel)
        earlier = [(Shot(one.caption, len(one.frames), one.seed), reel.append(one.frames)) for one in past]
        session.shots = tuple(ToldShot(asked, footage, 0.0, 0.0) for asked, footage in earlier)
        yield from session.next_shot(caption, seed=seed)

    def tell(story: str, told: list[Made], caption: str, seed: float | None, again: bool = False) -> Iterator[tuple]:
        past = told[:-1] if again else told
        if len(past) >= MOST:
            raise gr.Error(f"A story here has {MOST} shots at most: begin a new one.")
        seed, pieces = random.getrandbits(32) if seed is None else int(seed), []
        try:
            for frames in shot(story, past, caption, seed):
                pieces.append(frames)
                yield frames[-1], gr.skip(), told
        except ShotStreamError as error:
            raise gr.Error(str(error)) from None
        told = [*past, Made(caption, seed, np.concatenate(pieces))]
        yield pieces[-1][-1], film(told, pipeline.settings.fps), told

    with gr.Blocks(title="ShotStream", analytics_enabled=False) as page:
        gr.Markdown(
            "# ShotStream\nSay who the story is about, then one shot after the other: each remembers the earlier ones."
        )
        told = gr.State([])
        with gr.Row():
            with gr.Column():
                story = gr.Textbox(label="Story", lines=3, placeholder="Who, and where; holds for all shots")
                caption = gr.Textbox(label="Shot", lines=3, placeholder="Wide shot: ...")
                seed = gr.Number(label="Seed, empty for a new one", value=None, precision=0)
                with gr.Row():
                    following, again, new = (
                        gr.Button("Next shot", variant="primary"),
                        gr.Button("Retake"),
                        gr.Button("New story"),
                    )
            with gr.Column():
                live = gr.Image(label="While it is made", format="jpeg")
                whole = gr.Video(label="The film so far", autoplay=True)
        for button, retakes, name in ((following, False, "next_shot"), (again, True, "retake")):
            work = lambda *inputs, retakes=retakes: (yield from tell(*inputs, retakes))  # noqa: E731
            button.click(work, [story, told, caption, seed], [live, whole, told], concurrency_id="gpu", api_name=name)
        new.click(lambda: ([], None, None), None, [told, live, whole])
    page.tell = tell  # for those without a browser
    return page


def film(told: list[Made], fps: int) -> str:
    """The story so far as a file, which Gradio takes over."""
    path = Path(tempfile.mkdtemp()) / "film.mp4"
    with FilmWriter(path, fps) as writer:
        for one in told:
            writer.write(one.frames)
    return str(path)
