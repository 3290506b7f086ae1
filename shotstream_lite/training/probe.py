"""The probe's own training: rendered shots, blemished as a codec would, all questions at once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from shotstream_lite.toybox.dataset import TRAIN_SEED
from shotstream_lite.toybox.probe import HIDDEN, Probe, accuracy, blemish, held_out, real_film, save_probe
from shotstream_lite.toybox import probe as toybox2
from shotstream_lite.training.config import StageConfig
from shotstream_lite.training.draws import Draws
from shotstream_lite.training.loop import Run


@dataclass(kw_only=True)
class ProbeConfig(StageConfig):
    """How the probe is trained."""

    world: Literal["toybox", "toybox"] = "toybox"  # the edition of the miniature world
    steps: int = 1500
    batch: int = 24
    optimizer: Literal["adamw", "muon"] = "muon"
    lr: float = 0.02
    shots: int = 4000  # of the first edition; of the second each is drawn afresh


def train_probe(config: ProbeConfig) -> dict[str, float]:
    """Trains the probe, leaves it in `config.out`, and returns its accuracy on film it has not seen."""
    run = Run("probe", config)
    torch.manual_seed(config.seed)
    second = config.world == "toybox"
    probe = run.trained(toybox2.Probe() if second else Probe())
    answered = _drawn_afresh(run, probe) if second else _from_a_pool(run, probe, config.shots)
    optimizer = run.optimizer(probe)

    def train_step(step: int) -> dict[str, float]:
        losses = {name: _surprise(run, *asked) for name, asked in answered(run.draws(step)).items()}
        run.descend(optimizer, sum(losses.values()), step)
        return {name: loss.item() for name, loss in losses.items()}

    def save() -> None:
        if run.main:
            (toybox2.save_probe if second else save_probe)(probe, config.out / "probe" / "model.safetensors")

    run.steps(train_step, save, probe=probe, optimizer=optimizer)
    return toybox2.accuracy(probe.cpu()) if second else accuracy(probe.cpu(), held_out())


Answered = Callable[[Draws], dict[str, tuple[Tensor, Tensor]]]
"""Logits and right answers, question by question, for what is drawn."""


def _drawn_afresh(run: Run, probe: toybox2.Probe) -> Answered:
    def answered(draws: Draws) -> dict[str, tuple[Tensor, Tensor]]:
        windows = [(toybox2.draw_window(g), g) for g in draws.each]
        frames = torch.stack([toybox2.blemish(frames, g) for (frames, _), g in windows])
        return toybox2.questions(probe, frames.to(run.device), [answers for (_, answers), _ in windows])

    return answered


def _from_a_pool(run: Run, probe: Probe, shots: int) -> Answered:
    film = real_film(shots, TRAIN_SEED)

    def answered(draws: Draws) -> dict[str, tuple[Tensor, Tensor]]:
        rows = draws.index(len(film.frames))
        frames = [blemish(film.frames[row : row + 1], g) for row, g in zip(rows.tolist(), draws.each, strict=True)]
        logits = probe(torch.cat(frames).to(run.device))
        return {name: (logits[name], film.answers[name][rows].to(run.device)) for name in logits}

    return answered


def _surprise(run: Run, logits: Tensor, answers: Tensor) -> Tensor:
    """Cross entropy over the answers that are to be seen, on all processes."""
    seen = run.mean((answers != HIDDEN).sum().float()).clamp(min=1)
    return F.cross_entropy(logits, answers, ignore_index=HIDDEN, reduction="sum") / seen
