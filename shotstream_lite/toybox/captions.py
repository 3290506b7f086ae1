"""Plain English for the miniature world: one global caption, one a shot, varied in words and order.

`WORDS` maps every attribute value to the phrases that may stand for it; the templates join them. The toybox's
vocabulary is exactly the words that can come out of here, so a word outside it can be named to the user instead of
being swallowed.
"""

import re

import numpy as np

from shotstream_lite.toybox.world import Character, Take, ToyStory

WORDS: dict[str, tuple[str, ...]] = {
    # shape
    "ball": ("ball", "ball", "circle", "disc"),
    "box": ("box", "box", "square", "block"),
    "cone": ("cone", "cone", "triangle", "pyramid"),
    # colour
    "red": ("red", "red", "scarlet", "crimson"),
    "orange": ("orange", "orange", "tangerine"),
    "yellow": ("yellow", "yellow", "golden", "lemon"),
    "green": ("green", "green", "emerald"),
    "blue": ("blue", "blue", "azure"),
    "purple": ("purple", "purple", "violet"),
    # setting
    "meadow": ("in a meadow", "on the grass", "in a green field", "among the trees"),
    "desert": ("in the desert", "on the sand among cactuses", "in a hot desert"),
    "snow": ("in the snow", "on a snowy day", "in a winter landscape"),
    "city": ("in the city", "in a town at night", "among tall buildings"),
    "seaside": ("by the sea", "on the beach", "at the seaside"),
    # camera
    "wide": ("wide shot", "long shot", "seen from far away"),
    "medium": ("medium shot", "mid shot", "seen from the middle distance"),
    "close": ("close-up", "close shot", "seen from very near"),
    "pan": ("panning shot", "the camera pans", "the camera moves sideways"),
    # action
    "walk_left": ("walks left", "walks to the left", "strolls left", "goes to the left"),
    "walk_right": ("walks right", "walks to the right", "strolls right", "goes to the right"),
    "jump": ("jumps", "jumps up and down", "hops", "leaps"),
    "spin": ("spins", "spins around", "twirls", "turns round and round"),
    "wave": ("waves", "waves hello", "waves a hand"),
    "stand": ("stands still", "stands there", "waits", "does not move"),
    "meet": ("meet", "walk towards each other", "come together"),
}

GLOBAL = (
    "A story about {cast}, {place}.",
    "{place}, {cast} have an adventure.",
    "A film {place} with {cast}.",
    "{cast} are friends. It all happens {place}.",
    "{cast} {place}.",
)
SHOT = (
    "{camera}: {who} {action}.",
    "{camera}, {who} {action}.",
    "{who} {action}, {camera}.",
    "{camera}. {who} {action}.",
    "{camera}: {who} {action} {place}.",
    "{place}, {who} {action}, {camera}.",
)
SHOT_AWAY = SHOT[-2:]  # when the story leaves its home, the caption has to say where to
MEET = ("{camera}: {who} and {other} {action}.", "{who} and {other} {action}, {camera}.")
MEET_AWAY = ("{camera}: {place}, {who} and {other} {action}.",)

MAX_WORDS = 64  # tokens a caption may have, global part included


def global_caption(story: ToyStory, rng: np.random.Generator) -> str:
    """What holds for the whole story: the cast and the place where most of it happens."""
    cast = " and ".join(name(who, rng, "a") for who in story.cast)
    return _say(_choose(rng, GLOBAL), cast=cast, place=_phrase(rng, _home(story)))


def shot_caption(story: ToyStory, take: Take, rng: np.random.Generator) -> str:
    """Who does what in this shot, how it is filmed, and where if the place is not the story's usual one."""
    return _describe(story, take, rng, away=take.place.setting != _home(story))


def scene_caption(story: ToyStory, take: Take, rng: np.random.Generator) -> str:
    """A shot on its own, for a model that knows no stories: always says where, and nothing of the rest of the cast."""
    return _describe(story, take, rng, away=True)


def _describe(story: ToyStory, take: Take, rng: np.random.Generator, away: bool) -> str:
    """`away` names the place for certain."""
    if take.action == "meet":
        template = _choose(rng, MEET_AWAY if away else MEET)
    else:
        template = _choose(rng, SHOT_AWAY if away else SHOT)
    who = [name(story.cast[i], rng, "the") for i in take.subjects]
    return _say(
        template,
        who=who[0],
        other=who[-1],
        action=_phrase(rng, take.action),
        camera=_phrase(rng, take.camera),
        place=_phrase(rng, take.place.setting),
    )


def name(who: Character, rng: np.random.Generator, article: str) -> str:
    """The way captions speak of somebody: "the red ball", never of hat or stripe."""
    colour, shape = _phrase(rng, who.colour), _phrase(rng, who.shape)
    article = "an" if article == "a" and colour[0] in "aeiou" else article
    return f"{article} {colour} {shape}"


def vocabulary() -> list[str]:
    """Every word and punctuation mark a caption can contain, lower case, sorted."""
    text = " ".join(phrase for phrases in WORDS.values() for phrase in phrases)
    templates = GLOBAL + SHOT + MEET + MEET_AWAY
    text += " a an the shot : " + " ".join(re.sub(r"\{\w+\}", " ", t) for t in templates)
    return sorted(set(words(text)))


def words(text: str) -> list[str]:
    """Splits as the toybox tokenizer does: lower-case words, each punctuation mark alone."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def _home(story: ToyStory) -> str:
    settings = [take.place.setting for take in story.takes]
    return max(settings, key=settings.count)


def _say(template: str, **parts: str) -> str:
    text = template.format(**parts)
    return re.sub(r"(^|\. )(\w)", lambda start: start[0].upper(), text)


def _phrase(rng: np.random.Generator, value: str) -> str:
    return _choose(rng, WORDS[value])


def _choose(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]
