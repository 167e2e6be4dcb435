"""How far an accuracy, or a difference of two, can be trusted: intervals of 95 % confidence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.special import stdtrit
from torch import Tensor

#: Standard errors to either side: 95 % of a normal distribution.
Z = 1.96


def share_interval(hits: int, total: int) -> list[float]:
    """Interval of a share, from so many hits; Wilson's.

    >>> [round(bound, 3) for bound in share_interval(90, 100)]
    [0.826, 0.945]
    """
    share, z2 = hits / total, Z**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    # Rounding shall not leave the share itself outside, which is an end where all are hits, or none.
    return [min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))]


def paired_difference(mine: Tensor, theirs: Tensor) -> dict[str, float]:
    """By how much one model is more often right than another on the same test samples, with its interval.

    Only the samples count that one of the two is right about. The interval is of the test samples drawn
    (Agresti and Min, Statistics in Medicine, 2005: half a sample is added to each of the four cells, which keeps a
    difference of a few samples honest). That another seed trains other models is in it where there are
    several seeds: a test sample then counts by its mean over them, and the spread of the seeds' differences is
    added as in `mean_interval`.

    Args:
        mine, theirs: bool ``[N]``, whether the model is right; or ``[seeds, N]``, of the same seeds.

    Returns:
        ``difference``, ``low`` and ``high``, shares in [-1, 1]; positive: mine is better.
    """
    ahead = (mine.double() - theirs.double()).reshape(-1, mine.shape[-1])
    by_sample, by_seed = ahead.mean(0), ahead.mean(1)
    total = len(by_sample) + 2
    middle = float(by_sample.sum()) / total
    of_tests = ((float(by_sample.square().sum()) + 1) / total - middle**2) / total
    half = _half_width(of_tests, by_seed.tolist())
    return {"difference": float(by_sample.mean()), "low": middle - half, "high": middle + half}


def mean_interval(accuracies: Sequence[float], test_samples: int) -> tuple[float, float]:
    """Mean accuracy over seeds, and half the width of its interval: chance of the test samples and of the seeds.

    The seeds share their test samples, so these count once; with one seed their spread is not known, and not
    in the interval. With few it is known badly, so their part is as wide as Student's t says. The two parts
    are independent: half the width is the root of the sum of their squares. Where nearly all test samples are right, or
    nearly none, it is too narrow, and where all are, of no width.

    >>> mean, half = mean_interval([0.8, 0.9], 1000)
    >>> round(mean, 3), round(half, 3)  # two seeds say little
    (0.85, 0.636)
    >>> mean, half = mean_interval([0.8], 1000)
    >>> round(half, 3)
    0.025
    """
    mean = statistics.mean(accuracies)
    return mean, _half_width(mean * (1 - mean) / test_samples, accuracies)


def seeds_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean over seeds, and half the width of its interval by Student's t; None with one seed.

    >>> mean, half = seeds_interval([0.8, 0.9, 1.0])
    >>> round(mean, 2), round(half, 2)
    (0.9, 0.25)
    """
    return statistics.mean(values), _half_width(0.0, values) if len(values) > 1 else None


def _half_width(of_tests: float, by_seed: Sequence[float]) -> float:
    """Half an interval, of a variance of the mean by the test samples, and of the spread of the seeds' values."""
    count = len(by_seed)
    of_seeds = statistics.variance(by_seed) / count if count > 1 else 0.0
    quantile = float(stdtrit(count - 1, 0.975)) if count > 1 else 0.0
    return math.sqrt(Z**2 * of_tests + quantile**2 * of_seeds)
