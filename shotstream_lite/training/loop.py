"""The loop all stages share: steps, progress, metrics as JSON lines, checkpoints that survive a kill.

Every random draw of a step comes from a generator seeded by (seed, step), so a resumed run needs no generator state
to be the run it would have been.
"""

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm


def step_generator(seed: int, step: int) -> torch.Generator:
    """The one source of randomness of a step."""
    return torch.Generator().manual_seed((seed << 32) + step)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100, floor: float = 0.02) -> float:
    """Linear warm-up, then half a cosine down to `floor * peak`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor, lr: float, clip: float = 1.0) -> float:
    """One optimizer step down `loss`, gradients clipped to norm `clip`; returns their norm before."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
    return norm.item()


class Checkpoint:
    """Everything a stage needs to go on: modules and optimizers by name, and the step. Replaced whole or not at all."""

    def __init__(self, path: Path, **parts):
        self.path, self.parts = Path(path), parts

    def save(self, step: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {name: part.state_dict() for name, part in self.parts.items()} | {"step": step}
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.path)

    def load(self) -> int:
        """Restores all parts; returns the step to go on with (0 when there is no checkpoint yet)."""
        if not self.path.exists():
            return 0
        state = torch.load(self.path, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return state["step"]


def run_steps(
    stage: str,
    steps: int,
    train_step: Callable[[int], dict[str, float]],
    checkpoint: Checkpoint,
    resume: bool = True,
    save_every: int = 200,
    on_save: Callable[[int], None] | None = None,
) -> None:
    """Calls `train_step(step)` until `steps`, logging its metrics to `metrics.jsonl` beside the checkpoint.

    Args:
        on_save: called after each checkpoint, to write samples to look at.
    """
    start = checkpoint.load() if resume else 0
    log_path = checkpoint.path.with_name(f"{stage}.jsonl")
    log_path.parent.mkdir(parents=True, exist_ok=True)
    sums: dict[str, float] = {}
    began = time.perf_counter()
    with (
        open(log_path, "a" if start else "w") as log,
        tqdm(total=steps, initial=start, desc=stage, mininterval=10) as bar,
    ):
        for step in range(start, steps):
            for name, value in train_step(step).items():
                sums[name] = sums.get(name, 0.0) * 0.98 + value * 0.02 if name in sums else value
            bar.update()
            if step % 20 == 19:
                bar.set_postfix({name: f"{value:.4f}" for name, value in sums.items()}, refresh=False)
                seconds = round(time.perf_counter() - began, 1)
                log.write(json.dumps({"step": step + 1, "seconds": seconds} | sums) + "\n")
                log.flush()
            if (step + 1) % save_every == 0 or step + 1 == steps:
                checkpoint.save(step + 1)
                if on_save:
                    on_save(step + 1)
