"""Distillation by self-forcing: distribution matching on the student's own rollout (paper sec. 3.1, eq. 5).

Within a shot the context comes from ground truth; across shots (`inter_shot`) from the student's own earlier
shots, with the same losses.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from shotstream_lite.cache import ShotCache
from shotstream_lite.conditioning import Conditioning
from shotstream_lite.dmd import fake_score_loss, generator_loss
from shotstream_lite.flow import SigmaTable, few_step
from shotstream_lite.rollout import Noise, begin_shot, chunk_sizes, rollout
from shotstream_lite.training.ablations.baselines import LearntCut
from shotstream_lite.training.batches import Films, FrozenText, NextShotBatch, step_batch
from shotstream_lite.training.config import StudentConfig
from shotstream_lite.training.draws import Draws
from shotstream_lite.training.loop import Run
from shotstream_lite.training.samples import Strips
from shotstream_lite.training.weights import earlier, initial_model, save_model, text_of
from shotstream_lite.transformer import ShotStreamTransformer


def self_forcing(
    transformer: ShotStreamTransformer,
    cache: ShotCache,
    noise: Noise,
    sigmas: Tensor,
    chunks: Iterable[int],
    exit_step: int,
    table: SigmaTable,
) -> Tensor:
    """A whole shot by the student's own rollout, every chunk stopped at `exit_step`.

    The same rollout as inference, but for the noise of the table's last row (.00794) on the clean pass.
    Gradient, if enabled, flows through the exit steps. Shape: [B, C, F, H, W].
    """
    steps = rollout(transformer, cache, noise, sigmas, chunks, exit_step=exit_step, clean_sigma=table.sigmas[-1])
    return torch.cat(list(steps), dim=2)


@dataclass(kw_only=True)
class DistillationConfig(StudentConfig):
    """What both self-forcing stages share. Two time-scales as in the paper: five critic updates to one."""

    batch: int = 8
    lr: float = 4e-5
    critic_lr: float = 1.5e-4
    critic_updates: int = 5  # to each update of the generator; both count as `steps`
    critic_clip: float = 1.0
    guidance: float = 1.0  # of the real score, cond + guidance * (cond - uncond); the released 3 burns colours here
    memory_guidance: float = 0.0  # not in the paper: leads the real score away from one without history, as strongly
    negative_caption: str | None = None  # what guidance leads away from; None is the empty one of dropped captions
    lr_floor: float = 0.3
    # As released: no momentum, since what the gradient points at moves.
    betas: tuple[float, float] = (0.0, 0.999)


@dataclass(kw_only=True)
class IntraShotConfig(DistillationConfig):
    """How the student is distilled within a shot."""

    steps: int = 900
    seed: int = 3


class Distillation:
    """Student, real score and critic with their optimizers: one update of either from one rollout."""

    def __init__(
        self, run: Run, config: DistillationConfig, student: ShotStreamTransformer, fake: ShotStreamTransformer
    ) -> None:
        self.run, self.config, self.student, self.fake = run, config, student, fake
        self.real = run.frozen(earlier(config, "teacher"))
        self.text = run.frozen(FrozenText(*text_of(config), config.text_tokens))
        self.optimizer = run.optimizer(student)
        self.critic = run.optimizer(fake)
        self.table, self.sigmas = SigmaTable(config.shift), few_step(config.student_steps, config.shift)

    def update(self, step: int, batch: NextShotBatch, draws: Draws) -> tuple[Tensor, dict[str, float]]:
        """The student's shots for a batch, made before the update they serve for, and metrics."""
        config, shots = self.config, []
        updates_student = step % (config.critic_updates + 1) == config.critic_updates

        def losses() -> Iterator[Tensor]:
            parts = zip(batch.split(config.accumulate), draws.split(config.accumulate), strict=True)
            for some, source in parts:
                cond = some.conditioning(self.text(some.captions), config.phase)
                with torch.set_grad_enabled(updates_student):
                    made = self.rollout(some, cond, source)
                shots.append(made.detach())
                yield self._loss(made, cond, source, updates_student) * (len(source) / len(draws))

        if updates_student:
            loss, norm = self.run.descend(self.optimizer, losses(), step)
            return torch.cat(shots), {"generator": loss, "grad_norm": norm}
        loss, _ = self.run.descend(self.critic, losses(), step, config.critic_lr, config.critic_clip)
        return torch.cat(shots), {"critic": loss, "std": torch.cat(shots).std().item()}

    def _loss(self, shots: Tensor, cond: Conditioning, draws: Draws, of_student: bool) -> Tensor:
        noise, rows = draws.normal(*shots.shape[1:]), draws.index(len(self.table.sigmas))
        if not of_student:
            return fake_score_loss(shots, self.fake, noise, rows, cond, self.table)
        strengths = {"guidance": self.config.guidance, "memory_guidance": self.config.memory_guidance}
        negative = self.config.negative_caption
        uncond = cond.unconditional(None if negative is None else self.text([[negative]] * len(shots)))
        scores = (self.real, self.fake, noise, rows, cond, uncond)
        return generator_loss(shots, *scores, table=self.table, **strengths)

    def rollout(self, batch: NextShotBatch, cond: Conditioning, draws: Draws) -> Tensor:
        """The student's own shots for a batch, all stopped at one random step. Shape: [B, C, F, H, W]."""
        cache = begin_shot(self.student, cond, cond.remembered)
        exit_step, chunks = draws.shared_index(len(self.sigmas)), chunk_sizes(cond.frames, self.config.chunk)
        return self_forcing(self.student, cache, draws.noise, self.sigmas, chunks, exit_step, self.table)

    @property
    def parts(self) -> dict:
        """What a checkpoint holds."""
        return {"student": self.student, "fake": self.fake, "optimizer": self.optimizer, "critic": self.critic}


def train_intra_shot(config: IntraShotConfig, films: Films) -> None:
    """Distils the teacher in `config.out` into the causal-init student on its own rollouts over true history."""
    run = Run("intra-shot", config)
    student = run.trained(LearntCut.of(config, initial_model(config, "intra-shot", "causal-init")), shard=config.shard)
    fake = run.trained(earlier(config, "teacher"), shard=config.shard)
    distillation = Distillation(run, config, student, fake)

    def train_step(step: int) -> dict[str, float]:
        draws = run.draws(step)
        return distillation.update(step, step_batch(films, draws, config), draws)[1]

    run.steps(
        train_step,
        lambda: save_model(student, config.out / "intra-shot", run.main, config),
        Strips(run, student, distillation.text, config, films),
        **distillation.parts,
    )
