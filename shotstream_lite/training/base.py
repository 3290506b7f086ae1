"""Stage 1: the text-to-video model everything starts from, the toybox's stand-in for Wan2.1-T2V-1.3B.

A plain Wan: one shot, one caption, no history. Its text encoder learns along with it and is frozen afterwards. As Wan
did, it sees pictures before films: a frame is a ninth of a shot's tokens, so words meet more scenes in the same time.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from shotstream_lite.flow import SigmaTable
from shotstream_lite.toybox.dataset import LatentFilms, next_shot_batch, still_batch
from shotstream_lite.toybox.language import build_text_encoder, build_tokenizer
from shotstream_lite.training.captions import drop_captions, embed
from shotstream_lite.training.loop import Checkpoint, descend, learning_rate, run_steps, step_generator
from shotstream_lite.training.teacher import teacher_loss
from shotstream_lite.transformer import ShotStreamTransformer


@dataclass
class BaseConfig:
    """How the base model is trained."""

    out: Path
    steps: int = 5000
    image_steps: int = 2500  # single frames only, before the shots
    image_batch: int = 96
    batch: int = 16
    lr: float = 1e-3
    shift: float = 3.0  # of the noise schedule; small pictures need less than Wan's 8
    drop_caption: float = 0.1
    seed: int = 0


def build_transformer(channels: int = 8) -> ShotStreamTransformer:
    """The toybox's transformer: Wan with 6 layers of width 128, 1.7 M parameters, for latents of so many channels."""
    return ShotStreamTransformer(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=channels,
        out_channels=channels,
        text_dim=64,
        freq_dim=64,
        ffn_dim=512,
        num_layers=6,
    )


def train_base(config: BaseConfig, films: LatentFilms) -> None:
    """Trains transformer and text encoder together; leaves both, and the tokenizer, in `config.out`."""
    torch.manual_seed(config.seed)
    tokenizer = build_tokenizer()
    text_encoder, transformer = build_text_encoder(tokenizer), build_transformer(films.clips.shape[2])
    parameters = [*transformer.parameters(), *text_encoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, betas=(0.9, 0.99), weight_decay=0.01)
    table = SigmaTable(config.shift, bell=False)

    def train_step(step: int) -> dict[str, float]:
        generator = step_generator(config.seed, step)
        if step < config.image_steps:
            target, texts = still_batch(films, config.image_batch, generator)
        else:
            batch = next_shot_batch(films, config.batch, generator, drop_context=1.0)
            target, texts = batch.target, batch.captions
        captions = drop_captions(embed(text_encoder, tokenizer, texts), config.drop_caption, generator)
        rows = torch.randint(len(table.sigmas), (len(target),), generator=generator)
        noise = torch.randn(target.shape, generator=generator)
        one_shot = torch.zeros(target.shape[2], dtype=torch.long)
        loss = teacher_loss(transformer, target, noise, rows, captions, one_shot, table=table)
        norm = descend(optimizer, loss, learning_rate(step, config.steps, config.lr))
        return {"loss_image" if step < config.image_steps else "loss": loss.item(), "grad_norm": norm}

    def save(step: int) -> None:
        transformer.save_pretrained(config.out / "base")
        text_encoder.save_pretrained(config.out / "text_encoder")
        tokenizer.save_pretrained(config.out / "tokenizer")

    checkpoint = Checkpoint(
        config.out / "base.pt", transformer=transformer, text_encoder=text_encoder, optimizer=optimizer
    )
    run_steps("base", config.steps, train_step, checkpoint, on_save=save)
