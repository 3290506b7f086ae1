"""The randomness of training: every number drawn belongs to a seed, a step and a sample, and to nothing else.

So a resumed run needs no generator state to be the run it would have been, and a batch spread over several processes is
the batch one process would have drawn.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def seeded(*numbers: int) -> torch.Generator:
    """The generator that whole numbers (from 0) stand for; other numbers, other draws.

    They are mixed first: torch looks at the last 32 bits of a seed only.
    """
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


class Draws:
    """What one step draws: from a generator for each of this process's samples, and from one that all share.

    Args:
        samples: numbers of this process's samples in the step's whole batch.
        device: where the tensors go; they are always drawn on the CPU, so that every device sees the same.
    """

    def __init__(self, seed: int, step: int, samples: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.shared = seeded(seed, step)
        self.each = [seeded(seed, step, 1 + sample) for sample in samples]
        self.device = device

    def split(self, parts: int) -> "list[Draws]":
        """The same samples in so many equal groups, or one by one, which draw what they would have drawn together."""
        groups, size = [], max(1, len(self) // parts)
        for start in range(0, len(self), size):
            group = copy.copy(self)
            group.each = self.each[start : start + size]
            group.shared = torch.Generator()
            group.shared.set_state(self.shared.get_state())
            groups.append(group)
        return groups

    def __len__(self) -> int:
        return len(self.each)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, [samples, *shape]."""
        drawn = [torch.randn(shape, generator=g, dtype=torch.float32, device="cpu") for g in self.each]
        return torch.stack(drawn).to(self.device)

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """The same for a shape that names the samples first, as a rollout asks."""
        return self.normal(*shape[1:])

    def index(self, high: int, *shape: int) -> Tensor:
        """Whole numbers below `high`, [samples, *shape]; on the CPU, where they index tables."""
        return torch.stack([torch.randint(high, shape, generator=g, device="cpu") for g in self.each])

    def chance(self, rate: float) -> Tensor:
        """True with probability `rate`, [samples]; on the CPU."""
        return torch.stack([torch.rand((), generator=g, dtype=torch.float32, device="cpu") for g in self.each]) < rate

    def shared_index(self, high: int) -> int:
        """A whole number below `high`, the same for all samples and processes."""
        return int(torch.randint(high, (), generator=self.shared, device="cpu"))
