"""The toybox's text encoder: a small UMT5 and a tokenizer that knows the words of `captions` and nothing else."""

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from shotstream_lite.toybox import captions

VOCABULARY = captions.vocabulary()
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
MARK = "_"
"""Before a word of the story's global part, which is a token of its own: nobody mistakes the cast for the shot."""


def build_tokenizer(vocabulary: Sequence[str] = VOCABULARY) -> PreTrainedTokenizerFast:
    """One token a word, and another for the same word in the global part, before "shot3:".

    The number there is dropped, so that a story may have more shots than training saw.
    """
    words = [PAD, END, UNKNOWN, *vocabulary, *(MARK + word for word in vocabulary if word[0].isalnum())]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\b(?=\w.*shot\d+:)"), MARK),
            normalizers.Replace(Regex(rf"{MARK}?shot\d+:"), " shot : "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, words.index(END))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN)


def build_text_encoder(tokenizer: PreTrainedTokenizerFast) -> UMT5EncoderModel:
    """Three layers, width 64: about 0.3 M parameters, taught to read before there are pictures (`training.text`)."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer),
            d_model=64,
            d_kv=32,
            d_ff=256,
            num_layers=3,
            num_heads=4,
            dropout_rate=0.0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
