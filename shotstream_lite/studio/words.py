"""What the page offers to say: phrases the model knows, and stories to begin with."""

from transformers import PreTrainedTokenizerBase

from shotstream_lite.toybox import world
from shotstream_lite.toybox.captions import WORDS

KINDS = {
    "who": world.SHAPES,
    "colour": world.COLOURS,
    "where": world.SETTINGS,
    "camera": world.CAMERAS,
    "does": world.ACTIONS,
}

SMALL_WORLD = {
    "story": "A story about a red ball and a blue box, by the sea.",
    "shots": (
        "Wide shot: the red ball jumps up and down.",
        "Medium shot: the blue box waves hello.",
        "Close-up: the red ball spins around.",
        "Wide shot: the red ball and the blue box meet.",
        "In the snow, the green cone walks to the left, wide shot.",
    ),
}
WHOLE_WORLD = {
    "story": "A young woman in a red raincoat and her grey cat travel along the coast in an old green van.",
    "shots": (
        "Wide shot: the green van rolls along a cliff road above the sea, morning light.",
        "Close-up: the grey cat watches gulls through the windscreen.",
        "Medium shot: the woman in the red raincoat parks and steps out into the wind.",
        "The same scene as a watercolour painting.",
        "A fisherman with a white beard waves to them from the pier.",
    ),
}


def known_phrases(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[str]]:
    """Phrases by kind, for tokenizers that know single words only; nothing for those that spell any word."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if type(getattr(backend, "model", None)).__name__ != "WordLevel":
        return {}
    known = set(tokenizer.get_vocab())
    phrases = {kind: dict.fromkeys(p for value in values for p in WORDS[value]) for kind, values in KINDS.items()}
    return {kind: [p for p in said if set(p.replace("-", " ").split()) <= known] for kind, said in phrases.items()}


def examples(tokenizer: PreTrainedTokenizerBase) -> dict:
    """A story to begin with, and shots for it."""
    return SMALL_WORLD if known_phrases(tokenizer) else WHOLE_WORLD
