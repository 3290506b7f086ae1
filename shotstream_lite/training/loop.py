"""The loop all stages share: processes and device, optimizer steps, progress, metrics as JSON lines, checkpoints.

The same command runs on one CPU, on one GPU, or on many under `accelerate launch -m shotstream_lite.cli train ...`. Our
models are entered by several doors and not by `forward`, so gradients are averaged by hand and not by a wrapper.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from shotstream_lite.distributed import (
    alike,
    clip_gradients,
    gathered,
    load_module,
    load_optimizer,
    part_at_exit,
    shard_model,
)
from shotstream_lite.errors import CheckpointError, reason
from shotstream_lite.files import whole_file, write_text
from shotstream_lite.models.folder import cast
from shotstream_lite.training.config import RunConfig
from shotstream_lite.training.draws import Draws
from shotstream_lite.training.muon import Muon
from shotstream_lite.transformer import ShotStreamTransformer, compile_blocks

LOG_EVERY = 20
ESTIMATE_AFTER = 20  # steps of a run; the first ones may be slow
SMOOTHING = 0.98  # of logged metrics


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100, floor: float = 0.02) -> float:
    """Linear warm-up, then half a cosine down to `floor * peak`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def descend(
    optimizer: torch.optim.Optimizer, losses: Tensor | Iterable[Tensor], lr: float, clip: float = 1.0
) -> tuple[float, float]:
    """One optimizer step down the mean of all processes' losses, gradients clipped to norm `clip`.

    Of several losses, which may be made one by one, the gradients add up, and only one has to fit into memory. A
    parameter group may scale the learning rate. Returns the sum of this process's losses, and the gradients' norm
    before clipping.
    """
    whole = 0.0
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("scale", 1.0)
    for loss in [losses] if isinstance(losses, Tensor) else losses:
        loss.backward()
        whole += loss.item()
    if torch.distributed.is_initialized():
        _average([p.grad for p in parameters if p.grad is not None])
    norm = clip_gradients(parameters, clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)  # of two models that learn in turn one holds gradients at a time
    return whole, norm


def _average(gradients: list[Tensor]) -> None:
    """Over all processes, in place; FSDP has done it for what it split."""
    whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    if whole:
        flat = torch.cat([gradient.flatten() for gradient in whole]) / torch.distributed.get_world_size()
        torch.distributed.all_reduce(flat)
        for gradient, part in zip(whole, flat.split([g.numel() for g in whole]), strict=True):
            gradient.copy_(part.view_as(gradient))


class Checkpoint:
    """Everything a stage needs to go on: modules, optimizers and other keepers of state by name, and the step.

    Replaced whole or not at all. All processes save and load; only the main one writes.
    """

    def __init__(self, path: Path, main: bool = True, **parts: Any) -> None:
        self.path, self.main, self.parts = Path(path), main, parts

    def save(self, step: int, means: dict[str, float] | None = None) -> None:
        """`means` are the smoothed metrics, so that a resumed log goes on as it would have. Raises CheckpointError."""
        state = {name: gathered(part.state_dict(), self.main) for name, part in self.parts.items()}
        if self.main:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self.path, CheckpointError) as part:
                torch.save(state | {"step": step, "means": means or {}}, part)

    def load(self) -> tuple[int, dict[str, float]]:
        """Restores all parts; returns the step to go on with (0 when there is no checkpoint yet) and the means.

        Raises CheckpointError for a damaged file and for one of another run.
        """
        if not self.path.exists():
            return 0, {}
        try:
            # Several processes on one machine need not each hold all of it.
            several = torch.distributed.is_initialized()
            state = torch.load(self.path, map_location="cpu", mmap=several, weights_only=True)
            for name, part in self.parts.items():
                if isinstance(part, torch.optim.Optimizer):
                    load_optimizer(part, state[name])
                elif isinstance(part, nn.Module):
                    load_module(part, state[name])
                else:
                    part.load_state_dict(state[name])
            return int(state["step"]), dict(state.get("means", {}))
        except _DAMAGED as error:
            how = "choose another --out, or start anew with --no-resume"
            raise CheckpointError(f"{self.path}: is no checkpoint of this run ({reason(error)}): {how}") from None


_DAMAGED = (LookupError, ValueError, TypeError, AttributeError, RuntimeError, OSError, EOFError, UnpicklingError)


class Run:
    """One stage being trained: where it runs, how it steps, what it leaves in `config.out`."""

    def __init__(self, stage: str, config: RunConfig) -> None:
        from accelerate import Accelerator
        from accelerate.utils import AutocastKwargs

        config.check()
        self.stage, self.config = stage, config
        # Weights that were cast without gradient may not be used again with it: torch before 2.11 loses theirs.
        uncached = AutocastKwargs(cache_enabled=False)
        cpu = not torch.cuda.is_available()
        self.accelerator = Accelerator(mixed_precision=config.precision, cpu=cpu, kwargs_handlers=[uncached])
        part_at_exit()
        self.device = self.accelerator.device
        self.processes, self.process = self.accelerator.num_processes, self.accelerator.process_index
        self.main = self.accelerator.is_main_process
        for batch in (getattr(config, name, 0) for name in ("batch", "image_batch")):
            self._share(batch)
        try:
            config.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"--out {config.out}: cannot be made ({reason(error)}): choose another") from None

    def _share(self, batch: int) -> int:
        each, rest = divmod(batch, self.processes)
        parts = getattr(self.config, "accumulate", 1)
        if rest or each % min(parts, max(1, each)):
            among = f"{self.processes} processes" + (f" with --accumulate {parts}" if parts > 1 else "")
            how = f"choose a multiple of {self.processes * parts}"
            raise CheckpointError(f"a batch of {batch} cannot be shared among {among}: {how}")
        return each

    def draws(self, step: int, batch: int | None = None) -> Draws:
        """The randomness of a step for this process's part of the batch (by default of `config.batch` samples).

        Raises CheckpointError if the batch cannot be shared evenly.
        """
        each = self._share(batch or self.config.batch)
        return Draws(self.config.seed, step, range(each * self.process, each * (self.process + 1)), self.device)

    def trained(
        self, model: nn.Module, only: Sequence[nn.Module] | None = None, shard: bool | None = False
    ) -> nn.Module:
        """The model on its device with gradients on, in all of it or `only` in some modules.

        shard: split it over processes; None: where there are several GPUs.
        """
        model = model.to(self.device).train().requires_grad_(False)
        if getattr(self.config, "checkpointing", False) and isinstance(model, ShotStreamTransformer):
            model.enable_gradient_checkpointing()
        for module in [model] if only is None else only:
            module.requires_grad_(True)
        if self.processes > 1 and (self.device.type != "cpu" if shard is None else shard):
            shard_model(model, self.device, self.processes)
        return self._compiled(model)

    def frozen(self, model: nn.Module) -> nn.Module:
        """The model on its device, only asked: kept as it computes, but for a codec, whose pictures are the data."""
        if self.config.precision == "bf16" and not isinstance(model, AutoencoderKLWan):
            cast(model, torch.bfloat16)
        return self._compiled(model.to(self.device).eval().requires_grad_(False))

    def _compiled(self, model: nn.Module) -> nn.Module:
        if self.config.compile and isinstance(model, ShotStreamTransformer):
            torch._dynamo.config.recompile_limit = 64  # one graph for each number of tokens, with and without gradient
            compile_blocks(model, dynamic=False)
        return model

    def optimizer(self, *modules: nn.Module, plain: Sequence[nn.Module] = ()) -> torch.optim.Optimizer:
        """The configuration's optimizer with its settings, on what is trained in the modules; AdamW moves those in
        `plain` whatever it is. How far each step goes, `descend` says."""
        config = self.config
        if config.optimizer == "muon":
            return Muon(*modules, plain=plain)
        parameters = [p for module in (*modules, *plain) for p in module.parameters() if p.requires_grad]
        groups = [{"params": group} for group in alike(parameters)]
        return torch.optim.AdamW(groups, betas=config.betas, weight_decay=config.weight_decay)

    def descend(
        self,
        optimizer: torch.optim.Optimizer,
        losses: Tensor | Iterable[Tensor],
        step: int,
        peak: float | None = None,
        clip: float | None = None,
    ) -> tuple[float, float]:
        """`descend` by the configuration: its schedule up to `peak` (by default its `lr`), and its `clip`."""
        config = self.config
        peak, clip = config.lr if peak is None else peak, config.clip if clip is None else clip
        return descend(optimizer, losses, learning_rate(step, config.steps, peak, config.warmup, config.lr_floor), clip)

    def steps(
        self,
        train_step: Callable[[int], dict[str, float]],
        save: Callable[[], None],
        sample: Callable[[Path], None] | None = None,
        **parts: Any,
    ) -> None:
        """Calls `train_step(step)` until `config.steps`.

        Args:
            save: stores what later stages use; after each checkpoint, and when a run goes on, since it may have been
                stopped between the two. So nothing is overwritten that a run stopped there would begin with.
            sample: draws a strip of samples at a path.
            parts: what a checkpoint holds, see `Checkpoint`.
        """
        config = self.config
        checkpoint = Checkpoint(config.out / f"{self.stage}.pt", self.main, **parts)
        start, means = checkpoint.load() if config.resume else (0, {})
        log, began, news = MetricsLog(self, start), time.monotonic(), set()  # what the next line of the log has
        if start:
            save()
        with tqdm(total=config.steps, initial=start, desc=self.stage, mininterval=10, disable=not self.main) as bar:
            for step in range(start, config.steps):
                with self.accelerator.autocast():
                    metrics = train_step(step)
                for name, value in metrics.items():
                    means[name] = means.get(name, value) * SMOOTHING + value * (1 - SMOOTHING)
                news.update(metrics)
                bar.update()
                if (step + 1) % LOG_EVERY == 0 or step + 1 == config.steps:
                    line = {name: value for name, value in means.items() if name in news}
                    bar.set_postfix({name: f"{value:.4f}" for name, value in line.items()}, refresh=False)
                    log.write(step + 1, line)
                    news.clear()
                if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                    checkpoint.save(step + 1, means)
                    save()
                if step - start + 1 == ESTIMATE_AFTER < config.steps - start:
                    self._say_how_long(config.steps - step - 1, (time.monotonic() - began) / ESTIMATE_AFTER)
                if sample and config.sample_every and (step + 1) % config.sample_every == 0:
                    sample(config.out / "samples" / f"{self.stage}-{step + 1:06d}.png")
        log.close()
        if self.main:
            write_text(_done_file(config, self.stage), f"{config.steps}\n", CheckpointError)
        self.accelerator.wait_for_everyone()  # whatever comes next may read what the main process stores

    def _say_how_long(self, steps: int, seconds: float) -> None:
        if self.main:
            minutes = round(steps * seconds / 60)
            how_long = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(minutes, 1)} min"
            tqdm.write(f"shotstream: {self.stage}: {steps} steps to go, about {how_long} at the present pace")


def _done_file(config: RunConfig, stage: str) -> Path:
    return config.out / f"{stage}.done"


def steps_finished(config: RunConfig, stage: str) -> int:
    """After how many steps a stage has been finished and all of it stored; 0 if it has not."""
    try:
        return int(_done_file(config, stage).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0


def processes():
    """Who trains together, before there is a `Run`."""
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())


class MetricsLog:
    """Metrics as JSON lines in `out`/STAGE.jsonl, and for TensorBoard if asked; only the main process writes.

    Lines after step `start`, which a stopped run has left and a resumed one will write again, go first.
    """

    def __init__(self, run: Run, start: int) -> None:
        self.run, self.began = run, time.perf_counter()
        self.path = run.config.out / f"{run.stage}.jsonl"
        self.board = None
        if run.config.tensorboard and run.main:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(run.config.out / "tensorboard"), purge_step=start)
        if run.main:
            lines = self.path.read_text(encoding="utf-8").splitlines() if start and self.path.exists() else []
            kept = "".join(f"{line}\n" for line in lines if _step_of(line) <= start)
            write_text(self.path, kept, CheckpointError)

    def write(self, step: int, means: dict[str, float]) -> None:
        """One line; seconds count from the start of this run or from where it was resumed."""
        seconds = round(time.perf_counter() - self.began, 1)
        if self.run.main:
            try:
                with open(self.path, "a", encoding="utf-8") as log:
                    log.write(json.dumps({"step": step, "seconds": seconds} | means) + "\n")
            except OSError as error:
                raise CheckpointError(f"{self.path}: cannot be written ({reason(error)}): make room there") from None
        if self.board:
            for name, value in means.items():
                self.board.add_scalar(f"{self.run.stage}/{name}", value, step)

    def close(self) -> None:
        if self.board:
            self.board.close()


def _step_of(line: str) -> float:
    """The step of a line of the log; a line cut short by a kill goes."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf
