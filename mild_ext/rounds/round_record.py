"""What the rounds record: how much each round's status keeps, the training dynamics of all of them, and figures."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mild_ext.recording._checks import RECORDS
from mild_ext.recording.status import LearningStatus
from mild_ext.rounds.round_end import RoundOutcome
from mild_ext.selection import PlantedLabels, Selection
from mild_ext.selection.table import dynamics_columns

#: A figure's value is a share or a count; its name goes behind ``mild_ext/`` where a logger is not ours alone.
Figures = dict[str, float]


def checked_record(record: str | None, plants: bool) -> str | None:
    """``record`` of `mild_ext.rounds.Rounds`.

    Raises:
        ValueError: no such level, or one that does not tell what planted labels need.
    """
    known = RECORDS[1:] if plants else RECORDS
    if record is not None and record not in known:
        where = " where labels are planted (plant=0 plants none)" if plants else ""
        raise ValueError(f"record must be one of {', '.join(known)}{where}; got {record!r}")
    return record


def newest_dynamics(
    before: Mapping[str, Tensor],
    status: LearningStatus,
    watched: Tensor,
    planted: PlantedLabels | None,
) -> dict[str, Tensor]:
    """The training dynamics after a round: its own of the samples watched under their given label, else as before."""
    columns = dynamics_columns(status, None if planted is None else planted.mask)
    newest = dict(before)
    for name, column in columns.items():
        values = column.cpu()
        old = before.get(name, torch.full_like(values, torch.nan))
        newest[name] = torch.where(watched & ~values.isnan(), values, old)
    return newest


def epoch_figures(status: LearningStatus) -> Figures:
    """What the epoch that ended last came to; waits for the device.

    Returns:
        ``memorized``: share of the samples seen in it whose label (the one trained on, planted ones too) was
        predicted, in [0, 1]; nothing where none was seen. With predicted classes ``prediction_changes``: how many
        samples are predicted to be of another class than when they were last seen (the label wave; 0 in the first
        epoch).
    """
    last = status.epoch - 1
    if last < 0:
        return {}
    counts = status.histogram(slice(last, last + 1))
    memorized, seen = int(counts[0, 1]), int(counts[:, 1].sum())
    figures: Figures = {"memorized": memorized / seen} if seen else {}
    if status.record != "status":
        figures["prediction_changes"] = int(status.label_wave(slice(0, last + 1))[last])
    return figures


def round_figures(outcome: RoundOutcome, selection: Selection) -> Figures:
    """What a round came to.

    Returns:
        ``dropped`` and ``kept``: samples, counts; ``noise_rate``: share of wrong labels in [0, 1], with the ends of its
        interval ``noise_rate_low`` and ``noise_rate_high``, where it was estimated.
    """
    figures: Figures = {"dropped": outcome.removed, "kept": int(outcome.kept.sum())}
    rate = getattr(selection, "noise_rate", None)
    if rate is not None:
        figures |= {
            "noise_rate": rate.rate,
            "noise_rate_low": rate.low,
            "noise_rate_high": rate.high,
        }
    return figures
