"""Full-size films under real encoders: a folder of films, each beside its story, measured in the paper's dimensions.

What needs more than transformers is not measured: subjects and backgrounds cut out by YOLO and SAM (keyframes are
compared whole), and the LAION aesthetic predictor.
"""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from shotstream_lite.distributed import Share
from shotstream_lite.errors import StoryError, about
from shotstream_lite.evaluation.encoders import ImageEncoder, VideoTextEncoder
from shotstream_lite.evaluation.statistics import as_json, change, interval
from shotstream_lite.film import FORMATS, read_film
from shotstream_lite.measures import PHOTOGRAPHED, consistency, find_cuts, is_dynamic, planned_cuts, shot_cut_accuracy
from shotstream_lite.story import Story
from shotstream_lite.story_files import load_story

SUBJECT, BACKGROUND = "intra-shot consistency: subject (DINO)", "intra-shot consistency: background (CLIP)"
KEYFRAMES, SEMANTIC = "inter-shot consistency: keyframes (DINO)", "inter-shot consistency: semantic (video-text)"
SCA, TEXT, DYNAMIC = "transition control: SCA", "prompt following: text alignment", "quality: dynamic degree"


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


def measure_film(
    film: np.ndarray,
    story: Story,
    dino: ImageEncoder | None,
    clip: ImageEncoder | None,
    video_text: VideoTextEncoder | None,
) -> dict[str, list[float]]:
    """Every score of one film, an entry a shot as planned (one entry for SCA), by the encoders that are there.

    Shape: film: uint8 [frames, H, W, 3]. Inter-shot scores are the mean cosine similarity with all earlier shots, nan
    for the first; keyframes are the first, middle and last frame of a shot.
    """
    cuts = planned_cuts(shot_lengths(story, len(film)))
    shots = np.split(film, cuts)
    scores = {SCA: [shot_cut_accuracy(find_cuts(film, eye=PHOTOGRAPHED), cuts, len(film))]}
    scores[DYNAMIC] = [is_dynamic(shot) for shot in shots]
    if dino:
        features = [dino.frames(shot) for shot in shots]
        scores[SUBJECT] = [consistency(shot) for shot in features]
        scores[KEYFRAMES] = _with_earlier([shot[[0, len(shot) // 2, -1]] for shot in features])
    if clip:
        scores[BACKGROUND] = [consistency(clip.frames(shot)) for shot in shots]
    if video_text:
        seen = [video_text.shot(shot) for shot in shots]
        said = [video_text.text(f"{story.global_caption} {shot.caption}") for shot in story.shots]
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


def run_on_films(folder: Path, dino: str | None, clip: str | None) -> tuple[dict[str, Any], str] | None:
    """Measures all films of a folder: for each score (mean, low, high), at every shot too, and its change over them.

    `dino` is a DINOv2 for what things are, `clip` a CLIP or X-CLIP for what a shot and its caption mean, each a local
    folder or a name on the hub. Returns the figures for JSON and the table in words, or None in all processes but the
    first. Raises StoryError, FilmError and CheckpointError, before any film is measured if possible.
    """
    films, share, parts = find_films(folder), Share(), []
    video_text = VideoTextEncoder(clip, share.device) if clip else None
    pictures = ImageEncoder(clip, share.device) if clip and not video_text.whole else None
    encoders = ImageEncoder(dino, share.device) if dino else None, pictures, video_text
    for number in tqdm(share.mine(len(films)), desc="measure", unit="film", disable=None if share.first else True):
        path, story = films[number]
        with about(path):
            parts.append(measure_film(read_film(path), story, *encoders))
    gathered = share.gather(parts)
    if not share.first:
        return None
    report = {}
    for name in sorted(gathered[0]):
        scores = np.array(list(zip_longest(*(part[name] for part in gathered), fillvalue=np.nan))).T
        by_shot = [interval(scores[:, [shot]]) for shot in range(scores.shape[1])]
        report[name] = {"all": interval(scores), "shots": by_shot, "change": change(scores)}
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
