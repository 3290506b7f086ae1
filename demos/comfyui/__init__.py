"""ShotStream in ComfyUI: a story that grows from node to node, a shot each; only what changed is made again.

A story is a value: a node never changes the one it is given, it returns a longer one. What a node makes depends on
the story before it and its own inputs alone, so each shot is kept under these, beside ComfyUI's own cache: also after
a change that was taken back, and when ComfyUI keeps nothing. See README.md beside this.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_api.latest import ComfyExtension, io, ui
from PIL import Image

from shotstream_lite.commands.common import place
from shotstream_lite.errors import StoryError
from shotstream_lite.film import FilmWriter
from shotstream_lite.making import Making
from shotstream_lite.models.folder import WEIGHTS
from shotstream_lite.pipeline import ShotStreamPipeline, load_pipeline
from shotstream_lite.session import StorySession
from shotstream_lite.stills import write_picture
from shotstream_lite.story import MAX_FRAMES
from shotstream_lite.subtitles import write_captions

Model, Story = io.Custom("SHOTSTREAM_MODEL"), io.Custom("SHOTSTREAM_STORY")
KEPT = 64  # stories, each a shot longer than the one before it; their frames lie in temporary files
MAX_SEED = 2**53 - 1  # what a browser counts exactly
CATEGORY = "ShotStream"


@dataclass(frozen=True, eq=False)
class Told:
    """A story so far, and all that it was made from."""

    session: StorySession
    key: Hashable


_kept: OrderedDict[Hashable, Told] = OrderedDict()


@lru_cache(1)
@torch.inference_mode(False)  # or weights could never be moved
def load(preset: str, weights: str) -> ShotStreamPipeline:
    """The latest model, kept: shots are known by the model that made them."""
    return load_pipeline(preset, weights, *place(preset, None, False, {}))


def longer(told: Told, asked: tuple, begin: Callable[[StorySession], Making]) -> io.NodeOutput:
    """The story with the shot that `begin` asks a copy of it for, and the shot's frames."""
    key = (told.key, asked)
    if key not in _kept:
        session = told.session.branch()
        take = begin(session)
        bar = comfy.utils.ProgressBar(take.shot.frames)
        for frames in take:  # the bar raises if somebody cancels, and the take never was
            bar.update_absolute(take.frames_made, take.shot.frames, ("JPEG", Image.fromarray(frames[-1]), 512))
        _kept[key] = Told(session, key)
    _kept.move_to_end(key)
    while len(_kept) > KEPT:
        _kept.popitem(last=False)
    return io.NodeOutput(_kept[key], images(_kept[key].session.shots[-1].footage.frames()))


def images(frames: np.ndarray) -> torch.Tensor:
    """uint8 [f, H, W, 3] as ComfyUI's images, float [f, H, W, 3] in [0, 1]."""
    return torch.from_numpy(frames.copy()).float() / 255


class LoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ShotStreamLoadModel",
            display_name="Load ShotStream",
            category=CATEGORY,
            description="Loads a model onto the device where it fits; what is released elsewhere is fetched once.",
            inputs=[
                io.String.Input("preset", default="toybox", tooltip="toybox, wan-1.3b, or a folder that holds a model"),
                io.Combo.Input("weights", options=list(WEIGHTS), default="student"),
            ],
            outputs=[Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, preset, weights):
        return io.NodeOutput(load(preset, weights))


class BeginStory(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ShotStreamStory",
            display_name="Story",
            category=CATEGORY,
            description="Begins a story, without a shot yet.",
            inputs=[
                Model.Input("model"),
                io.String.Input("global_caption", multiline=True, tooltip="who and where, for the whole story"),
                io.Int.Input("seed", default=0, min=0, max=MAX_SEED, tooltip="where the seeds of shots come from"),
                io.Image.Input("picture", optional=True, tooltip="remembered as a frame of an earlier shot would be"),
                io.String.Input("picture_caption", optional=True, default="", tooltip="what is seen on the picture"),
            ],
            outputs=[Story.Output(display_name="story")],
        )

    @classmethod
    def execute(cls, model, global_caption, seed, picture=None, picture_caption=""):
        session = StorySession(model, global_caption, seed)
        frames = () if picture is None else (picture * 255).round().to(torch.uint8).cpu().numpy()
        pictures = tuple(map(write_picture, frames))
        for one in pictures:
            session.remember(one, picture_caption)
        return io.NodeOutput(Told(session, (model, global_caption, seed, pictures, picture_caption)))


class NextShot(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ShotStreamNextShot",
            display_name="Next shot",
            category=CATEGORY,
            description="Tells one more shot.",
            inputs=[
                Story.Input("story"),
                io.String.Input("caption", multiline=True),
                io.Int.Input("frames", default=0, min=0, max=MAX_FRAMES, tooltip="4k + 1; 0: the model's usual length"),
                io.Int.Input("seed", default=-1, min=-1, max=MAX_SEED, tooltip="-1: follows from the shot before"),
            ],
            outputs=[Story.Output("longer", display_name="story"), io.Image.Output(display_name="frames")],
        )

    @classmethod
    def execute(cls, story, caption, frames, seed):
        wishes = {"frames": frames or None, "seed": None if seed < 0 else seed}
        return longer(story, ("next", caption, frames, seed), lambda session: session.next_shot(caption, **wishes))


class Retake(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ShotStreamRetake",
            display_name="Retake",
            category=CATEGORY,
            description="Tells a shot once more. Earlier shots stay; later ones remembered it, and go.",
            inputs=[
                Story.Input("story"),
                io.Int.Input("number", default=0, min=0, max=1000, tooltip="of the shot, from 1; 0: the last"),
                io.String.Input("caption", multiline=True, default="", tooltip="empty: as before"),
                io.Int.Input("seed", default=0, min=0, max=MAX_SEED, control_after_generate=True),
            ],
            outputs=[Story.Output("retaken", display_name="story"), io.Image.Output(display_name="frames")],
        )

    @classmethod
    def execute(cls, story, number, caption, seed):
        wishes = {"caption": caption or None, "seed": seed}
        asked = ("retake", number, caption, seed)
        return longer(story, asked, lambda session: session.retake(number or None, **wishes))


class SaveFilm(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ShotStreamSaveFilm",
            display_name="Save film",
            category=CATEGORY,
            description="Saves the film, and beside it the story that `shotstream tell` tells again.",
            inputs=[
                Story.Input("story"),
                io.String.Input("filename_prefix", default="shotstream/film"),
                io.Boolean.Input("subtitles", default=False, tooltip="captions as a track, and a chapter a shot"),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, story, filename_prefix, subtitles):
        session = story.session
        if not session.shots:
            raise StoryError("the story has no shots: put a Next shot before Save film")
        size = session.settings.width, session.settings.height
        place = folder_paths.get_save_image_path(filename_prefix, folder_paths.get_output_directory(), *size)
        folder, name, counter, subfolder, _ = place
        path = Path(folder) / f"{name}_{counter:05}_.mp4"
        with FilmWriter(path, session.settings.fps) as film:
            for told in session.shots:
                film.write(told.footage.frames())
        if subtitles:
            write_captions(path, session.shots, session.settings.fps)
        session.save(path.with_suffix(".json"))
        return io.NodeOutput(ui=ui.PreviewVideo([ui.SavedResult(path.name, subfolder, io.FolderType.output)]))


class ShotStream(ComfyExtension):
    async def get_node_list(self):
        return [LoadModel, BeginStory, NextShot, Retake, SaveFilm]


async def comfy_entrypoint():
    return ShotStream()
