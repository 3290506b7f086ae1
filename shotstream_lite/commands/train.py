"""`shotstream train`: for the list of commands; see `training.recipe`, which comes with torch."""

from dataclasses import dataclass


@dataclass
class Train:
    """Train a model, stage by stage: shotstream train --help."""
