"""The probe's own training: film drawn as it is needed, blemished as a codec would, all questions at once."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from shotstream_lite.toybox.probe import Probe, accuracy, blemish, draw_window, load_probe, questions, save_probe
from shotstream_lite.toybox.truth import HIDDEN
from shotstream_lite.training.config import StageConfig
from shotstream_lite.training.loop import Run

PROBE = "probe/model.safetensors"


@dataclass(kw_only=True)
class ProbeConfig(StageConfig):
    """How the probe is trained. With --start it goes on from the one there."""

    steps: int = 1500
    batch: int = 16
    optimizer: Literal["adamw", "muon"] = "muon"
    lr: float = 0.02


def train_probe(config: ProbeConfig) -> dict[str, float]:
    """Trains the probe, leaves it in `config.out`, and returns its accuracy on film it has not seen."""
    run = Run("probe", config)
    torch.manual_seed(config.seed)
    probe = run.trained(load_probe(config.start / PROBE) if config.start else Probe())
    optimizer = run.optimizer(probe)

    def train_step(step: int) -> dict[str, float]:
        windows = [(draw_window(g), g) for g in run.draws(step).each]
        frames = torch.stack([blemish(frames, g) for (frames, _), g in windows])
        answered = questions(probe, frames.to(run.device), [answers for (_, answers), _ in windows])
        losses = {name: _surprise(run, *asked) for name, asked in answered.items()}
        run.descend(optimizer, sum(losses.values()), step)
        return {name: loss.item() for name, loss in losses.items()}

    def save() -> None:
        if run.main:
            save_probe(probe, config.out / PROBE)

    run.steps(train_step, save, probe=probe, optimizer=optimizer)
    return accuracy(probe.cpu())


def _surprise(run: Run, logits: Tensor, answers: Tensor) -> Tensor:
    """Cross entropy over the answers that are to be seen, on all processes."""
    seen = run.accelerator.reduce((answers != HIDDEN).sum().float(), "mean").clamp(min=1)
    return F.cross_entropy(logits, answers, ignore_index=HIDDEN, reduction="sum") / seen
