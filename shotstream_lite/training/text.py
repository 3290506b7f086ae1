"""The text encoder learns to read before there is any picture.

Small heads tell from its output what a caption says: who, where, how filmed, doing what, and whether the wind blows or
a bell rings. Captions cost nothing, so it meets more of them in minutes than with pictures in hours. What reads the
answers is thrown away; later stages use encoder and tokenizer as they are. (The toybox's stand-in for Wan's umT5.)
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from shotstream_lite.models.folder import load_text
from shotstream_lite.text import encode_captions
from shotstream_lite.toybox.captions import MAX_WORDS
from shotstream_lite.toybox.dataset import HELD_OUT_SEED, captions_of, story_of
from shotstream_lite.toybox.language import build_text_encoder, build_tokenizer
from shotstream_lite.toybox.truth import TOLD, told
from shotstream_lite.training.config import StageConfig
from shotstream_lite.training.draws import seeded
from shotstream_lite.training.loop import Run
from shotstream_lite.training.weights import save_text

HELD_OUT = 50  # stories whose captions it is tried on in the end


@dataclass(kw_only=True)
class TextConfig(StageConfig):
    """How the text encoder learns to read. With --start it goes on from the one there."""

    steps: int = 2000
    batch: int = 8  # stories of a step, over all processes together; every caption of them is read
    optimizer: Literal["adamw", "muon"] = "muon"
    lr: float = 0.02


class Reader(nn.Module):
    """Tells what captions say from their embeddings: a head a question over the words' mean and maximum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(2 * width, len(answers)) for name, answers in TOLD.items()})

    def forward(self, states: Tensor) -> dict[str, Tensor]:
        """Logits by question. Shape: [n, tokens, width], zero beyond each text, to [n, answers] each."""
        real = (states != 0).any(2, keepdim=True)
        most = states.masked_fill(~real, -torch.inf).amax(1)
        features = torch.cat([states.sum(1) / real.sum(1), most], dim=1)
        return {name: head(features) for name, head in self.heads.items()}


def read(
    reader: Reader,
    text_encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerFast,
    generators: list[torch.Generator],
    first: int = 0,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Logits and right answers by question, [captions, answers] and [captions], of the captions of stories that are
    drawn from number `first` on, one a generator."""
    captions, answers = [], []
    for generator in generators:
        number, seed = (int(torch.randint(HELD_OUT_SEED, (1,), generator=generator, device="cpu")) for _ in range(2))
        story = story_of(first + number)
        captions += captions_of(story, np.random.default_rng(seed))
        answers += [told(take) for take in story.takes]
    logits = reader(encode_captions(text_encoder, tokenizer, captions, MAX_WORDS, truncate=True))
    right = {name: torch.tensor([said[name] for said in answers]) for name in logits}
    return {name: (values, right[name].to(values.device)) for name, values in logits.items()}


def train_text(config: TextConfig) -> dict[str, float]:
    """Leaves text encoder and tokenizer in `config.out`; returns the share of right answers on held-out captions."""
    run = Run("text", config)
    torch.manual_seed(config.seed)
    if config.start:
        text_encoder, tokenizer = load_text(config.start)
    else:
        tokenizer = build_tokenizer()
        text_encoder = build_text_encoder(tokenizer)
    text_encoder = run.trained(text_encoder)
    reader = run.trained(Reader(text_encoder.config.d_model))
    optimizer = run.optimizer(text_encoder, plain=[reader])

    def train_step(step: int) -> dict[str, float]:
        answered = read(reader, text_encoder, tokenizer, run.draws(step).each)
        losses = {name: F.cross_entropy(*asked) for name, asked in answered.items()}
        _, norm = run.descend(optimizer, sum(losses.values()), step)
        return {name: loss.item() for name, loss in losses.items()} | {"grad_norm": norm}

    def save() -> None:
        save_text(text_encoder, tokenizer, config.out, run.main)

    run.steps(train_step, save, text_encoder=text_encoder, reader=reader, optimizer=optimizer)
    with torch.no_grad():
        generators = [seeded(HELD_OUT_SEED, story) for story in range(HELD_OUT)]
        answered = read(reader, text_encoder, tokenizer, generators, first=HELD_OUT_SEED)
    return {name: (logits.argmax(1) == right).float().mean().item() for name, (logits, right) in answered.items()}
