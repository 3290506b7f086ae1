"""The plugin of demos/scope: its entry point, its configuration, and a story that plays while prompts come.

SCOPE=FOLDER (`src` of a checkout) runs it by scope's own plugin manager and registry; else by its documented interface.
"""

import importlib
import os
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from hosts import scope

from shotstream_lite.session import StorySession

PLUGIN = Path(__file__).parent.parent / "demos" / "scope"
SCOPE = os.environ.get("SCOPE")
JUMPS, WAVES = "Wide shot: the red ball jumps.", "Close-up: the red ball waves."


@pytest.fixture
def kind(monkeypatch):
    """The pipeline class, as scope finds it by the entry point."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((_, module),) = project["entry-points"]["scope"].items()
    monkeypatch.syspath_prepend(PLUGIN)
    if SCOPE:
        monkeypatch.syspath_prepend(SCOPE)
        from scope.core.nodes.registry import NodeRegistry
        from scope.core.plugins.manager import PluginManager

        manager = PluginManager()
        manager.pm.register(importlib.import_module(module))
        manager.register_plugin_nodes(NodeRegistry)
        definition = NodeRegistry.get("shotstream").get_definition()
        assert definition.display_name == "ShotStream" and "story" in str(definition.pipeline_meta["config_schema"])
        return NodeRegistry.get("shotstream")
    scope.install(monkeypatch)
    found = []
    importlib.import_module(module).register_pipelines(found.append)
    for name in ("plugin", "pipeline"):
        monkeypatch.delitem(sys.modules, f"shotstream_scope.{name}")
    (pipeline,) = found
    return pipeline


@pytest.fixture
def player(kind, model_folder):
    """The pipeline as scope makes it: of the defaults of its configuration and what was chosen."""
    config = kind.get_config_class()
    defaults = {name: field.default for name, field in config.model_fields.items() if field.default is not None}
    return kind(**defaults | {"preset": str(model_folder), "story": "A red ball.", "base_seed": 1})


def prompt(*texts: str) -> list[dict]:
    return [{"text": text, "weight": 100 / (place + 1)} for place, text in enumerate(texts)]


def test_the_configuration_is_checked(kind):
    config = kind.get_config_class()
    assert config.pipeline_id == "shotstream" and config.modes["text"].default and config.supports_prompts
    assert config().preset == "toybox" and config(story="x", cut=False).cut is False
    for wrong in ({"story": ""}, {"preset": 5}, {"cut": "perhaps"}, {"unknown": 1}):
        with pytest.raises(ValueError):
            config(**wrong)


def test_a_prompt_is_a_shot_and_the_next_one_cuts(player):
    assert player.prepare(prompts=prompt(JUMPS)) is None
    assert player(prompts=None, init_cache=True) == {} == player(prompts=[])
    pieces = [player(prompts=prompt(JUMPS, WAVES), init_cache=not count)["video"] for count in range(2)]
    assert all(piece.dtype == torch.float32 and 0 <= piece.min() <= piece.max() <= 1 for piece in pieces)
    pieces += [player(prompts=prompt(WAVES))["video"] for _ in range(3)]
    assert [told.shot.caption for told in player.session.shots] == [JUMPS]
    pieces.append(player(prompts=prompt(WAVES))["video"])  # nobody asked for another shot: another one of the same
    assert [told.shot.caption for told in player.session.shots] == [JUMPS, WAVES]
    session = StorySession(player.pipeline, "A red ball.", 1)
    wanted = [*session.next_shot(JUMPS, 9), *session.next_shot(WAVES), *session.next_shot(WAVES)]
    played = [(piece * 255).round().numpy().astype(np.uint8) for piece in pieces]
    assert all(np.array_equal(a, b) for a, b in zip(played, wanted, strict=False)) and len(played) == 6


def test_without_cut_the_shot_that_plays_changes_and_a_reset_begins_anew(player):
    first = player(prompts=prompt(JUMPS))["video"]
    for _ in range(3):
        player(prompts=prompt(WAVES), cut=False)
    (told,) = player.session.shots
    assert told.shot.caption == JUMPS and [turn.caption for turn in told.shot.turns] == [WAVES]
    assert torch.equal(player(prompts=prompt(JUMPS), init_cache=True)["video"], first)
    assert not player.session.shots
    assert not torch.equal(player(prompts=prompt(JUMPS), base_seed=2)["video"], first)
    player(prompts=prompt(JUMPS), story="A blue box.")
    assert player.session.story.global_caption == "A blue box."
