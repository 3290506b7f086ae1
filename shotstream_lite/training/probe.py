"""The probe's own training: rendered shots, blemished as a codec would, all questions at once."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from shotstream_lite.toybox.dataset import TRAIN_SEED
from shotstream_lite.toybox.probe import HIDDEN, Probe, accuracy, blemish, held_out, real_film, save_probe
from shotstream_lite.training.loop import Run
from shotstream_lite.training.stage import StageConfig


@dataclass(kw_only=True)
class ProbeConfig(StageConfig):
    """How the probe is trained."""

    steps: int = 1500
    batch: int = 24
    optimizer: Literal["adamw", "muon"] = "muon"
    lr: float = 0.02
    shots: int = 4000


def train_probe(config: ProbeConfig) -> dict[str, float]:
    """Trains the probe, leaves it in `config.out`, and returns its accuracy on film it has not seen."""
    run = Run("probe", config)
    torch.manual_seed(config.seed)
    probe = run.trained(Probe())
    film = real_film(config.shots, TRAIN_SEED)
    optimizer = run.optimizer(probe)

    def train_step(step: int) -> dict[str, float]:
        draws = run.draws(step)
        rows = draws.index(len(film.frames))
        frames = [blemish(film.frames[row : row + 1], g) for row, g in zip(rows.tolist(), draws.each, strict=True)]
        logits = probe(torch.cat(frames).to(run.device))
        losses = {name: _surprise(run, logits[name], film.answers[name][rows].to(run.device)) for name in logits}
        run.descend(optimizer, sum(losses.values()), step)
        return {name: loss.item() for name, loss in losses.items()}

    def save() -> None:
        if run.main:
            save_probe(probe, config.out / "probe" / "model.safetensors")

    run.steps(train_step, save, probe=probe, optimizer=optimizer)
    return accuracy(probe.cpu(), held_out())


def _surprise(run: Run, logits: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Cross entropy over the answers that are to be seen, on all processes."""
    seen = run.mean((answers != HIDDEN).sum().float()).clamp(min=1)
    return F.cross_entropy(logits, answers, ignore_index=HIDDEN, reduction="sum") / seen
