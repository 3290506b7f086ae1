"""Films of the miniature world for training: a dataset is a range of seeds and not a download.

Shots come in three lengths, and how a shot goes on never depends on its length, so the beginning of a long one is also
a short one: a batch takes shots of at least its own length and cuts them.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from shotstream_lite.codec import Codec, latent_frames, pixel_frames
from shotstream_lite.errors import CheckpointError
from shotstream_lite.history import POLICIES, select
from shotstream_lite.kept import encoder_fingerprint, is_kept, keep, key_of, notes
from shotstream_lite.models.convert import read_checkpoint
from shotstream_lite.story import Shot, Story
from shotstream_lite.toybox.captions import global_caption, scene_caption, shot_caption, vocabulary
from shotstream_lite.toybox.renderer import render
from shotstream_lite.toybox.truth import IN_FRAME, IN_MOTION, SAID, places, truth
from shotstream_lite.toybox.world import HEIGHT, LONGEST, SHOT_FRAMES, WIDTH, ToyStory, draw_story

STORY_SHOTS = 12
LENGTHS, SHARES = (33, SHOT_FRAMES, LONGEST), (0.35, 0.4, 0.25)  # pixel frames of a shot, and how often
TRAIN_SEED, HELD_OUT_SEED = 0, 1_000_000  # stories below and above never meet


@lru_cache(maxsize=4096)
def story_of(seed: int, shots: int = STORY_SHOTS) -> ToyStory:
    """The story that a number stands for."""
    return draw_story(np.random.default_rng(seed), shots)


@lru_cache(maxsize=4096)
def lengths_of(seed: int, shots: int = STORY_SHOTS) -> tuple[int, ...]:
    """Pixel frames of each shot of story `seed`."""
    return tuple(int(n) for n in np.random.default_rng((seed, 1)).choice(LENGTHS, shots, p=SHARES))


def key_frames(frames: int, budgets: Iterable[int] = (6,), policies: Iterable[str] = tuple(POLICIES)) -> list[int]:
    """Every frame that the policies can ask of a shot of `frames` pixel frames, whatever the story's length."""
    asked = (select([frames] * shots, b, policy) for b in budgets for policy in policies for shots in range(1, b + 2))
    return sorted({frame for picked in asked for _, frame in picked})


_keys = lru_cache(key_frames)  # which are asked for often, of tuples


def film_pool(shots: int, seed: int, frames: int = 33) -> np.ndarray:
    """Stretches of the shots of many stories, uint8 [shots, frames, 128, 224, 3]; half of them begin in mid-shot."""
    rng = np.random.default_rng(seed)
    pool = np.empty((shots, frames, HEIGHT, WIDTH, 3), np.uint8)
    takes = ((story, take) for story in iter(lambda: draw_story(rng, STORY_SHOTS), None) for take in story.takes)
    for i, (story, take) in zip(range(shots), takes, strict=False):
        pool[i] = render(story, take, frames, start=int(rng.integers(2)) * int(rng.integers(LONGEST - frames + 1)))
    return pool


def captions_of(story: ToyStory, words: np.random.Generator) -> list[str]:
    """A caption for every shot as the model reads it, in freshly drawn words."""
    whole = global_caption(story, words)
    return [f"{whole}shot{i}:{shot_caption(story, take, words)}" for i, take in enumerate(story.takes)]


@dataclass(frozen=True)
class ToyFilms:
    """Encoded stories, shot by shot: `clips` [channels, latents, h, w] each, and `stills` [keys, channels, h, w], its
    `key_frames` encoded alone as context frames are. `seeds` say which story each is."""

    seeds: list[int]
    clips: list[list[Tensor]]
    stills: list[list[Tensor]]
    budgets: tuple[int, ...] = (6,)

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def channels(self) -> int:
        """Latent channels."""
        return len(self.clips[0][0])

    def lengths(self, story: int) -> tuple[int, ...]:
        """Pixel frames of each shot of a story."""
        return tuple(pixel_frames(clip.shape[1]) for clip in self.clips[story])

    def keys(self, story: int, shot: int) -> list[int]:
        """The frames of a shot that are encoded alone."""
        return _keys(self.lengths(story)[shot], self.budgets)

    def clip(self, story: int, shot: int) -> Tensor:
        """The latents [channels, frames, h, w] of a shot."""
        return self.clips[story][shot].float()

    def still(self, story: int, shot: int, frame: int) -> Tensor:
        """The latent [channels, h, w] of one frame encoded alone. Raises CheckpointError for another frame."""
        keys = self.keys(story, shot)
        if frame not in keys:
            how = "encode the films with this --budget first"
            raise CheckpointError(f"films: frame {frame} of a shot is not among the encoded ones: {how}")
        return self.stills[story][shot][keys.index(frame)].float()

    def captions(self, story: int, words: np.random.Generator) -> list[str]:
        """A caption for every shot as the model reads it, in freshly drawn words."""
        return captions_of(story_of(self.seeds[story], len(self.clips[story])), words)

    def scene(self, story: int, shot: int, words: np.random.Generator) -> str:
        """A caption that describes the shot alone."""
        told = story_of(self.seeds[story], len(self.clips[story]))
        return scene_caption(told, told.takes[shot], words)

    def questions(self) -> dict[str, int]:
        """What is known of every frame, and how many answers there are."""
        return {name: len(answers) for name, answers in (IN_FRAME | IN_MOTION).items()}

    def shown(self, story: int, shot: int) -> dict[str, np.ndarray]:
        """The answers for each pixel frame of a shot, int8, -1 where it is not to be seen."""
        return _shown(self.seeds[story], shot, len(self.clips[story]), self.lengths(story)[shot])

    def said(self) -> tuple[str, ...]:
        """The questions whose answers captions say."""
        return SAID

    def places(self, story: int, shot: int) -> dict[str, np.ndarray]:
        """Where hats and stripes are in each pixel frame of a shot, [frames, 2]: down and across, from 0 to 1."""
        return _places(self.seeds[story], shot, len(self.clips[story]), self.lengths(story)[shot])

    def vocabulary(self) -> list[str]:
        """All words that captions may have."""
        return vocabulary()

    def example(self, shots: int) -> Story:
        """A written story that is not among any films, to look at what a model makes of it."""
        story, words = story_of(HELD_OUT_SEED - 1, shots), np.random.default_rng(0)
        return Story(global_caption(story, words), tuple(Shot(shot_caption(story, t, words)) for t in story.takes), 0)


def encode_stories(
    codec: Codec,
    seeds: Iterable[int],
    folder: Path,
    per_file: int = 20,
    budgets: tuple[int, ...] = (6,),
    part: tuple[int, int] = (0, 1),
) -> None:
    """Renders and encodes stories, `per_file` to a file; what is there already of the same codec and budgets is kept.

    Args:
        folder: where `films-<first seed>.safetensors` are kept.
        budgets: of context frames that later stages may use.
        part: process k of n does every n-th file.
    """
    seeds = list(seeds)
    folder.mkdir(parents=True, exist_ok=True)
    process, processes = part
    made = {"codec": encoder_fingerprint(codec.vae), "budgets": budgets, "shots": STORY_SHOTS}
    starts = range(process * per_file, len(seeds), processes * per_file)
    for start in tqdm(starts, desc="encode stories", mininterval=10, disable=process > 0):
        path, some = folder / f"films-{seeds[start]:07d}.safetensors", seeds[start : start + per_file]
        key = key_of(seeds=some, **made)
        if not is_kept(path, key):
            keep(path, _encode_some(codec, some, budgets), key, made=made)


def load_films(folder: Path) -> ToyFilms:
    """Everything `encode_stories` has left in a folder.

    Raises CheckpointError when that is nothing, or when the files are not of one kind.
    """
    paths = sorted(folder.glob("films-*.safetensors"))
    if not paths:
        raise CheckpointError(f"{folder}: holds no encoded stories: run `shotstream train films` first")
    if len({json.dumps(notes(path).get("made")) for path in paths}) > 1:
        how = "remove the folder and run `shotstream train films` again"
        raise CheckpointError(f"{folder}: holds films of different codecs or --budgets: {how}")
    files = [read_checkpoint(path) for path in paths]
    if not all("budgets" in file for file in files):
        raise CheckpointError(f"{folder}: holds films of the miniature world's first edition: choose another --out")
    films = ToyFilms([], [], [], tuple(files[0]["budgets"].tolist()))
    for file in files:
        clips, stills = file["clips"], file["stills"]  # [channels, all latents, h, w], [all keys, channels, h, w]
        for seed in file["seeds"].tolist():
            latents = [latent_frames(n) for n in lengths_of(seed)]
            keys = [len(_keys(n, films.budgets)) for n in lengths_of(seed)]
            films.seeds.append(seed)
            films.clips.append(list(clips[:, : sum(latents)].split(latents, 1)))
            films.stills.append(list(stills[: sum(keys)].split(keys)))
            clips, stills = clips[:, sum(latents) :], stills[sum(keys) :]
    return films


@torch.inference_mode()
def _encode_some(codec: Codec, seeds: list[int], budgets: tuple[int, ...]) -> dict[str, Tensor]:
    clips, stills = [], []
    for seed in seeds:
        story, lengths = story_of(seed), lengths_of(seed)
        shots = [to_pixels(render(story, t, n)) for t, n in zip(story.takes, lengths, strict=True)]
        latents: dict[int, Tensor] = {}
        for n in set(lengths):  # several shots of one length in a batch
            rows = [i for i, length in enumerate(lengths) if length == n]
            latents |= dict(
                zip(rows, codec.encode_clip(torch.stack([shots[i] for i in rows])).half().cpu(), strict=True)
            )
        clips += [latents[i] for i in range(len(shots))]
        keys = [shot[:, _keys(shot.shape[1], budgets)].transpose(0, 1) for shot in shots]
        stills.append(codec.encode_frames(torch.cat(keys)).half().cpu())
    encoded = {"seeds": torch.tensor(seeds), "clips": torch.cat(clips, 1), "stills": torch.cat(stills)}
    return encoded | {"budgets": torch.tensor(budgets)}


def to_pixels(frames: Tensor | np.ndarray) -> Tensor:
    """uint8 [..., frames, height, width, 3] to float [..., 3, frames, height, width] in [-1, 1]."""
    return torch.as_tensor(frames).movedim(-1, -4).float().div_(127.5).sub_(1).contiguous()


@lru_cache(maxsize=50_000)
def _shown(seed: int, shot: int, shots: int, frames: int) -> dict[str, np.ndarray]:
    story = story_of(seed, shots)
    return {name: v.astype(np.int8) for name, v in truth(story, story.takes[shot], np.arange(frames)).items()}


@lru_cache(maxsize=50_000)
def _places(seed: int, shot: int, shots: int, frames: int) -> dict[str, np.ndarray]:
    take = story_of(seed, shots).takes[shot]
    return {name: v.astype(np.float16) for name, v in places(take, np.arange(frames)).items()}
