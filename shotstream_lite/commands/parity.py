"""`shotstream parity`: our numbers beside the released implementation's."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass
class Parity:
    """Compare our numbers with recorded numbers of the released implementation."""

    folder: tyro.conf.Positional[Path]
    """Folder of golden vectors (config.json and safetensors files)."""

    def run(self) -> int:
        """Prints a row for each recorded result; 1 if any is further off than the tolerance."""
        from shotstream_lite.parity import render, run

        rows = run(self.folder)
        print(render(rows))
        return 0 if all(row.passed for row in rows) else 1
