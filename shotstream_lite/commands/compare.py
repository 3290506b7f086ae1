"""`shotstream compare`: memories and rivals side by side, what each keeps and what it costs."""

from dataclasses import asdict, dataclass
from pathlib import Path

from shotstream_lite.commands.common import check_count, check_installed
from shotstream_lite.errors import StoryError


@dataclass
class Compare:
    """Tell the same stories by the method, by other memories and by rivals: one table, one picture, with costs."""

    out: Path
    """Folder for compare.md, compare.json, compare.png and the films; a comparison that was stopped goes on there."""
    rows: Path | None = None
    """Run folder in which `shotstream train tables --only rivals` has trained rows; what is not trained is listed."""
    preset: str = "toybox"
    """Whose student the rules run on: a preset, or a folder that holds a model."""
    only: tuple[str, ...] = ()
    """What is compared, the first being what the others are held against: rules, rivals (rows of the run), a row such
    as "longlive, our films", or student@policy=asked, student@rival=longlive; by default all rules and rows."""
    stories: int = 20
    """Held-out stories."""
    shots: int = 20
    """Shots of each."""

    def run(self) -> int:
        """Prints the table."""
        for name in ("stories", "shots"):
            check_count(getattr(self, name), f"--{name}")
        check_installed("to compare", "accelerate", "matplotlib", "scenedetect")
        if self.rows and not self.rows.is_dir():
            raise StoryError(f"--rows {self.rows}: is no folder: name the --out of shotstream train")
        from shotstream_lite.training.ablations.compare import Comparison, compare

        print(compare(Comparison(**asdict(self))), end="")
        return 0
