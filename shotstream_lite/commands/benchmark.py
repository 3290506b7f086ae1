"""`shotstream benchmark`: speed and memory."""

from dataclasses import dataclass
from pathlib import Path

from shotstream_lite.commands.common import place
from shotstream_lite.report import check_report_path, write_report
from shotstream_lite.story import StoryError


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
    """Compile the transformer's blocks and the codec's norms first (the first shots then take longer)."""
    float8: bool = False
    """Keep the transformer's linear layers in eight bits: less memory, a little less exact."""
    json: Path | None = None
    """File for the figures."""

    def run(self) -> int:
        """Prints the figures and writes them if asked."""
        if self.shots < 1:
            raise StoryError(f"--shots is {self.shots}: write 1 or more")
        if self.random_weights and self.weights != "student":
            raise StoryError(f"--weights {self.weights}: --random-weights makes a student only, leave one of them out")
        if self.json:
            check_report_path(self.json)
        from shotstream_lite.benchmark import render, run

        device, plan = place(self.preset, self.device, self.float8, {}, download=not self.random_weights)
        figures = run(self.preset, self.shots, device, plan, self.random_weights, self.compile, self.weights)
        print(render(figures))
        if self.json:
            write_report(figures, self.json)
        return 0
