"""Opens the studio: from the command line, a notebook, or a hosted app."""

from pathlib import Path
from typing import Any

import torch

from shotstream_lite.convert import CheckpointError
from shotstream_lite.fit import choose
from shotstream_lite.pipeline import WHOLE_SHOTS, ShotStreamPipeline


def launch(preset: str | Path = "toybox", weights: str = "student", **options: Any) -> Any:
    """Loads a model on every device, as it fits there, and opens the page; in a notebook it appears below the cell.

    Args:
        preset: a preset or a model folder.
        weights: which of the folder's transformers tells, see `presets.WEIGHTS`.
        options: of `gradio.Blocks.launch`, such as share=True or server_port=7861. Unless they or Gradio's environment
            variables say otherwise, the page can be reached from this machine only.

    Raises CheckpointError as `ShotStreamPipeline.from_pretrained`, and for weights that do not stream.

    Returns:
        The `gradio.Blocks`; its `close()` ends the studio.
    """
    if weights in WHOLE_SHOTS:
        raise CheckpointError(f"weights is {weights!r}, which makes whole shots: choose one that streams")
    from shotstream_lite.studio.page import build, looks  # gradio takes a while to load

    plans = {device: choose(preset, device).plan for device in devices()}
    page = build([ShotStreamPipeline.from_pretrained(preset, weights, *where) for where in plans.items()])
    page.launch(**{"ssr_mode": False, "max_file_size": "1mb", **looks(), **options})
    return page


def devices() -> list[str]:
    """Every CUDA device, or else the CPU."""
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]
