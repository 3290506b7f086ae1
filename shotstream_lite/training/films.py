"""The films of a run: stories of the miniature world, or real videos, as latents for all later stages."""

from dataclasses import dataclass
from pathlib import Path

from shotstream_lite.story import StoryError
from shotstream_lite.toybox.dataset import TRAIN_SEED, LatentFilms, encode_stories, key_frames, load_films
from shotstream_lite.toybox.world import SHOT_FRAMES
from shotstream_lite.training.loop import Run
from shotstream_lite.training.stage import RunConfig
from shotstream_lite.training.videos import RecordedFilms, encode_videos, find_videos, load_videos
from shotstream_lite.training.weights import codec_of, folder_with


@dataclass(kw_only=True)
class FilmsConfig(RunConfig):
    """Encode films for all later stages; what is there already is kept."""

    stories: int = 400  # of the miniature world
    first: int = TRAIN_SEED  # seed of the first of them
    videos: Path | None = None  # real films instead: one, a folder, or a released table (see `videos`)
    frames: int = SHOT_FRAMES  # of every shot of real films, 4k+1
    height: int = 64  # of real films
    width: int = 96
    budgets: tuple[int, ...] = (6,)  # context budgets that later stages may use


def encode_films(config: FilmsConfig) -> None:
    """Fills `config.out`/films; several processes share the work."""
    run = Run("films", config)
    codec = codec_of(config)
    run.frozen(codec.vae)
    folder, part = config.out / "films", (run.process, run.processes)
    if config.videos is None:
        seeds = range(config.first, config.first + config.stories)
        encode_stories(codec, seeds, folder, keys=key_frames(SHOT_FRAMES, config.budgets), part=part)
        return
    if config.frames % 4 != 1:
        raise StoryError(f"--frames is {config.frames}: write one more than a multiple of 4, such as 33 or 81")
    keys = key_frames(config.frames, config.budgets)
    videos, size = find_videos(config.videos), (config.height, config.width)
    encode_videos(codec, videos, folder, config.frames, size, keys, part)


def films_of(config: RunConfig) -> LatentFilms | RecordedFilms:
    """What `encode_films` has left for a run. Raises CheckpointError."""
    folder = folder_with(config, "films") / "films"
    return load_videos(folder) if any(folder.glob("video-*.safetensors")) else load_films(folder)
