"""What the report reads of a run's folder: its config, its records, its samples, its summary."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mild_ext.files import without_apostrophe
from mild_ext.reading import UnreadableFile, read_json, read_text, reading
from mild_ext.sealed import read_sealed_json
from mild_ext.training.suspects import SUSPECTS
from mild_ext.training.suspects import read_suspects as read_lines


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
    suggestion_confidence: float | None = None
    name: str | None = None


@dataclass(frozen=True)
class Suspect:
    """One line of ``suspects.csv``: a sample to look at, labels as class numbers.

    Attributes:
        id: the file or sample name where there is one, else the number.
        number: position in the data set; None where it is not known.
        given_label, suggested_label: the latter is None where nothing is suggested.
        suggestion_confidence: in [0, 1], that the suggested label is the true one, if the given one is wrong.
        suspicion: higher = more likely wrong; comparable within one run only.
        dropped: whether the run takes the label to be wrong.
        true_label: where it is known.
    """

    id: str
    number: int | None
    given_label: int
    suggested_label: int | None
    suggestion_confidence: float | None
    suspicion: float
    dropped: bool
    true_label: int | None = None


def read_config(run: Path) -> dict[str, Any]:
    """What ``config.json`` says.

    Raises:
        ValueError: the folder holds no run, or a comparison.
    """
    path = run / "config.json"
    if (run / "results.json").is_file():
        raise UnreadableFile(
            f"{run} holds a comparison, not a run; its table is {run / 'table.txt'}"
        )
    if not path.is_file():
        raise UnreadableFile(f"there is no run in {run} (no config.json)")
    config = read_sealed_json(path, "run's config")
    with reading(path, "it is not the config of a run"):
        _ = config["settings"]["recipe"], config["data"]["classes"], config["noise"]
    return config


def run_key(run: Path, config: dict[str, Any]) -> str:
    """Tells runs apart: 16 hexadecimal digits of its settings, its classes and its given labels."""
    digest = hashlib.sha256(json.dumps([config["settings"], config["data"]]).encode())
    labels = run / "given_labels.npy"
    if labels.is_file():
        digest.update(labels.read_bytes())
    return digest.hexdigest()[:16]


def read_history(run: Path) -> list[dict[str, Any]]:
    """The records of ``history.jsonl``; of a run that was killed, the whole ones.

    Where there is no such file, the rounds that ``result.safetensors`` tells of.

    Raises:
        ValueError: the file is damaged.
    """
    path = run / "history.jsonl"
    records: list[dict[str, Any]] = []
    if path.is_file():
        lines = read_text(path).split("\n")
        with reading(path):
            # What follows the last line break is empty, or half a line of a run that was killed.
            records = [json.loads(line) for line in lines[:-1]]
    elif (result := run / "result.safetensors").is_file():
        from safetensors import safe_open

        with reading(result), safe_open(result, framework="np") as file:
            records = json.loads((file.metadata() or {}).get("rounds", "[]"))
    with reading(path):
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
    samples = []
    for row in _rows(run / "selection.csv"):
        dropped, truth = row.get("round_dropped"), row.get("true_label")
        suggested, confidence = row.get("suggested_label"), row.get("suggestion_confidence")
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
                predicted_label=int(row["predicted_label"] or -1),
                true_label=int(truth) if truth else None,
                suspicion=float(row.get("suspicion") or 0.0),
                suggested_label=int(suggested) if suggested else None,
                suggestion_confidence=float(confidence) if confidence else None,
                name=without_apostrophe(row.get("name") or "") or None,
            )
        )
    return samples


def read_suspects(run: Path, samples: list[Sample], classes: list[str]) -> list[Suspect]:
    """The lines of ``suspects.csv``, most suspicious first; without that file, ``samples`` in that order.

    Args:
        run: the run's folder.
        samples: of ``selection.csv``, for the numbers and the true labels.
        classes: the names of the classes.

    Raises:
        ValueError: a label in the file is no class of the run.
    """
    path = run / SUSPECTS
    if not path.is_file():
        return [_suspect(s) for s in most_suspicious(samples)]
    numbers = {name: k for k, name in enumerate(classes)}
    by_id = {_id_of(s): s for s in samples}

    def label(name: str) -> int:
        if name not in numbers:
            raise ValueError(f"{path}: {name!r} is no class of the run")
        return numbers[name]

    suspects = []
    with reading(path):
        for line in read_lines(path):
            sample, suggested = by_id.get(line.id), line.suggested_label
            suspects.append(
                Suspect(
                    id=line.id,
                    number=sample.id if sample else int(line.id) if line.id.isdecimal() else None,
                    given_label=label(line.given_label),
                    suggested_label=None if suggested is None else label(suggested),
                    suggestion_confidence=line.suggestion_confidence,
                    suspicion=line.suspicion,
                    dropped=line.dropped,
                    true_label=None if sample is None else sample.true_label,
                )
            )
    return suspects


def most_suspicious(samples: list[Sample]) -> list[Sample]:
    """All samples, the dropped ones first, each part by the probability of a right label, lowest first.

    Many share one probability; the suspicion tells these apart.
    """
    return sorted(
        samples, key=lambda s: (s.kept, s.clean_probability, -s.suspicion, -s.metric, s.id)
    )


def _suspect(sample: Sample) -> Suspect:
    return Suspect(
        id=_id_of(sample),
        number=sample.id,
        given_label=sample.given_label,
        suggested_label=sample.suggested_label,
        suggestion_confidence=sample.suggestion_confidence,
        suspicion=sample.suspicion,
        dropped=not sample.kept,
        true_label=sample.true_label,
    )


def _id_of(sample: Sample) -> str:
    return str(sample.id) if sample.name is None else sample.name


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with reading(path), open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
