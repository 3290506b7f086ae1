"""Means, Fréchet distances and how sure they are, by resampling whole stories.

Shots of one story share their cast, place and memory, so they err together: five shots of one story say less than one
shot of five. A bootstrap over shots would therefore promise too much. Here a resample draws as many *stories* as there
are, with replacement, and takes all shots of each (cluster bootstrap); two kinds of film are compared on the same draws
of the same stories. What is reported is the middle 95 % of the resamples.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

DRAWS = 1000
FRECHET_DRAWS = 200
DIRECTIONS = 32
"""Directions a Fréchet distance looks along. Hundreds of shots cannot settle the covariance of hundreds of features."""


class Interval(NamedTuple):
    """A figure and its 95 % interval; nan where nothing was asked."""

    mean: float
    low: float
    high: float


def resamples(stories: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each story is in each resample, int [draws, stories]; always the same for the same numbers.

    A single story cannot be resampled: no draws, and intervals without ends.
    """
    draws = draws if stories > 1 else 0
    return np.random.default_rng(seed).multinomial(stories, np.full(stories, 1 / stories), size=draws)


def interval(scores: np.ndarray) -> Interval:
    """Mean of the scores that are there, by story. Shape: float [stories, any], nan where nothing was asked."""
    return _interval(*_means(scores, resamples(len(scores))))


def ratio(scores: np.ndarray, reference: np.ndarray) -> Interval:
    """Mean of `scores` over mean of `reference` for the same stories in the same order, resampled together; nan where
    the reference scores nothing."""
    counts = resamples(len(scores))
    (mean, means), (base, bases) = _means(scores, counts), _means(reference, counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.append(mean, means) / np.append(base, bases)
    shares[~np.isfinite(shares)] = np.nan
    return _interval(shares[0], shares[1:])


def difference(scores: np.ndarray, reference: np.ndarray) -> Interval:
    """Mean of `scores` less mean of `reference` for the same stories in the same order, resampled together."""
    counts = resamples(len(scores))
    (mean, means), (base, bases) = _means(scores, counts), _means(reference, counts)
    return _interval(np.float64(mean) - base, means - bases)


def change(scores: np.ndarray) -> Interval:
    """How far a straight line through the means of all shots rises from the first shot to the last.

    Shape: float [stories, shots, ...]; shots that were never asked (a first shot carries nothing) are left out.
    """
    scores = scores.reshape(*scores.shape[:2], -1)
    at, counts = np.flatnonzero(~np.isnan(scores).all(axis=(0, 2))), resamples(len(scores))
    if len(at) < 2:
        return Interval(np.nan, np.nan, np.nan)
    figures, draws = zip(*(_means(scores[:, [shot]], counts) for shot in at), strict=True)
    return _interval(_rise(at, np.array(figures)), _rise(at, np.stack(draws)))


class FrechetSpace:
    """The directions in which real film varies most, in which distances are measured, and its spread in them.

    Distances are given as a share of that spread (the summed variance of real film), so that they do not hang on the
    scale of the features.

    Args:
        real: features of real film, float [stories, shots, features].
    """

    def __init__(self, real: np.ndarray, directions: int = DIRECTIONS) -> None:
        flat = real.reshape(-1, real.shape[-1])
        _, vectors = np.linalg.eigh(_covariance(flat))
        self.basis = vectors[:, ::-1][:, :directions]
        self.spread = (flat @ self.basis).var(0).sum()

    def distance(self, told: np.ndarray, real: np.ndarray) -> Interval:
        """Squared Fréchet distance, by spread, between Gaussians fitted to told and real film of the same stories.

        A resample repeats stories, which raises every distance a little; so the interval is the spread of the resamples
        moved back around the figure itself.
        """
        return self._around(*self._distances(*self._project(told, real)))

    def change(self, told: np.ndarray, real: np.ndarray) -> tuple[list[Interval], Interval]:
        """The distance at every shot, and its rise from the first shot to the last, as `change` has it."""
        (told, real), shots = self._project(told, real), np.arange(told.shape[1])
        each = [self._distances(told[:, [shot]], real[:, [shot]]) for shot in shots]
        by_shot, (figures, draws) = [self._around(*one) for one in each], zip(*each, strict=True)
        if len(shots) < 2:
            return by_shot, Interval(np.nan, np.nan, np.nan)
        return by_shot, self._around(_rise(shots, np.array(figures)), _rise(shots, np.stack(draws)))

    def _project(self, *features: np.ndarray) -> list[np.ndarray]:
        return [some @ self.basis / np.sqrt(self.spread) for some in features]

    @staticmethod
    def _distances(told: np.ndarray, real: np.ndarray) -> tuple[float, np.ndarray]:
        """Over all stories, and over each resample [draws]."""
        drawn = [np.repeat(np.arange(len(told)), count) for count in resamples(len(told), FRECHET_DRAWS)]
        return _frechet(told, real), np.array([_frechet(told[rows], real[rows]) for rows in drawn])

    @staticmethod
    def _around(figure: float, draws: np.ndarray) -> Interval:
        return _interval(figure, draws - draws.mean() + figure if draws.size else draws)


def as_json(value: Any) -> Any:
    """Intervals as {"mean", "low", "high"}, nan as null."""
    if isinstance(value, Interval):
        return {key: None if np.isnan(v) else v for key, v in value._asdict().items()}
    if isinstance(value, Mapping):
        return {key: as_json(v) for key, v in value.items()}
    return [as_json(v) for v in value] if isinstance(value, list) else value


def _frechet(told: np.ndarray, real: np.ndarray) -> float:
    told, real = (x.reshape(-1, x.shape[-1]) for x in (told, real))
    root = _root(_covariance(real))
    cross = np.linalg.eigvalsh(root @ _covariance(told) @ root)  # the eigenvalues of the product of covariances
    apart = np.square(told.mean(0) - real.mean(0)).sum()
    spread = told.var(0).sum() + real.var(0).sum()
    return float(max(0.0, apart + spread - 2 * np.sqrt(np.clip(cross, 0, None)).sum()))


def _covariance(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(0)
    return centred.T @ centred / len(rows)


def _root(symmetric: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def _means(scores: np.ndarray, counts: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean over all, and over each resample [draws]."""
    scores = scores.reshape(len(scores), -1)
    there = ~np.isnan(scores)
    sums, numbers = np.where(there, scores, 0).sum(1), there.sum(1)
    with np.errstate(invalid="ignore"):
        return np.float64(sums.sum()) / numbers.sum(), (counts @ sums) / (counts @ numbers)


def _rise(at: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Least-squares slope of values [shots, ...] over `at`, times the way from the first to the last."""
    centred = at - at.mean()
    return np.tensordot(centred, values, axes=1) / np.square(centred).sum() * (at[-1] - at[0])


def _interval(figure: float, draws: np.ndarray) -> Interval:
    draws = draws[~np.isnan(draws)]  # without resamples of only stories where nothing was asked
    if np.isnan(figure) or not len(draws):
        return Interval(float(figure), np.nan, np.nan)
    low, high = np.percentile(draws, (2.5, 97.5))
    return Interval(float(figure), float(low), float(high))
