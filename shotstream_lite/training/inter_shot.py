"""Self-forcing across shots: the student's own earlier shots are its history (paper sec. 4.3, supplement sec. 9).

Stories are told in step, a shot a training step: every step rolls one shot out, updates critic or generator on it (the
losses of `intra_shot`), and leaves the shot as history for the next. As at inference that history goes through pixels:
a shot is decoded, sparse history sampling picks frames, each is encoded alone. No gradient passes from shot to shot.

As released, a shot that was stopped at an early step becomes history as it is. Not as released: a shot without history
reads its own caption and not the second one, and which shots the generator learns from does not depend on the length
of the stories.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from shotstream_lite.codec import Codec, to_frames, to_pixels
from shotstream_lite.context import Memory, remember
from shotstream_lite.errors import CheckpointError, StoryError
from shotstream_lite.training.ablations.baselines import LearntCut
from shotstream_lite.training.batches import Films, NextShotBatch, collate, shortest
from shotstream_lite.training.draws import Draws, seeded
from shotstream_lite.training.intra_shot import Distillation, DistillationConfig
from shotstream_lite.training.loop import Run
from shotstream_lite.training.samples import Strips
from shotstream_lite.training.weights import add_lora, codec_of, earlier, initial_model, merged, save_whole


@dataclass(kw_only=True)
class InterShotConfig(DistillationConfig):
    """How the student is distilled across shots."""

    steps: int = 600
    shots: int = 5  # of a story, from the first on
    lora_rank: int = 32  # of generator and critic, on every linear layer of the blocks
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    begin: Literal["intra-shot", "causal-init"] = "intra-shot"  # who made the student; "stage 2 only" in Table 4
    seed: int = 5

    def check(self) -> None:
        """As in `RunConfig`."""
        super().check()
        if math.gcd(self.shots, self.critic_updates + 1) > 1:
            raise StoryError(
                f"--shots {self.shots} and --critic-updates {self.critic_updates}: the generator would learn from some "
                f"shots only, since {self.shots} and {self.critic_updates + 1} share a divisor: change one of them"
            )


class Telling:
    """The stories being told: which they are, and what the student has made of them so far.

    Args:
        films: only their captions and their numbers of shots are used.
    """

    def __init__(self, run: Run, config: InterShotConfig, films: Films, codec: Codec) -> None:
        self.run, self.config, self.films, self.codec = run, config, films, codec
        self.batch = config.batch // run.processes
        self.usable = [row for row in range(len(films)) if len(films.lengths(row)) >= config.shots]
        if not self.usable:
            raise CheckpointError(f"films: no story has {config.shots} shots: choose a smaller --shots")
        self.latents: list[Tensor] = []  # [B, C, F, h, w] of each shot told
        self.pixels: list[Tensor] = []  # the same decoded, uint8 [B, frames, H, W, 3]

    def next_batch(self, step: int, draws: Draws) -> NextShotBatch:
        """What the step's shot of every story is told; the target of a batch is nobody's and left empty."""
        shot = step % self.config.shots
        if shot == 0:
            self.latents, self.pixels = [], []
        forgets = draws.chance(self.config.drop_context).tolist()
        rows = [self._memory(step // self.config.shots, row, shot, forgets[row]) for row in range(len(draws))]
        return collate([(torch.zeros(0, device="cpu"), *row) for row in rows]).to(self.run.device)

    def add(self, shots: Tensor) -> None:
        """Takes the shots of this step into the stories; the last ones of a story nobody will remember."""
        if len(self.latents) == self.config.shots - 1:
            return
        self.latents.append(shots.float())
        with torch.autocast(self.run.device.type, enabled=False):
            one_by_one = (self.codec.decode(shot)[0].movedim(0, 1) for shot in self.latents[-1].split(1))
            self.pixels.append(torch.stack([to_frames(frames).cpu() for frames in one_by_one]))

    def _memory(self, round_: int, row: int, shot: int, forgets: bool) -> Memory:
        sample = row + self.run.process * self.batch
        source = seeded(self.config.seed, round_, 0, 1 + sample)
        story = self.usable[int(torch.randint(len(self.usable), (), generator=source, device="cpu"))]
        words = np.random.default_rng(int(torch.randint(2**62, (), generator=source, device="cpu")))
        captions = self.films.captions(story, words)[: self.config.shots]
        lengths = self.config.lengths or (shortest(self.films),)
        drawn = torch.randint(len(lengths), (), generator=seeded(self.config.seed, round_, 0, 0, shot), device="cpu")
        context = remember(
            () if forgets else [pixels.shape[1] for pixels in self.pixels],
            self.config.budget,
            self.config.policy,
            lambda picked: self._stills(row, picked),
            self.films.clip(0, 0),
        )
        return context.told(captions[: shot + 1], lengths[drawn], own=self.config.captions == "per-shot")

    def _stills(self, row: int, picked: Sequence[tuple[int, int]]) -> list[Tensor]:
        """The frames at (shot, frame) of a story, each encoded alone as at inference."""
        frames = torch.stack([self.pixels[shot][row, frame] for shot, frame in picked])
        with torch.autocast(self.run.device.type, enabled=False):
            return list(self.codec.encode_frames(to_pixels(frames)).cpu())

    def state_dict(self) -> dict[str, Tensor]:
        """The latents of the shots told, of all processes; decoding them again gives the same pixels."""
        return {str(i): self.run.accelerator.gather(shots).cpu() for i, shots in enumerate(self.latents)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Goes on in the middle of the stories."""
        self.latents, self.pixels = [], []
        mine = slice(self.run.process * self.batch, (self.run.process + 1) * self.batch)
        for index in range(len(state)):
            self.add(state[str(index)][mine].to(self.run.device))


def train_inter_shot(config: InterShotConfig, films: Films) -> None:
    """Distils on whole stories with LoRA; leaves the student with its LoRA merged in `config.out`/inter-shot."""
    run = Run("inter-shot", config)
    torch.manual_seed(config.seed)  # of the LoRA's beginnings
    student = LearntCut.of(config, initial_model(config, "inter-shot", config.begin))
    student = run.trained(student, only=add_lora(student, config), shard=config.shard)
    fake = earlier(config, "teacher")
    fake = run.trained(fake, only=add_lora(fake, config), shard=config.shard)
    distillation = Distillation(run, config, student, fake)
    codec = codec_of(config)
    run.frozen(codec.vae)
    telling = Telling(run, config, films, codec)

    def train_step(step: int) -> dict[str, float]:
        draws = run.draws(step)
        shots, metrics = distillation.update(step, telling.next_batch(step, draws), draws)
        telling.add(shots)
        return metrics

    def save() -> None:
        if (model := merged(student, run.main)) is not None:
            save_whole(model, config.out / "inter-shot", config)

    strips = Strips(run, student, distillation.text, config, films)
    run.steps(train_step, save, strips, telling=telling, **distillation.parts)
