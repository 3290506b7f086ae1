"""The settings that stages share; each stage adds its own. One name for one thing, in every stage and preset."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shotstream_lite.flow import FEW_STEPS
from shotstream_lite.rope import SHOT_PHASE


@dataclass
class RunConfig:
    """Where a stage works."""

    out: Path  # run folder: what earlier stages left there is used, what this one makes is put there
    after: tuple[Path, ...] = ()  # run folders that hold earlier stages which are not in `out`
    start: Path | None = None  # a run or model folder whose weights of this stage to go on from; fills other gaps
    precision: Literal["no", "bf16"] = "no"  # of mixed precision; weights and optimizer stay float32
    compile: bool = (
        False  # torch.compile the transformers' blocks: a minute at the start, then faster; wants a compiler
    )
    seed: int = 0

    @property
    def folders(self) -> list[Path]:
        """Where to look for what earlier stages made, in this order."""
        return [self.out, *self.after, *([self.start] if self.start else [])]


@dataclass(kw_only=True)
class StageConfig(RunConfig):
    """How long and how fast a stage learns, and what it leaves on the way."""

    steps: int = 1000
    lr: float = 1e-3
    warmup: int = 100  # steps until `lr` is reached
    lr_floor: float = 0.02  # what is left of `lr` at the end, by half a cosine; 1 keeps it
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: `lr` is that of its orthogonal steps
    betas: tuple[float, float] = (0.9, 0.99)  # of AdamW
    weight_decay: float = 0.01
    clip: float = 1.0  # norm to which gradients are clipped
    resume: bool = True  # go on from the last checkpoint in `out`, if there is one
    save_every: int = 200  # steps between checkpoints
    sample_every: int = 1000  # steps between strips of samples, samples/STAGE-STEP.png; 0 for none
    tensorboard: bool = False  # metrics for TensorBoard too, in `out`/tensorboard


@dataclass(kw_only=True)
class NextShot:
    """What the next shot sees of the story (paper sec. 4.1): the same for teacher and student, or they do not fit."""

    batch: int = 16  # samples of a step, over all processes together
    budget: int = 6  # context frames
    policy: Literal["dynamic", "first", "first-last"] = "dynamic"  # which frames of earlier shots (Table 3)
    captions: Literal["per-shot", "target"] = "per-shot"  # what context frames read (Table 3)
    phase: float = SHOT_PHASE  # radians a cut adds to every temporal angle (sec. 4.2); 0 for none (Table 4)
    shift: float = 3.0  # of the noise schedule; small pictures need less than Wan's 8
    drop_context: float = 0.1  # such a shot is told like a first one (supplement)
    text_tokens: int = 64  # length of a caption's embedding

    @property
    def memory(self) -> dict:
        """What `next_shot_batch` must know."""
        return {
            "budget": self.budget,
            "policy": self.policy,
            "drop_context": self.drop_context,
            "target_caption": self.captions == "target",
        }


@dataclass(kw_only=True)
class NextShotConfig(NextShot, StageConfig):
    """A stage that trains a teacher or a student."""

    shard: bool | None = None  # split model and optimizer over processes (FSDP2); by default on several GPUs


@dataclass(kw_only=True)
class Student:
    """What the causal student adds (sec. 4.2)."""

    chunk: int = 3  # latent frames made at once
    student_steps: tuple[int, ...] = FEW_STEPS  # its noise levels before the shift, 1000 is pure noise


@dataclass(kw_only=True)
class StudentConfig(Student, NextShotConfig):
    """A stage that trains the student."""

    indicator: Literal["phase", "embedding"] = "phase"  # what marks a cut (Table 4): RoPE's jump, or a learnt embedding
