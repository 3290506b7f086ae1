"""Full-size films under real encoders: a folder of films, each beside its story, measured in the paper's dimensions.

DINOv2, CLIP and video-text models come by transformers' auto classes, each from a local folder or a model on the hub,
NAME or NAME@COMMIT. ViCLIP, which the paper uses, is no model of transformers: its hub folder brings its own Python
code and tokenizer, which are not run here. In its place stands X-CLIP, or CLIP with its features averaged over the
frames. Their figures are therefore comparable among themselves, not with the paper's.

What needs more than transformers is not measured: subjects and backgrounds cut out by YOLO and SAM (keyframes are
compared whole), and the LAION aesthetic predictor.
"""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from shotstream_lite.distributed import Share
from shotstream_lite.errors import CheckpointError, StoryError, about, reason
from shotstream_lite.evaluation.statistics import as_json, change, interval
from shotstream_lite.film import FORMATS, read_film
from shotstream_lite.measures import PHOTOGRAPHED, consistency, find_cuts, is_dynamic, planned_cuts, shot_cut_accuracy
from shotstream_lite.story import Story
from shotstream_lite.story_files import load_story
from shotstream_lite.text import tokenize

BATCH = 32
SUBJECT, BACKGROUND = "intra-shot consistency: subject (DINO)", "intra-shot consistency: background (CLIP)"
KEYFRAMES, SEMANTIC = "inter-shot consistency: keyframes (DINO)", "inter-shot consistency: semantic (video-text)"
SCA, TEXT, DYNAMIC = "transition control: SCA", "prompt following: text alignment", "quality: dynamic degree"


class Encoder:
    """What image and text encoders share: loading, batches, and the way from frames to pixels.

    Raises CheckpointError when there is no such model, or not one of this kind; one line.
    """

    def __init__(self, name: str | Path, device: str = "cpu") -> None:
        self.name, self.device = str(name), torch.device(device)
        self.options: dict[str, Any] = {"trust_remote_code": False}
        if not Path(name).exists():
            self.name, _, commit = self.name.partition("@")
            self.options["revision"] = commit or "main"
        try:
            self.model = AutoModel.from_pretrained(self.name, **self.options)
            self.processor = AutoImageProcessor.from_pretrained(self.name, **self.options)
        except Exception as error:  # transformers raises whatever it meets on the way
            raise CheckpointError(f"{name}: no encoder can be loaded ({reason(error)}): check the name") from None
        self.model.eval().requires_grad_(False).to(self.device)

    def pixels(self, frames: np.ndarray) -> Tensor:
        """uint8 [n, H, W, 3] to what the model reads, [n, 3, h, w]."""
        return self.processor(images=list(frames), return_tensors="pt")["pixel_values"].to(self.device)


class ImageEncoder(Encoder):
    """Features of single frames: DINOv2's class token, or CLIP's image embedding."""

    @torch.inference_mode()
    def frames(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, 3] to float [n, features]."""
        see = getattr(self.model, "get_image_features", self.model)
        batches = (self.pixels(frames[i : i + BATCH]) for i in range(0, len(frames), BATCH))
        return torch.cat([_tensor(see(pixel_values=pixels)) for pixels in batches]).float().cpu().numpy()


class VideoTextEncoder(Encoder):
    """Features of a shot and of its caption in one space."""

    def __init__(self, name: str | Path, device: str = "cpu") -> None:
        super().__init__(name, device)
        self.whole = hasattr(self.model, "get_video_features")
        if not (hasattr(self.model, "get_text_features") and (self.whole or hasattr(self.model, "get_image_features"))):
            raise CheckpointError(f"{name}: does not read text and pictures: name a CLIP or an X-CLIP")
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(self.name, **self.options)
        except Exception as error:
            raise CheckpointError(f"{name}: no tokenizer can be loaded ({reason(error)}): check the folder") from None
        self.looks = getattr(self.model.config.vision_config, "num_frames", 8)  # X-CLIP is trained for a number

    @torch.inference_mode()
    def shot(self, shot: np.ndarray) -> np.ndarray:
        """uint8 [frames, H, W, 3], of which evenly spread ones are looked at, to float [features] of length 1."""
        pixels = self.pixels(shot[np.linspace(0, len(shot) - 1, self.looks).round().astype(int)])
        if self.whole:
            return _unit(_tensor(self.model.get_video_features(pixel_values=pixels[None])))[0]
        frames = _tensor(self.model.get_image_features(pixel_values=pixels))
        return _unit(F.normalize(frames, dim=-1).mean(0, keepdim=True))[0]

    @torch.inference_mode()
    def text(self, caption: str) -> np.ndarray:
        """A caption, cut to what the model can read, to float [features] of length 1."""
        tokens = tokenize(self.tokenizer, [caption], truncation=True, return_tensors="pt").to(self.device)
        wanted = {key: tokens[key] for key in ("input_ids", "attention_mask")}
        return _unit(_tensor(self.model.get_text_features(**wanted)))[0]


def _tensor(output: object) -> Tensor:
    """The features themselves: transformers gives a tensor, or an output that holds one."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _unit(features: Tensor) -> np.ndarray:
    return F.normalize(features.float(), dim=-1).cpu().numpy()


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
