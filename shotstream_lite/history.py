"""Which past frames the next shot remembers (paper sec. 4.1, "dynamic sampling").

A fixed budget of frames is shared among all earlier shots; every frame is encoded alone, so one frame is one
context latent.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import torch


def counts(n_shots: int, budget: int) -> list[int]:
    """Frames each earlier shot gives: ``budget // n`` each, the rest one each to the latest shots.

    More shots than budget: the oldest give none. (The released rule; the paper's wording would give the whole
    remainder to the newest shot.)
    """
    share, rest = divmod(budget, n_shots) if n_shots else (0, 0)
    return [share + (shot >= n_shots - rest) for shot in range(n_shots)]


def asked(captions: Sequence[str], budget: int) -> list[int]:
    """Frames each earlier shot gives if the new caption, the last one, asks for them (not in the paper).

    As long as every shot can give one these are `counts`. From then on `budget` shots give one each: the latest, and
    one after another those that say most of what the new caption says. A word says the more the fewer captions have
    it, and the less the more of the chosen shots have said it; of equals the later shot is chosen.
    """
    *earlier, new = [set(re.findall(r"\w+", caption.lower())) for caption in captions]
    if len(earlier) <= budget or not budget:
        return counts(len(earlier), budget)
    spread = Counter(word for caption in (*earlier, new) for word in caption)
    chosen, told = [len(earlier) - 1], Counter(earlier[-1])

    def worth(shot: int) -> tuple[float, int]:
        words = sorted(earlier[shot] & new)
        return sum(math.log(len(captions) / spread[word]) / (1 + told[word]) ** 2 for word in words), shot

    while len(chosen) < budget:
        chosen.append(max(set(range(len(earlier))) - set(chosen), key=worth))
        told.update(earlier[chosen[-1]])
    return [int(shot in chosen) for shot in range(len(earlier))]


def frame_indices(length: int, count: int) -> list[int]:
    """`count` evenly spaced frames of a shot of `length` pixel frames: first to last, rounded half to even.

    Short shots give the same frame more than once.
    """
    return torch.linspace(0, length - 1, count, dtype=torch.float32, device="cpu").round().long().tolist()


def first_frames(length: int, count: int) -> list[int]:
    """The first frame, `count` times (paper Table 3, "first frame only")."""
    return [0] * count


def end_frames(length: int, count: int) -> list[int]:
    """The first and the last frame, half of the count each (paper Table 3, "first & last")."""
    last = count // 2
    return [0] * (count - last) + [length - 1] * last


def no_frames(length: int, count: int) -> list[int]:
    """None: a shot that starts without a memory of the others, as in plain self-forcing."""
    return []


POLICIES: dict[str, Callable[[int, int], list[int]]] = {
    "dynamic": frame_indices,
    "first": first_frames,
    "first-last": end_frames,
    "asked": frame_indices,
    "none": no_frames,
}
"""Which frames of a shot are taken, (length, count) to indices; how many is settled by `counts`, or by `asked`."""


def select(
    lengths: Sequence[int], budget: int, policy: str = "dynamic", captions: Sequence[str] = ()
) -> list[tuple[int, int]]:
    """The frames the next shot remembers, oldest first, as (shot index, pixel frame index in that shot).

    lengths: pixel frames of each earlier shot; captions: of these and, last, of the new one, which only "asked" reads
    (without them it is "dynamic"). Raises ValueError for an unknown policy, a shot without
    frames or a negative budget.
    """
    if policy not in POLICIES:
        raise ValueError(f"unknown history policy {policy!r}, choose one of {', '.join(POLICIES)}")
    if budget < 0:
        raise ValueError(f"the context budget must not be negative, got {budget}")
    if any(length < 1 for length in lengths):
        raise ValueError(f"every earlier shot needs at least one frame, got lengths {list(lengths)}")
    told = policy == "asked" and len(captions) == len(lengths) + 1
    shares = asked(captions, budget) if told else counts(len(lengths), budget)
    return [
        (shot, frame)
        for shot, (length, count) in enumerate(zip(lengths, shares, strict=True))
        for frame in POLICIES[policy](length, count)
    ]
