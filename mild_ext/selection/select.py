"""`select_clean`: from a recorded status to a `Selection`.

One way through: counts (``evidence.py``) -> the window of epochs to judge by (``windows.py``) -> a rule
on its counts (``decide.py``) -> classes (``classes.py``) -> noise rate -> result.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, SupportsFloat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mild_ext.data.labels import check_labels
from mild_ext.mixture.counts import TimeCounts
from mild_ext.mixture.follow_up import common_follow_up
from mild_ext.selection.classes import select_by_class
from mild_ext.selection.decide import RULES, Decision, mean_over_seen
from mild_ext.selection.evidence import Evidence, evidence_of
from mild_ext.selection.noise_rate import NoiseRate, estimate_noise_rate
from mild_ext.selection.planted import PlantedLabels
from mild_ext.selection.result import Selection
from mild_ext.selection.select_planted import select_planted
from mild_ext.selection.windows import judge


def select_clean(
    status_or_times: Any,
    rule: str = "posterior",
    level: float = 0.5,
    *,
    labels: Any = None,
    per_class: bool | None = None,
    epochs: slice | None = None,
    planted: PlantedLabels | Sequence[PlantedLabels] | None = None,
) -> Selection:
    """Decide which samples to keep.

    With ``planted`` the noise is measured, and samples whose label is more likely wrong than right (``level``)
    are dropped. Without, it is estimated from the counts alone, which cannot tell a hard label from a wrong one.

    Args:
        status_or_times: a LearningStatus, or the TransitionTimes of one; with ``planted`` also a list of statuses:
            several runs of the same samples, each from fresh weights and with labels planted elsewhere.
        rule: one of

            - ``posterior``: from zero misclassified epochs upward, keep while the posterior
              probability of the clean component is above ``level``.
            - ``quantile``: the share ``level`` with the lowest metric (a known noise rate).
            - ``scale``: shifted metric at most the larger scale of a density fit.
            - ``release``: the arithmetic of the authors' released code, which compares the
              unshifted metric with a scale of the shifted one. Warns where it drops nothing.
        level: probability in (0, 1) for ``posterior``, share to keep in (0, 1] of ``quantile``;
            the other rules have none.
        labels: [N], the given labels, as `mild_ext.data.check_labels` takes them. With them no class is emptied, and
            there are figures per class. Samples that were never seen may have none (-1). ``planted`` knows the
            given labels, so they need not be named again there.
        per_class: True: judge each class by its own histogram; one that does not support two groups is
            kept. False and None: all together.
        epochs: which epochs to judge by, e.g. ``slice(0, 10)``. By default all that are recorded; but where
            wrong labels have been memorized by the end of them, rule ``posterior`` takes the first third or
            two thirds (at least 8 epochs). Once training has settled, at least as many samples are dropped as are
            still misclassified. Epochs that are given decide which samples are dropped; how many still follows
            from the default.
        planted: what the status was trained on, see `mild_ext.plant_labels`, or a list with that of each run; the
            status must record predicted classes (``LearningStatus(..., num_classes=K)``). Rule, per_class and epochs
            are then not to be given: what is measured takes their place.

    Returns:
        A :class:`Selection`. It is never empty: where two components are not supported everything
        is kept, ``supported`` is False and ``reason`` says why.

    Raises:
        TypeError: the first argument is neither of the two, or labels are no class numbers.
        ValueError: unknown rule, level out of range, no samples, labels that are missing or of the
            wrong shape, or given with a `ShardedStatus`.

    Example:
        >>> import torch
        >>> from mild_ext import LearningStatus
        >>> status = LearningStatus(num_samples=3, num_epochs=8)
        >>> index, labels = torch.arange(3), torch.tensor([0, 1, 0])
        >>> status.update(index, torch.eye(3)[:, :2] + 0.1, labels)
        >>> selection = select_clean(status)
        >>> bool(selection.mask.all()), selection.supported
        (True, False)
    """
    _check_rule(rule, level)
    if planted is not None:
        if rule != "posterior" or epochs is not None or per_class:
            raise ValueError(
                "rule, per_class and epochs have no meaning with planted labels, by which the noise is "
                "measured; leave them out, or leave out planted"
            )
        if isinstance(planted, PlantedLabels) != (not isinstance(status_or_times, Sequence)):
            raise TypeError(
                "several runs are a list of statuses with a list of PlantedLabels, one run a status with its "
                f"own; got {type(status_or_times).__name__} and {type(planted).__name__}"
            )
        runs = [status_or_times] if isinstance(planted, PlantedLabels) else status_or_times
        each = [planted] if isinstance(planted, PlantedLabels) else planted
        return select_planted(runs, each, labels, level)
    evidence = evidence_of(status_or_times, epochs)
    histogram = evidence.histogram()
    num_samples = int(histogram.sum())
    if num_samples == 0:
        raise ValueError("there are no samples to select from")
    if labels is not None and getattr(status_or_times, "total_samples", None) is not None:
        raise ValueError("labels cannot be given with a status that is split among ranks")
    labels, names = _check_labels(labels, num_samples, per_class, evidence)

    judged = judge(evidence, histogram, rule, level)
    evidence, histogram, decision = (
        evidence.within(judged.window),
        judged.histogram,
        judged.decision,
    )
    mask, classes, by_class = evidence.lookup(torch.from_numpy(decision.keep)), None, False
    if labels is not None:
        classes = select_by_class(evidence, labels, judged, rule, level, per_class)
        mask, by_class = classes.mask, classes.judged_apart
    # The histogram speaks for all samples, the mask for those of this rank.
    num_kept = int((histogram * decision.keep).sum() if classes is None else mask.sum())
    reason = decision.support.reason
    if classes is not None and by_class:
        reason = classes.reason(reason)
    if rule == "release" and num_kept == num_samples:
        reason = (
            "the released rule drops nothing: it compares the metric (at most "
            f"{len(histogram) - 1}) with a scale of the metric shifted by {len(histogram) - 1}"
        )
        warnings.warn(f"{reason}; use rule 'posterior'", UserWarning, stacklevel=2)
    return Selection(
        mask=mask,
        threshold=decision.threshold,
        level=level,
        rule=rule,
        mixture=decision.mixture,
        supported=decision.support.supported or (by_class and num_kept < num_samples),
        reason=reason,
        support=decision.support,
        noise_rate=_noise_rate(histogram, decision),
        epochs=evidence.epochs,
        histogram=histogram,
        num_samples=num_samples,
        num_kept=num_kept,
        num_unseen=int(histogram[0, 0]),
        classes=() if classes is None else classes.classes,
        per_class=by_class,
        _evidence=evidence,
        _probability=decision.probability,
        class_names=names,
        _own_histogram=evidence.own_histogram(),
        _labels=labels,
        _class_probability=classes.probability if classes is not None and by_class else None,
    )


def _noise_rate(histogram: NDArray[np.int64], decision: Decision) -> NoiseRate | None:
    """The share of wrong labels; None where two groups are not supported."""
    if decision.mixture is None or not (decision.probability < 1).any():
        return None
    noisy, dropped = (
        1.0 - mean_over_seen(histogram, table) for table in (decision.probability, decision.keep)
    )
    times = TimeCounts.from_counts(common_follow_up(histogram).counts(histogram))
    return estimate_noise_rate(times, decision.mixture, noisy, dropped)


def _check_rule(rule: str, level: float) -> None:
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}; got {rule!r}")
    if isinstance(level, str | bool) or not isinstance(level, SupportsFloat):
        raise TypeError(f"level must be a number, got {level!r}")
    if rule == "posterior" and not 0.0 < level < 1.0:
        raise ValueError(f"level must lie in (0, 1) for rule {rule!r}, got {level!r}")
    if rule == "quantile" and not 0.0 < level <= 1.0:
        raise ValueError(f"level must lie in (0, 1] for rule {rule!r}, got {level!r}")


def _check_labels(
    labels: Any, num_samples: int, per_class: bool | None, evidence: Evidence
) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """Labels int64 [N], -1 for samples never seen that have none, and the names of the classes if they have."""
    if labels is None:
        if per_class:
            raise ValueError("per_class=True needs labels=, the given labels [N]")
        return None, None
    checked = check_labels(labels, count=num_samples, missing="drop")
    if bool(checked.missing.any()):
        # What was in no batch has a label that nobody needs.
        size = len(evidence.histogram())
        seen = torch.ones(size, size, dtype=torch.bool)
        seen[:, 0] = False
        check_labels(
            labels,
            optional=~evidence.lookup(seen).cpu(),
            remedy="select among the other samples (mild-ext select: --missing drop)",
        )
    return checked.values, checked.class_names
