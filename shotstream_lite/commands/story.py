"""`shotstream story convert`: stories of any format that is read, as story files of our own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from shotstream_lite.errors import StoryError
from shotstream_lite.files import whole_folder
from shotstream_lite.story_files import load_stories, save_story


@dataclass
class StoryCommand:
    """Convert stories of others: shotstream story convert SOURCE TARGET."""

    action: tyro.conf.Positional[Literal["convert"]]
    """What to do: convert."""
    source: tyro.conf.Positional[Path]
    """Released JSON or table (.csv), LongLive's prompts (.jsonl), HoloCine's prompt or a shot a line (.txt)."""
    target: tyro.conf.Positional[Path]
    """Story file to write (.json), or a new folder for many."""

    def run(self) -> int:
        """Writes the stories and says where they are."""
        stories = load_stories(self.source)
        if self.target.suffix.lower() == ".json":
            if len(stories) > 1:
                raise StoryError(f"{self.target}: {self.source} holds {len(stories)} stories: name a new folder")
            save_story(stories[0], self.target)
        else:
            with whole_folder(self.target) as folder:
                for number, story in enumerate(stories, start=1):
                    save_story(story, folder / f"{self.source.stem}-{number:03d}.json")
        print(self.target)
        return 0
