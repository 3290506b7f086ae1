"""The settings that stages share; each stage adds its own. One name for one thing, in every stage and preset."""

import math
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from shotstream_lite.errors import StoryError
from shotstream_lite.files import check_name
from shotstream_lite.flow import FEW_STEPS, TIMESTEPS
from shotstream_lite.rope import SHOT_PHASE

TINY = 5e-324  # the least number above 0
AT_LEAST_ONE = ("steps", "batch", "accumulate", "save_every", "pairs", "stories", "shots", "channels", "lora_rank")
AT_LEAST_ONE += ("sampling_steps", "wide_channels", "base_dim", "patch_size", "heads", "layers")
POSITIVE = ("lr", "clip_lr", "critic_lr", "clip", "critic_clip", "shift", "lora_alpha")
LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(AT_LEAST_ONE, (1, 10**9)),
    **dict.fromkeys(POSITIVE, (TINY, math.inf)),
    **dict.fromkeys(("drop_context", "drop_caption", "lr_floor"), (0, 1)),
    **dict.fromkeys(("betas", "lora_dropout"), (0, math.nextafter(1, 0))),
    **dict.fromkeys(("phase", "guidance", "memory_guidance"), (-math.inf, math.inf)),
    **dict.fromkeys(("height", "width"), (16, 8192)),
    **dict.fromkeys(("budget", "budgets"), (0, 64)),
    **dict.fromkeys(("chunk", "lengths"), (1, 240)),
    "frames": (1, 961),
    "seed": (0, 2**63 - 1),
    "student_steps": (1, TIMESTEPS),
    "text_tokens": (1, 4096),
}
"""What numbers a setting may have, by its name; others from 0 on."""


def check_settings(config: Any) -> None:
    """Raises StoryError, naming the option, for a value that no stage could be trained with."""
    for f in fields(config):
        value, option = getattr(config, f.name), f"--{f.name.replace('_', '-')}"
        low, high = LIMITS.get(f.name, (0, 10**9))
        several = isinstance(value, tuple | list)
        kind = (get_args(f.type) or (None,))[0] if several else f.type
        if kind not in (int, float):
            if getattr(f.type, "__origin__", None) is Literal and value not in get_args(f.type):
                raise StoryError(f"{option} is {value!r}: choose one of {', '.join(get_args(f.type))}")
            continue
        if several and not value and f.name != "lengths":
            raise StoryError(f"{option} names nothing: write at least one number behind it")
        for number in value if several else [value]:
            allowed = int if kind is int else int | float
            fits = isinstance(number, allowed) and not isinstance(number, bool) and low <= number <= high
            if not fits or math.isinf(number):
                raise StoryError(
                    f"{option} is {number!r}: write a {'whole ' * (kind is int)}number{_between(low, high)}"
                )


def _between(low: float, high: float) -> str:
    least = "" if low == -math.inf else " above 0" if low == TINY else f" from {low}"
    if high >= 10**9:
        return least
    return least + (f" to {high}" if high == int(high) else f" to just below {high:.0f}")


@dataclass
class RunConfig:
    """Where a stage works."""

    out: Path  # run folder: what earlier stages left there is used, what this one makes is put there
    after: tuple[Path, ...] = ()  # run folders that hold earlier stages which are not in `out`
    start: Path | None = None  # a run or model folder whose weights of this stage to go on from; fills other gaps
    precision: Literal["no", "bf16"] = "no"  # of mixed precision; weights and optimizer stay float32
    compile: bool = False  # torch.compile the transformers: a minute at the start, then faster; wants a compiler
    seed: int = 0

    @property
    def folders(self) -> list[Path]:
        """Where to look for what earlier stages made, in this order."""
        return [self.out, *self.after, *([self.start] if self.start else [])]

    def check(self) -> None:
        """Raises StoryError for settings that cannot be trained with; every stage asks before it begins."""
        check_settings(self)
        for option, folder in [("--after", path) for path in self.after] + [("--start", self.start)]:
            if folder and not folder.is_dir():
                raise StoryError(f"{option} {folder}: is no folder: name one that holds earlier stages")
        check_name(self.out, "--out")
        if self.out.exists() and not self.out.is_dir():
            raise StoryError(f"--out {self.out}: is a file: name a folder")


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
    lengths: tuple[int, ...] = ()  # latents of a shot, one of these for each step; by default that of the shortest
    dry_run: bool = False  # say how much memory the stage would need and whether a GPU has it, and stop


@dataclass(kw_only=True)
class NextShotConfig(NextShot, StageConfig):
    """A stage that trains a teacher or a student."""

    accumulate: int = 1  # a step's samples are taken in so many parts, or one by one: less memory, same step
    checkpointing: bool = False  # compute blocks again in the backward pass: a sixteenth of the memory, a third slower
    shard: bool | None = None  # split model and optimizer over processes (FSDP2); by default on several GPUs


@dataclass(kw_only=True)
class Student:
    """What the causal student adds (sec. 4.2), and the teacher's paths that it learns from."""

    student_steps: tuple[int, ...] = FEW_STEPS  # its noise levels before the shift, 1000 is pure noise

    def check(self) -> None:
        """As in `RunConfig`."""
        super().check()
        steps = self.student_steps
        if steps[0] != TIMESTEPS or any(a <= b for a, b in pairwise(steps)):
            raise StoryError(f"--student-steps {' '.join(map(str, steps))}: write falling numbers, {TIMESTEPS} first")


@dataclass(kw_only=True)
class StudentConfig(Student, NextShotConfig):
    """A stage that trains the student."""

    chunk: int = 3  # latent frames made at once
    indicator: Literal["phase", "embedding"] = "phase"  # what marks a cut (Table 4): RoPE's jump, or a learnt embedding
