"""Plain English: are sentences that people type followed as their twins in a template's words are?"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from shotstream_lite.evaluation.statistics import as_json, difference, interval
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.session import StorySession
from shotstream_lite.toybox.probe import Probe
from shotstream_lite.toybox.reading import EVENTS
from shotstream_lite.toybox.sentences import GLOBAL, SENTENCES, Sentence
from shotstream_lite.toybox.truth import IN_FRAME, IN_MOTION

BEFORE = "Wide shot: the red ball and the blue box stand still."  # so that both have been seen
COLOURS = {"ball": "red", "box": "blue"}
QUESTIONS = IN_FRAME | IN_MOTION


def asked(sentence: Sentence) -> dict[str, Any]:
    """What a shot of it must show, by the probe's questions."""
    right: dict[str, Any] = {"setting": sentence.setting, "action": sentence.action}
    for prefix, shape in zip(("", "other "), (*sentence.who, "nobody"), strict=False):
        right |= {f"{prefix}shape": shape, f"{prefix}colour": COLOURS.get(shape, "nobody")}
    if sentence.camera:
        right["camera"] = sentence.camera
    return right


def followed(sentence: Sentence, readings: Mapping[str, np.ndarray]) -> bool:
    """Whether the probe reads all of it; `readings` are log-probabilities [frames or windows, choices] of a shot.

    Two characters may stand in either order unless they walk: a sentence rarely says who is left.
    """
    read = {name: QUESTIONS[name][int(readings[name].mean(0).argmax())] for name in QUESTIONS}
    right = asked(sentence)
    who = [name for name in right if "shape" in name or "colour" in name]
    if any(read[name] != value for name, value in right.items() if name not in who):
        return False
    looks = [(read[f"{prefix}shape"], read[f"{prefix}colour"]) for prefix in ("", "other ")]
    meant = [(right[f"{prefix}shape"], right[f"{prefix}colour"]) for prefix in ("", "other ")]
    if looks != meant and (len(sentence.who) == 1 or looks != meant[::-1]):
        return False
    if sentence.event == "none":
        return True
    question, result = EVENTS[sentence.event]
    return int(readings[question][-8:].mean(0).argmax()) == result


def evaluate_sentences(pipeline: ShotStreamPipeline, probe: Probe, seeds: int) -> tuple[dict[str, Any], str]:
    """Tells each sentence and its twin after the same first shot, from `seeds` seeds; the figures and a table."""
    marks = np.zeros((len(SENTENCES), seeds, 2))
    for seed in tqdm(range(seeds), desc="sentences", unit="seed"):
        first = StorySession(pipeline, GLOBAL, seed=seed)
        for _ in first.next_shot(BEFORE):
            pass
        for row, sentence in enumerate(SENTENCES):
            for column, words in enumerate((sentence.text, sentence.twin)):
                session = first.branch()
                for _ in session.next_shot(words, seed=seed):
                    pass
                shot = torch.from_numpy(session.shots[-1].footage.frames().copy())
                readings = {name: values.numpy() for name, values in probe.read(shot).items()}
                marks[row, seed, column] = followed(sentence, readings)
    text, twin = marks[..., 0], marks[..., 1]
    figures = {"sentences": interval(text), "twins": interval(twin), "difference": difference(text, twin)}
    ratio = text.sum() / max(1, twin.sum())
    lines = [f"{len(SENTENCES)} sentences, {seeds} seeds each; per cent followed [95 % interval over sentences]"]
    lines += [f"  {name:<12}{100 * f.mean:6.1f} [{100 * f.low:.1f}, {100 * f.high:.1f}]" for name, f in figures.items()]
    lines.append(f"followed as often as their twins: {100 * ratio:.0f} per cent")
    worst = [s.text for s, a, b in zip(SENTENCES, text.mean(1), twin.mean(1), strict=True) if a < b - 0.5]
    lines += [f"  not understood: {words}" for words in worst]
    return {name: as_json(f) for name, f in figures.items()} | {"ratio": ratio, "worse": worst}, "\n".join(lines)
