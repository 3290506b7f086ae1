"""A run folder in which every stage has been, with models of a few thousand parameters and shots of 9 tiny frames."""

from pathlib import Path

import torch
from conftest import build_transformer

from shotstream_lite.toybox.dataset import ToyFilms, key_frames
from shotstream_lite.toybox.language import build_text_encoder, build_tokenizer
from shotstream_lite.training.codec import build_codec
from shotstream_lite.training.presets import RECIPES

CHANNELS = 4
STAGES = ("base", "teacher", "causal-init", "intra-shot")


def tiny_run(folder: Path) -> Path:
    """Everything but films."""
    torch.manual_seed(0)
    for seed, stage in enumerate(STAGES):
        tiny_transformer(seed).save_pretrained(folder / stage)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    build_text_encoder(tokenizer).save_pretrained(folder / "text_encoder")
    tiny_codec().save_pretrained(folder / "vae")
    return folder


def tiny_transformer(seed: int):
    return build_transformer(seed, in_channels=CHANNELS, out_channels=CHANNELS, text_dim=64)


def tiny_codec(channels: int = CHANNELS):
    """8 x 8 pixels to a latent cell."""
    return build_codec(channels, base_dim=4, patch_size=2)


def of_one_length(monkeypatch) -> None:
    """From here on the toybox's recipe is one for shots that are all as long as these."""
    recipe = RECIPES["toybox"].items()
    short = {stage: {name: v for name, v in settings.items() if name != "lengths"} for stage, settings in recipe}
    monkeypatch.setitem(RECIPES, "toybox", short)


def tiny_films(stories: int = 3, budgets: tuple[int, ...] = (6,)) -> ToyFilms:
    """Stories of 8 shots of 9 frames, 32 x 48 pixels: 3 latents of 4 x 6."""
    noise, keys = torch.Generator().manual_seed(0), len(key_frames(9, budgets))
    clips = torch.randn(stories, 8, CHANNELS, 3, 4, 6, generator=noise)
    stills = torch.randn(stories, 8, keys, CHANNELS, 4, 6, generator=noise)
    return ToyFilms(list(range(stories)), *([list(story) for story in kind] for kind in (clips, stills)), budgets)
