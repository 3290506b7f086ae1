"""The films of a run: stories of the miniature world, or real videos, as latents for all later stages."""

from dataclasses import dataclass
from pathlib import Path

import torch

from shotstream_lite.errors import CheckpointError, StoryError
from shotstream_lite.kept import encoder_fingerprint, notes
from shotstream_lite.models.folder import load_codec
from shotstream_lite.toybox.dataset import HELD_OUT_SEED, TRAIN_SEED, encode_stories, key_frames, load_films
from shotstream_lite.toybox.world import HEIGHT, SHOT_FRAMES, WIDTH
from shotstream_lite.training.batches import Films
from shotstream_lite.training.config import NextShot, RunConfig
from shotstream_lite.training.loop import Run
from shotstream_lite.training.videos import encode_videos, find_videos, load_videos
from shotstream_lite.training.weights import codec_of, folder_with


@dataclass(kw_only=True)
class FilmsConfig(RunConfig):
    """Encode films for all later stages; what is there already is kept."""

    stories: int = 1000  # of the miniature world
    first: int = TRAIN_SEED  # seed of the first of them
    videos: Path | None = None  # real films instead: one, a folder, or a released table (see `videos`)
    frames: int = SHOT_FRAMES  # of every shot of real films, 4k+1
    height: int = HEIGHT  # of real films
    width: int = WIDTH
    budgets: tuple[int, ...] = (6,)  # context budgets that later stages may use

    def check(self) -> None:
        """As in `RunConfig`."""
        super().check()
        if self.videos and not self.videos.exists():
            raise StoryError(f"--videos {self.videos}: is not there: name a folder of videos or a table of them")
        if self.frames % 4 != 1:
            raise StoryError(f"--frames is {self.frames}: write one more than a multiple of 4, such as 45 or 81")
        for option, value in (("--height", self.height), ("--width", self.width)):
            if value % 16:
                raise StoryError(f"{option} is {value}: write a multiple of 16")
        if self.first + self.stories > HELD_OUT_SEED:
            what = f"stories from {HELD_OUT_SEED} on are held out for evaluation"
            raise StoryError(f"--first {self.first} --stories {self.stories}: {what}: choose lower numbers")


def encode_films(config: FilmsConfig) -> None:
    """Fills `config.out`/films; several processes share the work."""
    run = Run("films", config)
    codec = codec_of(config)
    run.frozen(codec.vae)
    if config.precision == "bf16":  # only what is multiplied on the way; latents stay within two per cent
        codec.vae.encode = torch.autocast(run.device.type, torch.bfloat16)(codec.vae.encode)
    videos = find_videos(config.videos) if config.videos else None
    folder, part = config.out / "films", (run.process, run.processes)
    if any(folder.glob("films-*" if videos else "video-*")):
        raise CheckpointError(f"{folder}: holds {'drawn' if videos else 'real'} films already: choose another --out")
    if videos is None:
        seeds = range(config.first, config.first + config.stories)
        encode_stories(codec, seeds, folder, budgets=config.budgets, part=part)
    else:
        codec.latent_size(config.height, config.width)  # complains before the first film is read
        keys = key_frames(config.frames, config.budgets)
        encode_videos(codec, videos, folder, config.frames, (config.height, config.width), keys, part)


def films_of(config: RunConfig) -> Films:
    """What `encode_films` has left for a run. Raises CheckpointError.

    Films of another codec than the run's, or without the frames that the stage will ask for, are no good either.
    """
    folder = folder_with(config, "films") / "films"
    real = sorted(folder.glob("video-*.safetensors"))
    found = real or sorted(folder.glob("films-*.safetensors"))
    made = notes(found[0]).get("made") if found else None
    films = load_videos(folder) if real else load_films(folder)
    codec = next((place for place in config.folders if (place / "vae").is_dir()), None)
    if made and codec and made["codec"] != encoder_fingerprint(load_codec(codec)):
        raise CheckpointError(f"{folder}: was encoded by another codec than {codec / 'vae'}: encode the films again")
    if isinstance(config, NextShot):
        asked = set(key_frames(films.lengths(0)[0], [config.budget], [config.policy]))
        if not asked <= set(films.keys(0, 0)):
            how = f"run `shotstream train films --budgets {config.budget}` in another --out"
            raise CheckpointError(f"--budget {config.budget}: {folder} was encoded for other budgets: {how}")
    return films
