"""What the probe reads in a film against what was asked, and against what the film itself showed before."""

from collections.abc import Iterable

import numpy as np
import torch

from shotstream_lite.measures import (
    Film,
    Scores,
    consistency,
    find_cuts,
    is_dynamic,
    planned_cuts,
    sharpness,
    shot_cut_accuracy,
)
from shotstream_lite.toybox.probe import CAPTIONED, FRAMES, HIDDEN, UNCAPTIONED, Probe, probe_frames, truth

LOOKS = {"character": ("shape", "colour", "hat", "stripe"), "background": ("setting", "tint")}
"""What should stay the same within a shot whatever its camera does, by the probe's heads."""


def prompt_following(films: Iterable[Film], probe: Probe) -> tuple[Scores, Scores]:
    """Reads every shot once.

    Returns:
        captioned: what the caption asked for is there (paper: text alignment); "character": shape and colour.
        carried: inter-shot consistency. Does an unmentioned attribute equal what the probe read when the same character
        (hat, stripe) or place (landmarks, sun) was last seen, or in the shot before (tint)? Only where there was a last
        time, and where the camera asked for shows it: near shots tell nothing of sun and landmarks.
    """
    both = [_compare(film, [probe.read(shot) for shot in film.shots]) for film in films]
    parts = zip(*both, strict=True)
    captioned, carried = ({name: np.stack([film[name] for film in part]) for name in part[0]} for part in parts)
    return captioned, carried


def measure(film: Film, probe: Probe, fps: int = 16) -> Scores:
    """Everything that is measured of one film of the miniature world, as arrays [1, shots, ...].

    Names: `said/...`, `carried/...` (see `prompt_following`), `read/...` (what the probe read, as an index),
    `intra/...` (consistency within a shot), `cuts/SCA` [1, 1], `quality/...`, `features` [1, shots, 384].
    """
    readings = [probe.read(shot) for shot in film.shots]
    captioned, carried = _compare(film, readings)
    looks = [_looks(probe, shot) for shot in film.shots]
    lengths = [len(shot) for shot in film.shots]
    cuts = find_cuts(np.concatenate(film.shots), fps)
    frames = torch.from_numpy(np.stack([probe_frames(shot) for shot in film.shots]))
    with torch.inference_mode():
        features = probe.features(frames).numpy()
    scores = {f"said/{name}": values for name, values in captioned.items()}
    scores |= {f"carried/{name}": values for name, values in carried.items()}
    scores |= {f"read/{name}": [reading[name] for reading in readings] for name in UNCAPTIONED}
    scores |= {f"intra/{name}": [consistency(look[name]) for look in looks] for name in LOOKS}
    scores["cuts/SCA"] = [shot_cut_accuracy(cuts, planned_cuts(lengths), sum(lengths))]
    scores["quality/dynamic degree"] = [is_dynamic(shot, fps) for shot in film.shots]
    scores["quality/sharpness"] = [sharpness(shot) for shot in film.shots]
    scores["features"] = features
    return {name: np.asarray(values, float)[None] for name, values in scores.items()}


def chance(scores: Scores, name: str) -> np.ndarray:
    """How often another story reads the same: what a film without memory would score by its habits, like `carried`.

    A model that gives everybody the same crown carries it across every cut, and only this figure says so.
    """
    asked, read = ~np.isnan(scores[f"carried/{name}"]), scores[f"read/{name}"].astype(int)
    choices = range(len(UNCAPTIONED[name]))
    by_story = np.stack([((read == choice) & asked).sum(1) for choice in choices], axis=1)  # [stories, choices]
    others = by_story.sum(0) - by_story
    with np.errstate(invalid="ignore"):
        shares = others / others.sum(1, keepdims=True)
    return np.where(asked, np.take_along_axis(shares, read, axis=1), np.nan)


def _compare(film: Film, readings: list[dict[str, int]]) -> tuple[dict[str, list], dict[str, list]]:
    captioned: dict[str, list] = {name: [] for name in ("character", *CAPTIONED)}
    carried: dict[str, list] = {name: [] for name in UNCAPTIONED}
    seen: dict[tuple, int] = {}
    for take, read in zip(film.story.takes, readings, strict=True):
        asked = truth(film.story, take)
        for name in CAPTIONED:
            captioned[name].append(float(read[name] == asked[name]))
        captioned["character"].append(captioned["shape"][-1] * captioned["colour"][-1])
        owner = {"hat": take.subjects[0], "stripe": take.subjects[0], "tint": "light"}
        for name in UNCAPTIONED:
            key = (name, owner.get(name, take.place.setting))
            hidden = asked[name] == HIDDEN
            carried[name].append(np.nan if hidden or key not in seen else float(read[name] == seen[key]))
            if not hidden:
                seen[key] = read[name]
    return captioned, carried


@torch.inference_mode()
def _looks(probe: Probe, shot: np.ndarray) -> dict[str, np.ndarray]:
    """What single frames look like to the probe: probabilities of all answers of some heads, float [9, answers].

    The probe reads shots, so each frame is shown to it as a shot that stands still.
    """
    frames = torch.from_numpy(probe_frames(shot))
    logits = probe(frames[:, None].expand(-1, FRAMES, -1, -1, -1))
    return {name: torch.cat([logits[h].softmax(1) for h in heads], 1).numpy() for name, heads in LOOKS.items()}
