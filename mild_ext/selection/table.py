"""Tables of samples: one row per sample, columns of NumPy arrays.

    id                     the sample's id; the index of a frame
    dropped                True = its label is taken to be wrong
    clean_probability      float32 in [0, 1], probability that the given label is right; higher = cleaner
    suspicion              float32, higher = more likely a wrong label; comparable within one table only
    given_label            int64, where given to the function
    suggested_label        int64, the class voted for besides the given one, -1: none; missing without planted labels
    suggestion_confidence  float32 in [0, 1], that it is the true one if the given one is wrong
    predicted_label        int64, the model's, where given to the function
    metric                 int32 in [-P, P], MILD metric; lower = cleaner
    misclassified ...      int32, the transition times, see `mild_ext.TransitionTimes`
    seen                   int32, epochs in which the sample was seen
    margin ...             float32, training dynamics, see `dynamics_columns`; where they were recorded
    round_dropped          int64, missing where the sample was kept
    reason                 text, why it was dropped; empty where it was kept

`Selection.table`, `RoundsResult.table` and `RoundTracker.table` make them.
"""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mild_ext.files import as_text, spreadsheet_safe, write_atomically

if TYPE_CHECKING:
    import pandas as pd

Table = dict[str, NDArray[Any]]


def samples_table(
    *,
    dropped: Any,
    clean_probability: Any,
    times: Mapping[str, Any],
    ids: Sequence[Any] | ArrayLike | None = None,
    given_labels: ArrayLike | None = None,
    predicted_labels: ArrayLike | None = None,
    round_dropped: Any = None,
    dynamics: Mapping[str, Any] | None = None,
    suspicion: Any = None,
    suggested_labels: Any = None,
    suggestion_confidence: Any = None,
) -> Table:
    """The table of N samples; arrays may be tensors.

    Args:
        dropped: bool ``[N]``.
        clean_probability: float ``[N]`` in [0, 1].
        times: integers ``[N]`` by name, in epochs: ``misclassified`` and ``seen``, and whatever else
            of the transition times is to be shown.
        ids: ``[N]`` unique ids, numbers or texts; positions in the data set by default.
        given_labels: integers ``[N]``.
        predicted_labels: integers ``[N]``, what a model says.
        round_dropped: integers ``[N]``, -1 where kept; 0 for every dropped sample by default.
        dynamics: float32 ``[N]`` by name, as of `dynamics_columns`; those that ``times`` has too are left out.
        suspicion: float ``[N]``.
        suggested_labels, suggestion_confidence: integers ``[N]``, -1 where nothing is suggested, and float ``[N]`` in
            [0, 1].

    Returns:
        Column names and arrays ``[N]``, in the order above.

    Raises:
        ValueError: a column's length is not N, or ids are not unique.
    """
    dropped, probability = _numpy(dropped), _numpy(clean_probability).astype(np.float32)
    counts = {name: _numpy(values) for name, values in times.items()}
    if "memorized" not in counts:
        counts = {
            "metric": 2 * counts["misclassified"] - counts["seen"],
            "misclassified": counts["misclassified"],
            "memorized": counts["seen"] - counts["misclassified"],
            "seen": counts["seen"],
        }
    more = {name: _numpy(values) for name, values in (dynamics or {}).items() if name not in counts}
    count = len(dropped)
    dropped_in = np.where(dropped, 0, -1) if round_dropped is None else _numpy(round_dropped)
    ids = np.arange(count) if ids is None else np.asarray(ids)
    suggested: Table = {}
    if suggested_labels is not None and (_numpy(suggested_labels) >= 0).any():
        suggested["suggested_label"] = _numpy(suggested_labels)
        suggested["suggestion_confidence"] = _numpy(suggestion_confidence)
    optional = {
        "ids": ids,
        "given_labels": None if given_labels is None else _numpy(given_labels),
        "predicted_labels": None if predicted_labels is None else _numpy(predicted_labels),
        "round_dropped": dropped_in,
        "suspicion": None if suspicion is None else _numpy(suspicion),
    }
    for name, values in (optional | suggested | counts | more).items():
        if values is not None and values.shape != (count,):
            raise ValueError(
                f"{name} must have one entry for each of the {count} samples, got shape "
                f"{list(values.shape)}"
            )
    if len(np.unique(ids)) != count:
        names, often = np.unique(ids, return_counts=True)
        raise ValueError(
            f"ids must be unique, but {names[often > 1].tolist()[0]!r} occurs {often[often > 1][0]} times"
        )
    table = {
        "id": ids,
        "dropped": dropped,
        "clean_probability": probability,
        "suspicion": optional["suspicion"],
        "given_label": optional["given_labels"],
        **suggested,
        "predicted_label": optional["predicted_labels"],
        "metric": counts["metric"],
        **{name: values for name, values in counts.items() if name not in ("metric", "seen")},
        "seen": counts["seen"],
        **more,
        "round_dropped": dropped_in.astype(np.int64),
        "reason": _reasons(dropped, probability, counts["misclassified"], counts["seen"]),
    }
    return {name: values for name, values in table.items() if values is not None}


def dynamics_columns(status: Any, without: Tensor | None = None) -> dict[str, Tensor]:
    """The training dynamics of every sample as columns, over the whole record.

    Args:
        status: a LearningStatus.
        without: bool ``[N]``, samples that were trained on another label than the given one, as planted ones are.

    Returns:
        The ``[N]`` of `mild_ext.Dynamics` but ``seen``, and ``shortfall``, by name, float32 on the status' device;
        NaN where the sample was not seen, or is in ``without``. Empty unless the status has ``record="all"``.
    """
    if getattr(status, "record", "status") != "all":
        return {}
    found = status.dynamics()
    columns = {
        item.name: getattr(found, item.name)
        for item in dataclasses.fields(found)
        if item.name not in ("seen", "k", "num_epochs")
    }
    columns["shortfall"] = status.shortfall()
    unknown = found.seen == 0
    if without is not None:
        unknown |= without.to(unknown.device)
    return {
        name: values.float().masked_fill(unknown, torch.nan) for name, values in columns.items()
    }


def to_frame(table: Table) -> pd.DataFrame:
    """The table as a pandas DataFrame, indexed by id."""
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("to_frame needs pandas: pip install 'mild_ext[export]'") from error
    frame = pd.DataFrame(table)
    frame["round_dropped"] = frame["round_dropped"].astype("Int64").mask(frame["round_dropped"] < 0)
    return frame.set_index("id")


def to_cleanlab(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as cleanlab's ``CleanLearning`` takes label issues, with its names for two columns."""
    return frame.rename(columns={"dropped": "is_label_issue", "clean_probability": "label_quality"})


def write_table(table: Table, path: str | os.PathLike[str]) -> None:
    """Write the table as ``.csv`` (needs nothing) or ``.parquet`` (needs the extra ``export``).

    An existing file is replaced only once the new one is complete.

    Raises:
        ValueError: the name ends in neither.
        ImportError: Parquet without pyarrow.
    """
    path = Path(path)
    write = {".csv": _write_csv, ".parquet": _write_parquet}.get(path.suffix.lower())
    if write is None:
        raise ValueError(f"path must end in .csv or .parquet, got {path.name!r}")
    write_atomically(path, lambda temporary: write(table, temporary))


def _write_csv(table: Table, path: Path) -> None:
    columns = {name: values.tolist() for name, values in table.items()}
    columns["clean_probability"] = [f"{value:.6g}" for value in columns["clean_probability"]]
    columns["id"] = [spreadsheet_safe(i) if isinstance(i, str) else i for i in columns["id"]]
    for name, values in table.items():
        if name != "clean_probability" and np.issubdtype(values.dtype, np.floating):
            columns[name] = ["" if value != value else f"{value:.6g}" for value in columns[name]]
    columns["round_dropped"] = ["" if value < 0 else value for value in columns["round_dropped"]]
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _write_parquet(table: Table, path: Path) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(
            "Parquet needs pyarrow: pip install 'mild_ext[export]', or write .csv"
        ) from error
    missing = {"round_dropped": table["round_dropped"] < 0}
    arrays = {
        name: pa.array(_as_texts(values), mask=missing.get(name)) for name, values in table.items()
    }
    pq.write_table(pa.table(arrays), path)


def _as_texts(values: NDArray[Any]) -> NDArray[Any]:
    """The same, names spelled out where they are no text."""
    if values.dtype.kind not in "OU":
        return values
    return np.array([as_text(v) if isinstance(v, str) else v for v in values], dtype=object)


def _reasons(
    dropped: NDArray[np.bool_],
    probability: NDArray[np.float32],
    misclassified: NDArray[np.int32],
    seen: NDArray[np.int32],
) -> NDArray[Any]:
    reasons = np.full(len(dropped), "", dtype=object)
    # Few different texts for many samples: as many as there are pairs of counts.
    facts = np.stack([misclassified[dropped], seen[dropped], probability[dropped]], axis=1)
    facts, which = np.unique(facts, axis=0, return_inverse=True)
    texts = [
        f"misclassified in {m:.0f} of {n:.0f} epochs; probability {p:.3f} that the label is right"
        for m, n, p in facts
    ]
    if texts:
        reasons[dropped] = np.array(texts, dtype=object)[which.ravel()]
    return reasons


def _numpy(values: Any) -> NDArray[Any]:
    return np.asarray(values.cpu().numpy() if hasattr(values, "cpu") else values)
