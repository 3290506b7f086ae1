"""Films of the miniature world for training: a dataset is a range of seeds and not a download."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from shotstream_lite.codec import Codec, pixel_frames
from shotstream_lite.errors import CheckpointError
from shotstream_lite.history import POLICIES, select
from shotstream_lite.kept import encoder_fingerprint, is_kept, keep, key_of, notes
from shotstream_lite.models.convert import read_checkpoint
from shotstream_lite.story import Shot, Story
from shotstream_lite.toybox.captions import global_caption, scene_caption, shot_caption, vocabulary
from shotstream_lite.toybox.renderer import render
from shotstream_lite.toybox.world import HEIGHT, SHOT_FRAMES, WIDTH, ToyStory, draw_story

STORY_SHOTS = 8
# Every frame that sparse history sampling can ask of a 33-frame shot under a budget of 6.
KEY_FRAMES = (0, 6, 13, 16, 19, 26, 32)
TRAIN_SEED, HELD_OUT_SEED = 0, 1_000_000  # stories below and above never meet


@lru_cache(maxsize=4096)
def story_of(seed: int, shots: int = STORY_SHOTS) -> ToyStory:
    """The story that a number stands for."""
    return draw_story(np.random.default_rng(seed), shots)


def captions_of(story: ToyStory, rng: np.random.Generator) -> list[str]:
    """One caption a shot as the model reads it (global caption, shot number, shot caption), in freshly drawn words."""
    whole = global_caption(story, rng)
    return [f"{whole}shot{i}:{shot_caption(story, take, rng)}" for i, take in enumerate(story.takes)]


def film_pool(shots: int, seed: int) -> np.ndarray:
    """Rendered shots of many stories.

    Returns:
        uint8 [shots, 33, 64, 96, 3].
    """
    rng = np.random.default_rng(seed)
    pool = np.empty((shots, SHOT_FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    for i in range(shots):
        story = draw_story(rng, shots=1)
        pool[i] = render(story, story.takes[0])
    return pool


def to_pixels(frames: np.ndarray) -> torch.Tensor:
    """uint8 [batch, frames, height, width, 3] to float [batch, 3, frames, height, width] in [-1, 1]."""
    return torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1).contiguous()


@dataclass(frozen=True)
class LatentFilms:
    """Encoded stories. `clips` [stories, shots, channels, 9, 8, 12]; `stills` [stories, shots, k, channels, 8, 12]
    are the `key_frames` of each shot, encoded alone as context frames are; `seeds` say which story each is."""

    seeds: torch.Tensor
    clips: torch.Tensor
    stills: torch.Tensor
    key_frames: tuple[int, ...] = KEY_FRAMES

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def channels(self) -> int:
        """Latent channels."""
        return self.clips.shape[2]

    @property
    def frames(self) -> int:
        """Pixel frames of a shot."""
        return pixel_frames(self.clips.shape[3])

    def lengths(self, story: int) -> list[int]:
        """Pixel frames of each shot of a story."""
        return [self.frames] * self.clips.shape[1]

    def keys(self, story: int, shot: int) -> tuple[int, ...]:
        """The frames of a shot that are encoded alone."""
        return self.key_frames

    def clip(self, story: int, shot: int) -> torch.Tensor:
        """The latents [channels, frames, height, width] of a shot."""
        return self.clips[story, shot].float()

    def still(self, story: int, shot: int, frame: int) -> torch.Tensor:
        """The latent [channels, height, width] of one frame encoded alone. Raises CheckpointError for another frame."""
        if frame not in self.key_frames:
            fix = "encode the films with this --budget and --policy first"
            raise CheckpointError(f"films: frame {frame} of a shot is not among the encoded ones: {fix}")
        return self.stills[story, shot, self.key_frames.index(frame)].float()

    def captions(self, story: int, words: np.random.Generator) -> list[str]:
        """A caption a shot, in freshly drawn words."""
        return captions_of(story_of(int(self.seeds[story]), self.clips.shape[1]), words)

    def scene(self, story: int, shot: int, words: np.random.Generator) -> str:
        """What describes a shot without its story."""
        toy = story_of(int(self.seeds[story]), self.clips.shape[1])
        return scene_caption(toy, toy.takes[shot], words)

    def questions(self) -> dict[str, int]:
        """Nobody knows what is to be seen."""
        return {}

    def shown(self, story: int, shot: int) -> dict[str, np.ndarray]:
        """Nothing is known."""
        return {}

    def vocabulary(self) -> list[str]:
        """All words that captions may have."""
        return vocabulary()

    def example(self, shots: int) -> Story:
        """A written story that is not among any films, to look at what a model makes of it."""
        story, words = story_of(HELD_OUT_SEED - 1, shots), np.random.default_rng(0)
        told = [Shot(shot_caption(story, take, words)) for take in story.takes]
        return Story(global_caption(story, words), tuple(told), seed=0)


def key_frames(frames: int, budgets: Iterable[int], policies: Iterable[str] = tuple(POLICIES)) -> tuple[int, ...]:
    """Every frame that the policies can ask of shots of `frames` pixel frames, whatever the story's length."""
    asked = {
        frame
        for budget in budgets
        for policy in policies
        for shots in range(1, budget + 2)
        for _, frame in select([frames] * shots, budget, policy)
    }
    return tuple(sorted(asked))


def encode_stories(
    codec: Codec,
    seeds: Iterable[int],
    folder: Path,
    per_file: int = 50,
    keys: tuple[int, ...] = KEY_FRAMES,
    part: tuple[int, int] = (0, 1),
) -> None:
    """Renders and encodes stories, `per_file` to a file; what is there already of the same codec and keys is kept.

    Args:
        folder: where `films-<first seed>.safetensors` are kept.
        keys: the frames of a shot to encode alone, see `key_frames`.
        part: process k of n does every n-th file.
    """
    seeds = list(seeds)
    folder.mkdir(parents=True, exist_ok=True)
    process, processes = part
    size = (STORY_SHOTS, SHOT_FRAMES, HEIGHT, WIDTH)
    made = {"codec": encoder_fingerprint(codec.vae), "size": size, "keys": keys}
    starts = range(process * per_file, len(seeds), processes * per_file)
    for start in tqdm(starts, desc="encode stories", mininterval=10, disable=process > 0):
        path, some = folder / f"films-{seeds[start]:07d}.safetensors", seeds[start : start + per_file]
        key = key_of(seeds=some, **made)
        if not is_kept(path, key):
            keep(path, _encode_some(codec, some, keys), key, made=made)


def load_films(folder: Path) -> LatentFilms:
    """Everything `encode_stories` has left in a folder.

    Raises CheckpointError when that is nothing, or when the files are not of one kind.
    """
    paths = sorted(folder.glob("films-*.safetensors"))
    files = [read_checkpoint(path) for path in paths]
    if not files:
        raise CheckpointError(f"{folder}: holds no encoded stories: run `shotstream train films` first")
    for path, file in zip(paths, files, strict=True):
        if (
            not {"seeds", "clips", "stills"} <= set(file)
            or len({len(file[n]) for n in ("seeds", "clips", "stills")}) > 1
        ):
            raise CheckpointError(f"{path}: holds no encoded films: remove it and run `shotstream train films` again")
    keys = {tuple(f["key_frames"].tolist()) if "key_frames" in f else KEY_FRAMES for f in files}
    if len(keys) > 1 or len({json.dumps(notes(path).get("made")) for path in paths}) > 1:
        how = "remove the folder and run `shotstream train films` again"
        raise CheckpointError(f"{folder}: holds films of different codecs or --budgets: {how}")
    return LatentFilms(*(torch.cat([f[name] for f in files]) for name in ("seeds", "clips", "stills")), keys.pop())


@torch.inference_mode()
def _encode_some(codec: Codec, seeds: list[int], key_frames: tuple[int, ...]) -> dict[str, torch.Tensor]:
    clips, stills = [], []
    for seed in seeds:
        story = story_of(seed)
        pixels = to_pixels(np.stack([render(story, take) for take in story.takes]))
        clips.append(codec.encode_clip(pixels).half().cpu())
        keys = pixels[:, :, list(key_frames)].transpose(1, 2)
        stills.append(codec.encode_frames(keys.flatten(0, 1)).unflatten(0, keys.shape[:2]).half().cpu())
    encoded = {"seeds": torch.tensor(seeds), "clips": torch.stack(clips), "stills": torch.stack(stills)}
    return encoded | {"key_frames": torch.tensor(key_frames)}
