"""Real films to learn from: videos with captions in the released format, or bare videos cut into shots.

What comes out are the same latents as those of the miniature world, a file a video: every shot with as many frames as
the model makes, and its key frames encoded alone.
"""

import ast
import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file, safe_open, save_file
from torch import Tensor
from tqdm import tqdm

from shotstream_lite.codec import Codec, pixel_frames, to_pixels
from shotstream_lite.convert import CheckpointError
from shotstream_lite.film import FilmError, pyav
from shotstream_lite.story import Shot, Story, StoryError, captions
from shotstream_lite.story_files import load_story

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")


@dataclass(frozen=True)
class Video:
    """A film with its cuts: `ranges` are [start, end) frames of the file; without a story its captions are empty."""

    path: Path
    ranges: tuple[tuple[int, int], ...]
    story: Story | None = None

    @property
    def captions(self) -> list[str]:
        """One a shot, as the model reads it."""
        return captions(self.story, len(self.ranges) - 1) if self.story else [""] * len(self.ranges)


def find_videos(source: Path) -> list[Video]:
    """A video, the videos of a folder, or those of a released CSV table.

    In a folder, `NAME.json` beside `NAME.mp4` holds the captions, a story with a shot for each of the film's. Cuts are
    found by PySceneDetect. A table has the columns json_path, video_path (or that key in the JSON) and frame_number.

    Raises StoryError, naming the file and the mend.
    """
    if not source.exists():
        raise StoryError(f"{source}: is not there: name a folder of videos or a table of them")
    if source.suffix.lower() == ".csv":
        return list(_of_table(source))
    paths = sorted(source.glob("*")) if source.is_dir() else [source]
    paths = [path for path in paths if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise StoryError(f"{source}: holds no videos ({', '.join(SUFFIXES)}): name a folder or a table that does")
    return [_of_file(path) for path in paths]


def find_cuts(path: Path) -> list[tuple[int, int]]:
    """The shots of a film as [start, end) frames, by PySceneDetect; one if there is no cut."""
    from scenedetect import AdaptiveDetector, detect

    scenes = detect(str(path), AdaptiveDetector(), start_in_scene=True)
    return [(start.frame_num, end.frame_num) for start, end in scenes]


def read_shots(video: Video, frames: int, height: int, width: int) -> Iterator[np.ndarray]:
    """The shots of a video, uint8 [frames, height, width, 3]: spread over each shot, filling the picture.

    (As released: a longer shot is strided down.) One pass over the file; a shot is yielded when it ends. Raises
    FilmError if the file cannot be read or ends early.
    """
    wanted = [np.linspace(start, end - 1, frames).round().astype(int) for start, end in video.ranges]
    needed, kept = {int(i) for indices in wanted for i in indices}, {}
    try:
        with pyav().open(str(video.path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index in needed:
                    kept[index] = np.asarray(ImageOps.fit(frame.to_image(), (width, height), Image.Resampling.BICUBIC))
                while wanted and index >= wanted[0][-1]:
                    indices = wanted.pop(0)
                    yield np.stack([kept[int(i)] for i in indices])
                    kept = {i: picture for i, picture in kept.items() if i > indices[-1]}
    except (pyav().FFmpegError, OSError, IndexError) as error:
        raise FilmError(f"{video.path}: not a video that can be read ({error}): mend or remove it") from None
    if wanted:
        raise FilmError(f"{video.path}: ends before frame {wanted[0][-1]}: mend its frame_number")


@torch.inference_mode()
def encode_videos(
    codec: Codec,
    videos: Sequence[Video],
    folder: Path,
    frames: int,
    size: tuple[int, int],
    keys: tuple[int, ...],
    part: tuple[int, int] = (0, 1),
) -> None:
    """Encodes videos, a file each, and skips those already there. Shots shorter than `frames` are left out.

    Args:
        size: height and width. keys: frames of a shot to encode alone, see `dataset.key_frames`.
        part: process k of n does every n-th video.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for video in tqdm(videos[part[0] :: part[1]], desc="encode videos", disable=part[0] > 0):
        path = folder / f"video-{video.path.stem}.safetensors"
        long_enough = [i for i, (start, end) in enumerate(video.ranges) if end - start >= frames]
        if path.exists() or not long_enough:
            continue
        chosen = Video(video.path, tuple(video.ranges[i] for i in long_enough))
        clips, stills = [], []
        for shot in read_shots(chosen, frames, *size):
            pixels = to_pixels(torch.from_numpy(shot))
            clips.append(codec.encode_clip(pixels.transpose(0, 1)[None])[0].half().cpu())
            stills.append(codec.encode_frames(pixels[list(keys)]).half().cpu())
        tensors = {"clips": torch.stack(clips), "stills": torch.stack(stills), "key_frames": torch.tensor(keys)}
        unfinished = path.with_suffix(".part")
        lines = [video.captions[i] for i in long_enough]
        save_file(tensors, unfinished, {"captions": json.dumps(lines)})
        os.replace(unfinished, path)


@dataclass(frozen=True)
class RecordedFilms:
    """Encoded videos, with the methods of `dataset.LatentFilms`; stories may differ in their number of shots."""

    stories: list[dict[str, Tensor]]
    lines: list[list[str]]
    key_frames: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.stories)

    @property
    def channels(self) -> int:
        """Latent channels."""
        return self.clip(0, 0).shape[0]

    @property
    def frames(self) -> int:
        """Pixel frames of a shot."""
        return pixel_frames(self.clip(0, 0).shape[1])

    def shots(self, story: int) -> int:
        """How many shots a story has."""
        return len(self.lines[story])

    def clip(self, story: int, shot: int) -> Tensor:
        """The latents [channels, frames, height, width] of a shot."""
        return self.stories[story]["clips"][shot].float()

    def still(self, story: int, shot: int, frame: int) -> Tensor:
        """The latent [channels, height, width] of one frame encoded alone."""
        if frame not in self.key_frames:
            mend = "encode the videos with this --budget and --policy first"
            raise CheckpointError(f"films: frame {frame} of a shot is not among the encoded ones: {mend}")
        return self.stories[story]["stills"][shot, self.key_frames.index(frame)].float()

    def captions(self, story: int, words: np.random.Generator) -> list[str]:
        """The written captions; there are no other words for a real film."""
        return self.lines[story]

    def example(self, shots: int) -> Story:
        """The first film's story, as far as it goes."""
        told = [Shot(line or "a film") for line in self.lines[0][:shots]]
        return Story("A story.", tuple(told), seed=0)


def load_videos(folder: Path) -> RecordedFilms:
    """Everything `encode_videos` has left in a folder; call it if there is something."""
    paths = sorted(folder.glob("video-*.safetensors"))
    lines = []
    for path in paths:
        with safe_open(path, "pt") as file:
            lines.append(json.loads(file.metadata()["captions"]))
    stories = [load_file(path) for path in paths]
    if len({tuple(story["key_frames"].tolist()) for story in stories}) > 1:
        raise CheckpointError(f"{folder}: holds films of different --budgets: remove the folder and encode again")
    return RecordedFilms(stories, lines, tuple(stories[0]["key_frames"].tolist()))


def _of_file(path: Path) -> Video:
    ranges, beside = find_cuts(path), path.with_suffix(".json")
    if not beside.is_file():
        return Video(path, tuple(ranges))
    story = load_story(beside)
    if len(story.shots) != len(ranges):
        raise StoryError(
            f"{beside}: has {len(story.shots)} shots, PySceneDetect finds {len(ranges)} in {path.name}: "
            "write a shot for each, or a table with frame_number"
        )
    return Video(path, tuple(ranges), story)


def _of_table(table: Path) -> Iterator[Video]:
    with open(table, newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            where = _beside(table, row.get("json_path") or "", "json_path")
            story = load_story(where)
            named = row.get("video_path") or json.loads(where.read_text(encoding="utf-8-sig")).get("video_path") or ""
            video = _beside(table, named, "video_path")
            try:
                ranges = [(int(start), int(end)) for start, end in ast.literal_eval(row["frame_number"])]
            except (KeyError, ValueError, TypeError, SyntaxError):
                raise StoryError(f'{table}: {where.name}: write frame_number as "[[0, 81], [81, 162]]"') from None
            if len(ranges) > len(story.shots):
                counts = f"{where.name} has {len(story.shots)} shots, frame_number {len(ranges)}"
                raise StoryError(f"{table}: {counts}: add or cut")
            yield Video(video, tuple(ranges), story)


def _beside(table: Path, name: str, column: str) -> Path:
    """A file a table names, from the working folder or from any folder above the table."""
    found = next((path for path in (Path(name), *(above / name for above in table.parents)) if path.is_file()), None)
    if found is None:
        raise StoryError(f"{table}: {column} {name!r} is not there: give it from this table's folder")
    return found
