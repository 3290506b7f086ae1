"""Films of the miniature world for training: a dataset is a range of seeds and not a download."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from shotstream_lite.codec import Codec
from shotstream_lite.convert import CheckpointError
from shotstream_lite.history import select
from shotstream_lite.toybox.captions import global_caption, shot_caption
from shotstream_lite.toybox.renderer import render
from shotstream_lite.toybox.world import HEIGHT, SHOT_FRAMES, WIDTH, ToyStory, draw_story

STORY_SHOTS = 8
# Every frame that sparse history sampling can ask of a 33-frame shot under a budget of 6.
KEY_FRAMES = (0, 6, 13, 16, 19, 26, 32)
TRAIN_SEED, HELD_OUT_SEED = 0, 1_000_000  # stories below and above never meet


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
    """Encoded stories. `clips` [stories, shots, channels, 9, 8, 12]; `stills` [stories, shots, 7, channels, 8, 12]
    are the KEY_FRAMES of each shot, encoded alone as context frames are; `seeds` say which story each is."""

    seeds: torch.Tensor
    clips: torch.Tensor
    stills: torch.Tensor

    def __len__(self) -> int:
        return len(self.seeds)

    def still(self, story: int, shot: int, frame: int) -> torch.Tensor:
        """The latent [channels, height, width] of one frame encoded alone."""
        return self.stills[story, shot, KEY_FRAMES.index(frame)].float()


@dataclass(frozen=True)
class NextShotBatch:
    """What a stage learns a next shot from.

    Shape:
        target: [batch, channels, 9, 8, 12]; context: [batch, channels, budget, 8, 12], each frame encoded alone
        shot_ids, caption_ids: [batch, budget + 9] over [context | target]; caption_ids index a sample's own `captions`
        captions: for each sample the captions its frames read, padded with empty ones to the same number
    """

    target: torch.Tensor
    context: torch.Tensor
    shot_ids: torch.Tensor
    caption_ids: torch.Tensor
    captions: list[list[str]]


def next_shot_batch(
    films: LatentFilms,
    size: int,
    generator: torch.Generator,
    budget: int = 6,
    drop_context: float = 0.1,
) -> NextShotBatch:
    """Draws shots at random places of random stories with the memory each would have had.

    A first shot, and one in ten of the others, remembers nothing: zero latents of shot 0, the target being shot 1, one
    caption. (The released trainer gives such a target the second caption of its story; here it reads its own.)
    """
    rows = [_next_shot(films, generator, budget, drop_context) for _ in range(size)]
    longest = max(len(captions) for *_, captions in rows)
    tensors = [torch.stack(column) for column in list(zip(*rows, strict=True))[:4]]
    return NextShotBatch(*tensors, [captions + [""] * (longest - len(captions)) for *_, captions in rows])


def still_batch(films: LatentFilms, size: int, generator: torch.Generator) -> tuple[torch.Tensor, list[list[str]]]:
    """Draws single frames, each with the caption of its shot: targets [size, channels, 1, 8, 12] and captions."""
    stills, captions = [], []
    for _ in range(size):
        row, shot, told = _draw_shot(films, generator)
        key = int(torch.randint(len(KEY_FRAMES), (1,), generator=generator))
        stills.append(films.stills[row, shot, key].float())
        captions.append([told[shot]])
    return torch.stack(stills).unsqueeze(2), captions


def _draw_shot(films: LatentFilms, generator: torch.Generator) -> tuple[int, int, list[str]]:
    """A story, one of its shots, and freshly worded captions of all its shots."""
    row = int(torch.randint(len(films), (1,), generator=generator))
    shot = int(torch.randint(films.clips.shape[1], (1,), generator=generator))
    words = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    return row, shot, captions_of(story_of(int(films.seeds[row])), words)


def _next_shot(films: LatentFilms, generator: torch.Generator, budget: int, drop_context: float):
    row, shot, captions = _draw_shot(films, generator)
    dropped = shot == 0 or float(torch.rand(1, generator=generator)) < drop_context
    target = films.clips[row, shot].float()
    frames = target.shape[1]
    if dropped:
        context = torch.zeros(target.shape[0], budget, *target.shape[2:])
        ids = torch.tensor([0] * budget + [1] * frames)
        return target, context, ids, torch.zeros_like(ids), [captions[shot]]
    picked = select([SHOT_FRAMES] * shot, budget)
    context = torch.stack([films.still(row, s, f) for s, f in picked], dim=1)
    ids = torch.tensor([s for s, _ in picked] + [shot] * frames)
    used = sorted(set(ids.tolist()))
    return (
        target,
        context,
        ids,
        torch.tensor([used.index(i) for i in ids.tolist()]),
        [captions[i] for i in used],
    )


def encode_stories(codec: Codec, seeds: Iterable[int], folder: Path, per_file: int = 50) -> LatentFilms:
    """Renders and encodes stories, `per_file` to a file, and skips the files that are already there.

    Args:
        folder: where `films-<first seed>.safetensors` are kept; stale files of another codec must not lie there.
    """
    seeds = list(seeds)
    folder.mkdir(parents=True, exist_ok=True)
    for start in tqdm(range(0, len(seeds), per_file), desc="encode stories", mininterval=10):
        path = folder / f"films-{seeds[start]:07d}.safetensors"
        if not path.exists():
            part = path.with_suffix(".part")
            save_file(_encode_some(codec, seeds[start : start + per_file]), part)
            os.replace(part, path)
    return load_films(folder)


def load_films(folder: Path) -> LatentFilms:
    """Everything `encode_stories` has left in a folder. Raises CheckpointError when that is nothing."""
    files = [load_file(path) for path in sorted(folder.glob("films-*.safetensors"))]
    if not files:
        raise CheckpointError(f"{folder}: holds no encoded stories: run `shotstream train films` first")
    return LatentFilms(*(torch.cat([f[name] for f in files]) for name in ("seeds", "clips", "stills")))


@torch.inference_mode()
def _encode_some(codec: Codec, seeds: list[int]) -> dict[str, torch.Tensor]:
    clips, stills = [], []
    for seed in seeds:
        story = story_of(seed)
        pixels = to_pixels(np.stack([render(story, take) for take in story.takes]))
        clips.append(codec.encode_clip(pixels).half())
        keys = pixels[:, :, list(KEY_FRAMES)].transpose(1, 2)
        stills.append(codec.encode_frames(keys.flatten(0, 1)).unflatten(0, keys.shape[:2]).half())
    return {"seeds": torch.tensor(seeds), "clips": torch.stack(clips), "stills": torch.stack(stills)}
