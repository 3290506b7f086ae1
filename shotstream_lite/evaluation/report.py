"""`shotstream evaluate`: a model's films beside real ones, one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shotstream_lite.bidirectional import load_pipeline
from shotstream_lite.evaluation.films import drawn, held_out_stories, told
from shotstream_lite.evaluation.reading import Scores, interval, prompt_following, table
from shotstream_lite.toybox.probe import load_probe


def run(preset: str | Path, weights: Sequence[str], stories: int, shots: int) -> tuple[dict[str, Any], str]:
    """Measures films of held-out stories told with each of `weights`, and real film under the same probe.

    Returns:
        the figures (mean and 95 % bootstrap interval of every question, by kind of film) and the table in words.
    """
    probe = load_probe()
    plots = held_out_stories(stories, shots)
    columns: dict[str, tuple[Scores, Scores]] = {"real film": prompt_following(drawn(plots), probe)}
    for name in weights:
        columns[name] = prompt_following(told(load_pipeline(preset, name), plots), probe)
    figures = {
        kind: {
            part: {q: interval(v) for q, v in scores.items()}
            for part, scores in zip(("said", "carried"), both, strict=True)
        }
        for kind, both in columns.items()
    }
    return {"stories": stories, "shots": shots, "figures": figures}, table(columns)
