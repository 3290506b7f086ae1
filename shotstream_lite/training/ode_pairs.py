"""What the paper's causal initialisation learns from: the teacher's own ODE paths, cached on disk (supplement sec. 9).

A pair is a path from noise to a clean shot, kept at the student's noise levels, with everything its shot was told. One
file a pair, written whole: a stopped run goes on with those that are missing, and several processes share the work.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from shotstream_lite.errors import CheckpointError, StoryError
from shotstream_lite.flow import TIMESTEPS, euler_sigmas
from shotstream_lite.kept import fingerprint, is_kept, keep, key_of, notes
from shotstream_lite.models.convert import read_checkpoint
from shotstream_lite.rollout import joint_states
from shotstream_lite.training.batches import Films, FrozenText, NextShotBatch, collate, step_batch
from shotstream_lite.training.config import NextShot, RunConfig, Student, StudentConfig
from shotstream_lite.training.draws import Draws
from shotstream_lite.training.loop import Run
from shotstream_lite.training.weights import earlier, folder_with, text_of
from shotstream_lite.transformer import ShotStreamTransformer

PARTS = ("target", "context", "shot_ids", "caption_ids")


@dataclass(kw_only=True)
class OdePairsConfig(Student, NextShot, RunConfig):
    """How the teacher's paths are drawn."""

    pairs: int = 1000
    batch: int = 8  # pairs made at once, by each process
    sampling_steps: int = 50  # Euler steps of a path
    guidance: float = 2.0  # uncond + guidance * (cond - uncond); the toybox's colours burn above 3
    seed: int = 4

    def check(self) -> None:
        """As in `RunConfig`."""
        super().check()
        if len(self.lengths) > 1:
            raise StoryError("--lengths: pairs are of one length, name one")
        state_indices(self.student_steps, self.sampling_steps)


def state_indices(student_steps: tuple[int, ...], sampling_steps: int) -> list[int]:
    """Which states of a path are at the student's noise levels; the last is the clean end.

    Of 50 steps 0, 13, 25, 37 and 50 for the released (1000, 740, 500, 260). Raises CheckpointError if the path has no
    state at one of them.
    """
    indices = [(TIMESTEPS - step) * sampling_steps / TIMESTEPS for step in (*student_steps, 0)]
    if any(index % 1 for index in indices):
        raise CheckpointError(
            f"--sampling-steps {sampling_steps} has no state at the student's steps {student_steps}: "
            "choose 50, or steps that are multiples of 1000 divided by it"
        )
    return [int(index) for index in indices]


def generate(config: OdePairsConfig, films: Films) -> None:
    """Fills `config.out`/ode-pairs; what is there already of the same teacher, texts, films and settings is kept."""
    run = Run("ode-pairs", config)
    states = state_indices(config.student_steps, config.sampling_steps)
    teacher = earlier(config, "teacher")
    made = {"teacher": fingerprint(teacher.state_dict())}
    teacher = run.frozen(teacher)
    text = run.frozen(FrozenText(*text_of(config), config.text_tokens))
    folder = config.out / "ode-pairs"
    folder.mkdir(exist_ok=True)
    key = _key(config, films, made | {"text": fingerprint(text.text_encoder.state_dict())})
    wanted = range(run.process, config.pairs, run.processes)
    missing = [pair for pair in wanted if not is_kept(_file(folder, pair), key)]
    with tqdm(total=len(wanted), initial=len(wanted) - len(missing), desc="ode-pairs", disable=not run.main) as bar:
        for start in range(0, len(missing), config.batch):
            numbers = missing[start : start + config.batch]
            draws = Draws(config.seed, 0, numbers, run.device)
            batch = step_batch(films, draws, config)
            with run.accelerator.autocast():
                path = teacher_path(teacher, batch, text(batch.captions), draws, config)
                trajectory = torch.stack([state for i, state in enumerate(path) if i in states], dim=1)
            for row, number in enumerate(numbers):
                _write(_file(folder, number), batch, trajectory, row, key, made)
            bar.update(len(numbers))


def teacher_path(teacher, batch: NextShotBatch, captions: Tensor, draws: Draws, config: OdePairsConfig):
    """All states of the teacher's guided path to a shot, noise first: see `rollout.joint_states`."""
    noise, cond = draws.normal(*batch.target.shape[1:]), batch.conditioning(captions, config.phase)
    sigmas = euler_sigmas(config.sampling_steps, config.shift)
    return joint_states(teacher, noise, cond, sigmas, uncond=cond.unconditional(), guidance=config.guidance)


def draw_pairs(files: Sequence[Path], draws: Draws) -> tuple[NextShotBatch, Tensor]:
    """A batch read from some of the files, its targets the clean ends, and the trajectories [B, S, C, F, H, W]."""
    samples, trajectories = [], []
    for index in draws.index(len(files)).tolist():
        pair = read_checkpoint(files[index])
        target, context, *ids = (pair[name] for name in PARTS)
        samples.append((target.float(), context.float(), *ids, notes(files[index])["captions"]))
        trajectories.append(pair["trajectory"].float())
    return collate(samples).to(draws.device), torch.stack(trajectories).to(draws.device)


def find_pairs(config: StudentConfig, teacher: ShotStreamTransformer | None = None) -> list[Path]:
    """The files that `generate` has left so far.

    Raises CheckpointError if that is nothing, if a file is damaged, or if some are not of the `teacher`, of one
    `generate` or of these student steps.
    """
    files = sorted((folder_with(config, "ode-pairs") / "ode-pairs").glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{config.out}: holds no ODE pairs: run `shotstream train ode-pairs` first")
    again = "run `shotstream train ode-pairs` again, or remove the folder first"
    known = [notes(path) for path in files]
    if len({told.get("key") for told in known}) > 1:
        raise CheckpointError(f"{files[0].parent}: holds pairs of different teachers or settings: {again}")
    if teacher and known[0].get("made", {}).get("teacher") != fingerprint(teacher.state_dict()):
        raise CheckpointError(f"{files[0].parent}: holds pairs of another teacher: {again}")
    states = len(read_checkpoint(files[0])["trajectory"])
    if states != len(config.student_steps) + 1:
        raise CheckpointError(f"{files[0].parent}: made for {states - 1} student steps: make new ones in another --out")
    return files


def _file(folder: Path, number: int) -> Path:
    return folder / f"pair-{number:06d}.safetensors"


def _key(config: OdePairsConfig, films: Films, made: dict[str, str]) -> str:
    """Of everything that pairs depend on but how many there are and how many are made at once."""
    apart = {f.name for f in fields(RunConfig)} - {"seed"} | {"pairs", "batch", "dry_run"}
    settings = {name: value for name, value in asdict(config).items() if name not in apart}
    first = fingerprint({"clip": films.clip(0, 0)})
    return key_of(films=len(films), first=first, settings=settings, **made)


def _write(path: Path, batch: NextShotBatch, trajectory: Tensor, row: int, key: str, made: dict[str, str]) -> None:
    """One pair, in half precision; its target is the end of the path and not the film's shot."""
    tensors = {
        "target": trajectory[row, -1].half(),
        "context": batch.context[row].half(),
        "shot_ids": batch.shot_ids[row],
        "caption_ids": batch.caption_ids[row],
        "trajectory": trajectory[row].half(),
    }
    keep(path, tensors, key, captions=batch.captions[row], made=made)
