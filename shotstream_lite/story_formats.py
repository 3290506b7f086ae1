"""Stories written for other kits, read as ours: HoloCine's prompt text, LongLive's lines of prompts, plain text.

Formats: github.com/yihao-meng/HoloCine (README, "Raw String Input"); github.com/NVlabs/LongLive
(example/interactive_example.jsonl). Neither has anything of ours to lose: what is not a caption is not read.
"""

import re
from collections.abc import Sequence

from shotstream_lite.errors import StoryError, about
from shotstream_lite.files import parse_json
from shotstream_lite.story import Shot, Story

GLOBAL, SHOTS, CUT = "[global caption]", "[per shot caption]", "[shot cut]"


def stories_of_text(text: str) -> list[Story]:
    """HoloCine's prompts if the text has its marks, else one story with a shot a line.

    Of a plain text the first line is the global caption if an empty line follows it, see also `_of_prompts`.

    Raises StoryError.
    """
    if GLOBAL in text:
        return [_holocine(part) for part in text.split(GLOBAL)[1:]]
    lines = text.strip().splitlines()
    shots = [line.strip() for line in lines if line.strip()]
    if len(shots) > 1 and not lines[1].strip():
        return [Story(shots[0], [Shot(caption) for caption in shots[1:]])]
    return [_of_prompts(shots)]


def stories_of_lines(text: str) -> list[Story]:
    """A story a line, each an object with a list of prompts, a shot each. Raises StoryError with the line."""
    stories = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            with about(f"line {number}"):
                prompts = parse_json(line).get("prompts")
                if not isinstance(prompts, list):
                    raise StoryError('prompts is missing: write {"prompts": ["the first shot", "the second"]}')
                stories.append(_of_prompts(prompts))
    if not stories:
        raise StoryError('no stories: add a line such as {"prompts": ["the first shot", "the second"]}')
    return stories


def _holocine(part: str) -> Story:
    caption, mark, shots = part.partition(SHOTS)
    if not mark:
        raise StoryError(f"{SHOTS} is missing after {GLOBAL}: add it before the first shot")
    return Story(" ".join(caption.split()), [Shot(" ".join(shot.split())) for shot in shots.split(CUT)])


def _of_prompts(prompts: Sequence[str]) -> Story:
    """A story of prompts that stand alone: what holds for all are the sentences that all begin with, or the first."""
    if not prompts:
        raise StoryError("no shots: write one a line")
    shots = [Shot(prompt) for prompt in prompts]
    Story("checks that every prompt is one", shots)
    sentences = [re.split(r"(?<=[.!?])\s+", prompt) for prompt in prompts]
    count = 0
    while len({tuple(own[: count + 1]) for own in sentences}) == 1 and count < len(sentences[0]):
        count += 1
    return Story(" ".join(sentences[0][:count]) or prompts[0], shots)
