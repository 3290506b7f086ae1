"""Notebook 00: what the model reads, and a storyteller that puts its memory to the test."""

from collections.abc import Callable, Sequence

from shotstream_lite.course.exercises.verdict import NotYet, ask, ask_for, checker
from shotstream_lite.story import Shot, Story, captions
from shotstream_lite.toybox.captions import vocabulary, words
from shotstream_lite.toybox.world import COLOURS, SHAPES

NEAR = ("close-up", "close shot", "seen from very near")


@checker
def check_reads(answer: Callable[[str, Sequence[str]], list[str]]) -> str:
    """answer(global_caption, shots): for each shot the text that the model reads."""
    for opening, shots in (("A red ball.", ["It jumps."]), ("By the sea.", ["Wide shot.", "Close-up.", "It waves."])):
        shown = f"the global caption {opening!r} and the shots {shots}"
        given = ask_for("a list of texts", list, answer, opening, shots, shown=shown)
        wanted = captions(Story(opening, tuple(map(Shot, shots))), len(shots) - 1)
        if given == wanted:
            continue
        hint = "global caption, then shot and its number and a colon, then the shot's own caption"
        if len(given) != len(shots):
            hint = f"one text a shot, so {len(shots)} of them"
        elif given == [f"{opening}shot{i}:{shot}" for i, shot in enumerate(shots, start=1)]:
            hint = "the model counts shots from 0, though the file counts from 1"
        elif [str(text).replace(" ", "") for text in given] == [text.replace(" ", "") for text in wanted]:
            hint = "nothing stands between the three parts, no space either"
        elif not all(str(text).startswith(opening) for text in given):
            hint = "every shot begins with the global caption, or it would not know of the others"
        raise NotYet(f"for {shown} you give {given}, the model reads {wanted}: {hint}")
    return "two shots that are told the same differ in one figure only. The rest has to come from memory."


@checker
def check_storyteller(answer: Callable[[int], Story]) -> str:
    """answer(seed): a story of 5 to 8 shots in which somebody returns close up after two shots or more away."""
    told = {}
    for seed in range(6):
        shown = f"seed {seed}"
        told[seed] = ask(answer, seed, shown=shown)
        if not isinstance(told[seed], Story):
            raise NotYet(f"for {shown} your function gives {told[seed]!r:.60}, not a Story")
        _check_story(told[seed], shown)
        if ask(answer, seed, shown=shown) != told[seed]:
            raise NotYet(f"for {shown} you give two stories in two calls: draw everything from a generator of the seed")
    texts = {str(story.global_caption) + "".join(shot.caption for shot in story.shots) for story in told.values()}
    if len(texts) < 3:
        raise NotYet(f"for seeds 0 to 5 there are only {len(texts)} different stories: let the seed choose more")
    return "tell some of them, and look whether whoever returns is still the same."


def _check_story(story: Story, shown: str) -> None:
    if not 5 <= len(story.shots) <= 8:
        raise NotYet(f"for {shown} the story has {len(story.shots)} shots: write 5 to 8")
    for text in (story.global_caption, *(shot.caption for shot in story.shots)):
        if strange := sorted(set(words(text)) - set(vocabulary())):
            raise NotYet(f"for {shown} the toybox does not know {', '.join(strange)} in {text!r}: use its own words")
    cast = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    cast = [name for name in cast if name in story.global_caption.lower()]
    if len(cast) < 2:
        raise NotYet(f"for {shown} the global caption names {cast}: name two, such as a red ball and a blue box")
    if not any(_returns(name, story) for name in cast):
        raise NotYet(
            f"for {shown} nobody is seen, is away for two shots or more, and then returns in a close-up: "
            f"name who is there in each shot, by colour and shape as in the global caption"
        )


def _returns(name: str, story: Story) -> bool:
    seen = [i for i, shot in enumerate(story.shots) if name in shot.caption.lower()]
    back = [later for before, later in zip(seen, seen[1:], strict=False) if later - before > 2]
    return any(near in story.shots[i].caption.lower() for i in back for near in NEAR)
