"""What ComfyUI's documents say of its V3 API (docs.comfy.org/custom-nodes/v3_migration); an executor without cache."""

import asyncio
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


class Part:
    """An input or output of a node."""

    def __init__(self, id: str | None = None, **options: Any) -> None:
        self.id, self.options = id, options


def kind(name: str) -> type:
    known = {"io_type": name, "Input": type("Input", (Part,), {}), "Output": type("Output", (Part,), {})}
    for part in (known["Input"], known["Output"]):
        part.io_type = name
    return type(name, (), known)


class Schema(SimpleNamespace):
    def __init__(self, node_id: str, inputs: list, outputs: list, is_output_node: bool = False, **rest: Any) -> None:
        super().__init__(node_id=node_id, inputs=inputs, outputs=outputs, is_output_node=is_output_node, **rest)
        ids = [part.id for part in (*inputs, *outputs) if part.id]
        assert len(set(ids)) == len(ids), "ids are unique over inputs and outputs"


class NodeOutput:
    def __init__(self, *args: Any, ui: Any = None) -> None:
        self.args, self.ui = args, ui


class ProgressBar:
    def __init__(self, total: int) -> None:
        self.total = total

    def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
        assert 0 < value <= total


def install(patch: Any, output: Path) -> None:
    """Puts the modules a node pack imports into sys.modules; `patch` is pytest's."""
    kinds = {name: kind(name.upper()) for name in ("String", "Int", "Boolean", "Combo", "Image")}
    kinds |= {"ComfyNode": type("ComfyNode", (), {}), "FolderType": SimpleNamespace(output="output")}
    api = SimpleNamespace(Schema=Schema, NodeOutput=NodeOutput, Custom=kind, **kinds)
    saved = SimpleNamespace(PreviewVideo=list, SavedResult=lambda name, subfolder, type: f"{subfolder}/{name}")
    modules = {
        "comfy": {},
        "comfy.utils": {"ProgressBar": ProgressBar},
        "comfy_api": {},
        "comfy_api.latest": {"io": api, "ui": saved, "ComfyExtension": type("ComfyExtension", (), {})},
        "folder_paths": {"get_output_directory": lambda: str(output), "get_save_image_path": save_path},
    }
    for name, members in modules.items():
        module = ModuleType(name)
        vars(module).update(members)
        patch.setitem(sys.modules, name, module)
    sys.modules["comfy"].utils = sys.modules["comfy.utils"]


def save_path(prefix: str, folder: str, width: int = 0, height: int = 0) -> tuple[str, str, int, str, str]:
    subfolder, name = os.path.split(prefix)
    target = Path(folder) / subfolder
    target.mkdir(parents=True, exist_ok=True)
    return str(target), name, 1 + len(list(target.glob(f"{name}_*.mp4"))), subfolder, prefix


class Executor:
    """Runs a workflow in the API format, every node anew: what ComfyUI does with --cache-none."""

    def __init__(self, pack: ModuleType) -> None:
        nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
        self.nodes = {node.define_schema().node_id: node for node in nodes}

    def run(self, workflow: dict[str, dict]) -> None:
        """Raises what a node raises."""
        done: dict[str, tuple] = {}

        def outputs(name: str) -> tuple:
            if name not in done:
                node, given = self.nodes[workflow[name]["class_type"]], workflow[name]["inputs"]
                known = {part.id: part for part in node.define_schema().inputs}
                assert given.keys() <= known.keys()
                assert all(part.options.get("optional") or part.id in given for part in known.values())
                links = {k: outputs(v[0])[v[1]] if isinstance(v, list) else v for k, v in given.items()}
                done[name] = node.execute(**links).args
            return done[name]

        for name, step in workflow.items():
            if self.nodes[step["class_type"]].define_schema().is_output_node:
                outputs(name)
