"""What the next shot is told of the story: frames of earlier shots, whose they are, and what they read (paper sec. 4.1
and 4.2). The same for use and for training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shotstream_lite.history import select
from shotstream_lite.story import Lines, line_at

Memory = tuple[Tensor, Tensor, Tensor, list[str]]
"""What a model is given of one: context latents, shot ids and caption ids over [context | shot], captions."""


@dataclass(frozen=True)
class Context:
    """What a shot knows of the story so far.

    Shape:
        latents: [..., channels, budget, h, w], each frame encoded alone; shot_ids: one a latent; shot_id: of the shot
            to come
        picked: (shot, pixel frame) of each latent that shows one
    """

    latents: Tensor
    shot_ids: tuple[int, ...]
    shot_id: int
    picked: tuple[tuple[int, int], ...] = ()

    def told(self, captions: Sequence[Lines], frames: int = 1, own: bool = True) -> Memory:
        """A frame reads the caption it was made with, or, if it may not read its `own`, that of the shot to come.

        Args:
            captions: of all shots so far and, last, of the shot to come.
            frames: latents of the shot. Only what is read is among the captions that are returned.
        """
        latest = line_at(captions[-1], 0)
        theirs = [line_at(captions[shot], frame) if own else latest for shot, frame in self.picked]
        lines = [*theirs, *[latest] * (len(self.shot_ids) - len(theirs) + frames)]
        used = list(dict.fromkeys(lines))
        ids = torch.tensor([*self.shot_ids, *[self.shot_id] * frames], dtype=torch.long, device="cpu")
        return self.latents, ids, torch.tensor([used.index(line) for line in lines], device="cpu"), used


def remember(
    lengths: Sequence[int],
    budget: int,
    policy: str,
    encoded: Callable[[Sequence[tuple[int, int]]], Sequence[Tensor]],
    like: Tensor,
    captions: Sequence[Lines] = (),
) -> Context:
    """The frames that sparse history sampling picks. The first shot, number 1, sees zero latents of shot 0 (released).

    Shots that the caption asks for are numbered as if they were the latest: phases stay in the range that was trained.

    Args:
        lengths: pixel frames of the earlier shots; none for a first shot, and for one that is told like a first one.
        encoded: (shot, pixel frame) of each frame to its latent [channels, h, w].
        like: any latents [channels, *, h, w].
        captions: of all shots and, last, of the one to come; only `history.asked` reads them, each shot's own part.
    """
    blank = torch.zeros_like(like[:, :1]).repeat(1, budget if not lengths else 0, 1, 1)
    if not lengths:
        return Context(blank, (0,) * budget, 1)
    own = [line_at(lines, 0).partition(f"shot{shot}:")[2] for shot, lines in enumerate(captions)]
    picked = select(lengths, budget, policy, own)
    latents = torch.stack(list(encoded(picked)), dim=1) if picked else blank
    numbered = sorted({shot for shot, _ in picked}) if policy == "asked" else list(range(len(lengths)))
    return Context(latents, tuple(numbered.index(shot) for shot, _ in picked), len(numbered), tuple(picked))
