"""Real films to learn from: videos with captions in the released format, or bare videos cut into shots.

What comes out are the same latents as those of the miniature world, a file a video: every shot with as many frames as
the model makes, and its key frames encoded alone.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from shotstream_lite.codec import Codec, pixel_frames, to_pixels
from shotstream_lite.errors import CheckpointError, FilmError, StoryError, reason
from shotstream_lite.files import read_json
from shotstream_lite.film import pyav
from shotstream_lite.kept import encoder_fingerprint, is_kept, keep, key_of, notes
from shotstream_lite.measures import PHOTOGRAPHED, find_cuts
from shotstream_lite.models.convert import read_checkpoint
from shotstream_lite.story import Shot, Story, captions
from shotstream_lite.story_files import beside, load_story, ranges, read_table
from shotstream_lite.toybox.captions import words
from shotstream_lite.training.batches import Films

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")


@dataclass(frozen=True)
class Video:
    """A film with its cuts: `ranges` are [start, end) frames of the file; without a story its captions are empty."""

    path: Path
    ranges: tuple[tuple[int, int], ...]
    story: Story | None = None

    @property
    def captions(self) -> list[str]:
        """One a shot, as the model reads it; of a caption that changes within a shot the first."""
        if not self.story:
            return [""] * len(self.ranges)
        lines = captions(self.story, len(self.ranges) - 1)
        return [line if isinstance(line, str) else line[0][1] for line in lines]


def find_videos(source: Path) -> list[Video]:
    """A video, the videos of a folder, or those of a released CSV table.

    In a folder, `NAME.json` beside `NAME.mp4` holds the captions, a story with a shot for each of the film's. Cuts are
    found by PySceneDetect. A table has the columns json_path, video_path (or that key in the JSON) and frame_number.

    Raises StoryError or FilmError, naming the file and how to fix it.
    """
    if source.suffix.lower() == ".csv":
        return list(read_table(source, _of_row))
    paths = sorted(source.glob("*")) if source.is_dir() else [source]
    # macOS leaves a file ._NAME beside every file it copies to another disk.
    paths = [p for p in paths if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith(".")]
    if not paths:
        raise StoryError(f"{source}: holds no videos ({', '.join(SUFFIXES)}): name a folder or a table that does")
    return [_of_file(path) for path in paths]


def decoded(path: Path) -> Iterator[Any]:
    """The frames of a video, of PyAV, in the order they are shown. Raises FilmError."""
    try:
        with pyav().open(str(path)) as container:
            yield from container.decode(video=0)
    except (pyav().FFmpegError, OSError, IndexError, ValueError) as error:
        raise FilmError(f"{path}: not a video that can be read ({reason(error)}): replace or remove it") from None


def frame_times(path: Path) -> list[int]:
    """When each frame of `decoded` is shown, in units of its stream; found without decoding."""
    with pyav().open(str(path)) as container:
        packets = container.demux(video=0)
        return sorted(packet.pts for packet in packets if packet.pts is not None and not packet.is_discard)


def shots_of(path: Path) -> list[tuple[int, int]]:
    """The shots of a film as [start, end) of its `decoded` frames, by PySceneDetect; one if there is no cut.

    Frames are counted as they are decoded: where their rate varies, a time says nothing about their number.
    """
    count = 0

    def pictures() -> Iterator[np.ndarray]:
        nonlocal count
        for frame in decoded(path):
            count += 1
            yield frame.to_ndarray(format="rgb24")

    cuts = find_cuts(pictures(), eye=PHOTOGRAPHED)
    if not count:
        raise FilmError(f"{path}: not a video that can be read (it has no frames): replace or remove it")
    return list(pairwise([0, *cuts, count]))


def sampled(start: int, end: int, frames: int, times: Sequence[int]) -> list[int]:
    """Which frames of a shot [start, end) are shown at `frames` moments spread evenly from its first to its last one.

    times: of all frames of the film.
    """
    even = place = np.linspace(start, end - 1, frames)
    if end <= len(times):
        shot = times[start:end]
        place = np.interp(np.linspace(shot[0], shot[-1], frames), shot, np.arange(start, end))
    # Stamps of a constant rate are rounded to the container's unit; that shall not move a frame.
    return (even if np.abs(place - even).max() < 0.1 else place).round().astype(int).tolist()


def read_shots(video: Video, frames: int, height: int, width: int) -> Iterator[np.ndarray]:
    """The shots of a video, uint8 [frames, height, width, 3]: spread over each shot's time, filling the picture.

    (As released: a longer shot is strided down.) One pass over the file; a shot is yielded when it ends, so they come
    in the order of their ranges if these end in order. Raises FilmError if the file cannot be read or ends early.
    """
    pictures = decoded(video.path)
    first, times = next(pictures, None), frame_times(video.path)
    wanted = [sampled(start, end, frames, times) for start, end in video.ranges]
    needed, kept = {i for indices in wanted for i in indices}, {}
    for index, frame in enumerate(chain([first] if first else [], pictures)):
        if index in needed:
            kept[index] = np.asarray(ImageOps.fit(frame.to_image(), (width, height), Image.Resampling.BICUBIC))
        while wanted and index >= wanted[0][-1]:
            yield np.stack([kept[i] for i in wanted.pop(0)])
            oldest = min((indices[0] for indices in wanted), default=index)  # ranges may overlap
            kept = {i: picture for i, picture in kept.items() if i >= oldest}
    if wanted:
        raise FilmError(f"{video.path}: ends before frame {wanted[0][-1]}: correct its frame_number")


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
    """Encodes videos, a file each; what is there already of the same film, codec and settings is kept.

    Shots shorter than `frames` are left out, and how many is printed. Raises StoryError if that leaves none.

    Args:
        size: height and width. keys: frames of a shot to encode alone, see `dataset.key_frames`.
        part: process k of n does every n-th video.
    """
    lengths = [end - start for video in videos for start, end in video.ranges]
    short = sum(length < frames for length in lengths)
    if short == len(lengths):
        longest = max(lengths, default=0)
        raise StoryError(f"--frames {frames}: no shot is so long, the longest has {longest}: choose a smaller --frames")
    if short and part[0] == 0:
        print(f"shotstream: {short} of {len(lengths)} shots have less than {frames} frames and are left out")
    folder.mkdir(parents=True, exist_ok=True)
    made = {"codec": encoder_fingerprint(codec.vae), "frames": frames, "size": size, "keys": keys}
    places = _places(videos)
    for video, name in tqdm(
        list(zip(videos, places, strict=True))[part[0] :: part[1]], desc="encode videos", disable=part[0] > 0
    ):
        chosen = [i for i, (start, end) in enumerate(video.ranges) if end - start >= frames]
        if not chosen:
            (folder / name).unlink(missing_ok=True)
            continue
        whole = Video(video.path, tuple(video.ranges[i] for i in chosen))
        lines, state = [video.captions[i] for i in chosen], video.path.stat()
        key = key_of(ranges=whole.ranges, captions=lines, bytes=state.st_size, changed=state.st_mtime_ns, **made)
        if is_kept(folder / name, key):
            continue
        clips, stills = [], []
        for shot in read_shots(whole, frames, *size):
            pixels = to_pixels(torch.from_numpy(shot))
            clips.append(codec.encode_clip(pixels.transpose(0, 1)[None])[0].half())
            stills.append(codec.encode_frames(pixels[list(keys)]).half())
        tensors = {"clips": torch.stack(clips), "stills": torch.stack(stills), "key_frames": torch.tensor(keys)}
        keep(folder / name, tensors, key, captions=lines, made=made)
    others = sum(path.name not in places for path in folder.glob("video-*.safetensors"))
    if others and part[0] == 0:
        print(f"shotstream: {folder} holds {others} other films, which stay: remove the folder if they shall not")


def _places(videos: Sequence[Video]) -> list[str]:
    """A file name for each video, by where it lies; the same for the same in another run."""
    seen: Counter[Path] = Counter()
    names = []
    for video in videos:
        path = video.path.resolve()
        names.append(f"video-{video.path.stem[:80]}-{key_of(path=str(path), which=seen[path])[:8]}.safetensors")
        seen[path] += 1
    return names


@dataclass(frozen=True)
class RecordedFilms(Films):
    """Encoded videos, all shots of one length. What they show and in what other words to tell it, nobody knows."""

    stories: list[dict[str, Tensor]]
    lines: list[list[str]]
    key_frames: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.stories)

    def lengths(self, story: int) -> list[int]:
        return [pixel_frames(self.clip(0, 0).shape[1])] * len(self.lines[story])

    def keys(self, story: int, shot: int) -> tuple[int, ...]:
        return self.key_frames

    def clip(self, story: int, shot: int) -> Tensor:
        return self.stories[story]["clips"][shot].float()

    def still(self, story: int, shot: int, frame: int) -> Tensor:
        if frame not in self.key_frames:
            fix = "encode the videos with this --budget and --policy first"
            raise CheckpointError(f"films: frame {frame} of a shot is not among the encoded ones: {fix}")
        return self.stories[story]["stills"][shot, self.key_frames.index(frame)].float()

    def captions(self, story: int, words: np.random.Generator) -> list[str]:
        return self.lines[story]

    def scene(self, story: int, shot: int, words: np.random.Generator) -> str:
        return self.lines[story][shot]

    def vocabulary(self) -> list[str]:
        return sorted({word for lines in self.lines for line in lines for word in words("shot : " + line)})

    def example(self, shots: int) -> Story:
        told = [Shot(line or "a film") for line in self.lines[0][:shots]]
        return Story("A story.", tuple(told), seed=0)


def load_videos(folder: Path) -> RecordedFilms:
    """Everything `encode_videos` has left in a folder; call it if there is something.

    Raises CheckpointError for a damaged file, or when they are not of one codec, size, length and set of key frames.
    """
    paths = sorted(folder.glob("video-*.safetensors"))
    known, stories = [notes(path) for path in paths], [read_checkpoint(path) for path in paths]
    for path, told, story in zip(paths, known, stories, strict=True):
        shots = {len(told.get("captions", [])), *(len(story.get(name, [])) for name in ("clips", "stills"))}
        if len(shots) > 1 or shots == {0}:
            raise CheckpointError(f"{path}: holds no encoded film: remove it and run `shotstream train films` again")
        if told.get("made") != known[0].get("made") or story["clips"].shape[1:] != stories[0]["clips"].shape[1:]:
            what = f"{paths[0].name} are of different codecs, sizes, --frames or --budgets"
            raise CheckpointError(f"{path} and {what}: remove one, or encode both again with the same")
    keys = tuple(stories[0]["key_frames"].tolist())
    return RecordedFilms(stories, [told["captions"] for told in known], keys)


def _of_file(path: Path) -> Video:
    found, written = tuple(shots_of(path)), path.with_suffix(".json")
    if not written.is_file():
        return Video(path, found)
    story = load_story(written)
    if len(story.shots) != len(found):
        raise StoryError(
            f"{written}: has {len(story.shots)} shots, PySceneDetect finds {len(found)} in {path.name}: "
            "write a shot for each, or a table with frame_number"
        )
    return Video(path, found, story)


def _of_row(row: Mapping[str, Any], table: Path) -> Video:
    where = beside(table, row["json_path"], "json_path")
    story = load_story(where)
    named = row.get("video_path") or read_json(where).get("video_path")
    return Video(beside(table, named, "video_path"), tuple(ranges(row.get("frame_number"), story)), story)
