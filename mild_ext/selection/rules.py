"""Selection rules: from the histogram of (misclassified, seen) to what is kept of every cell.

Each rule sees only the histogram, so it costs the same for a thousand samples and for a billion.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_ext.mixture.follow_up import CommonHorizon, common_horizon
from mild_ext.mixture.likelihood import Floats, TimeCounts, sigmoid
from mild_ext.mixture.weibull import WeibullMixture
from mild_ext.selection.support import Support, fit_with_support

RULES = ("posterior", "release", "scale", "quantile")

#: A rule that would keep a smaller share than this has collapsed and is not followed.
MIN_KEPT = 0.005
#: Above this confusion the posterior is recentred before it is compared with the level.
MAX_SURE_CONFUSION = 0.4
#: Above this one a noisy weight up to the first of these is all that is dropped, and from the second
#: on what the posterior made monotone expects to be noisy, as below it; see `_expected_drop`.
BLENDING_CONFUSION = 0.6
BLENDED_WEIGHTS = (0.25, 0.3)
#: Log-odds between the first and the last of the counts that a monotone posterior ties.
TIE_SPREAD = 0.05


@dataclass(frozen=True)
class Decision:
    """What a rule says about every cell (misclassified, seen) of the histogram.

    Attributes:
        keep: bool [P + 1, P + 1].
        probability: float32 [P + 1, P + 1], posterior of the clean component as the rule reads
            it (falling in the misclassified count); all 1 where two components are not supported.
        threshold: largest misclassified count kept of a sample seen in all P epochs.
        mixture: the fitted mixture; None if no sample was seen.
        support: the verdict on it; for the rules that need none, whether the rule was followed.
    """

    keep: NDArray[np.bool_]
    probability: NDArray[np.float32]
    threshold: float
    mixture: WeibullMixture | None
    support: Support


def decide(
    histogram: NDArray[np.int64],
    rule: str,
    level: float,
    *,
    drop: tuple[float, float] | None = None,
    fitted: Decision | None = None,
    horizon: CommonHorizon | None = None,
) -> Decision:
    """Apply a rule to a histogram; never keeps nothing of what was seen.

    ``drop``: the share of the samples that ``posterior`` is to drop and the level at which it is
    to drop them, where better evidence than this histogram has settled it. ``fitted``: what
    ``posterior`` decided on this histogram before, to spare a second fit. ``horizon``: that of all
    samples, where the histogram is of a part of them.
    """
    horizon = horizon or common_horizon(histogram)
    counts = horizon.counts(histogram)
    if fitted is None:
        mixture, support = fit_with_support(TimeCounts.from_counts(counts))
    else:
        mixture, support = fitted.mixture, fitted.support
    size = len(histogram)
    if mixture is None or (rule == "posterior" and not support.supported):
        return _everything(size, mixture, support)
    event, censored = mixture.posterior_tables(horizon.horizon)
    clean = np.append(event, censored[-1])
    if drop is not None:
        clean = _recentred(counts, clean, *drop)
    elif support.confusion > MAX_SURE_CONFUSION:
        share, at_most = _expected_drop(counts, mixture, clean, support.confusion)
        clean = _recentred(counts, clean, share, 0.5, at_most)
    probability = horizon.table(np.minimum.accumulate(clean), unseen=censored[0])
    keep = probability > level if rule == "posterior" else _by_metric(histogram, rule, level)
    keep[0, 0] = True  # never seen: no evidence against it
    kept = int((histogram * keep).sum() - histogram[0, 0])
    if kept < max(1.0, MIN_KEPT * counts.sum()):
        reason = f"rule {rule!r} would keep only {kept} of {counts.sum():.0f} samples: refused"
        return _everything(size, mixture, replace(support, supported=False, reason=reason))
    if not support.supported:
        probability = np.ones((size, size))
    if rule != "posterior":
        reason = f"rule {rule!r} keeps {kept / counts.sum():.1%} of the samples seen"
        if not support.supported:
            reason += f" (the mixture does not support two groups: {support.reason})"
        support = replace(support, supported=True, reason=reason)
    full = np.flatnonzero(keep[:, -1])
    return Decision(
        keep=keep,
        probability=probability.astype(np.float32),
        threshold=float(full[-1]) if len(full) else -1.0,
        mixture=mixture,
        support=support,
    )


def mean_over_seen(histogram: NDArray[np.int64], table: NDArray[Any]) -> float:
    """Mean of ``table[misclassified, seen]`` over the samples of a histogram seen at all."""
    seen = histogram.copy()
    seen[0, 0] = 0
    return float((seen * table).sum() / max(seen.sum(), 1))


def _by_metric(histogram: NDArray[np.int64], rule: str, level: float) -> NDArray[np.bool_]:
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


def _expected_drop(
    counts: Floats, mixture: WeibullMixture, clean: Floats, confusion: float
) -> tuple[float, bool]:
    """Share to drop where the components overlap widely, and whether it is a limit.

    There the posterior is flat around 0.5, and where it crosses says little: far more samples can
    lie beyond the crossing than the mixture believes to be noisy. Its total, made monotone, is
    better founded. It counts the clean component's own tail, the samples never memorized, as noisy:
    most of them are where noise is plenty. Where it is rare and blends in, the tail is mostly of
    hard right labels, and no more than the noisy weight is to be dropped.
    """
    weight = float(mixture.weights_[1])
    total = 1.0 - float(counts @ np.minimum.accumulate(clean) / counts.sum())
    low, high = BLENDED_WEIGHTS
    blend = float(np.clip((weight - low) / (high - low), 0.0, 1.0))
    if confusion <= BLENDING_CONFUSION or blend == 1.0:
        return total, False
    return weight + blend * (total - weight), True


def _recentred(
    counts: Floats, clean: Floats, share: float, level: float, at_most: bool = False
) -> Floats:
    """The posterior made monotone, its log-odds shifted so that ``level`` drops ``share``.

    A broad clean component outlives a narrow noisy one, so the posterior as it is may rise again
    in the tail; as a running minimum over the misclassified count it has one crossing, the first.
    As near as whole counts allow; with ``at_most`` not more, but something.
    """
    tie = TIE_SPREAD / (len(clean) - 1) * np.arange(len(clean))
    odds = _log_odds(np.minimum.accumulate(clean)) - tie
    mass = counts[counts > 0]
    values, where = np.unique(-odds[counts > 0], return_inverse=True)
    values = -values  # falling
    dropped = 1 - np.cumsum(np.bincount(where, weights=mass)) / mass.sum()
    last = int(np.argmin(np.abs(dropped - share)))  # the last one kept
    if at_most and len(values) > 1:
        last = min(int(np.argmax(dropped <= share)), len(values) - 2)
    # Midway to the next value; if there is none, nothing is to be dropped.
    cut = float(np.append(values, values[-1] - 2.0)[last : last + 2].mean())
    return sigmoid(odds - (cut - float(_log_odds(np.array(level)))))


def _log_odds(x: Floats) -> Floats:
    x = np.clip(x, 1e-12, 1 - 1e-12)
    result: Floats = np.log(x) - np.log1p(-x)
    return result


def _everything(size: int, mixture: WeibullMixture | None, support: Support) -> Decision:
    return Decision(
        keep=np.ones((size, size), dtype=np.bool_),
        probability=np.ones((size, size), dtype=np.float32),
        threshold=float(size - 1),
        mixture=mixture,
        support=support,
    )


def keep_everything(decision: Decision, reason: str) -> Decision:
    """The same evidence, not believed."""
    support = replace(decision.support, supported=False, reason=reason)
    return _everything(len(decision.keep), decision.mixture, support)


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
