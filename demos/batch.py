"""Tells every story of a folder, or of a CSV table, into a folder of films, without a window.

    python demos/batch.py demos/stories films

Films that are there already are skipped, so a batch that was stopped goes on where it was.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import tyro

from shotstream_lite.codec import CodecError
from shotstream_lite.film import FilmWriter
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.session import StorySession
from shotstream_lite.story import Story, StoryError
from shotstream_lite.story_files import load_stories


def main(
    stories: tyro.conf.Positional[Path], films: tyro.conf.Positional[Path], preset: str = "toybox", seed: int = 0
) -> int:
    """Tells stories into a folder of films, skipping those that are there; exit code 2 if one was no good.

    Args:
        stories: folder of story files, or a CSV table of them
        films: folder for the films
        preset: model, a preset or a folder that holds one
        seed: of stories that have none
    """
    pipeline = ShotStreamPipeline.from_pretrained(preset)
    films.mkdir(parents=True, exist_ok=True)
    bad = False
    for source in sorted(stories.glob("*.json")) if stories.is_dir() else [stories]:
        try:
            for name, story in named_stories(source):
                film = films / f"{name}.mp4"
                print(f"{film}: is there already" if film.exists() else tell(pipeline, story, film, seed), flush=True)
        except (StoryError, CodecError) as error:
            bad = True
            print(f"{source}: {str(error).removeprefix(f'{source}: ')}", file=sys.stderr)
    return 2 if bad else 0


def named_stories(source: Path) -> Iterator[tuple[str, Story]]:
    """The stories of a file, each with a name for its film."""
    told = load_stories(source)
    for number, story in enumerate(told, start=1):
        yield source.stem if len(told) == 1 else f"{source.stem}-{number:03d}", story


def tell(pipeline: ShotStreamPipeline, story: Story, film: Path, seed: int) -> str:
    """Makes one film; it takes its name when it is finished."""
    session = StorySession.of(pipeline, replace(story, seed=seed if story.seed is None else story.seed))
    unfinished = film.with_stem(f"{film.stem}.unfinished")
    with FilmWriter(unfinished, session.settings.fps) as writer:
        for frames in session.tell():
            writer.write(frames)
    unfinished.replace(film)
    seconds = sum(told.seconds for told in session.shots)
    return f"{film}: {len(session.shots)} shots, {writer.frames_written / seconds:.1f} frames/s"


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
