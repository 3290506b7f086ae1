"""Captions to embeddings, zero-padded to their full length as Wan expects (released utils/wan_wrapper.py)."""

import difflib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from threading import Lock
from typing import Any

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase, UMT5EncoderModel

from shotstream_lite.errors import StoryError

REMEMBERED = 32  # captions whose embeddings are kept
_TOKENIZING = Lock()


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str | Sequence[str], **options: Any) -> BatchEncoding:
    """``tokenizer(text, ...)`` for any thread.

    A fast tokenizer keeps padding and truncation as its own state, which each call sets anew: two at once would mix
    theirs up, and embeddings of the wrong length would be remembered.
    """
    with _TOKENIZING:
        return tokenizer(text, verbose=False, **options)


def encode_captions(
    text_encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerBase,
    captions: Sequence[str],
    length: int,
    *,
    truncate: bool = False,
) -> Tensor:
    """Encodes captions; rows beyond a caption's own tokens are exactly zero.

    The transformer attends to all rows unmasked, so the zeros are part of what it was trained on.

    Args:
        captions: n texts, cleaned here as Wan cleans prompts.
        length: rows of an embedding (Wan: 512).
        truncate: cut what does not fit, as the released code does, instead of raising StoryError.

    Returns:
        [n, length, dim], on the device where the text encoder works and in its dtype.
    """
    if not truncate:
        for number, caption in enumerate(captions, start=1):
            check_length(tokenizer, caption, length, f"caption {number} of {len(captions)}")
    tokens = tokenize(
        tokenizer,
        [prompt_clean(caption) for caption in captions],
        padding="max_length",
        max_length=length,
        truncation=True,
        return_attention_mask=True,
    )
    ids, mask = (torch.tensor(rows, device=text_encoder.device) for rows in (tokens.input_ids, tokens.attention_mask))
    hidden = text_encoder(ids, mask).last_hidden_state
    return hidden.masked_fill(mask.to(hidden.device).unsqueeze(-1) == 0, 0)


def check_length(tokenizer: PreTrainedTokenizerBase, caption: str, length: int, name: str) -> None:
    """Raises StoryError if the caption called `name` has more than `length` tokens."""
    count = len(tokenize(tokenizer, prompt_clean(caption)).input_ids)
    if count > length:
        raise StoryError(f"{name} has {count} tokens, the model reads {length}: shorten it")


def unknown_words(tokenizer: PreTrainedTokenizerBase, caption: str) -> list[tuple[str, list[str]]]:
    """The words of a caption that a word-level tokenizer does not know, each with the nearest it knows.

    Every word comes once, as written and in order. Tokenizers that spell words from pieces know them all.
    """
    if not knows_words_only(tokenizer):
        return []
    text = prompt_clean(caption)
    encoded = tokenize(tokenizer, text, return_offsets_mapping=True)
    spans = zip(encoded.input_ids, encoded.offset_mapping, strict=True)
    unknown = dict.fromkeys(text[a:b].strip() for token, (a, b) in spans if token == tokenizer.unk_token_id)
    known = [word for word in tokenizer.get_vocab() if word[0].isalnum()]  # no "<pad>", nor "_red" of the global part
    return [(word, difflib.get_close_matches(word.lower(), known)) for word in unknown]


def knows_words_only(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer spells nothing from pieces."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return type(getattr(backend, "model", None)).__name__ == "WordLevel"


class CaptionEncoder:
    """Encodes each caption once and remembers the latest `remember` of them.

    A caption is always encoded alone: the numbers then do not depend on what else was asked for, which is
    what lets a story replay bit for bit.

    Args:
        length: rows of an embedding.
        truncate: cut what does not fit instead of raising StoryError.
    """

    def __init__(
        self,
        text_encoder: UMT5EncoderModel,
        tokenizer: PreTrainedTokenizerBase,
        length: int,
        *,
        truncate: bool = False,
        remember: int = REMEMBERED,
    ) -> None:
        self.text_encoder, self.tokenizer = text_encoder, tokenizer
        self.length, self.truncate = length, truncate
        encode = partial(encode_captions, text_encoder, tokenizer, length=length, truncate=truncate)
        self._one = lru_cache(remember)(encode)  # without `self`: no circle keeps the model alive
        self._lock = Lock()
        self._aside = ThreadPoolExecutor(1, "captions")

    def prepare(self, captions: Sequence[str]) -> None:
        """Encodes captions that will soon be asked for, beside what else goes on.

        What is wrong with them is said when they are asked for.
        """
        self._aside.submit(self, captions)

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Embeddings [n, length, dim] of n captions. Raises StoryError as `encode_captions` does."""
        with self._lock, torch.no_grad():
            return torch.cat([self._one((caption,)) for caption in captions])

    def check(self, captions: Sequence[str], first: int = 1) -> None:
        """Raises StoryError if a story's captions, from shot `first` on, do not fit; ask before the work starts."""
        if not self.truncate:
            for number, caption in enumerate(captions, start=first):
                check_length(self.tokenizer, caption, self.length, f"global_caption with shot{number}")

    def unknown_words(self, caption: str) -> list[tuple[str, list[str]]]:
        """The words the tokenizer does not know, each with the nearest it knows."""
        return unknown_words(self.tokenizer, caption)
