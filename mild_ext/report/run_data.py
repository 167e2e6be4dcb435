"""What the report reads of a run's folder: its config, its history, its selection, its summary."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mild_ext.reading import read_json, read_text, reading
from mild_ext.sealed import read_sealed_json


@dataclass(frozen=True)
class Sample:
    """One line of ``selection.csv``. Labels are class numbers; ``suspicion`` is higher = more likely wrong."""

    id: int
    given_label: int
    misclassified: int
    seen: int
    metric: int
    clean_probability: float
    kept: bool
    round_dropped: int | None
    predicted_label: int
    true_label: int | None
    suspicion: float = 0.0
    suggested_label: int | None = None


def read_config(run: Path) -> dict[str, Any]:
    """What ``config.json`` says.

    Raises:
        ValueError: the folder holds no run, or a comparison.
    """
    path = run / "config.json"
    if (run / "results.json").is_file():
        raise ValueError(f"{run} holds a comparison, not a run; its table is {run / 'table.txt'}")
    if not path.is_file():
        raise ValueError(f"there is no run in {run} (no config.json)")
    config = read_sealed_json(path, "run's config")
    with reading(path, "it is not the config of a run"):
        _ = config["settings"]["recipe"], config["data"]["classes"], config["noise"]
    return config


def read_history(run: Path) -> list[dict[str, Any]]:
    """The records of ``history.jsonl``; of a run that was killed, the whole ones.

    Raises:
        ValueError: the file is damaged.
    """
    path = run / "history.jsonl"
    if not path.is_file():
        return []
    lines = read_text(path).split("\n")
    with reading(path):
        # What follows the last line break is empty, or half a line of a run that was killed.
        records = [json.loads(line) for line in lines[:-1]]
        for number, record in enumerate(records, 1):
            if not isinstance(record, dict) or "type" not in record:
                raise ValueError(f"line {number} is no record of a run")
    return records


def read_summary(run: Path) -> dict[str, Any] | None:
    """What ``summary.json`` says; None as long as the run is not finished.

    Raises:
        ValueError: the file is damaged.
    """
    path = run / "summary.json"
    if not path.is_file():
        return None
    summary = read_json(path)
    with reading(path):
        if not isinstance(summary, dict):
            raise ValueError("it is not the summary of a run")
    return summary


def read_selection(run: Path) -> list[Sample]:
    """The lines of ``selection.csv``; none as long as the run is not finished."""
    path = run / "selection.csv"
    if not path.is_file():
        return []
    samples = []
    with reading(path), open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            dropped, truth = row.get("round_dropped"), row.get("true_label")
            suggested = row.get("suggested_label")
            samples.append(
                Sample(
                    id=int(row["id"]),
                    given_label=int(row["given_label"]),
                    misclassified=int(row["misclassified"]),
                    seen=int(row["seen"]),
                    metric=int(row["metric"]),
                    clean_probability=float(row["clean_probability"]),
                    kept=row["kept"] == "1",
                    round_dropped=int(dropped) if dropped else None,
                    predicted_label=int(row["predicted_label"]),
                    true_label=int(truth) if truth else None,
                    suspicion=float(row.get("suspicion") or 0.0),
                    suggested_label=int(suggested) if suggested else None,
                )
            )
    return samples
