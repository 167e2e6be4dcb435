"""Columns of numbers and of categories as one vector per row, and what is needed to encode further rows.

Numbers are standardized by their mean and standard deviation and cut off at `LARGEST` deviations; a missing one is
the median, with a column that says so. A category has a column for each of its values, 1 where it holds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mild_ext.data.missing import is_missing
from mild_ext.data.readers.table_file import Row, cell_text

#: Standardized numbers are cut off here: one value that is far out must not drown all others.
LARGEST = 6.0
#: Deviations over which nine in ten values of a column lie at least, or the others are said to be far out.
LEAST_SPREAD = 0.01
#: A category with more values than this is taken for a name or a text, and left out.
MOST_VALUES = 100
#: Cells of a Parquet file that are more than one value.
_NO_VALUE = (list, tuple, dict, bytes)
#: Words that stand for a missing value in a column, beside those that stand for a missing label.
_MISSING_WORDS = ("none", "?")


def _is_absent(cell: str) -> bool:
    return is_missing(cell) or cell.lower() in _MISSING_WORDS


def encode_columns(
    rows: Sequence[Row], columns: Sequence[str], path: Path
) -> tuple[Tensor, dict[str, Any], list[str]]:
    """Vectors of rows.

    Args:
        rows: N rows.
        columns: to learn from.
        path: for messages.

    Returns:
        float32 ``[N, features]``; the encoding, for `apply_columns`; and messages on what was filled in or left out.

    Raises:
        ValueError: no column that can be learned from.
    """
    encoding: list[dict[str, Any]] = []
    messages: list[str] = []
    gaps: dict[str, int] = {}
    for name in columns:
        odd = next((row[name] for row in rows if isinstance(row[name], _NO_VALUE)), None)
        if odd is not None:
            messages.append(
                f"column {name} is left out: it holds {type(odd).__name__}s, not one number or word a row (vectors are "
                "read from npz: and hf:)"
            )
            continue
        cells = [cell_text(row[name]) for row in rows]
        there = [cell for cell in cells if not _is_absent(cell)]
        if len(there) < len(cells):
            gaps[name] = len(cells) - len(there)
        fitted = _fit(name, cells, there)
        if isinstance(fitted, str):
            messages.append(f"column {name} is left out: {fitted}")
        else:
            encoding.append(fitted)
            messages += _taken_for_category(name, fitted, there)
            if fitted["kind"] == "number":
                numbers = np.array([float(cell) for cell in there])
                messages += filter(None, [_far_out(name, numbers, fitted["deviation"])])
    if not encoding:
        raise ValueError(f"{path} has no column to learn from: {'; '.join(messages)}")
    if gaps:
        worst = sorted(gaps.items(), key=lambda item: -item[1])[:3]
        listed = ", ".join(f"{name} {count}" for name, count in worst)
        messages.append(
            f"{sum(gaps.values())} values are missing, in {len(gaps)} columns, most in {listed}; filled in (numbers "
            "with the median) and marked"
        )
    made: dict[str, Any] = {"kind": "columns", "columns": encoding}
    return apply_columns(rows, made), made, messages


def _fit(name: str, cells: Sequence[str], there: Sequence[str]) -> dict[str, Any] | str:
    """How to encode a column, or why it is left out."""
    if not there:
        return "it is empty"
    values = Counter(there)
    if len(values) == 1 and len(there) == len(cells):
        return f"all its values are {there[0]!r}"
    numbers = _numbers(there)
    if numbers is not None:
        if _counts_rows(numbers):
            return "it numbers the rows"
        mean, deviation = _mean_and_deviation(numbers)
        return {
            "name": name,
            "kind": "number",
            "mean": mean,
            "deviation": deviation if deviation > 0 else 1.0,
            "median": float(np.median(numbers)),
            "missing": len(there) < len(cells),
        }
    if len(values) > MOST_VALUES:
        too_many = f"{len(values)} different values are too many for a category"
        if why := _no_numbers(there):
            return f"{too_many}, although most of its values are numbers: {why}"
        return f"{too_many}; is it a text (text={name})?"
    known = sorted(values)
    return {"name": name, "kind": "category", "values": known + [""] * (len(there) < len(cells))}


def _taken_for_category(name: str, fitted: Mapping[str, Any], there: Sequence[str]) -> list[str]:
    """A message where most values of a category are numbers: it was meant for numbers, perhaps."""
    why = _no_numbers(there) if fitted["kind"] == "category" else ""
    taken = f"column {name} is taken for a category, although most of its values are numbers: {why}"
    return [taken] if why else []


def _no_numbers(there: Sequence[str]) -> str:
    """Why a column whose values are mostly numbers is none of numbers; empty where they are not."""
    others = Counter(
        {
            cell: count
            for cell, count in Counter(there).items()
            if _numbers([cell.replace(",", ".", 1)]) is None
        }
    )
    if 2 * sum(others.values()) >= len(there):
        return ""
    if others:
        return f"{others.most_common(1)[0][0]!r} is none"
    return "a number needs a point, not a comma"


def _mean_and_deviation(numbers: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = float(numbers.mean()), float(numbers.std())
    if math.isfinite(mean) and math.isfinite(deviation):
        return mean, deviation
    scale = float(np.abs(numbers).max())  # their squares, or their sum, are too large for a float
    return float((numbers / scale).mean()) * scale, float((numbers / scale).std()) * scale


def _far_out(name: str, numbers: np.ndarray[Any, np.dtype[np.float64]], deviation: float) -> str:
    """A message where a few values are so far out that the others are as good as equal beside them."""
    low, high = np.quantile(numbers, (0.05, 0.95))
    if not 0 < high - low < LEAST_SPREAD * deviation:
        return ""
    farthest = max(numbers.min(), numbers.max(), key=abs)
    return (
        f"column {name} says little: some of its values are so far out (e.g. {farthest:g}) that nine in ten are as "
        "good as equal beside them; mend these in the file, or leave them empty, where they stand for nothing"
    )


def _numbers(cells: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    try:
        numbers = np.array([float(cell) for cell in cells])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _counts_rows(numbers: np.ndarray[Any, np.dtype[np.float64]]) -> bool:
    """Whether a column only counts: an index somebody saved with the table."""
    return len(numbers) > 2 and bool((np.diff(numbers) == 1).all())


def apply_columns(rows: Sequence[Mapping[str, Any]], encoding: Mapping[str, Any]) -> Tensor:
    """Vectors float32 ``[N, features]`` of rows, by an encoding; a value never seen has no column."""
    parts: list[list[float]] = [[] for _ in rows]
    for column in encoding["columns"]:
        known = {value: k for k, value in enumerate(column.get("values", ()))}
        for part, row in zip(parts, rows, strict=True):
            cell = cell_text(row[column["name"]])
            if _is_absent(cell):
                cell = ""
            if column["kind"] == "category":
                hot = [0.0] * len(known)
                if cell in known:
                    hot[known[cell]] = 1.0
                part += hot
                continue
            number = _number(cell, column["median"])
            scaled = (number - column["mean"]) / column["deviation"]
            part.append(max(-LARGEST, min(LARGEST, scaled)))
            if column["missing"]:
                part.append(float(cell == ""))
    return torch.tensor(parts, dtype=torch.float32)


def _number(cell: str, median: float) -> float:
    try:
        number = float(cell) if cell else median
    except ValueError:
        return median
    return number if math.isfinite(number) else median
