"""`select_clean` with planted labels: votes -> measurement -> verdicts -> result.

The mixture is fitted for the pictures; which samples are dropped follows from what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mild_ext.data.labels import check_labels
from mild_ext.mixture.counts import TimeCounts
from mild_ext.mixture.follow_up import common_follow_up
from mild_ext.selection.classes import ClassSelection
from mild_ext.selection.evidence import StatusEvidence, TimesEvidence, recorded_epochs
from mild_ext.selection.measure_noise import Z, measure
from mild_ext.selection.noise_rate import NoiseRate
from mild_ext.selection.planted import PlantedLabels
from mild_ext.selection.result import Selection
from mild_ext.selection.summary import measured_reason
from mild_ext.selection.support import fit_with_support
from mild_ext.selection.suspicion import Verdicts, judge_samples
from mild_ext.selection.votes import PlantedEvidence

#: Fewest planted samples from which anything is measured.
LEAST_PLANTED = 10


def select_planted(
    statuses: Sequence[Any],
    planted: Sequence[PlantedLabels],
    labels: Tensor | None,
    level: float = 0.5,
) -> Selection:
    """The selection of one or more runs whose noise the planted labels measure.

    Args:
        statuses: a LearningStatus a run that records predicted classes, each trained on the labels of its
            ``planted``; all of the same samples and number of epochs.
        planted: the planted labels of each.
        labels: the given labels, integers [N]; None takes those of ``planted``.
        level: samples with a higher probability of a right label are kept, (0, 1).

    Raises:
        TypeError: no PlantedLabels, or a status that holds no predicted classes.
        ValueError: sizes or labels that do not fit, runs that do not, or too few planted samples that were seen.
    """
    _check_runs(statuses, planted)
    for status, its_labels in zip(statuses, planted, strict=True):
        _check(status, its_labels, labels if labels is not None else planted[0].given)
    recorded = {recorded_epochs(s, StatusEvidence(s, None).histogram()) for s in statuses}
    if len(recorded) > 1:
        raise ValueError(f"all runs must have as many epochs, got {sorted(recorded)}")
    evidence = PlantedEvidence(statuses, planted, recorded.pop())
    if not bool(evidence.seen.any()):
        raise ValueError("no sample was seen: nothing to measure by")
    if len(evidence.index) < LEAST_PLANTED:
        raise ValueError(
            f"at least {LEAST_PLANTED} planted samples must have been seen to measure anything, got "
            f"{len(evidence.index)}; plant more, or leave planted out"
        )
    measured = measure(evidence)
    verdicts = judge_samples(evidence, measured, level)
    given = planted[0].given.to(verdicts.mask.device)
    seen = evidence.weight.sum(0) > 0
    mask, emptied = _keep_classes(verdicts, given, seen)
    supported = verdicts.actionable
    if not supported:
        mask = torch.ones_like(mask)
    counts: StatusEvidence | TimesEvidence = StatusEvidence(
        statuses[0], measured.window, planted[0]
    )
    if len(statuses) > 1:
        counts = TimesEvidence(evidence.times(measured.window))
    histogram = counts.histogram()
    times = TimeCounts.from_counts(common_follow_up(histogram).counts(histogram))
    mixture, support = fit_with_support(times)
    posterior, threshold = _by_count(counts, verdicts.clean_probability, mask, len(histogram))
    return Selection(
        mask=mask,
        threshold=threshold,
        level=level,
        rule="posterior",
        mixture=mixture,
        supported=supported,
        reason=measured_reason(measured.noise_rate, verdicts, emptied),
        support=support,
        noise_rate=measured.noise_rate if supported else None,
        epochs=measured.window,
        histogram=histogram,
        num_samples=len(mask),
        num_kept=int(mask.sum()),
        num_unseen=int((~seen).sum()),
        classes=_classes(
            given, mask, verdicts.clean_probability, measured.noise_rate if supported else None
        ),
        per_class=False,
        class_names=planted[0].class_names,
        _evidence=counts,
        _probability=posterior,
        _labels=given,
        _class_probability=verdicts.clean_probability,
        _verdicts=verdicts,
        _own_histogram=counts.own_histogram(),
    )


def _check_runs(statuses: Sequence[Any], planted: Sequence[PlantedLabels]) -> None:
    if not statuses or len(statuses) != len(planted):
        raise ValueError(
            f"planted must be one for each of the {len(statuses)} runs, at least one, got {len(planted)}"
        )
    if len(set(map(id, statuses))) < len(statuses):
        raise ValueError(
            "a run is there twice, which would count what it tells twice; give each run once"
        )
    sizes = {(getattr(s, "num_samples", None), getattr(s, "num_classes", None)) for s in statuses}
    if len(sizes) > 1:
        raise ValueError(
            f"all runs must be of the same samples and classes, got (num_samples, num_classes) {sorted(sizes)}"
        )


def _check(status: Any, planted: PlantedLabels, labels: Any) -> None:
    if not isinstance(planted, PlantedLabels):
        raise TypeError(f"planted must be PlantedLabels, got {type(planted).__name__}")
    if getattr(status, "record", "status") == "status":
        raise TypeError(
            "with planted labels the status must hold predicted classes: make it with "
            f"LearningStatus(..., num_classes=K), got {type(status).__name__} without"
        )
    if planted.num_samples != status.num_samples:
        raise ValueError(
            f"planted must be of the status' {status.num_samples} samples, got {planted.num_samples}"
        )
    largest = int(max(planted.labels.max(), planted.given.max()))
    if largest >= status.num_classes:
        raise ValueError(
            f"labels must lie in [0, {status.num_classes}), the classes of the status, got {largest}"
        )
    if labels is not None:
        given = check_labels(labels, missing="drop").values
        differ = int((given != planted.given).sum()) if given.shape == planted.given.shape else None
        if differ is None or differ:
            what = f"{differ} differ" if differ else f"their shape is {list(given.shape)}"
            raise ValueError(
                "labels must be the given labels, as in planted with the withheld ones put back, but "
                f"{what}; plant from the same labels"
            )


def _keep_classes(verdicts: Verdicts, given: Tensor, seen: Tensor) -> tuple[Tensor, list[int]]:
    """The mask, with classes that would lose all samples that were seen kept; and which these are."""
    kept = torch.bincount(given, weights=(verdicts.mask & seen).double())
    there = torch.bincount(given, weights=seen.double())
    emptied = ((kept == 0) & (there > 0)).nonzero().flatten()
    return verdicts.mask | torch.isin(given, emptied), emptied.tolist()


def _by_count(
    counts: StatusEvidence | TimesEvidence, clean: Tensor, mask: Tensor, size: int
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], float]:
    """For the picture: mean probability by count, and the largest count of which at least half is kept.

    Of samples seen in all epochs of the window; counts without any continue the one below.
    """
    cells = torch.arange(size**2, dtype=torch.float32).reshape(size, size)
    cell = counts.lookup(cells).long()
    full = cell % size == size - 1
    m = cell[full] // size
    there = torch.bincount(m, minlength=size).cpu().numpy()
    sums = (
        torch.bincount(m, weights=values[full].double(), minlength=size).cpu().numpy()
        for values in (clean, mask)
    )
    mean, kept = (np.where(there > 0, total / np.maximum(there, 1), np.nan) for total in sums)
    known = np.flatnonzero(there > 0)
    posterior = np.zeros((size, size), dtype=np.float32)
    threshold = float(size - 1)
    if len(known):
        below = known[np.maximum(np.searchsorted(known, np.arange(size), "right") - 1, 0)]
        posterior[:, -1] = mean[below]
        half = np.flatnonzero(np.nan_to_num(kept) >= 0.5)
        threshold = float(half[-1]) if len(half) else -1.0
    return posterior, threshold


def _classes(
    given: Tensor, mask: Tensor, clean: Tensor, rate: NoiseRate | None
) -> tuple[ClassSelection, ...]:
    """What was decided about each given class; its noise rate is the mean probability of a wrong label."""
    there = torch.bincount(given)
    kept = torch.bincount(given, weights=mask.double())
    wrong = torch.bincount(given, weights=1.0 - clean.double()) / there.clamp(min=1)
    error = Z * (wrong * (1 - wrong) / there.clamp(min=1)).sqrt()
    result = []
    for k in there.nonzero().flatten().tolist():
        own = None
        if rate is not None:
            own = _class_rate(float(wrong[k]), float(error[k]), rate)
        result.append(
            ClassSelection(
                label=k,
                num_samples=int(there[k]),
                num_kept=int(kept[k]),
                threshold=float("nan"),
                supported=rate is not None,
                reason="judged with all samples, by what the planted labels measure",
                noise_rate=own,
            )
        )
    return tuple(result)


def _class_rate(wrong: float, error: float, rate: NoiseRate) -> NoiseRate:
    """A class's rate is as unsure as the whole rate, in proportion; counting adds an error of its own."""
    below, above = (
        (bound / rate.rate - 1) * wrong if rate.rate else 0.0 for bound in (rate.low, rate.high)
    )
    if not rate.rate:
        above = rate.high
    return NoiseRate(
        wrong,
        max(0.0, wrong - float(np.hypot(below, error))),
        min(1.0, wrong + float(np.hypot(above, error))),
        measured=True,
    )
