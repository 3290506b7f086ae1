"""The node pack of demos/comfyui: changing a shot makes it and what follows again, and nothing before.

COMFYUI=FOLDER runs it by ComfyUI's own executor from its checkout; else by its documented interface (hosts/comfyui.py).
"""

import asyncio
import copy
import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hosts import comfyui

from shotstream_lite.film import read_film
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.session import StorySession
from shotstream_lite.story_files import load_story

PACK = Path(__file__).parent.parent / "demos" / "comfyui"
COMFYUI = os.environ.get("COMFYUI")


class Real:
    """ComfyUI's own loader of node packs and executor; its server is not needed."""

    def __init__(self, cache: str, output: Path) -> None:
        sys.argv[1:] = ["--cpu"]
        sys.path.insert(0, COMFYUI)
        import comfy.options

        comfy.options.enable_args_parsing()
        import execution
        import folder_paths
        import nodes

        folder_paths.set_output_directory(str(output))
        assert asyncio.run(nodes.load_custom_node(str(PACK)))
        self.pack = sys.modules[str(PACK).replace(".", "_x_")]
        self.execution = execution
        server = type("Server", (), {"client_id": None, "last_node_id": None, "send_sync": lambda *a, **k: None})()
        kinds = execution.CacheType
        self.executor = execution.PromptExecutor(
            server, kinds.CLASSIC if cache == "classic" else kinds.DEPENDENCY_AWARE
        )

    def run(self, workflow: dict) -> None:
        valid, error, outputs, details = asyncio.run(self.execution.validate_prompt("1", workflow, None))
        assert valid, (error, details)
        self.executor.execute(workflow, "1", {}, outputs)
        for event, data in self.executor.status_messages:
            if event == "execution_error":
                raise RuntimeError(data["exception_message"])


@pytest.fixture(params=["classic", "none"] if COMFYUI else ["documented"])
def host(request, tmp_path, monkeypatch):
    if COMFYUI:
        host = Real(request.param, tmp_path)
        host.pack._kept.clear()
        return host
    comfyui.install(monkeypatch, tmp_path)
    spec = importlib.util.spec_from_file_location("shotstream_nodes", PACK / "__init__.py")
    pack = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, pack)
    spec.loader.exec_module(pack)
    host = comfyui.Executor(pack)
    host.pack = pack
    return host


@pytest.fixture
def workflow(model_folder) -> dict:
    """The workflow beside the pack, told by the small random model."""
    steps = json.loads((PACK / "workflow.json").read_text(encoding="utf-8"))
    steps["1"]["inputs"]["preset"] = str(model_folder)
    for name in "345":
        steps[name]["inputs"]["frames"] = 5
    return steps


def changed(workflow: dict, name: str, **inputs) -> dict:
    workflow = copy.deepcopy(workflow)
    workflow[name]["inputs"] |= inputs
    return workflow


def test_a_changed_shot_is_made_again_with_what_follows_and_nothing_before(host, workflow, monkeypatch, tmp_path):
    made, shot = [], ShotStreamPipeline.shot

    def counted(self, lines, past, **options):
        made.append(len(past))
        return shot(self, lines, past, **options)

    monkeypatch.setattr(ShotStreamPipeline, "shot", counted)

    def told(steps: dict) -> list[int]:
        made.clear()
        host.run(steps)
        return list(made)

    third = changed(workflow, "5", caption="Close-up: the red ball waves.")
    assert told(workflow) == [0, 1, 2]
    assert told(third) == [2]
    assert told(workflow) == []  # a change that is taken back
    assert told(changed(workflow, "4", seed=7)) == [1, 2]
    assert told(changed(workflow, "2", seed=2)) == [0, 1, 2]
    retake = {"class_type": "ShotStreamRetake", "inputs": {"story": ["5", 0], "number": 2, "caption": "", "seed": 3}}
    assert told(changed(workflow | {"7": retake}, "6", story=["7", 0])) == [1]
    films = sorted((tmp_path / "shotstream").glob("*.mp4"))
    frames = [len(read_film(film)) for film in films]
    assert frames == [15, 15, 15, 15, 15, 10] if len(films) == 6 else [15, 15, 15, 15, 10]  # a film that is there
    loaded = host.pack.load(workflow["1"]["inputs"]["preset"], "student")
    again = StorySession.of(loaded, load_story(films[0].with_suffix(".json")))
    assert np.concatenate(list(again.tell())).shape[0] == 15 and [s.shot.frames for s in again.shots] == [5, 5, 5]


def test_the_frames_are_images_and_a_picture_is_remembered(host, loaded):
    begin, following = host.pack.BeginStory.execute, host.pack.NextShot.execute
    (plain,) = begin(loaded, "A red ball.", 1).args
    story, frames = following(plain, "Wide shot: the red ball jumps.", 9, -1).args
    assert frames.dtype == torch.float32 and frames.shape == (9, 32, 48, 3) and 0 <= frames.min() < frames.max() <= 1
    session = StorySession(loaded, "A red ball.", 1)
    wanted = np.concatenate(list(session.next_shot("Wide shot: the red ball jumps.", 9)))
    assert np.array_equal((frames * 255).round().numpy().astype(np.uint8), wanted)
    assert not plain.session.shots and len(story.session.shots) == 1
    picture = torch.rand(1, 40, 40, 3, generator=torch.Generator().manual_seed(0))
    (other,) = begin(loaded, "A red ball.", 1, picture, "A red ball.").args
    assert not torch.equal(following(other, "Wide shot: the red ball jumps.", 9, -1).args[1], frames)
    with pytest.raises(ValueError, match="has no shots"):
        host.pack.SaveFilm.execute(plain, "x", False)


def test_what_cannot_be_told_is_said_in_one_line(host, workflow):
    with pytest.raises(Exception, match="frames of shot1 is 6.*write 5 or 9"):
        host.run(changed(workflow, "3", frames=6))
    with pytest.raises(Exception, match="caption is empty"):
        host.run(changed(workflow, "2", global_caption=" "))
