"""What the samples come to class by class: how many are wrong, and which classes are mixed up."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mild_ext.report.run_data import Sample, Suspect

#: A larger matrix cannot be read; the most frequent confusions are listed all the same.
MOST_CLASSES = 15


def class_noise(
    samples: list[Sample], num_classes: int, *, estimated: bool = True
) -> list[dict[str, Any]]:
    """Per given class: samples, share dropped, estimated noise, and the share really wrong if known.

    The estimate is the mean probability that the label is wrong, None with ``estimated=False``.
    Sorted by it, highest first.
    """
    by_class: list[list[Sample]] = [[] for _ in range(num_classes)]
    for s in samples:
        by_class[s.given_label].append(s)
    rows = []
    for k, members in enumerate(by_class):
        known = [s for s in members if s.true_label is not None]
        rows.append(
            {
                "label": k,
                "count": len(members),
                "dropped": _mean([float(not s.kept) for s in members]),
                "estimated": _mean([1 - s.clean_probability for s in members])
                if estimated
                else None,
                "wrong": _mean([float(s.true_label != k) for s in known]),
            }
        )
    return sorted(rows, key=lambda row: -(row["estimated"] or 0))


def flows(samples: list[Sample], *, suggested: bool) -> list[dict[str, Any]]:
    """Given label -> another one, counted over dropped samples; largest first.

    The other one is the suggested label, or, with ``suggested=False``, what the final model predicts.
    """
    counts: dict[tuple[int, int], list[Sample]] = {}
    for s in samples:
        other = s.suggested_label if suggested else s.predicted_label
        if not s.kept and other is not None and other not in (s.given_label, -1):
            counts.setdefault((s.given_label, other), []).append(s)
    rows = [
        {
            "given": given,
            "other": other,
            "count": len(members),
            "right": _mean([float(s.true_label == other) for s in members])
            if members[0].true_label is not None
            else None,
        }
        for (given, other), members in counts.items()
    ]
    return sorted(rows, key=lambda row: -row["count"])


def confusion_matrix(suspects: list[Suspect]) -> dict[str, Any] | None:
    """Dropped samples by given (row) and suggested label (column); None where it is empty or too large."""
    counts = Counter(
        (s.given_label, s.suggested_label)
        for s in suspects
        if s.dropped and s.suggested_label is not None
    )
    classes = sorted({k for pair in counts for k in pair if k is not None})
    if not counts or len(classes) > MOST_CLASSES:
        return None
    largest = max(counts.values())
    return {
        "columns": classes,
        "rows": [
            {
                "given": given,
                "cells": [
                    {
                        "suggested": k,
                        "count": counts[given, k],
                        "part": round(60 * counts[given, k] / largest),  # percent of the color
                    }
                    for k in classes
                ],
            }
            for given in classes
        ],
    }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
