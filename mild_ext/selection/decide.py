"""Selection rules: from the histogram of (misclassified, seen) to what is kept of every cell.

Each rule sees only the histogram, so it costs the same for a thousand samples and for a billion.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_ext.mixture.counts import Floats, TimeCounts
from mild_ext.mixture.follow_up import StretchedCounts, common_follow_up
from mild_ext.mixture.likelihood import sigmoid
from mild_ext.mixture.weibull import WeibullMixture
from mild_ext.selection.metric_rules import keep_by_metric
from mild_ext.selection.support import BLENDED, Support, fit_with_support

RULES = ("posterior", "release", "scale", "quantile")


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
    drop_share: float | None = None,
    drop_level: float = 0.5,
    fitted: Decision | None = None,
    follow_up: StretchedCounts | None = None,
) -> Decision:
    """Apply a rule to a histogram; never keeps nothing of what was seen.

    Args:
        histogram: counts of (misclassified, seen), [P + 1, P + 1].
        rule, level: as in `mild_ext.select_clean`.
        drop_share: how many of the samples ``posterior`` shall drop, [0, 1], where that is known from elsewhere
            (other epochs, all classes together): the probabilities are shifted until that share lies below
            ``drop_level``. None: as the fit says.
        fitted: what ``posterior`` decided on this histogram before, to spare a second fit.
        follow_up: how long all samples were watched, where the histogram is of a part of them.
    """
    follow_up = follow_up or common_follow_up(histogram)
    counts = follow_up.counts(histogram)
    if fitted is None:
        mixture, support = fit_with_support(TimeCounts.from_counts(counts))
    else:
        mixture, support = fitted.mixture, fitted.support
    size = len(histogram)
    if mixture is None or (rule == "posterior" and not support.supported):
        return _everything(size, mixture, support)
    event, censored = mixture.posterior_tables(follow_up.num_epochs)
    clean = np.append(event, censored[-1])
    if drop_share is not None:
        clean = _recentred(counts, clean, drop_share, drop_level)
    elif support.confusion > BLENDED:
        expected = 1.0 - float(counts @ np.minimum.accumulate(clean) / counts.sum())
        clean = _recentred(counts, clean, expected, 0.5)
    probability = follow_up.table(np.minimum.accumulate(clean), unseen=censored[0])
    keep = probability > level if rule == "posterior" else keep_by_metric(histogram, rule, level)
    keep[0, 0] = True  # never seen: no evidence against it
    kept = int((histogram * keep).sum() - histogram[0, 0])
    if kept == 0:
        reason = f"rule {rule!r} would keep none of {counts.sum():.0f} samples: refused"
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


def _recentred(counts: Floats, clean: Floats, share: float, level: float) -> Floats:
    """The probability of a right label, shifted so that a share of the samples lies at or below a level.

    First it is made to fall all the way. A broad clean component still has samples at counts where a narrow
    noisy one has none left, so the probability may rise again at large counts; its running minimum does not, and
    crosses any level once. Then all log-odds get the same shift, chosen so that ``share`` is dropped at
    ``level``, as near as whole counts allow. Where the components overlap widely the probability is nearly flat:
    where it crosses a level is chance then, but its mean still says how many labels are wrong.
    """
    odds = _log_odds(np.minimum.accumulate(clean))
    mass = counts[counts > 0]
    values, where = np.unique(-odds[counts > 0], return_inverse=True)
    values = -values  # falling
    dropped = 1 - np.cumsum(np.bincount(where, weights=mass)) / mass.sum()
    last = int(np.argmin(np.abs(dropped - share)))  # the last one kept
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
