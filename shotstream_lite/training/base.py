"""Stage 1: the text-to-video model everything starts from, the toybox's stand-in for Wan2.1-T2V-1.3B.

A plain Wan: one shot, one caption, no history. Its text encoder can read already (`training.text`); of real films,
whose words nobody knows before, it learns along. As Wan did, it sees pictures before films: a frame is a twelfth of a
shot's tokens, so words meet more scenes in the same time.
"""

from dataclasses import dataclass

import torch
from torch import nn

from shotstream_lite.conditioning import Conditioning
from shotstream_lite.flow import SigmaTable
from shotstream_lite.toybox.language import build_text_encoder, build_tokenizer
from shotstream_lite.training.align import aligned, fading
from shotstream_lite.training.batches import (
    Films,
    FrozenText,
    drawn_length,
    drop_captions,
    embed,
    next_shot_batch,
    still_batch,
)
from shotstream_lite.training.config import NextShotConfig, StageConfig
from shotstream_lite.training.loop import Run
from shotstream_lite.training.samples import Strips
from shotstream_lite.training.teacher import teacher_loss
from shotstream_lite.training.weights import initial_model, save_model, save_text, text_of
from shotstream_lite.transformer import ShotStreamTransformer


@dataclass(kw_only=True)
class BaseConfig(StageConfig):
    """How the base model is trained."""

    steps: int = 5000
    image_steps: int = 2500  # single frames only, before the shots
    image_batch: int = 96
    batch: int = 16  # samples of a step, over all processes together
    shift: float = 3.0  # of the noise schedule; small pictures need less than Wan's 8
    drop_caption: float = 0.1
    text_tokens: int = 64  # length of a caption's embedding
    lengths: tuple[int, ...] = ()  # latents of a shot, as in `NextShot`
    heads: int = 5  # of attention, each 32 wide
    layers: int = 8
    text: bool = False  # a new text encoder learns along, instead of the one that can read
    align: float = 0.0  # weight of an aid for drawn films: what is to be seen must be known in mid-model (see `align`)
    align_steps: int = 0  # until it has fallen to a tenth; 0: never


def build_transformer(channels: int = 24, heads: int = 5, layers: int = 8) -> ShotStreamTransformer:
    """The toybox's transformer: Wan in miniature, 32 of its width a head, for latents of so many channels.

    A latent cell, 16 x 16 x 4 pixels, is a token: Wan's 2 x 2 cells are wider than a hat, and what moves smears.
    """
    transformer = ShotStreamTransformer(
        num_attention_heads=heads,
        attention_head_dim=32,
        in_channels=channels,
        out_channels=channels,
        text_dim=64,
        freq_dim=64,
        ffn_dim=128 * heads,
        num_layers=layers,
        patch_size=(1, 1, 1),
    )
    for block in transformer.blocks:  # narrow heads whose queries and keys are normed can hardly be sure of anything
        for attn, gain in ((block.attn1, 1.5), (block.attn2, 2.0)):
            nn.init.constant_(attn.norm_q.weight, gain)
            nn.init.constant_(attn.norm_k.weight, gain)
    return transformer


def train_base(config: BaseConfig, films: Films) -> None:
    """Trains the transformer, and its text encoder if that learns along; leaves them in `config.out`."""
    run = Run("base", config)
    torch.manual_seed(config.seed)
    if config.start or not config.text:
        text_encoder, tokenizer = text_of(config)
    else:
        tokenizer = build_tokenizer(films.vocabulary())
        text_encoder = build_text_encoder(tokenizer)
    if config.start:
        transformer = initial_model(config, "base", "base")
    else:
        transformer = build_transformer(len(films.clip(0, 0)), config.heads, config.layers)
    transformer = run.trained(transformer)
    text_encoder = run.trained(text_encoder) if config.text else run.frozen(text_encoder)
    align = aligned(run, transformer, films)
    optimizer = run.optimizer(transformer, text_encoder, plain=align)
    table = SigmaTable(config.shift, bell=False)

    def train_step(step: int) -> dict[str, float]:
        images = step < config.image_steps
        draws = run.draws(step, config.image_batch if images else config.batch)
        if images:
            target, texts, origins = still_batch(films, len(draws), draws.each)
        else:
            latents = drawn_length(draws, config.lengths)
            batch = next_shot_batch(films, len(draws), draws.each, drop_context=1.0, latents=latents)
            no_context = slice(batch.context.shape[2], None)
            target, texts, origins = batch.target, batch.captions, [o[no_context] for o in batch.origins]
        target = target.to(run.device)
        captions = embed(text_encoder, tokenizer, texts, config.text_tokens)
        loss = teacher_loss(
            transformer,
            target,
            draws.normal(*target.shape[1:]),
            draws.index(len(table.sigmas)),
            Conditioning(drop_captions(captions, config.drop_caption, draws)),
            table,
        )
        metrics = {"loss_image" if images else "loss": loss.item()}
        for heads in align:
            seen = heads.loss(origins)
            weight = config.align * fading(step, config.align_steps)
            loss, metrics["loss_seen"] = loss + weight * seen, seen.item()
        _, norm = run.descend(optimizer, loss, step)
        return metrics | {"grad_norm": norm}

    def save() -> None:
        save_model(transformer, config.out / "base", run.main)
        if config.text:
            save_text(text_encoder, tokenizer, config.out, run.main)

    text = FrozenText(text_encoder, tokenizer, config.text_tokens)  # frozen only while it is looked at
    alone = NextShotConfig(config.out, budget=0, shift=config.shift, text_tokens=config.text_tokens)
    strips = Strips(run, transformer, text, alone, films)
    parts = ({"text_encoder": text_encoder} if config.text else {}) | ({"align": align[0]} if align else {})
    run.steps(train_step, save, strips, transformer=transformer, optimizer=optimizer, **parts)
