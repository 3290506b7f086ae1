"""A story that plays in scope while its prompts are written: each is a shot."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from scope.core.pipelines.base_schema import BasePipelineConfig, ModeDefaults, ui_field_config
from scope.core.pipelines.interface import Pipeline, Requirements

from shotstream_lite.commands.common import place
from shotstream_lite.making import Making
from shotstream_lite.models.folder import find_folder
from shotstream_lite.models.settings import load_settings
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.session import StorySession

TOYBOX = load_settings(find_folder("toybox"))


class ShotStreamConfig(BasePipelineConfig):
    """What scope shows and checks."""

    pipeline_id = "shotstream"
    pipeline_name = "ShotStream"
    pipeline_description = "Tells a story shot by shot: each prompt is a shot that remembers the earlier ones."
    supports_prompts = True
    modes = {"text": ModeDefaults(default=True)}
    inputs = []

    preset: str = Field(
        "toybox",
        description="Model: toybox, wan-1.3b, or a folder that holds one",
        json_schema_extra=ui_field_config(order=1, is_load_param=True, label="Model"),
    )
    height: int = Field(TOYBOX.height, ge=1, description="Each model has its own size; this shows the toybox's")
    width: int = Field(TOYBOX.width, ge=1, description="Each model has its own size; this shows the toybox's")
    story: str = Field(
        "A story.",
        min_length=1,
        description="What holds for all shots: who, and where; another story begins anew",
        json_schema_extra=ui_field_config(order=2, category="input", label="Story"),
    )
    cut: bool = Field(
        True,
        description="A new prompt is the next shot; off: it changes the shot that plays",
        json_schema_extra=ui_field_config(order=3, category="input", label="Cut"),
    )


class ShotStreamScope(Pipeline):
    """scope's chunked style: every call gives the next frames."""

    @classmethod
    def get_config_class(cls) -> type[BasePipelineConfig]:
        """See `ShotStreamConfig`."""
        return ShotStreamConfig

    def __init__(self, preset: str = "toybox", story: str = "A story.", base_seed: int = 42, **_: Any) -> None:
        super().__init__()
        self.pipeline = ShotStreamPipeline.from_pretrained(preset, "student", *place(preset, None, False, {}))
        self._begin(story, base_seed)

    def prepare(self, **_: Any) -> Requirements | None:
        """No frames are wanted: pictures come from prompts."""
        return None

    def __call__(
        self,
        prompts: Sequence[Mapping[str, Any]] | str | None = None,
        init_cache: bool = False,
        story: str | None = None,
        cut: bool = True,
        base_seed: int | None = None,
        **_: Any,
    ) -> dict[str, torch.Tensor]:
        """The next frames, {"video": float [f, height, width, 3] in [0, 1]}; nothing until there is a prompt.

        Args:
            prompts: texts with weights, of which the heaviest is told.
            init_cache: the story begins anew.
        """
        wanted = (story or self._wanted[0], self._wanted[1] if base_seed is None else base_seed)
        if init_cache or wanted != self._wanted:
            self._begin(*wanted)
        caption = heaviest(prompts)
        if not caption:
            return {}
        if self._take is not None and caption != self._asked:
            if cut:
                self._take.cut()
                for _frames in self._take:  # none, but the shot is through, and remembered
                    pass
                self._take = None
            elif self._take.turn(caption) is None:
                caption = self._asked  # the last chunk plays already: it will be the next shot
        self._asked = caption
        frames = next(self._take, None) if self._take else None
        if frames is None:
            self._take = self.session.next_shot(caption)
            frames = next(self._take)
        return {"video": torch.from_numpy(frames.copy()).float() / 255}

    def _begin(self, story: str, seed: int) -> None:
        self._wanted = story, seed
        self.session = StorySession(self.pipeline, story, seed)
        self._take: Making | None = None
        self._asked = ""


def heaviest(prompts: Sequence[Mapping[str, Any]] | str | None) -> str:
    """The text of most weight."""
    if not prompts or isinstance(prompts, str):
        return (prompts or "").strip()
    return str(max(prompts, key=lambda one: float(one.get("weight", 1)))["text"]).strip()
