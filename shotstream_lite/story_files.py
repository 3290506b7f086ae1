"""Stories as files: read from and written to the released formats, JSON and CSV; those of others are read, too.

Of others: HoloCine's prompt text, github.com/yihao-meng/HoloCine (README, "Raw String Input"); LongLive's lines of
prompts, github.com/NVlabs/LongLive (example/interactive_example.jsonl); plain text. Neither has anything of ours to
lose: what is not a caption is not read. A complaint names the file as well, see `story`.
"""

import ast
import csv
import difflib
import io
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import index
from pathlib import Path
from typing import Any

from shotstream_lite.errors import StoryError, about, kind
from shotstream_lite.files import parse_json, read_text, write_text
from shotstream_lite.story import CaptionChange, Picture, Shot, Story, is_whole

GLOBAL, SHOTS, CUT = "[global caption]", "[per shot caption]", "[shot cut]"  # HoloCine's marks
_SHOT_KEY = re.compile(r"shot([1-9][0-9]{0,5})")
# Ours, and video_path of the released training files: the film that the captions describe.
_OTHER_KEYS = ("global_caption", "seed", "seeds", "frames", "turns", "settings", "shot_settings", "video_path")
_OTHER_KEYS += ("remembered", "studio")  # pictures of one's own; what the page keeps beside the story


def load_story(path: str | Path) -> Story:
    """Reads one story from a JSON file: the released keys and, if it was saved here, ours."""
    return parse_story(read_text(path), str(path))


def load_stories(path: str | Path) -> list[Story]:
    """Reads a file of one or more stories, by the end of its name. Raises StoryError.

    .json and .csv (a story a row) are the released formats; .jsonl and .txt those of others.
    """
    if Path(path).suffix.lower() == ".csv":
        return list(read_table(path, _story_of_row))
    return parse_stories(read_text(path), str(path))


def parse_stories(text: str, name: str) -> list[Story]:
    """The stories in the text of a file of that name, but a table's. Raises StoryError."""
    read = OTHERS.get(Path(name).suffix.lower())
    if read is None:
        return [parse_story(text, name)]
    with about(name):
        return read(text)


def read_table(path: str | Path, read_row: Callable[[Mapping[str, Any], Path], Any]) -> Iterator[Any]:
    """What `read_row` makes of each row of a released CSV and of the table's path. Raises StoryError with the line."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    with about(path):
        try:
            if "json_path" not in (reader.fieldnames or ()):
                raise StoryError("column json_path is missing: name the columns in the first line")
            row = None
            for row in reader:
                with about(f"line {reader.line_num}"):
                    yield read_row(row, Path(path))
        except csv.Error as error:
            raise StoryError(f"line {reader.line_num}: is no line of a table ({error}): correct it") from None
        if row is None:
            raise StoryError("no stories: add a line with a json_path")


def save_story(story: Story, path: str | Path) -> None:
    """Writes the released keys and ours beside them, so that the story replays identically."""
    write_text(path, story_json(story))


def story_json(story: Story) -> str:
    """The story as JSON text; keys that say nothing are left out. Raises StoryError if it has no shots."""
    if not story.shots:
        raise StoryError("the story has no shots: tell at least one before saving")
    frames, seeds = [shot.frames for shot in story.shots], [shot.seed for shot in story.shots]
    turns = [[vars(turn) for turn in shot.turns] or None for shot in story.shots]
    switched = [dict(shot.settings) or None for shot in story.shots]
    ours = {"seed": story.seed, "seeds": seeds, "frames": frames, "turns": turns}
    ours |= {"settings": dict(story.settings) or None, "shot_settings": switched}
    pictures = [{"caption": one.caption, "picture": b64encode(one.png).decode()} for one in story.remembered]
    ours["remembered"] = pictures or None
    said = {key: value for key, value in ours.items() if value is not None and value != [None] * len(seeds)}
    shots = {f"shot{number}": shot.caption for number, shot in enumerate(story.shots, start=1)}
    return json.dumps({"global_caption": story.global_caption} | shots | said, ensure_ascii=False, indent=2)


def parse_story(text: str, source: str = "story") -> Story:
    """Reads one story from JSON text; `source` names it in complaints. Raises StoryError."""
    with about(source):
        return _story_of_keys(parse_json(text))


def _story_of_keys(data: dict[str, Any]) -> Story:
    if isinstance(data.get("shot_captions"), list) and "shot1" not in data:  # HoloCine's structured input
        data |= {f"shot{number}": caption for number, caption in enumerate(data.pop("shot_captions"), start=1)}
    if "frames_per_shot" in data and "frames" not in data:  # what others call it
        data["frames"] = data.pop("frames_per_shot")
    shots = [key for key in data if _SHOT_KEY.fullmatch(key)]
    unread = _unread(data, [*_OTHER_KEYS, *shots, f"shot{len(shots) + 1}"])
    count = max((int(key[4:]) for key in shots), default=1)
    for number in range(1, count + 1):
        if f"shot{number}" not in data:
            listed = next((key for key in unread if isinstance(data[key], list)), None)
            fix = f"add it or renumber up to shot{count}" if shots else "add it with a caption"
            fix = f"write what {listed[:40]} lists as shot1, shot2, ..." if listed and not shots else fix
            raise StoryError(f"shot{number} is missing: {fix}")
    if "global_caption" not in data:
        raise StoryError("global_caption is missing: add it and say who and what the whole story shows")
    settings = {} if data.get("settings") is None else data["settings"]
    if not isinstance(settings, dict):
        raise StoryError(f'settings is {kind(settings)}: write an object such as {{"policy": "dynamic"}}')
    frames = data.get("frames")
    if not (frames is None or is_whole(frames) or isinstance(frames, list)):
        raise StoryError(f"frames is {kind(frames)}: write a whole number such as 45, or a list with one for each shot")
    frames = [frames] * count if is_whole(frames) else _per_shot(data, "frames", count)
    seeds = _per_shot(data, "seeds", count)
    turns = [_turns(value, f"turns of shot{i}") for i, value in enumerate(_per_shot(data, "turns", count), start=1)]
    switched = [{} if value is None else value for value in _per_shot(data, "shot_settings", count)]
    told = (Shot(data[f"shot{i + 1}"], frames[i], seeds[i], turns[i], switched[i]) for i in range(count))
    return Story(data["global_caption"], tuple(told), data.get("seed"), settings, unread, _pictures(data))


def _pictures(data: Mapping[str, Any]) -> tuple[Picture, ...]:
    try:
        found = data.get("remembered") or []
        return tuple(Picture(one["caption"], b64decode(one["picture"], validate=True)) for one in found)
    except (TypeError, KeyError, ValueError):
        raise StoryError(
            'remembered: write a list such as [{"caption": "...", "picture": "a PNG in base64"}]'
        ) from None


def _turns(value: Any, name: str) -> tuple[CaptionChange, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or any(not isinstance(v, dict) or set(v) != {"frame", "caption"} for v in value):
        raise StoryError(f'{name}: write a list such as [{{"frame": 9, "caption": "..."}}], or null')
    return tuple(CaptionChange(**turn) for turn in value)


def _unread(data: Mapping[str, Any], known: Sequence[str]) -> tuple[str, ...]:
    """Keys that are nobody's, such as those of data sets. Raises StoryError for one that looks like a slip."""
    unread = []
    for key in data:
        if key == "shot0":
            raise StoryError("shot0: shots are counted from shot1, renumber them")
        if key not in known:
            plain = re.sub(r"[\s_-]+", "_", key.strip().lower())
            plain = re.sub(r"^shot_0*(?=\d)", "shot", plain)
            if near := [plain] if plain in known else difflib.get_close_matches(plain, known, n=1, cutoff=0.8):
                raise StoryError(f"unknown key {json.dumps(key)[:60]}: did you mean {near[0]}?")
            unread.append(key if key.isprintable() and len(key) <= 60 else json.dumps(key)[:60])
    return tuple(unread)


def _per_shot(data: Mapping[str, Any], name: str, count: int) -> Sequence[Any]:
    values = data.get(name)
    if values is None:
        return [None] * count
    if not isinstance(values, list) or len(values) != count:
        got = f"a list of {len(values)}" if isinstance(values, list) else kind(values)
        raise StoryError(f"{name} is {got} for {count} shots: write a list with one entry or null for each")
    return values


def _story_of_row(row: Mapping[str, Any], table: Path) -> Story:
    """Of a row with json_path, frame_number ([start, end) of each shot), perhaps video_path."""
    story = load_story(beside(table, row["json_path"], "json_path"))
    if not row.get("frame_number"):
        return story
    ends = ranges(row["frame_number"], story)
    shots = story.shots[: len(ends)]
    if not row.get("video_path"):  # with a film, the ranges say where its cuts are, not what is wanted
        shots = [replace(shot, frames=end - start) for shot, (start, end) in zip(shots, ends, strict=True)]
    return replace(story, shots=shots)


def beside(table: Path, name: str | None, column: str) -> Path:
    """A file that a table names, from the table's folder or from any folder above it, wherever the program runs.

    Released paths count from the folder of the code, which lies somewhere above the table. Raises StoryError.
    """
    tries = (above / (name or "") for above in table.resolve().parents)
    try:
        found = next((path for path in tries if path.is_file()), None)
    except (OSError, ValueError):  # no name that a file can have
        found = None
    if found is None:
        raise StoryError(f"{column} {str(name)[:200]!r} is not there: give it from this table's folder")
    return found


def ranges(text: str | None, story: Story) -> list[tuple[int, int]]:
    """[start, end) of every shot as a table writes them, no more than the story has shots. Raises StoryError."""
    try:
        pairs = [(index(start), index(end)) for start, end in ast.literal_eval(text)]
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, OverflowError):
        pairs = []
    if not pairs:
        raise StoryError(f'frame_number is {str(text)[:40]!r}: write "[[0, 81], [81, 162]]"')
    for start, end in pairs:
        if not 0 <= start < end:
            raise StoryError(f"frame_number has [{start}, {end}]: write the first frame and the one after the last")
    if len(pairs) > len(story.shots):
        raise StoryError(f"frame_number has {len(pairs)} shots, the story {len(story.shots)}: add or cut")
    return pairs


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


OTHERS = {".jsonl": stories_of_lines, ".txt": stories_of_text}
"""Readers of what is not in the released formats, by the end of a file's name."""
