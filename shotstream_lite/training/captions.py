"""What every stage does with the captions of a batch."""

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from shotstream_lite.text import encode_captions
from shotstream_lite.toybox.captions import MAX_WORDS


def embed(text_encoder: UMT5EncoderModel, tokenizer: PreTrainedTokenizerFast, captions: list[list[str]]) -> Tensor:
    """Captions of a batch, n a sample, to [B, n, text_tokens, text_dim]; zero beyond each text."""
    flat = [caption for sample in captions for caption in sample]
    states = encode_captions(text_encoder, tokenizer, flat, MAX_WORDS, truncate=True)
    return states.unflatten(0, (len(captions), -1))


def drop_captions(captions: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Zeroes all captions of some samples, which is what guidance later calls the unconditional case."""
    keep = torch.rand(len(captions), generator=generator) >= rate
    return captions * keep[:, None, None, None]
