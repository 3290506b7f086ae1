"""The modular blocks of demos/diffusers: loaded from a folder, frame by frame what ShotStreamPipeline makes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler, ModularPipeline, ModularPipelineBlocks, WanPipeline
from diffusers.utils import dynamic_modules_utils

from shotstream_lite.footage import Reel
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.story import Shot, Story, captions

FILES = Path(__file__).parent.parent / "demos" / "diffusers"
STORY = Story("A red ball.", [Shot("Wide shot: the red ball jumps.", 25), Shot("It waves.", 9), Shot("It spins.", 13)])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where diffusers copies trusted code."""
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")


@pytest.fixture
def folder(tmp_path, model_folder) -> Path:
    """A model folder that stock diffusers reads, and the two files in it."""
    target = shutil.copytree(model_folder, tmp_path / "model")
    if not (target / "model_index.json").exists():
        loaded = ShotStreamPipeline.from_pretrained(target)
        parts = loaded.text.tokenizer, loaded.text.text_encoder, loaded.codec.vae, FlowMatchEulerDiscreteScheduler()
        pipe = WanPipeline(*parts, loaded.transformer)
        pipe.register_to_config(transformer=("diffusers", "WanTransformer3DModel"))
        pipe.save_config(target)
        parts[-1].save_pretrained(target / "scheduler")
    for name in ("blocks.py", "modular_config.json"):
        shutil.copy(FILES / name, target)
    return target


def theirs(pipe, **changes) -> list[np.ndarray]:
    told = []
    for number, shot in enumerate(STORY.shots):
        said = [one.caption for one in STORY.shots[: number + 1]]
        options = {"past": tuple(told), "seed": number, "num_frames": shot.frames, "output": "frames"} | changes
        told.append(pipe(global_caption=STORY.global_caption, captions=said, **options))
    return told


def ours(pipeline, **changes) -> list[np.ndarray]:
    told, reel = [], Reel()
    settings = pipeline.settings.changed(changes)
    for number, shot in enumerate(STORY.shots):
        pieces = pipeline.shot(
            captions(STORY, number), told, seed=number, frames=shot.frames, settings=settings
        )  # fmt: skip
        told.append(reel.append(np.concatenate(list(pieces))))
    return [footage.frames() for footage in told]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(a, b, strict=True))


def test_loaded_from_a_folder_and_equal_frame_by_frame(folder, pipeline):
    pipe = ModularPipeline.from_pretrained(str(folder), trust_remote_code=True)
    pipe.load_components()
    told = ours(pipeline)
    assert same(theirs(pipe), told)
    assert same(theirs(pipe, settings={"budget": 2, "chunk": 2}), changed := ours(pipeline, budget=2, chunk=2))
    assert not same(told, changed)
    names = list(pipe.blocks.sub_blocks)
    assert names == ["pick_history", "encode_captions", "fill_global_cache", "stream_shot"]
    assert list(pipe.blocks.sub_blocks["stream_shot"].sub_blocks) == ["denoise_chunk", "decode", "clean_pass"]


def test_blocks_of_one_folder_tell_with_the_weights_of_another(pipeline, folder):
    (folder / "modular_config.json").unlink()
    blocks = ModularPipelineBlocks.from_pretrained(str(FILES), trust_remote_code=True)
    pipe = blocks.init_pipeline(str(folder))
    pipe.load_components()
    pieces: list[np.ndarray] = []
    options = {"global_caption": STORY.global_caption, "captions": [STORY.shots[0].caption], "num_frames": 25}
    frames = pipe(**options, on_frames=pieces.append, output="frames")
    assert [len(piece) for piece in pieces] == [9, 12, 4] and np.array_equal(np.concatenate(pieces), frames)
    assert np.array_equal(frames, ours(pipeline)[0])
    with pytest.raises(ValueError, match="captions"):
        pipe(global_caption="A red ball.")


def test_code_is_not_run_unless_it_is_trusted(folder):
    with pytest.raises(ValueError, match="trust_remote_code"):
        ModularPipelineBlocks.from_pretrained(str(folder))


def test_stock_diffusers_goes_on_reading_the_folder(folder):
    stock = WanPipeline.from_pretrained(folder)
    assert type(stock.transformer).__name__ == "WanTransformer3DModel"


def test_the_toybox_as_it_is_shipped():
    blocks = ModularPipelineBlocks.from_pretrained(str(FILES), trust_remote_code=True)
    pipeline = ShotStreamPipeline.from_pretrained("toybox")
    pipe = blocks.init_pipeline(str(pipeline._folder))
    pipe.load_components()
    told = theirs(pipe, num_frames=5)
    assert told[0].shape == (5, pipeline.settings.height, pipeline.settings.width, 3)
    reel, past = Reel(), []
    for number, frames in enumerate(told):
        made = np.concatenate(list(pipeline.shot(captions(STORY, number), past, seed=number, frames=5)))
        assert np.array_equal(made, frames)
        past.append(reel.append(made))
