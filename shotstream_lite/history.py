"""Which past frames the next shot remembers (paper sec. 4.1, "dynamic sampling").

A fixed budget of frames is shared among all earlier shots; every frame is encoded alone, so one frame is one
context latent.
"""

from collections.abc import Callable, Sequence

import torch


def counts(n_shots: int, budget: int) -> list[int]:
    """Frames each earlier shot gives: ``budget // n`` each, the rest one each to the latest shots.

    More shots than budget: the oldest give none. (The released rule; the paper's wording would give the whole
    remainder to the newest shot.)
    """
    share, rest = divmod(budget, n_shots) if n_shots else (0, 0)
    return [share + (shot >= n_shots - rest) for shot in range(n_shots)]


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
    "none": no_frames,
}
"""Which frames of a shot are taken, (length, count) to indices; how many is always settled by `counts`."""


def select(lengths: Sequence[int], budget: int, policy: str = "dynamic") -> list[tuple[int, int]]:
    """The frames the next shot remembers, oldest first, as (shot index, pixel frame index in that shot).

    lengths: pixel frames of each earlier shot. Raises ValueError for an unknown policy, a shot without
    frames or a negative budget.
    """
    if policy not in POLICIES:
        raise ValueError(f"unknown history policy {policy!r}, choose one of {', '.join(POLICIES)}")
    if budget < 0:
        raise ValueError(f"the context budget must not be negative, got {budget}")
    if any(length < 1 for length in lengths):
        raise ValueError(f"every earlier shot needs at least one frame, got lengths {list(lengths)}")
    shares = counts(len(lengths), budget)
    return [
        (shot, frame)
        for shot, (length, count) in enumerate(zip(lengths, shares, strict=True))
        for frame in POLICIES[policy](length, count)
    ]
