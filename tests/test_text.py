"""Captions to embeddings: zero padding, Wan's own encoding, unknown words, and what is remembered."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import current_thread

import pytest
import torch
from diffusers import WanPipeline
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from shotstream_lite.errors import StoryError
from shotstream_lite.story import captions
from shotstream_lite.story_files import load_story
from shotstream_lite.text import CaptionEncoder, check_length, encode_captions, unknown_words
from shotstream_lite.toybox.captions import MAX_WORDS
from shotstream_lite.toybox.language import build_tokenizer

WORDS = ["<pad>", "</s>", "<unk>", ".", ":", "a", "ball", "blue", "box", "jumps", "red", "shot", "the"]
LENGTH = 12
STORIES = Path(__file__).parent.parent / "demos" / "stories"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def text_encoder() -> UMT5EncoderModel:
    torch.manual_seed(0)
    config = UMT5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return UMT5EncoderModel(config).eval()


def test_rows_beyond_the_caption_are_exactly_zero(text_encoder, tokenizer):
    embeddings = encode_captions(text_encoder, tokenizer, ["a red ball.", "the box jumps the ball."], LENGTH)
    assert embeddings.shape == (2, LENGTH, 16)
    for embedding, tokens in zip(embeddings, (5, 7), strict=True):  # the end mark counts
        assert embedding[:tokens].abs().sum(1).min() > 0
        assert embedding[tokens:].abs().max() == 0


def test_equals_what_diffusers_wan_pipeline_encodes(text_encoder, tokenizer):
    pipeline = WanPipeline(tokenizer, text_encoder, vae=None, scheduler=None)
    texts = ["A red\n ball.shot0:The ball jumps.", "the &amp; blue   box"]
    theirs, _ = pipeline.encode_prompt(texts, do_classifier_free_guidance=False, max_sequence_length=LENGTH)
    assert torch.equal(encode_captions(text_encoder, tokenizer, texts, LENGTH), theirs)


def test_gradients_reach_the_text_encoder(text_encoder, tokenizer):
    encode_captions(text_encoder, tokenizer, ["a red ball"], LENGTH).sum().backward()
    assert text_encoder.shared.weight.grad.abs().sum() > 0
    text_encoder.zero_grad()


def test_a_long_caption_is_refused_or_cut(text_encoder, tokenizer):
    caption = "a red ball " * 4
    with pytest.raises(StoryError, match="caption 2 of 2 has 13 tokens, the model reads 12: shorten it"):
        encode_captions(text_encoder, tokenizer, ["a", caption], LENGTH)
    with pytest.raises(StoryError, match="global_caption with shot2 has 13 tokens"):
        CaptionEncoder(text_encoder, tokenizer, LENGTH).check(["a", caption])
    assert encode_captions(text_encoder, tokenizer, [caption], LENGTH, truncate=True).shape == (1, LENGTH, 16)


def test_unknown_words_are_named_with_the_nearest_known(tokenizer):
    assert unknown_words(tokenizer, "The red ball.shot0:The Bal jumps") == [
        ("shot0", ["shot"]),
        ("Bal", ["ball"]),
    ]
    assert unknown_words(tokenizer, "A  Zebra zebra jumps a Zebra.") == [("Zebra", []), ("zebra", [])]
    assert unknown_words(tokenizer, "a red ball jumps") == []


def test_a_tokenizer_of_word_pieces_knows_every_word():
    pieces = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="<unk>")
    assert unknown_words(tokenizer, "zebra") == []


def test_captions_are_encoded_once_and_alone(text_encoder, tokenizer):
    calls = []
    hook = text_encoder.register_forward_hook(lambda module, args, out: calls.append(args[0].shape[0]))
    encode = CaptionEncoder(text_encoder, tokenizer, LENGTH, remember=2)
    first = encode(["a red ball", "a blue box"])
    again = encode(["a blue box", "a red ball"])
    assert calls == [1, 1]
    assert torch.equal(first, again.flip(0)) and not first.requires_grad
    encode(["the box"])  # pushes out "a blue box", the one not asked for the longest
    assert torch.equal(encode(["a red ball"])[0], first[0]) and len(calls) == 3
    assert torch.equal(encode(["a blue box"])[0], first[1]) and len(calls) == 4
    hook.remove()


def test_threads_that_share_a_tokenizer_do_not_change_each_others_padding(text_encoder, tokenizer):
    """A fast tokenizer keeps its padding and truncation as its own state, which every call sets anew."""
    captions = [f"the {colour} ball jumps" for colour in ("red", "blue")] * 150
    with torch.no_grad(), ThreadPoolExecutor(3) as threads:
        encoded = threads.map(lambda text: encode_captions(text_encoder, tokenizer, [text], LENGTH), captions)
        counted = threads.map(lambda text: check_length(tokenizer, text, LENGTH, "it"), captions)
        unknown = threads.map(lambda text: unknown_words(tokenizer, "a " * 20 + text + " zebra"), captions)
        shapes, words = {e.shape for e in encoded}, list(unknown)
    assert list(counted) == [None] * len(captions) and shapes == {(1, LENGTH, 16)}
    assert words == [[("zebra", [])]] * len(captions)


def test_what_was_prepared_is_there_when_asked_for(text_encoder, tokenizer):
    threads = []
    hook = text_encoder.register_forward_hook(lambda module, args, out: threads.append(current_thread().name))
    encode, other = (CaptionEncoder(text_encoder, tokenizer, LENGTH) for _ in range(2))
    encode.prepare(["a red ball"])
    encode._aside.shutdown()
    assert torch.equal(encode(["a red ball"]), other(["a red ball"]))
    assert [name.startswith("captions") for name in threads] == [True, False]
    hook.remove()


def test_what_cannot_be_prepared_is_refused_when_asked_for(text_encoder, tokenizer):
    encode = CaptionEncoder(text_encoder, tokenizer, 2)
    encode.prepare(["a red ball and a blue box"])
    with pytest.raises(StoryError, match="the model reads 2"):
        encode(["a red ball and a blue box"])


@pytest.mark.parametrize("path", sorted(STORIES.glob("*.json")), ids=lambda path: path.stem)
def test_the_example_stories_speak_the_toybox_language(path):
    tokenizer, story = build_tokenizer(), load_story(path)
    for caption in captions(story, len(story.shots)):
        check_length(tokenizer, caption, MAX_WORDS, path.name)
        assert unknown_words(tokenizer, caption) == []


def test_the_toybox_tokenizer_names_what_it_does_not_know():
    """As it was written, in the cast or in the shot, and never with the mark of the cast's words."""
    assert unknown_words(build_tokenizer(), "A redd ball by the sea.shot12:The Zebra jumpss.") == [
        ("redd", ["red"]),
        ("Zebra", []),
        ("jumpss", ["jumps", "jump", "jumping"]),
    ]
