"""Rivals trained: from the same teacher or base, on the same films, for as many steps, as rows of `train tables`.

A streaming rival begins as the teacher, learns its layout on real films with a clean past (`rival-init`), and is then
distilled on its own rollouts by the scores of the same teacher (`rival-distil`). Most were published on single shots
(`--shots 1`): the teacher then scores a shot that has no history. Given our films, the last shot of several is
learnt. A joint rival, and a teacher that tells cuts by another mark, learns by flow matching (`rival-flow`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from shotstream_lite.conditioning import Conditioning
from shotstream_lite.errors import CheckpointError
from shotstream_lite.flow import TIMESTEPS, SigmaTable, add_noise, few_step, to_clean
from shotstream_lite.rivals.film import MARKS, FilmCache, begin_film
from shotstream_lite.rivals.joint import KINDS, Joint
from shotstream_lite.rivals.streams import STREAMS, CausVid, Rival, RollingForcing
from shotstream_lite.rollout import chunk_sizes, clean_pass
from shotstream_lite.training.ablations.baselines import LearntCut
from shotstream_lite.training.batches import (
    Films,
    FrozenText,
    NextShotBatch,
    collate,
    draw_shot,
    drawn_length,
    drop_captions,
    remembered,
    shortest,
    step_batch,
)
from shotstream_lite.training.causal_init import CausalInitConfig
from shotstream_lite.training.config import NextShotConfig, StudentConfig
from shotstream_lite.training.draws import Draws
from shotstream_lite.training.intra_shot import Distillation, IntraShotConfig
from shotstream_lite.training.loop import Run
from shotstream_lite.training.teacher import TeacherConfig, teacher_loss
from shotstream_lite.training.weights import earlier, initial_model, save_model, text_of
from shotstream_lite.transformer import ShotStreamTransformer, causal_mask

EMBEDDING = "embedding"


@dataclass(frozen=True)
class FilmBatch(NextShotBatch):
    """A next shot as the teacher sees it, and the film before it as a rival does.

    Shape:
        past: [batch, shots - 1, channels, frames, h, w], the beginnings of the shots before; lines: a caption for each
        shot of each sample, the next one's last
    """

    past: Tensor | None = None
    lines: Sequence[list[str]] = ()

    @property
    def whole(self) -> Tensor:
        """All shots one after another, [B, C, shots * F, h, w]."""
        return torch.cat([*self.past.unbind(1), self.target], dim=2)


def film_batch(films: Films, draws: Draws, config: NextShotConfig, remembers: bool = True) -> FilmBatch:
    """Draws the last of `config.shots` shots of random stories.

    remembers: the teacher sees the stills of earlier shots; else it takes the shot for a first one. Raises
    CheckpointError if hardly any story has so many shots.
    """
    short, before = shortest(films), config.shots - 1
    latents = drawn_length(draws, config.lengths) or short
    samples, past, lines = [], [], []
    for source in draws.each:
        tries = (draw_shot(films, source, latents) for _ in range(1000))
        row, shot, words = next((drawn for drawn in tries if drawn[1] >= before), (0, None, None))
        if shot is None:
            raise CheckpointError(f"films: hardly any story has {config.shots} shots: choose a smaller --shots")
        texts, target = films.captions(row, words), films.clip(row, shot)[:, :latents]
        context = remembered(films, row, shot if remembers else 0, config.budget, config.policy, target)
        samples.append((target, *context.told(texts[: shot + 1], latents)))
        clips = [films.clip(row, s)[:, :short] for s in range(shot - before, shot)]
        past.append(torch.stack(clips) if clips else target[None, :, :short][:0])
        lines.append(texts[shot - before : shot + 1])
    return FilmBatch(**vars(collate(samples)) | {"past": torch.stack(past), "lines": lines})


@dataclass(kw_only=True)
class RivalInitConfig(CausalInitConfig):
    """How a streaming rival gets used to its layout."""

    rival: Literal[*STREAMS] = "self-forcing"
    shots: int = 1  # of a film, the learnt one included; 1: single shots, as published


@dataclass(kw_only=True)
class RivalDistilConfig(IntraShotConfig):
    """How a streaming rival is distilled."""

    rival: Literal[*STREAMS] = "self-forcing"
    shots: int = 1
    history: Literal["film", "own"] = "film"  # earlier shots: real ones, or what the rival makes of them (LongLive)
    remembers: bool = True  # the teacher knows the shots before, if there are any


@dataclass(kw_only=True)
class RivalFlowConfig(TeacherConfig):
    """How a joint rival is trained, or a teacher that tells cuts by a mark."""

    rival: Literal[*KINDS] = "full"
    mark: Literal[*MARKS, EMBEDDING, ""] = ""  # with one, next shots and not films are learnt, and it tells the cuts
    shots: int = 4


def in_training(name: str) -> Rival:
    """A streaming rival as it is trained: Rolling Forcing ends its windows with the shot."""
    rival = STREAMS[name]
    return replace(rival, streams=False) if isinstance(rival, RollingForcing) else rival


def watched(
    model: ShotStreamTransformer,
    rival: Rival,
    batch: FilmBatch,
    texts: Tensor,
    make: Callable[[FilmCache, int], Any] | None = None,
) -> FilmCache:
    """The film of the batch up to the cut to its last shot, which is begun.

    make: makes earlier shots of so many latents anew, which otherwise are the real ones.
    """
    film = begin_film(model, rival, (len(texts), *batch.target.shape[1:2], *batch.target.shape[3:]))
    with torch.no_grad():
        for shot, clip in enumerate(batch.past.unbind(1)):
            rival.begin(model, film, clip.shape[2], model.caption_keys(texts[:, [shot]]))
            make(film, clip.shape[2]) if make else rival.watch(model, film, clip)
    rival.begin(model, film, batch.target.shape[2], model.caption_keys(texts[:, -1:]))
    return film


def with_clean_past(
    model: ShotStreamTransformer, rival: Rival, batch: FilmBatch, texts: Tensor, noise: Tensor, sigma: Tensor
) -> Tensor:
    """What the model takes for clean in each chunk of the next shot, seeing the real film before it by its layout.

    Shape: noise like the target; sigma [B, F], the same within a chunk; returns [B, C, F, h, w]
    """
    film, clean = watched(model, rival, batch, texts), []
    for start in range(0, batch.target.shape[2], rival.chunk):
        part = slice(start, start + rival.chunk)
        real, level = batch.target[:, :, part], sigma[:, part]
        noisy = add_noise(real, noise[:, :, part], level)
        clean.append(to_clean(noisy, model.chunk(film, noisy, level * TIMESTEPS, start), level))
        rival.made(film, real)
        clean_pass(model, film, torch.randn, real, start)
    return torch.cat(clean, dim=2)


def noised_data(
    model: ShotStreamTransformer, rival: CausVid, batch: FilmBatch, texts: Tensor, noise: Tensor, sigma: Tensor
) -> Tensor:
    """The same in one masked pass, where a chunk sees earlier ones as noisy as they are: CausVid's training."""
    overlap = rival.overlap if len(batch.lines[0]) > 1 else 0
    tail = batch.past[:, -1, :, -overlap:] if overlap else batch.target[:, :, :0]
    clean, level = torch.cat((tail, batch.target), dim=2), torch.cat((sigma[:, :overlap], sigma), dim=1)
    noise = torch.cat((noise[:, :, :overlap].roll(1, 0), noise), dim=2)
    noisy, frames = add_noise(clean, noise, level), clean.shape[2]
    reads = torch.tensor([texts.shape[1] - 2] * overlap + [texts.shape[1] - 1] * (frames - overlap))
    mask = causal_mask(0, frames, rival.chunk)
    flow = model.joint(noisy, level * TIMESTEPS, texts, caption_ids=reads, mask=mask, phase=0.0)
    return to_clean(noisy, flow, level)[:, :, overlap:]


def predicted(model: ShotStreamTransformer, rival: Rival, batch: FilmBatch, texts: Tensor, sigmas, draws) -> Tensor:
    """One of the two, each chunk at a level drawn for it from the student's steps."""
    frames, way = batch.target.shape[2], noised_data if isinstance(rival, CausVid) else with_clean_past
    levels = draws.index(len(sigmas), -(-frames // rival.chunk)).repeat_interleave(rival.chunk, 1)[:, :frames]
    return way(model, rival, batch, texts, draws.normal(*batch.target.shape[1:]), sigmas[levels].to(batch.target))


def train_rival_init(config: RivalInitConfig, films: Films) -> None:
    """Turns the teacher into a student with a rival's layout."""
    run, rival = Run("rival-init", config), in_training(config.rival)
    student = run.trained(initial_model(config, "rival-init", "teacher"), shard=config.shard)
    text = run.frozen(FrozenText(*text_of(config), config.text_tokens))
    sigmas = few_step(config.student_steps, config.shift)

    def loss_on(draws: Draws) -> Tensor:
        batch = film_batch(films, draws, config).to(run.device)
        return (predicted(student, rival, batch, text(batch.lines), sigmas, draws) - batch.target).square().mean()

    _train(run, student, student, loss_on)


class RivalDistillation(Distillation):
    """Distribution matching on what a rival makes after a film, scored as any next shot."""

    def rollout(self, batch: FilmBatch, cond: Conditioning, draws: Draws) -> Tensor:
        """The rival's own shots, stopped at one random step; CausVid's are real ones, noised and denoised at once."""
        rival, texts, student = in_training(self.config.rival), self.text(batch.lines), self.student
        if isinstance(rival, CausVid):
            return predicted(student, rival, batch, texts, self.sigmas, draws)

        def make(film: FilmCache, frames: int, **options) -> list[Tensor]:
            chunks = chunk_sizes(frames, self.config.chunk)
            return list(rival.shot(student, film, draws.noise, self.sigmas, chunks, **options))

        film = watched(student, rival, batch, texts, make if self.config.history == "own" else None)
        options = {"exit_step": draws.shared_index(len(self.sigmas)), "clean_sigma": self.table.sigmas[-1]}
        return torch.cat(make(film, batch.target.shape[2], **options), dim=2)


def train_rival_distil(config: RivalDistilConfig, films: Films) -> None:
    """Distils the teacher into the rival that `rival-init` began."""
    run = Run("rival-distil", config)
    student = run.trained(initial_model(config, "rival-distil", "rival-init"), shard=config.shard)
    fake = run.trained(earlier(config, "teacher"), shard=config.shard)
    distillation = RivalDistillation(run, config, student, fake)

    def train_step(step: int) -> dict[str, float]:
        draws = run.draws(step)
        remembers = config.remembers and config.shots > 1
        return distillation.update(step, film_batch(films, draws, config, remembers).to(run.device), draws)[1]

    run.steps(train_step, lambda: save_model(student, config.out / run.stage, run.main, config), **distillation.parts)


def as_configured(config: RivalFlowConfig, model: ShotStreamTransformer) -> ShotStreamTransformer:
    """The model as a joint rival, or with a mark, new or back from disk."""
    if config.mark == EMBEDDING:
        return LearntCut.of(StudentConfig(config.out, indicator=EMBEDDING), model)
    kind, answers = (Joint, {"mark": MARKS[config.mark]}) if config.mark else KINDS[config.rival]
    return kind.of(model, **answers)


def film_loss(model: Joint, clean: Tensor, noise: Tensor, rows: Tensor, captions: Tensor, table: SigmaTable) -> Tensor:
    """Flow matching on all shots of films. Shape: clean [B, C, shots * F, h, w]; rows [B, shots] of the table."""
    shots, frames = rows.shape[1], clean.shape[2] // rows.shape[1]
    rows, ids = rows.repeat_interleave(frames, 1), torch.arange(shots).repeat_interleave(frames)
    noisy = add_noise(clean, noise, table.sigmas[rows].to(clean))
    flow = model.joint(noisy, table.timesteps[rows].to(clean.device), captions, ids, caption_ids=ids)
    return (flow.float() - (noise - clean)).square().mean()


def train_rival_flow(config: RivalFlowConfig, films: Films) -> None:
    """Turns the base model into a joint rival, or into a next-shot teacher with a mark."""
    run = Run("rival-flow", config)
    base = run.trained(initial_model(config, "rival-flow", "base"), shard=config.shard)
    model = as_configured(config, base)
    if config.mark == EMBEDDING:  # another model, with more channels
        base = run.trained(model)
    text = run.frozen(FrozenText(*text_of(config), config.text_tokens))
    table = SigmaTable(config.shift, bell=config.bell)
    short = replace(config, lengths=())  # as long as the shortest shots

    def loss_on(draws: Draws) -> Tensor:
        if config.mark:
            batch = step_batch(films, draws, short)
            cond = batch.conditioning(drop_captions(text(batch.captions), config.drop_caption, draws), phase=0.0)
            noise, rows = draws.normal(*batch.target.shape[1:]), draws.index(len(table.sigmas))
            return teacher_loss(model, batch.target, noise, rows, cond, table)
        batch = film_batch(films, draws, short, remembers=False).to(run.device)
        rows = draws.index(len(table.sigmas), config.shots)
        rows = rows if model.asynchronous else rows[:, :1].expand_as(rows)
        captions = drop_captions(text(batch.lines), config.drop_caption, draws)
        return film_loss(model, batch.whole, draws.normal(*batch.whole.shape[1:]), rows, captions, table)

    _train(run, model, base, loss_on)


def _train(run: Run, model: ShotStreamTransformer, saved: ShotStreamTransformer, loss_on) -> None:
    """The steps of a stage with one loss."""
    config, optimizer = run.config, run.optimizer(model)

    def train_step(step: int) -> dict[str, float]:
        parts = run.draws(step).split(config.accumulate)
        loss, norm = run.descend(optimizer, (loss_on(draws) / len(parts) for draws in parts), step)
        return {"loss": loss, "grad_norm": norm}

    save = lambda: save_model(saved, config.out / run.stage, run.main, config)  # noqa: E731
    run.steps(train_step, save, model=model, optimizer=optimizer)
