"""What a comparison comes to: a line a method and noise, over its seeds (``summary.csv``)."""

from __future__ import annotations

import csv
import io
import statistics
from typing import Any

import torch

from mild_ext.training.chance import mean_interval, paired_difference, seeds_interval
from mild_ext.training.comparison_folder import RIGHT, unpack_right
from mild_ext.training.experiment import Row

#: The method that the others are held against.
PLAIN = "plain"
#: The columns of ``summary.csv``; docs/comparing.md says what they mean.
COLUMNS = (
    *("method", "noise", "noise_rate", "seeds", "test_samples"),
    *("test_accuracy", "low", "high", "seed_deviation"),
    *("against_plain", "against_plain_low", "against_plain_high"),
    *("f1", "f1_low", "f1_high", "precision", "recall", "noise_removed"),
    *("epochs", "steps", "seconds"),
)


def summarize_comparison(rows: list[Row]) -> list[Row]:
    """One row for each noise and method of ``rows``, in their order; None where something is not known.

    Args:
        rows: of `mild_ext.training.comparison.compare`.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["noise"], row["method"]), []).append(row)
    return [
        _summary(own, groups.get((noise, PLAIN), []) if method != PLAIN else [])
        for (noise, method), own in groups.items()
    ]


def _summary(own: list[Row], plain: list[Row]) -> Row:
    """Of the rows of one method and noise, and those of plain training under it."""
    summary: Row = dict.fromkeys(COLUMNS)
    tested = [row for row in own if row["test_accuracy"] is not None]
    summary |= {"method": own[0]["method"], "noise": own[0]["noise"], "seeds": len(tested)}
    for name in (
        "noise_rate",
        "precision",
        "recall",
        "noise_removed",
        "epochs",
        "steps",
        "seconds",
    ):
        values = known(own, name)
        summary[name] = statistics.mean(values) if values else None
    if tested:
        accuracies = [row["test_accuracy"] for row in tested]
        mean, half = mean_interval(accuracies, tested[0]["test_samples"])
        summary |= {"test_samples": tested[0]["test_samples"], "test_accuracy": mean}
        summary |= {"low": mean - half, "high": mean + half}
        if len(tested) > 1:
            summary["seed_deviation"] = statistics.stdev(accuracies)
    scores = known(own, "f1")
    if scores:
        summary["f1"], spread = seeds_interval(scores)
        if spread is not None:
            summary |= {"f1_low": summary["f1"] - spread, "f1_high": summary["f1"] + spread}
    return summary | _against_plain(tested, plain)


def _against_plain(own: list[Row], plain: list[Row]) -> Row:
    """The difference to plain training where it was trained with the very same seeds."""
    others = {row["seed"]: unpack_right(row) for row in plain}
    pairs = [(unpack_right(row), others.get(row["seed"])) for row in own]
    mine, theirs = ([pair[k] for pair in pairs if pair[k] is not None] for k in (0, 1))
    if not pairs or len(mine) < len(pairs) or len(theirs) < len(pairs):
        return {}
    found = paired_difference(torch.stack(mine), torch.stack(theirs))  # type: ignore[arg-type]
    return {
        "against_plain": found["difference"],
        "against_plain_low": found["low"],
        "against_plain_high": found["high"],
    }


def known(rows: list[Row], name: str) -> list[Any]:
    """The values of a column, but the missing ones."""
    return [row[name] for row in rows if row.get(name) is not None]


def summary_text(summary: list[Row]) -> str:
    """``summary.csv``; shares are in [0, 1], and what is not known is empty."""
    return _csv(list(COLUMNS), summary)


def results_text(rows: list[Row]) -> str:
    """``results.csv``: the rows, without the bits of `RIGHT`."""
    return _csv([k for k in dict.fromkeys(k for row in rows for k in row) if k != RIGHT], rows)


def _csv(columns: list[str], rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
