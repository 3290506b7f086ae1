"""Plain English for the miniature world: one global caption, one a shot, varied in words and order.

`WORDS` maps every attribute value to the phrases that may stand for it; the templates join them as people write
prompts ("Close-up of the red ball, waving.", "They meet."). The toybox's vocabulary is exactly the words that can come
out of here, so a word outside it can be named to the user instead of being swallowed.
"""

import re

import numpy as np

from shotstream_lite.toybox.world import Character, Take, ToyStory, pick

WORDS: dict[str, tuple[str, ...]] = {
    # shape
    "ball": ("ball", "ball", "ball", "circle", "disc"),
    "box": ("box", "box", "box", "square", "block", "cube"),
    "cone": ("cone", "cone", "cone", "triangle", "pyramid"),
    # colour
    "red": ("red", "red", "red", "scarlet", "crimson"),
    "orange": ("orange", "orange", "tangerine"),
    "yellow": ("yellow", "yellow", "yellow", "golden", "lemon"),
    "green": ("green", "green", "green", "emerald"),
    "blue": ("blue", "blue", "blue", "azure"),
    "purple": ("purple", "purple", "violet"),
    # setting
    "meadow": ("in a meadow", "in the meadow", "on the grass", "in a green field", "among the trees", "in a park"),
    "desert": ("in the desert", "on the sand among cactuses", "in a hot desert", "in a desert"),
    "snow": ("in the snow", "on a snowy day", "in a winter landscape", "in winter", "on the snow"),
    "city": ("in the city", "in a city", "in a town at night", "among tall buildings", "in the town", "in the street"),
    "seaside": ("by the sea", "on the beach", "at the beach", "at the seaside", "on a beach", "near the ocean"),
    # camera
    "wide": ("wide shot", "wide shot", "wide", "long shot", "seen from far away", "from far away", "a wide view"),
    "medium": ("medium shot", "medium shot", "mid shot", "seen from the middle distance", "a medium view"),
    "close": ("close-up", "close-up", "close up", "closeup", "close shot", "seen from very near", "from very close"),
    "pan": ("panning shot", "panning shot", "pan", "the camera pans", "the camera moves sideways"),
}
CAMERA_OF = {
    "wide": ("wide shot", "a wide shot", "long shot", "a wide view"),
    "medium": ("medium shot", "a medium shot", "mid shot", "a medium view"),
    "close": ("close-up", "a close-up", "close up", "closeup", "a close shot"),
    "pan": ("panning shot", "a panning shot", "a pan"),
}


def _walks(side: str) -> tuple[tuple[str, str, str], ...]:
    return (
        (f"walks {side}", f"walk {side}", f"walking {side}"),
        (f"walks to the {side}", f"walk to the {side}", f"walking to the {side}"),
        (f"strolls {side}", f"stroll {side}", f"strolling {side}"),
        (f"goes to the {side}", f"go to the {side}", f"going to the {side}"),
        (f"moves {side}", f"move {side}", f"moving {side}"),
        (f"runs to the {side}", f"run to the {side}", f"running to the {side}"),
        (f"walks off to the {side}", f"walk off to the {side}", f"walking off to the {side}"),
    )


# he ..., they ..., somebody ...ing
ACTION_WORDS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "walk_left": _walks("left"),
    "walk_right": _walks("right"),
    "jump": (
        ("jumps", "jump", "jumping"),
        ("jumps up and down", "jump up and down", "jumping up and down"),
        ("hops", "hop", "hopping"),
        ("leaps", "leap", "leaping"),
        ("jumps for joy", "jump for joy", "jumping for joy"),
        ("jumps into the air", "jump into the air", "jumping into the air"),
    ),
    "spin": (
        ("spins", "spin", "spinning"),
        ("spins around", "spin around", "spinning around"),
        ("twirls", "twirl", "twirling"),
        ("turns round and round", "turn round and round", "turning round and round"),
        ("turns around", "turn around", "turning around"),
        ("turns in circles", "turn in circles", "turning in circles"),
    ),
    "wave": (
        ("waves", "wave", "waving"),
        ("waves hello", "wave hello", "waving hello"),
        ("waves a hand", "wave their hands", "waving a hand"),
        ("waves goodbye", "wave goodbye", "waving goodbye"),
        ("waves at us", "wave at us", "waving at us"),
        ("greets us", "greet us", "greeting us"),
        ("says hello", "say hello", "saying hello"),
    ),
    "stand": (
        ("stands still", "stand still", "standing still"),
        ("stands there", "stand there", "standing there"),
        ("waits", "wait", "waiting"),
        ("does not move", "do not move", "not moving"),
        ("stands", "stand", "standing"),
        ("just stands there", "just stand there", "just standing there"),
        ("does nothing", "do nothing", "doing nothing"),
    ),
    "meet": (
        ("meet", "meet", "meeting"),
        ("walk towards each other", "walk towards each other", "walking towards each other"),
        ("come together", "come together", "coming together"),
        ("meet each other", "meet each other", "meeting each other"),
        ("meet again", "meet again", "meeting again"),
    ),
}
EVENT_WORDS = {
    "wind": ("the wind blows", "a gust of wind", "suddenly the wind blows", "it is windy", "a wind comes up"),
    "bell": ("a bell rings", "the bell rings", "a bell is heard", "suddenly a bell rings"),
}
EVENT_TEMPLATES = ("{event}. {shot}.", "{shot} and {event}.", "{shot} {event}.")

GLOBAL = (
    "A story about {cast}, {place}.",
    "A story about {cast} {place}.",
    "{place}, {cast} have an adventure.",
    "A film {place} with {cast}.",
    "{cast} are friends. It all happens {place}.",
    "{cast} {place}.",
    "{cast} live {place}.",
    "A day {place} with {cast}.",
)
# {does}: he jumps, they jump; {doing}: jumping
WITH_CAMERA = (
    "{camera}: {who} {does}.",
    "{camera}: {who} {does}.",
    "{camera}, {who} {does}.",
    "{who} {does}, {camera}.",
    "{camera}. {who} {does}.",
    "{camera}: {who} {is_} {doing}.",
    "{who} {is_} {doing}, {camera}.",
    "{of} of {who} {doing}.",
    "{of} of {who}, {doing}.",
    "{of} of {who} as {they} {does}.",
    "{camera}, we see {who} {bare}.",
)
WITHOUT_CAMERA = (
    "{who} {does}.",
    "now {who} {does}.",
    "then {who} {does}.",
    "{who} {is_} {doing}.",
    "{who} {doing}.",
    "cut to {who} {doing}.",
    "cut to: {who}, {doing}.",
    "back to {who}, {doing}.",
    "we see {who} {bare}.",
)
CLOSE = ("zoom in on {who} {doing}.",)
PAN = ("the camera pans while {who} {does}.", "the camera pans as {who} {does}.")
STANDING = ("{of} of {who}.", "{camera}: {who}.", "{who}, {camera}.")  # who does nothing may go without a word about it

MAX_WORDS = 64  # tokens a caption may have, global part included


def global_caption(story: ToyStory, rng: np.random.Generator) -> str:
    """What holds for the whole story: the cast and the place where most of it happens."""
    cast = _listed([_article(who, rng) for who in story.cast])
    return _say(pick(rng, GLOBAL), cast=cast, place=_phrase(rng, story.home))


def shot_caption(story: ToyStory, take: Take, rng: np.random.Generator) -> str:
    """Who does what in this shot, how it is filmed, and where if the place is not the story's usual one."""
    return _describe(take, rng, story.cast, away=take.place.setting != story.home)


def scene_caption(story: ToyStory, take: Take, rng: np.random.Generator) -> str:
    """A shot on its own, for a model that knows no stories: always says where, and nothing of the rest of the cast."""
    return _describe(take, rng, None, away=True)


def _describe(take: Take, rng: np.random.Generator, cast: tuple[Character, ...] | None, away: bool) -> str:
    """`cast` is what a short name may refer to; `away` names the place for certain."""
    several = len(take.cast) == 2
    template = pick(rng, WITH_CAMERA if rng.random() < 0.85 else WITHOUT_CAMERA)
    if take.camera in ("close", "pan") and rng.random() < 0.15:
        template = pick(rng, CLOSE if take.camera == "close" else PAN)
    if take.action == "stand" and rng.random() < 0.3:
        template = pick(rng, STANDING)
    if away or rng.random() < 0.25:
        if rng.random() < 0.3:
            template = "{place}, " + template
        else:  # after the action, or the name where nothing is said of one
            spot = r"\{(does|doing|bare)\}" if re.search("{(does|doing|bare)}", template) else r"\{who\}"
            template = re.sub(spot, r"\g<0> {place}", template, count=1)
    singular, plural, doing = pick(rng, ACTION_WORDS[take.action])
    if several and cast is not None and len(cast) == 2 and rng.random() < 0.3:
        who = pick(rng, ("they", "the two", "both", "both of them", "the two friends", "they both"))
    else:
        who = _listed([name(one, rng, cast) for one in take.cast])
    text = _say(
        template,
        who=who,
        does=plural if several else singular,
        doing=doing,
        bare=plural,
        is_="are" if several else "is",
        they="they" if several else "it",
        camera=_phrase(rng, take.camera),
        of=pick(rng, CAMERA_OF[take.camera]),
        place=_phrase(rng, take.place.setting),
    )
    if take.event != "none":
        before, meanwhile, after = EVENT_TEMPLATES
        pattern = pick(rng, (before, meanwhile, after, after))
        told = text[:-1] if pattern != after else text
        text = _say(pattern, shot=told, event=pick(rng, EVENT_WORDS[take.event]))
    return text


def name(who: Character, rng: np.random.Generator, cast: tuple[Character, ...] | None) -> str:
    """How captions speak of somebody: "the red ball", or shorter where that is clear; never of hat or stripe."""
    colour, shape = _phrase(rng, who.colour), _phrase(rng, who.shape)
    if cast is not None and rng.random() < 0.3:
        if sum(other.shape == who.shape for other in cast) == 1:
            return f"the {shape}"
        if sum(other.colour == who.colour for other in cast) == 1:
            return f"the {colour} one"
    return f"the {colour} {shape}" if rng.random() < 0.9 else _article(who, rng)


def _article(who: Character, rng: np.random.Generator) -> str:
    colour, shape = _phrase(rng, who.colour), _phrase(rng, who.shape)
    return f"a{'n' if colour[0] in 'aeiou' else ''} {colour} {shape}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def vocabulary() -> list[str]:
    """Every word and punctuation mark a caption can contain, lower case, sorted."""
    phrases = [
        phrase for options in (*WORDS.values(), *CAMERA_OF.values(), *EVENT_WORDS.values()) for phrase in options
    ]
    phrases += [form for actions in ACTION_WORDS.values() for forms in actions for form in forms]
    phrases += [re.sub(r"\{\w+\}", " ", t) for t in (*GLOBAL, *WITH_CAMERA, *WITHOUT_CAMERA, *CLOSE, *PAN, *STANDING)]
    text = " ".join(phrases) + " a an the one they it the two friends both of them and is are shot : , . !"
    return sorted(set(words(text)))


def words(text: str) -> list[str]:
    """Splits as the toybox tokenizer does: lower-case words, each punctuation mark alone."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def _say(template: str, **parts: str) -> str:
    text = template.format(**parts)
    return re.sub(r"(^|\. )(\w)", lambda start: start[0].upper(), text)


def _phrase(rng: np.random.Generator, value: str) -> str:
    return pick(rng, WORDS[value])
