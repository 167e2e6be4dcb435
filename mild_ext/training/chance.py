"""How far an accuracy, or a difference of two, can be trusted: intervals of 95 % confidence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

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
    (Agresti and Min, Statistics in Medicine, 2005); that another seed trains other models comes on top.

    Args:
        mine, theirs: bool ``[N]``, whether the model is right.

    Returns:
        ``difference``, ``low`` and ``high``, shares in [-1, 1]; positive: mine is better.
    """
    total = len(mine) + 2
    won = int((mine & ~theirs).sum()) + 0.5
    lost = int((theirs & ~mine).sum()) + 0.5
    middle = (won - lost) / total
    half = Z * math.sqrt((won + lost) / total - middle**2) / math.sqrt(total)
    difference = float(mine.double().mean() - theirs.double().mean())
    return {"difference": difference, "low": middle - half, "high": middle + half}


def mean_interval(accuracies: Sequence[float], test_samples: int) -> tuple[float, float]:
    """Mean accuracy over seeds, and half the width of its interval: chance of the test samples and of the seeds.

    The seeds share their test samples, so these count once; with one seed their spread is not known.

    >>> mean, half = mean_interval([0.8, 0.9], 1000)
    >>> round(mean, 3), round(half, 3)
    (0.85, 0.1)
    """
    mean = statistics.mean(accuracies)
    variance = mean * (1 - mean) / test_samples
    if len(accuracies) > 1:
        variance += statistics.variance(accuracies) / len(accuracies)
    return mean, Z * math.sqrt(variance)
