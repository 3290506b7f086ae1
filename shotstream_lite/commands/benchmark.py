"""`shotstream benchmark`: speed and memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shotstream_lite.commands.common import check_count, check_unused, place
from shotstream_lite.errors import CheckpointError, StoryError
from shotstream_lite.files import check_file
from shotstream_lite.report import check_report_path, write_report


@dataclass
class Benchmark:
    """Measure speed and memory while a long story is told."""

    preset: str = "toybox"
    """Model: a preset, or a folder that holds one."""
    weights: str = "student"
    """Who tells: student, intra-shot, causal-init, teacher, base."""
    shots: int = 50
    """Shots of the story."""
    device: str | None = None
    """Where to work: cpu, cuda, cuda:1, ...; by default a GPU for large pictures, if there is one."""
    random_weights: bool = False
    """Measure a model of the preset's sizes that knows nothing, and download nothing."""
    compile: bool = False
    """Compile the transformer's blocks and the codec's norms first (the warm-up then takes longer)."""
    float8: bool = False
    """Keep the transformer's linear layers in eight bits: less memory, a little less exact."""
    tiny_decoder: Path | None = None
    """File of a tiny decoder, such as taew2_1.safetensors: much faster, a little less exact."""
    height: int | None = None
    """Height of the film in pixels, if not what the model was trained on."""
    width: int | None = None
    """Width of the film in pixels, if not what the model was trained on."""
    count: bool = False
    """Measure nothing: count a shot's arithmetic, traffic and launches, and the seconds they mean on a card."""
    card: str = "H100"
    """Card that is counted for: H100, H200, A100, RTX 4090."""
    json: Path | None = None
    """File for the figures."""

    def run(self) -> int:
        """Prints the figures and writes them if asked."""
        check_count(self.shots, "--shots")
        if self.random_weights and self.weights != "student":
            raise StoryError(f"--weights {self.weights}: --random-weights makes a student only, leave one of them out")
        if self.count:
            check_unused(self, "with --count", "weights", "shots", "device", "random_weights", "float8")
        else:
            check_unused(self, "without --count", "card")
        if self.json:
            check_report_path(self.json)
        if self.tiny_decoder:
            check_file(self.tiny_decoder, error=CheckpointError)
        sides = {"height": self.height, "width": self.width}
        changes = {side: size for side, size in sides.items() if size is not None}
        figures, table = self._count(changes) if self.count else self._measure(changes)
        print(table)
        if self.json:
            write_report(figures, self.json)
        return 0

    def _count(self, changes: dict[str, int]) -> tuple[dict[str, Any], str]:
        from shotstream_lite.models.folder import find_folder
        from shotstream_lite.models.placement import read_configs
        from shotstream_lite.models.settings import load_settings
        from shotstream_lite.models.work import CARDS, count_shot, report_text

        if self.card not in CARDS:
            raise StoryError(f"--card {self.card}: write one of {', '.join(CARDS)}")
        folder = find_folder(self.preset)
        settings = load_settings(folder).changed(changes)
        how = (self.card, self.compile, self.tiny_decoder is not None)
        figures = count_shot(read_configs(folder, download=False), settings, *how)
        return figures, report_text(self.preset, figures)

    def _measure(self, changes: dict[str, int]) -> tuple[dict[str, Any], str]:
        from shotstream_lite.benchmark import report_text, time_story

        device, plan = place(self.preset, self.device, self.float8, changes, download=not self.random_weights)
        how = (self.random_weights, self.compile, self.weights, changes, self.tiny_decoder)
        figures = time_story(self.preset, self.shots, device, plan, *how)
        return figures, report_text(figures)
