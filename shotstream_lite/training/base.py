"""Stage 1: the text-to-video model everything starts from, the toybox's stand-in for Wan2.1-T2V-1.3B.

A plain Wan: one shot, one caption, no history. Its text encoder learns along with it and is frozen afterwards.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from shotstream_lite.flow import SigmaTable
from shotstream_lite.toybox.dataset import LatentFilms, next_shot_batch
from shotstream_lite.toybox.language import build_text_encoder, build_tokenizer
from shotstream_lite.training.captions import drop_captions, embed
from shotstream_lite.training.loop import Checkpoint, descend, learning_rate, run_steps, step_generator
from shotstream_lite.training.teacher import teacher_loss
from shotstream_lite.transformer import ShotStreamTransformer


@dataclass
class BaseConfig:
    """How the base model is trained."""

    out: Path
    steps: int = 4000
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
        batch = next_shot_batch(films, config.batch, generator, drop_context=1.0)
        captions = embed(text_encoder, tokenizer, batch.captions)
        captions = drop_captions(captions, config.drop_caption, generator)
        rows = torch.randint(len(table.sigmas), (config.batch,), generator=generator)
        noise = torch.randn(batch.target.shape, generator=generator)
        shot_ids = torch.zeros(batch.target.shape[2], dtype=torch.long)
        loss = teacher_loss(transformer, batch.target, noise, rows, captions, shot_ids, table=table)
        norm = descend(optimizer, loss, learning_rate(step, config.steps, config.lr))
        return {"loss": loss.item(), "grad_norm": norm}

    def save(step: int) -> None:
        transformer.save_pretrained(config.out / "base")
        text_encoder.save_pretrained(config.out / "text_encoder")
        tokenizer.save_pretrained(config.out / "tokenizer")

    checkpoint = Checkpoint(
        config.out / "base.pt", transformer=transformer, text_encoder=text_encoder, optimizer=optimizer
    )
    run_steps("base", config.steps, train_step, checkpoint, on_save=save)
