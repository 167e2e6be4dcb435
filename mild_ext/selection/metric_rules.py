"""Rules that need no verdict on the mixture: a known share to keep, and the arithmetic of the release.

They compare the MILD metric, misclassified less memorized epochs, with a limit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_ext.mixture.counts import Floats


def keep_by_metric(histogram: NDArray[np.int64], rule: str, level: float) -> NDArray[np.bool_]:
    """The cells that a rule on the metric, misclassified less memorized epochs, keeps."""
    size = len(histogram)
    metric = 2 * np.arange(size)[:, None] - np.arange(size)  # misclassified - memorized
    possible = np.arange(size)[:, None] <= np.arange(size)
    seen = possible & (np.arange(size) > 0)
    if rule == "quantile":
        limit = _quantile(metric[seen], histogram[seen], level)
    else:
        # The release shifts the metric to be positive and moves 0 off the edge of the support.
        shifted = np.maximum(metric + (size - 1), 0.1)
        limit = density_scales(shifted[seen], histogram[seen]).max()
        if rule == "scale":
            metric = shifted  # the release itself compares the unshifted metric
    return (metric <= limit) & possible


def _quantile(values: NDArray[Any], counts: NDArray[np.int64], share: float) -> float:
    """The value up to which the kept share comes nearest to ``share``; ties stay together."""
    order = np.argsort(values, kind="stable")
    values, kept = values[order], np.cumsum(counts[order]) / counts.sum()
    last = np.append(values[1:] != values[:-1], True) & (kept > 0)
    return float(values[last][np.argmin(np.abs(kept[last] - share))])


def density_scales(values: Floats, counts: NDArray[Any], iterations: int = 200) -> Floats:
    """Scales of two Weibull densities fitted to positive values by EM, float64 [2].

    The plain density of the release: unbounded on tied values (its shapes grow towards a spike),
    so shapes are kept below 30. Best of three deterministic starts.
    """
    used = np.asarray(counts) > 0
    x = np.asarray(values, dtype=np.float64)[used]
    x, where = np.unique(x, return_inverse=True)
    mass = np.bincount(where, weights=np.asarray(counts, dtype=np.float64)[used])
    mass = mass / mass.sum()
    logs = np.log(x)
    below = np.cumsum(mass)
    best, scales = -np.inf, np.full(2, float(x @ mass))
    for cut in (0.25, 0.5, 0.75):
        share = np.where(below <= max(cut, below[0]), 0.9, 0.1)
        shape, value = np.ones(2), -np.inf
        for _ in range(iterations):
            part = np.stack([share, 1 - share]) * mass
            weight = part.sum(axis=1)
            mean_log = part @ logs / weight
            for _ in range(2):  # Newton steps on the profile likelihood of the shape
                power = part * np.exp(shape[:, None] * (logs - logs[-1]))
                total, first = power.sum(axis=1), power @ logs
                second = power @ logs**2
                slope = first / total - 1 / shape - mean_log
                curve = second / total - (first / total) ** 2 + 1 / shape**2
                shape = np.clip(shape - slope / curve, np.maximum(0.05, shape / 2), shape * 2)
                shape = np.minimum(shape, 30.0)
            power = part * np.exp(shape[:, None] * (logs - logs[-1]))
            log_scale = logs[-1] + np.log(power.sum(axis=1) / weight) / shape
            z = shape[:, None] * (logs - log_scale[:, None])
            joint = np.log(weight * shape)[:, None] - logs + z - np.exp(np.minimum(z, 60.0))
            mixed = np.logaddexp(*joint)
            share = np.clip(np.exp(joint[0] - mixed), 1e-9, 1 - 1e-9)
            old, value = value, float(mass @ mixed)
            if abs(value - old) < 1e-10:
                break
        if value > best:
            best, scales = value, np.exp(log_scale)
    return scales
