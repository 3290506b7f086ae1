"""What every stage does with the captions of a batch."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from shotstream_lite.text import encode_captions
from shotstream_lite.training.draws import Draws


def embed(
    text_encoder: UMT5EncoderModel, tokenizer: PreTrainedTokenizerFast, captions: list[list[str]], length: int
) -> Tensor:
    """Captions of a batch, n a sample, to [B, n, length, text_dim]; zero beyond each text."""
    flat = [caption for sample in captions for caption in sample]
    states = encode_captions(text_encoder, tokenizer, flat, length, truncate=True)
    return states.unflatten(0, (len(captions), -1))


class FrozenText(nn.Module):
    """Captions to embeddings of `length` rows, as all stages after the base model read them."""

    def __init__(self, text_encoder: UMT5EncoderModel, tokenizer: PreTrainedTokenizerFast, length: int) -> None:
        super().__init__()
        self.text_encoder, self.tokenizer, self.length = text_encoder, tokenizer, length

    @torch.no_grad()
    def forward(self, captions: list[list[str]]) -> Tensor:
        """Captions of a batch, n a sample, to [B, n, length, text_dim]."""
        return embed(self.text_encoder, self.tokenizer, captions, self.length)


def drop_captions(captions: Tensor, rate: float, draws: Draws) -> Tensor:
    """Zeroes all captions of some samples, which is what guidance later calls the unconditional case."""
    keep = ~draws.chance(rate).to(captions.device)
    return captions * keep[:, None, None, None]
