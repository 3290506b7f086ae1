"""Distribution matching where everything can be seen: points on a plane, with both scores known exactly.

A score model that predicts clean samples is an average: all clean points there are, each weighed by how likely it
became the noisy one. For a few Gaussian bumps and for a cloud of points that average is a formula, so nothing has to
be trained.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_PLAIN = {"dtype": torch.float32, "device": "cpu"}  # whatever torch's defaults are


@dataclass(frozen=True)
class Bumps:
    """Data on the plane: Gaussian bumps of one width. Shape: centres [k, 2]; shares [k], which sum to one."""

    centres: Tensor
    width: float
    shares: Tensor

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Points of the data. Shape: [count, 2]."""
        bump = torch.multinomial(self.shares, count, replacement=True, generator=generator)
        return self.centres[bump] + self.width * torch.randn(count, 2, generator=generator, **_PLAIN)

    def clean(self, noisy: Tensor, sigma: float) -> Tensor:
        """The exact teacher: the mean of the data that noise of level `sigma` could have turned into `noisy` [n, 2]."""
        keep = 1 - sigma
        spread = keep**2 * self.width**2 + sigma**2  # variance of a noisy bump
        distances = torch.cdist(noisy, keep * self.centres).square()
        belongs = (self.shares.log() - distances / (2 * spread)).softmax(1)  # [n, k]
        gain = keep * self.width**2 / spread
        each = self.centres + gain * (noisy[:, None] - keep * self.centres)
        return (belongs[..., None] * each).sum(1)

    def nearest(self, points: Tensor) -> Tensor:
        """The bump every point is nearest to. Shape: [n, 2] to [n]."""
        return torch.cdist(points, self.centres).argmin(1)


def two_bumps(left: float = 0.5) -> Bumps:
    """The data of the notebook: two bumps, `left` of the points in the left one."""
    return Bumps(torch.tensor([[-1.5, 0.0], [1.5, 0.0]], **_PLAIN), 0.3, torch.tensor([left, 1 - left], **_PLAIN))


def cloud_clean(noisy: Tensor, sigma: float, points: Tensor) -> Tensor:
    """The exact critic of a generator that makes `points`: what its noisy points were. Shape: [n, 2], [m, 2] to [n, 2].

    A critic that knew the points one by one would see no cloud; a little width makes neighbours of them.
    """
    width = 0.15
    return Bumps(points, width, points.new_full((len(points),), 1 / len(points))).clean(noisy, sigma)
