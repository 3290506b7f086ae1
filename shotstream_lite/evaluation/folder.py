"""Full-size films under real encoders: a folder of films, each beside its story, measured in the paper's dimensions.

What needs more than transformers is not measured: subjects and backgrounds cut out by YOLO and SAM (keyframes are
compared whole), and the LAION aesthetic predictor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from shotstream_lite.distributed import Share
from shotstream_lite.errors import StoryError
from shotstream_lite.evaluation.encoders import ImageEncoder, VideoTextEncoder
from shotstream_lite.evaluation.statistics import as_json, change, interval
from shotstream_lite.film import FORMATS, read_film
from shotstream_lite.measures import PHOTOGRAPHED, consistency, find_cuts, is_dynamic, planned_cuts, shot_cut_accuracy
from shotstream_lite.story import Story
from shotstream_lite.story_files import load_story

SUBJECT, BACKGROUND = "intra-shot consistency: subject (DINO)", "intra-shot consistency: background (CLIP)"
KEYFRAMES, SEMANTIC = "inter-shot consistency: keyframes (DINO)", "inter-shot consistency: semantic (video-text)"
SCA, TEXT, DYNAMIC = "transition control: SCA", "prompt following: text alignment", "quality: dynamic degree"


@dataclass(frozen=True)
class Encoders:
    """DINOv2 for what things are; CLIP or X-CLIP for what a shot and its caption mean. Either may be missing."""

    dino: ImageEncoder | None
    clip: ImageEncoder | None
    video_text: VideoTextEncoder | None

    @classmethod
    def load(cls, dino: str | None, clip: str | None, device: str = "cpu") -> "Encoders":
        """From local folders or names on the hub. Raises CheckpointError."""
        text = VideoTextEncoder(clip, device) if clip else None
        pictures = ImageEncoder(clip, device) if clip and not text.whole else None
        return cls(ImageEncoder(dino, device) if dino else None, pictures, text)


def find_films(folder: Path) -> list[tuple[Path, Story]]:
    """Films of a folder and their stories (NAME.mp4 beside NAME.json). Raises StoryError, one line."""
    if not folder.is_dir():
        raise StoryError(f"--films {folder}: is no folder: name one that holds films")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in FORMATS)
    if not paths:
        raise StoryError(f"--films {folder}: holds no films ({', '.join(FORMATS)}): name another folder")
    for path in paths:
        if not path.with_suffix(".json").is_file():
            raise StoryError(f"{path}: its story {path.with_suffix('.json').name} is missing: put it beside the film")
    return [(path, load_story(path.with_suffix(".json"))) for path in paths]


def measure_film(film: np.ndarray, story: Story, encoders: Encoders, fps: int) -> dict[str, list[float]]:
    """Every score of one film, an entry a shot as planned (one entry for SCA).

    Shape: film: uint8 [frames, H, W, 3]. Inter-shot scores are the mean cosine similarity with all earlier shots, nan
    for the first; keyframes are the first, middle and last frame of a shot.
    """
    cuts = planned_cuts(shot_lengths(story, len(film)))
    shots = np.split(film, cuts)
    scores = {SCA: [shot_cut_accuracy(find_cuts(film, fps, PHOTOGRAPHED), cuts, len(film))]}
    scores[DYNAMIC] = [is_dynamic(shot, fps) for shot in shots]
    if encoders.dino:
        features = [encoders.dino.frames(shot) for shot in shots]
        scores[SUBJECT] = [consistency(shot) for shot in features]
        scores[KEYFRAMES] = _with_earlier([shot[[0, len(shot) // 2, -1]] for shot in features])
    if encoders.clip:
        scores[BACKGROUND] = [consistency(encoders.clip.frames(shot)) for shot in shots]
    if encoders.video_text:
        seen = [encoders.video_text.shot(shot) for shot in shots]
        said = [encoders.video_text.text(f"{story.global_caption} {shot.caption}") for shot in story.shots]
        scores[TEXT] = [float(a @ b) for a, b in zip(seen, said, strict=True)]
        scores[SEMANTIC] = _with_earlier([shot[None] for shot in seen])
    return scores


def shot_lengths(story: Story, frames: int) -> list[int]:
    """Frames of each planned shot: as the story says, or the film in equal parts. Raises StoryError if they clash."""
    said = [shot.frames for shot in story.shots]
    if None in said:
        return np.diff(np.linspace(0, frames, len(said) + 1).round().astype(int)).tolist()
    if sum(said) != frames:
        raise StoryError(f"the film has {frames} frames, its story {sum(said)}: correct the frames in the story")
    return said


def measure_folder(folder: Path, encoders: Encoders, share: Share, fps: int = 16) -> dict[str, Any] | None:
    """All films of a folder: for each score (mean, low, high), at every shot too, and its change over the shots.

    None in all processes but the first. Raises StoryError and FilmError, before any film is measured if possible.
    """
    films = find_films(folder)
    mine = share.mine(len(films))
    parts = []
    for number in tqdm(mine, desc="measure", unit="film", disable=None if share.first else True):
        path, story = films[number]
        try:
            parts.append(measure_film(read_film(path), story, encoders, fps))
        except StoryError as error:
            raise StoryError(f"{path}: {error}") from None
    gathered = share.gather(parts)
    if not share.first:
        return None
    report = {}
    for name in sorted(gathered[0]):
        scores = _table([part[name] for part in gathered])
        by_shot = [interval(scores[:, [shot]]) for shot in range(scores.shape[1])]
        report[name] = {"all": interval(scores), "shots": by_shot, "change": change(scores)}
    return report


def run_on_films(folder: Path, dino: str | None, clip: str | None) -> tuple[dict[str, Any], str] | None:
    """Measures; the figures for JSON and the table in words, or None in all processes but the first."""
    find_films(folder)  # complaints before encoders are loaded
    share = Share()
    report = measure_folder(folder, Encoders.load(dino, clip, share.device), share)
    if report is None:
        return None
    return {"folder": str(folder), "dino": dino, "clip": clip, "films": as_json(report)}, table(report, folder)


def table(report: dict[str, Any], films: Path) -> str:
    """The report for reading."""
    lines = [f"films of {films}; mean [95 % interval, films resampled], and the change from the first shot to the last"]
    for name, scores in report.items():
        mean, low, high = scores["all"]
        rise = scores["change"]
        moved = "" if np.isnan(rise.mean) else f"{rise.mean:+.3f} [{rise.low:+.3f}, {rise.high:+.3f}]"
        lines.append(f"{name:<48}{mean:.3f} [{low:.3f}, {high:.3f}]   {moved}")
    return "\n".join(lines)


def _with_earlier(features: Sequence[np.ndarray]) -> list[float]:
    """Mean cosine similarity of each shot's features [n, d] with those of all earlier shots."""
    unit = [shot / np.linalg.norm(shot, axis=1, keepdims=True) for shot in features]
    scores = [float((unit[i] @ np.concatenate(unit[:i]).T).mean()) for i in range(1, len(unit))]
    return [float("nan"), *scores]


def _table(rows: list[list[float]]) -> np.ndarray:
    """[films, longest], nan where a film has fewer shots."""
    longest = max(map(len, rows))
    return np.array([row + [np.nan] * (longest - len(row)) for row in rows])
