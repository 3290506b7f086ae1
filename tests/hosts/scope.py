"""What scope's documents say of plugins (docs/plugins.md, docs/architecture/pipelines.md of daydreamlive/scope)."""

import sys
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field


class ModeDefaults(BaseModel):
    model_config = ConfigDict(extra="forbid")
    default: bool = False


class BasePipelineConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    pipeline_id: ClassVar[str] = "base"
    pipeline_name: ClassVar[str] = ""
    pipeline_description: ClassVar[str] = ""
    supports_prompts: ClassVar[bool] = True
    inputs: ClassVar[list[str]] = ["video"]
    modes: ClassVar[dict[str, ModeDefaults]] = {}
    height: int = Field(512, ge=1)
    width: int = Field(512, ge=1)
    base_seed: int = Field(42, ge=0)


class Pipeline:
    def __init__(self, node_id: str = "") -> None:
        self.node_id = node_id


class Requirements(NamedTuple):
    input_size: int


def install(patch: Any) -> None:
    """Puts the modules a plugin imports into sys.modules; `patch` is pytest's."""
    ui = {"ui_field_config": lambda **options: {"ui": options}}
    modules = {
        "scope.core.plugins.hookspecs": {"hookimpl": lambda function: function},
        "scope.core.pipelines.base_schema": {
            "BasePipelineConfig": BasePipelineConfig, "ModeDefaults": ModeDefaults, **ui,
        },
        "scope.core.pipelines.interface": {"Pipeline": Pipeline, "Requirements": Requirements},
    }  # fmt: skip
    for name in ("scope", "scope.core", "scope.core.plugins", "scope.core.pipelines", *modules):
        module = ModuleType(name)
        vars(module).update(modules.get(name, {}))
        patch.setitem(sys.modules, name, module)
