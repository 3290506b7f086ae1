"""What the user writes: a story of shots, read from and written to the released formats.

Every complaint about bad input is a `StoryError` of one line that names the file, the field and the mend.
"""

import ast
import csv
import difflib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

MAX_WORDS = 500  # the text encoder reads 512 tokens, and no word is less than one
MAX_CHARACTERS = 5000  # the same limit for writing that puts no spaces between words
MAX_FRAMES = 961  # a minute at 16 frames a second; a longer story is told in more shots
MAX_SEED = 2**63 - 1

_SHOT_KEY = re.compile(r"shot([1-9][0-9]{0,5})")
# Ours, and video_path of the released training files: the film that the captions describe.
_OTHER_KEYS = ("global_caption", "seed", "seeds", "frames", "turns", "settings", "shot_settings", "video_path")
_KINDS = {bool: "true or false", int: "a number", float: "a fraction", str: "a text", list: "a list", dict: "an object"}


class StoryError(ValueError):
    """Bad input; the message is one line that names the file, the field and the mend."""


@dataclass(frozen=True)
class Turn:
    """A new caption in the middle of a shot, from pixel frame `frame` on: the first one of some chunk."""

    frame: int
    caption: str


@dataclass(frozen=True)
class Shot:
    """What is seen, for how many pixel frames (4k+1), from which seed; None lets the teller choose.

    `turns` change the caption on the way, earliest first. `settings` are kept as written and understood by whoever
    tells the story; they hold for this shot only.
    """

    caption: str
    frames: int | None = None
    seed: int | None = None
    turns: tuple[Turn, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def caption_at(self, frame: int) -> str:
        """What holds at pixel frame `frame`."""
        return next((turn.caption for turn in reversed(self.turns) if turn.frame <= frame), self.caption)


@dataclass(frozen=True)
class Story:
    """A global caption (who, where), its shots, and what is needed to tell it again exactly.

    `settings` is kept as written and understood by whoever tells the story (height, policy, ...).
    Raises StoryError when a caption, frame count or seed is no good. A story not yet told has no shots.
    """

    global_caption: str
    shots: tuple[Shot, ...] = ()
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_caption(self.global_caption, "global_caption")
        _check_seed(self.seed, "seed")
        object.__setattr__(self, "shots", tuple(self.shots))
        for number, shot in enumerate(self.shots, start=1):
            check_shot(shot, f"shot{number}")


Lines = str | tuple[tuple[int, str], ...]
"""What the model reads in a shot: one caption, or several, each with the first pixel frame it is for."""


def captions(story: Story, last: int) -> list[Lines]:
    """The captions the model reads for shots 0..last: the global one, "shot{i}:" from zero, the shot's own.

    Nothing stands between the three parts (released utils/dataset.py).
    """
    return [_lines(f"{story.global_caption}shot{i}:", shot) for i, shot in enumerate(story.shots[: last + 1])]


def _lines(opening: str, shot: Shot) -> Lines:
    turns = tuple((turn.frame, opening + turn.caption) for turn in shot.turns)
    return ((0, opening + shot.caption), *turns) if turns else opening + shot.caption


def line_at(lines: Lines, frame: int) -> str:
    """What the model reads for pixel frame `frame` of a shot."""
    if isinstance(lines, str):
        return lines
    return next(text for first, text in reversed(lines) if first <= frame)


def every_line(lines: Lines) -> list[str]:
    """All the model reads in a shot, in order."""
    return [lines] if isinstance(lines, str) else [text for _, text in lines]


def check_shot(shot: Shot, name: str) -> None:
    """Raises StoryError if the caption, the frames or the seed of the shot called `name` cannot be told."""
    check_caption(shot.caption, name)
    check_frames(shot.frames, f"frames of {name}")
    _check_seed(shot.seed, f"seed of {name}")
    before = -1
    for turn in shot.turns:
        check_caption(turn.caption, f"a turn of {name}")
        if not _is_whole(turn.frame) or not before < turn.frame <= MAX_FRAMES:
            raise StoryError(f"turns of {name}: frame is {turn.frame!r}: write rising frames from 0 to {MAX_FRAMES}")
        before = turn.frame
    if not isinstance(shot.settings, Mapping):
        raise StoryError(f"shot_settings of {name} is {_kind(shot.settings)}: write an object or null")


def check_caption(caption: Any, name: str) -> None:
    """Raises StoryError unless `caption` is text of 1..MAX_WORDS words and at most MAX_CHARACTERS letters."""
    if not isinstance(caption, str):
        raise StoryError(f"{name} is {_kind(caption)}: write a text in quotes")
    if not caption.strip():
        raise StoryError(f"{name} is empty: say in a sentence what is seen")
    words = len(caption.split())
    if words > MAX_WORDS:
        raise StoryError(f"{name} has {words} words, at most {MAX_WORDS} fit: shorten it or make more shots")
    if len(caption) > MAX_CHARACTERS:
        raise StoryError(f"{name} has {len(caption)} characters, at most {MAX_CHARACTERS} fit: shorten it")
    if re.search("[\ud800-\udfff]", caption):
        raise StoryError(f"{name} holds half of a two-part character (\\ud800 to \\udfff): write all of it")


def check_frames(frames: Any, name: str) -> None:
    """Raises StoryError unless `frames` is None or 4k+1 within 1..MAX_FRAMES (a latent holds four frames)."""
    if frames is None:
        return
    if not _is_whole(frames):
        raise StoryError(f"{name} is {_kind(frames)}: write a whole number such as 33")
    if not 1 <= frames <= MAX_FRAMES:
        raise StoryError(f"{name} is {frames}: write 1, 5, 9, ... up to {MAX_FRAMES}, such as 33")
    if frames % 4 != 1:
        low = (frames - 1) // 4 * 4 + 1
        raise StoryError(f"{name} is {frames}, not one more than a multiple of 4: write {low} or {low + 4}")


def load_story(path: str | Path) -> Story:
    """Reads one story from a JSON file: the released keys and, if it was saved here, ours."""
    return parse_story(_read_text(path), str(path))


def load_stories(path: str | Path) -> list[Story]:
    """Reads a JSON file (one story) or a released CSV file (a story a line). Raises StoryError."""
    if Path(path).suffix.lower() != ".csv":
        return [load_story(path)]
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""))
    with _at(path):
        if "json_path" not in (reader.fieldnames or ()):
            raise StoryError("column json_path is missing: name the columns in the first line")
        stories = [_story_of_row(row, Path(path), reader.line_num) for row in reader]
        if not stories:
            raise StoryError("no stories: add a line with a json_path")
    return stories


def save_story(story: Story, path: str | Path) -> None:
    """Writes the released keys and ours beside them, so that the story replays identically."""
    text = story_json(story)
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoryError(f"{path}: cannot be written ({error.strerror}): choose another place") from None


def story_json(story: Story) -> str:
    """The story as JSON text; keys that say nothing are left out. Raises StoryError if it has no shots."""
    if not story.shots:
        raise StoryError("the story has no shots: tell at least one before saving")
    frames, seeds = [shot.frames for shot in story.shots], [shot.seed for shot in story.shots]
    turns = [[vars(turn) for turn in shot.turns] or None for shot in story.shots]
    switched = [dict(shot.settings) or None for shot in story.shots]
    ours = {"seed": story.seed, "seeds": seeds, "frames": frames, "turns": turns}
    ours |= {"settings": dict(story.settings) or None, "shot_settings": switched}
    said = {key: value for key, value in ours.items() if value is not None and value != [None] * len(seeds)}
    shots = {f"shot{number}": shot.caption for number, shot in enumerate(story.shots, start=1)}
    return json.dumps({"global_caption": story.global_caption} | shots | said, ensure_ascii=False, indent=2)


def parse_story(text: str, source: str = "story") -> Story:
    """Reads one story from JSON text; `source` names it in complaints. Raises StoryError."""
    with _at(source):
        return _story_of_keys(_parse_json(text))


def _story_of_keys(data: Mapping[str, Any]) -> Story:
    shots = [key for key in data if _SHOT_KEY.fullmatch(key)]
    _check_keys(data, [*_OTHER_KEYS, *shots, f"shot{len(shots) + 1}"])
    count = max((int(key[4:]) for key in shots), default=1)
    for number in range(1, count + 1):
        if f"shot{number}" not in data:
            mend = f"or renumber up to shot{count}" if shots else "with a caption"
            raise StoryError(f"shot{number} is missing: add it {mend}")
    if "global_caption" not in data:
        raise StoryError("global_caption is missing: add it and say who and what the whole story shows")
    settings = data.get("settings", {})
    if not isinstance(settings, dict):
        raise StoryError(f'settings is {_kind(settings)}: write an object such as {{"policy": "dynamic"}}')
    frames = [data["frames"]] * count if _is_whole(data.get("frames")) else _per_shot(data, "frames", count)
    seeds = _per_shot(data, "seeds", count)
    turns = [_turns(value, f"turns of shot{i}") for i, value in enumerate(_per_shot(data, "turns", count), start=1)]
    switched = [{} if value is None else value for value in _per_shot(data, "shot_settings", count)]
    told = (Shot(data[f"shot{i + 1}"], frames[i], seeds[i], turns[i], switched[i]) for i in range(count))
    return Story(data["global_caption"], tuple(told), data.get("seed"), settings)


def _turns(value: Any, name: str) -> tuple[Turn, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or any(not isinstance(v, dict) or set(v) != {"frame", "caption"} for v in value):
        raise StoryError(f'{name}: write a list such as [{{"frame": 9, "caption": "..."}}], or null')
    return tuple(Turn(**turn) for turn in value)


def _check_keys(data: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in data:
        if key == "shot0":
            raise StoryError("shot0: shots are counted from shot1, renumber them")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            mend = f"did you mean {near[0]}?" if near else "remove it (known: global_caption, shot1, ...)"
            raise StoryError(f"unknown key {json.dumps(key)[:60]}: {mend}")


def _per_shot(data: Mapping[str, Any], name: str, count: int) -> Sequence[Any]:
    values = data.get(name)
    if values is None:
        return [None] * count
    if not isinstance(values, list) or len(values) != count:
        got = f"a list of {len(values)}" if isinstance(values, list) else _kind(values)
        raise StoryError(f"{name} is {got} for {count} shots: write a list with one entry or null for each")
    return values


def _parse_json(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise StoryError(f"not JSON at {where} ({error.msg}): mend the file there") from None
    except StoryError:
        raise
    except (RecursionError, ValueError):  # lists within lists, a number of thousands of digits
        raise StoryError("holds no story: write an object with captions") from None
    if not isinstance(data, dict):
        raise StoryError(f'holds {_kind(data)}: write an object, {{"global_caption": "...", "shot1": "..."}}')
    return data


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise StoryError(f"{json.dumps(twice)[:60]} is there twice: rename or remove one")
    return data


def _story_of_row(row: Mapping[str, Any], table: Path, line: int) -> Story:
    """One line of a released CSV: json_path, frame_number ([start, end) of each shot), perhaps video_path."""
    with _at(f"line {line}"):
        wanted = row["json_path"] or ""
        # Released paths count from the folder the program runs in, which lies somewhere above the table.
        tries = [Path(wanted), *(above / wanted for above in table.parents)]
        found = next((path for path in tries if path.is_file()), None)
        if found is None:
            raise StoryError(f"json_path {wanted!r} is not there: give it from this table's folder")
        story = load_story(found)
        if not row.get("frame_number"):
            return story
        ends = _ranges(row["frame_number"])
        if len(ends) > len(story.shots):
            raise StoryError(f"frame_number has {len(ends)} shots, {found} has {len(story.shots)}: add or cut")
        shots = story.shots[: len(ends)]
        if not row.get("video_path"):  # with a film, the ranges say where its cuts are, not what is wanted
            shots = [replace(shot, frames=end - start) for shot, (start, end) in zip(shots, ends, strict=True)]
        return replace(story, shots=shots)


def _ranges(text: str) -> list[tuple[int, int]]:
    try:
        return [(int(start), int(end)) for start, end in ast.literal_eval(text)]
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise StoryError(f'frame_number is {text[:40]!r}: write "[[0, 81], [81, 162]]"') from None


def _read_text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise StoryError(f"{path}: not UTF-8 text (byte {error.start}): save the file as UTF-8") from None
    except OSError as error:
        raise StoryError(f"{path}: cannot be read ({error.strerror}): check the name") from None


@contextmanager
def _at(place: str | Path) -> Iterator[None]:
    """Puts the file or the line before a complaint."""
    try:
        yield
    except StoryError as error:
        raise StoryError(f"{place}: {error}") from None


def _check_seed(seed: Any, name: str) -> None:
    if seed is not None and not (_is_whole(seed) and 0 <= seed <= MAX_SEED):
        got = str(seed)[:24] if _is_whole(seed) else _kind(seed)
        raise StoryError(f"{name} is {got}: write a whole number from 0 to {MAX_SEED}, or leave it out")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    return "null" if value is None else _KINDS.get(type(value), f"a {type(value).__name__}")
