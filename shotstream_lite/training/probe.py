"""The probe's own training: rendered shots, blemished as a codec would, all questions at once."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from shotstream_lite.toybox.dataset import TRAIN_SEED
from shotstream_lite.toybox.probe import Probe, accuracy, blemish, held_out, real_film, save_probe
from shotstream_lite.training.loop import Checkpoint, descend, learning_rate, run_steps, step_generator


@dataclass
class ProbeConfig:
    """How the probe is trained."""

    out: Path
    steps: int = 2500
    batch: int = 24
    lr: float = 2e-3
    shots: int = 4000
    seed: int = 0


def train_probe(config: ProbeConfig) -> dict[str, float]:
    """Trains the probe, leaves it in `config.out`, and returns its accuracy on film it has not seen."""
    torch.manual_seed(config.seed)
    probe = Probe()
    film = real_film(config.shots, TRAIN_SEED)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=config.lr, weight_decay=0.01)

    def train_step(step: int) -> dict[str, float]:
        generator = step_generator(config.seed, step)
        rows = torch.randint(len(film.frames), (config.batch,), generator=generator)
        logits = probe(blemish(film.frames[rows], generator))
        losses = {name: F.cross_entropy(logits[name], film.answers[name][rows]) for name in logits}
        descend(optimizer, sum(losses.values()), learning_rate(step, config.steps, config.lr))
        return {name: loss.item() for name, loss in losses.items()}

    run_steps(
        "probe",
        config.steps,
        train_step,
        Checkpoint(config.out / "probe.pt", probe=probe, optimizer=optimizer),
        on_save=lambda step: save_probe(probe, config.out / "probe" / "model.safetensors"),
    )
    return accuracy(probe, held_out())
