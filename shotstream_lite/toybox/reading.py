"""What the probe reads in a film against what was asked, and against how the film itself first showed a thing.

A viewer judges by the first time: a hat that changes in shot 3 is wrong from then on, however faithfully it stays
changed. So everything is compared with its first appearance (`kept/`), or, when the first shots were given and are
real, with the truth; what the wind or the bell changed on screen counts as changed from then on.
"""

from collections.abc import Sequence

import numpy as np
import torch

from shotstream_lite.measures import (
    Film,
    Scores,
    find_cuts,
    is_dynamic,
    planned_cuts,
    psnr,
    sharpness,
    shot_cut_accuracy,
)
from shotstream_lite.toybox.probe import Probe
from shotstream_lite.toybox.truth import HIDDEN, IN_FRAME, IN_MOTION, truth
from shotstream_lite.toybox.world import FLAGS, HATS, LONGEST, Take, ToyStory

Reading = dict[str, np.ndarray]
"""Log-probabilities of all answers by question, [frames or windows, choices], of one shot (`Probe.read`)."""

WORN = ("hat", "stripe")
KINDS = ("hat", "stripe", "emblem", "tint", "sun", "landmarks", "far", "flag")  # what captions never say
ASKED = {  # what they say, and the questions that have to be right for it
    "character": ("shape", "colour", "other shape", "other colour"),
    "setting": ("setting",),
    "camera": ("camera",),
    "action": ("action",),
}
EVENTS = {"wind": ("hat", HATS.index("none")), "bell": ("flag", FLAGS.index("up"))}
LOOKS = ("shape", "colour", "hat", "stripe")  # who somebody is, for a comparison of chunks
GAPS = {"seen 1 shot ago": (1, 1), "2 or 3": (2, 3), "4 to 6": (4, 6), "7 to 12": (7, 12), "7 or more": (7, np.inf)}
FIRST_CHUNK, CHUNK = 9, 12  # pixel frames of three latents
CHUNKS = 1 + (LONGEST - FIRST_CHUNK) // CHUNK
_PARTS = [slice(max(0, end - CHUNK), end) for end in range(FIRST_CHUNK, LONGEST + 1, CHUNK)]  # frames of each chunk


def measure(film: Film, probe: Probe, fps: int = 16) -> Scores:
    """Everything that is measured of one film, as arrays [1, shots, ...].

    Names: those of `compare`, and `cuts/SCA` [1, 1], `quality/dynamic degree`, `quality/sharpness`, `quality/PSNR, dB`
    (of what went through a codec), `chunk/sharpness` [1, shots, chunks], `features` [1, shots, 256].
    """
    shots = film.shots
    with torch.inference_mode():
        read = [probe.read(torch.tensor(shot)) for shot in shots]
        features = [probe.features(torch.tensor(shot[::4])).mean(0).numpy() for shot in shots]
    scores = compare(film.story, [{name: v.numpy() for name, v in one.items()} for one in read], film.given)
    lengths = [len(shot) for shot in shots]
    cuts = shot_cut_accuracy(find_cuts(np.concatenate(shots), fps), planned_cuts(lengths), sum(lengths))
    by_chunk = [[sharpness(shot[part]) if len(shot) > part.start else np.nan for part in _PARTS] for shot in shots]
    originals = film.original.shots if film.original else []
    noise = [psnr(*pair) for pair in zip(shots, originals, strict=True)] if originals else [np.nan] * len(shots)
    more = {
        "quality/PSNR, dB": noise,
        "cuts/SCA": [cuts],
        "quality/dynamic degree": [is_dynamic(shot, fps) for shot in shots],
        "quality/sharpness": [sharpness(shot) for shot in shots],
        "chunk/sharpness": by_chunk,
        "features": features,
    }
    return scores | {name: np.asarray(values, float)[None] for name, values in more.items()}


def compare(story: ToyStory, readings: Sequence[Reading], given: int = 0) -> Scores:
    """One film, read frame by frame, against its story.

    Names:
        said/...: what the caption asked for is there; said/wind, said/bell: what they change has changed at the end.
        kept/KIND [1, shots, 2]: a thing captions do not say looks as it did when it was first seen, for each character
            on screen or the place; gap/KIND: how many shots ago it was last seen, 1 is the shot before; changed/KIND:
            1 where a wind or bell has changed it meanwhile; read/KIND: the answer that was read, as an index.
        bleed/...: the shot shows what the caption before asked for, where this one asks for something else.
        passed/KIND [1, shots, 2]: somebody first seen looks, in what captions do not say, as who was last seen before
            the cut. Nobody asked for that; real film has it as often as chance gives two of them the same.
        steady/hat, steady/shape: the same in all frames.
        chunk/identity [1, shots, chunks]: the part of `LOOKS` that reads as in the shot's first chunk.
    """
    scores: dict[str, list] = {}
    seen: dict[tuple, tuple[int, int, bool]] = {}  # (kind, whose): what it looks like, since when unseen, changed?
    previous: dict[str, np.ndarray] | None = None
    for shot, (take, logits) in enumerate(zip(story.takes, readings, strict=True)):
        frames = len(logits["shape"])
        right = truth(story, take, np.arange(frames))
        asked = {name: right[name][:1] if name in IN_MOTION else right[name] for name in right}
        scored = shot >= given
        row = _said(take, logits, asked)
        row |= {f"bleed/{name}": np.nan for name in ASKED}
        if previous is not None:
            row |= _bleed(logits, asked, previous)
        row |= {f"steady/{name}": _steady(logits[name], right[name]) for name in ("hat", "shape")}
        row["chunk/identity"] = _identity(logits, right)
        for kind in KINDS:
            columns = [(kind, _owner(kind, take, 0))]
            if len(take.cast) == 2 and kind in WORN:
                columns.append((f"other {kind}", _owner(kind, take, 1)))
            results, passed = np.full((4, 2), np.nan), np.full(2, np.nan)
            for column, (question, whose) in enumerate(columns):
                before, after = _read(logits[question], right[question])
                if before is None:
                    continue
                known, others = (kind, whose) in seen, _of_others(seen, kind, whose, shot)
                looks, last, changed = seen.get((kind, whose), (before, shot, False))
                if not scored:  # real film shows how it is
                    shown = right[question][right[question] != HIDDEN]
                    looks, after, known = int(shown[0]), int(shown[-1]), False
                results[:, column] = float(before == looks), shot - last, changed, before
                if not known:
                    results[:3, column] = np.nan
                    passed[column] = float(before == others[-1]) if others else np.nan
                turned = EVENTS.get(take.event, ("",))[0] == question
                seen[kind, whose] = (after if turned else looks, shot, changed or turned)
            row |= dict(zip((f"{name}/{kind}" for name in ("kept", "gap", "changed", "read")), results, strict=True))
            row |= {f"passed/{kind}": passed} if kind in WORN else {}
        for name, value in row.items():
            scores.setdefault(name, []).append(value if scored else np.full_like(value, np.nan, dtype=float))
        previous = asked
    return {name: np.asarray(values, float)[None] for name, values in scores.items()}


def _owner(kind: str, take: Take, number: int) -> object:
    """Whose thing it is: somebody's, a place's, or the story's."""
    if kind == "tint":
        return "story"
    if kind in ("hat", "stripe", "emblem"):
        return take.cast[number].shape, take.cast[number].colour
    return take.place.setting


def _of_others(seen: dict[tuple, tuple[int, int, bool]], kind: str, whose: object, shot: int) -> list[int]:
    """How a thing looked of everybody else seen before this shot, who was seen last in the end."""
    others = [(last, looks) for (of, who), (looks, last, _) in seen.items() if of == kind and who != whose]
    return [looks for last, looks in sorted(others) if last < shot]


def _answer(logits: np.ndarray, where: np.ndarray | slice) -> int:
    """What several frames together say."""
    return int(logits[where].mean(0).argmax())


def _read(logits: np.ndarray, right: np.ndarray) -> tuple[int | None, int | None]:
    """What is read at the beginning and at the end of a shot, where something changes within it; None if unseen."""
    values = right[right != HIDDEN]
    if not len(values):
        return None, None
    return _answer(logits, right == values[0]), _answer(logits, right == values[-1])


def _holds(logits: dict[str, np.ndarray], asked: dict[str, np.ndarray], names: Sequence[str]) -> float:
    """1 if all of it is read, nan if none of it is to be seen."""
    seen = [name for name in names if (asked[name] != HIDDEN).any()]
    if not seen:
        return np.nan
    everywhere = {name: np.ones(len(logits[name]), bool) for name in seen}
    where = {name: everywhere[name] if name in IN_MOTION else asked[name] != HIDDEN for name in seen}
    return float(all(_answer(logits[n], where[n]) == asked[n][asked[n] != HIDDEN][0] for n in seen))


def _said(take: Take, logits: dict[str, np.ndarray], asked: dict[str, np.ndarray]) -> dict[str, float]:
    row = {f"said/{name}": _holds(logits, asked, names) for name, names in ASKED.items()}
    for event, (question, result) in EVENTS.items():
        _, after = _read(logits[question], asked[question]) if take.event == event else (None, None)
        shown = after is not None and (asked[question] == result).any()
        row[f"said/{event}"] = float(after == result) if shown else np.nan
    return row


def _bleed(logits: dict[str, np.ndarray], asked: dict, previous: dict) -> dict[str, float]:
    row = {}
    for name, questions in ASKED.items():
        others = [q for q in questions if _asks(asked[q]) != _asks(previous[q])]
        both = [q for q in questions if HIDDEN not in (_asks(asked[q]), _asks(previous[q]))]
        shown = all(_answer(logits[q], slice(None)) == _asks(previous[q]) for q in questions)
        row[f"bleed/{name}"] = float(shown) if others and len(both) == len(questions) else np.nan
    return row


def _asks(answers: np.ndarray) -> int:
    """The one answer of a shot."""
    shown = answers[answers != HIDDEN]
    return int(shown[0]) if len(shown) else HIDDEN


def _steady(logits: np.ndarray, right: np.ndarray) -> float:
    """1 if every stretch of frames in which nothing ought to change reads the same throughout."""
    parts = [logits[right == value].argmax(1) for value in np.unique(right[right != HIDDEN])]
    return float(all((part == part[0]).all() for part in parts)) if parts else np.nan


def _identity(logits: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> np.ndarray:
    """By chunk, the part of `LOOKS` that reads as in the first; nan where the two cannot be compared."""
    course = np.full(CHUNKS, np.nan)
    for number, part in enumerate(_PARTS):
        same = []
        for name in LOOKS:
            value = _asks(right[name][_PARTS[0]])
            if value != HIDDEN and (right[name][part] == value).any():
                answers = [_answer(logits[name][p], right[name][p] == value) for p in (part, _PARTS[0])]
                same.append(answers[0] == answers[1])
        course[number] = np.mean(same) if same else np.nan
    return course


def with_sums(scores: Scores) -> Scores:
    """With what is asked over several kinds, arrays [stories, shots, ...]: kept/all and what chance would keep, kept
    by how long ago a thing was last seen, kept although it has changed since it was first seen, and each later chunk's
    identity by itself."""
    lucky = np.concatenate([_chance(scores, kind) for kind in KINDS], axis=2)
    kept, gaps, changed = (
        np.concatenate([scores[f"{name}/{kind}"] for kind in KINDS], axis=2) for name in ("kept", "gap", "changed")
    )
    more = {"kept/all": kept, "kept/all, by chance": lucky, "kept/changed before": np.where(changed == 1, kept, np.nan)}
    for name, (low, high) in GAPS.items():
        more[f"kept/{name}"] = np.where((gaps >= low) & (gaps <= high), kept, np.nan)
    for chunk in range(1, CHUNKS):
        more[f"chunk/identity {chunk + 1}"] = scores["chunk/identity"][:, :, chunk]
    return dict(scores) | more


def _chance(scores: Scores, kind: str) -> np.ndarray:
    """How often another story's film reads the same: what a film without memory would keep by its habits."""
    asked, read = ~np.isnan(scores[f"kept/{kind}"]), np.nan_to_num(scores[f"read/{kind}"]).astype(int)
    options = range(len(IN_FRAME[kind]))
    by_story = np.stack([((read == choice) & asked).sum((1, 2)) for choice in options], axis=1)  # [stories, options]
    others = by_story.sum(0) - by_story
    with np.errstate(invalid="ignore"):
        shares = others / others.sum(1, keepdims=True)
    rows = np.arange(len(read))[:, None, None]
    return np.where(asked, shares[rows, read], np.nan)
