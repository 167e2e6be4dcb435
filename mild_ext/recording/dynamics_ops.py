"""The operations on what a status keeps beside its words, as ``torch.library`` ops.

    record_visits(record!, faults!, epoch, index, logits, labels, num_epochs, num_classes, statistics) -> ()
    fold_epoch(record!, words!, planes!, sums!, epoch, num_classes, parts) -> ()
    predicted_classes(planes, num_samples, num_classes, epoch) -> int32 [N]
    class_votes(planes, num_samples, num_classes, start, stop, first, last) -> int32 [last - first, K]
    majority_vote(planes, excluded?, num_samples, num_classes, start, stop) -> int32 [3, N]
    count_predicted(planes, labels, num_classes, start, stop) -> int32 [N]
    prediction_changes(planes, num_samples, num_classes, start, stop) -> (int32 [N], int64 [P])

Shapes and meanings: csrc/dynamics_ops.h; the same operations in plain torch: reference.py. Like ops.py, this file
takes addresses, and holds every tensor whose address it takes until the call returns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mild_ext.recording import _checks
from mild_ext.recording._native import _C
from mild_ext.recording.ops import TAGS, buffer, library, place, readable, register, threads_worth

#: What `fold_epoch` does; a sum of these.
INTO_EPOCH, INTO_SUMS, EMPTIED = 1, 2, 4

library.define(
    "record_visits(Tensor(a!) record, Tensor(b!) faults, Tensor epoch, Tensor index, Tensor logits, Tensor labels, "
    "int num_epochs, int num_classes, bool statistics) -> ()",
    tags=TAGS,
)
library.define(
    "fold_epoch(Tensor(a!) record, Tensor(b!) words, Tensor(c!) planes, Tensor(d!) sums, Tensor epoch, "
    "int num_classes, int parts) -> ()",
    tags=TAGS,
)
_READING = "int num_samples, int num_classes, int start, int stop"
library.define(
    "predicted_classes(Tensor planes, int num_samples, int num_classes, int epoch) -> Tensor",
    tags=TAGS,
)
library.define(
    f"class_votes(Tensor planes, {_READING}, int first, int last) -> Tensor",
    tags=TAGS,
)
library.define(f"majority_vote(Tensor planes, Tensor? excluded, {_READING}) -> Tensor", tags=TAGS)
library.define(
    "count_predicted(Tensor planes, Tensor labels, int num_classes, int start, int stop) -> Tensor",
    tags=TAGS,
)
library.define(f"prediction_changes(Tensor planes, {_READING}) -> (Tensor, Tensor)", tags=TAGS)


# ---- recording


def _record_visits(
    record: Tensor,
    faults: Tensor,
    epoch: Tensor,
    index: Tensor,
    logits: Tensor,
    labels: Tensor,
    num_epochs: int,
    num_classes: int,
    statistics: bool,
) -> None:
    _checks.check_record_visits(
        record, faults, epoch, index, logits, labels, num_epochs, num_classes, statistics
    )
    rows, classes = logits.shape
    if rows == 0:
        return
    _checks.check_memory(record=record, faults=faults, epoch=epoch)
    _checks.check_memory(index=index, logits=logits, labels=labels)
    index, logits, labels = readable(index), readable(logits), readable(labels)
    _C.record_visits(
        record.data_ptr(),
        len(record),
        index.data_ptr(),
        index.dtype is torch.int64,
        logits.data_ptr(),
        _checks.LOGIT_TYPES[logits.dtype],
        rows,
        classes,
        logits.stride(0),
        labels.data_ptr(),
        labels.dtype is torch.int64,
        epoch.data_ptr(),
        num_epochs,
        faults.data_ptr(),
        statistics,
        *place(record.device),
        threads_worth(rows * classes),
    )


def record_visits(
    record: Tensor,
    faults: Tensor,
    epoch: Tensor,
    index: Tensor,
    logits: Tensor,
    labels: Tensor,
    num_epochs: int,
    num_classes: int,
    statistics: bool,
) -> None:
    """Record one batch into the open-epoch record, in place: the worst visit of each sample stays.

    Args:
        record: int64 ``[N]``, ``_C.no_visit`` where a sample was not visited; changed. Bits: csrc/visit_record.h.
        faults, epoch, index, labels, num_epochs: as in `mild_ext.recording.ops.update_status`.
        logits: float64, float32, float16 or bfloat16 ``[B, K]``, K = num_classes.
        num_classes: in ``[1, 262144]``.
        statistics: also loss and EL2N.

    Raises:
        TypeError, ValueError, RuntimeError: as in `mild_ext.recording.ops.update_status`.
    """
    _checks.require_tensors(index=index, logits=logits, labels=labels)
    torch.ops.mild_ext.record_visits(
        record, faults, epoch, index, logits.detach(), labels, num_epochs, num_classes, statistics
    )


def _fold_epoch(
    record: Tensor,
    words: Tensor,
    planes: Tensor,
    sums: Tensor,
    epoch: Tensor,
    num_classes: int,
    parts: int,
) -> None:
    _checks.check_fold(record, words, planes, sums, epoch, num_classes, parts)
    _checks.check_memory(record=record, planes=planes, sums=sums, epoch=epoch)
    address, num_samples, num_words = buffer(words)
    _C.fold_epoch(
        record.data_ptr(),
        num_samples,
        address,
        num_words,
        planes.data_ptr(),
        num_classes,
        sums.data_ptr(),
        epoch.data_ptr(),
        planes.shape[0],
        sums.shape[0] == _C.num_sums,
        parts,
        *place(words.device),
        threads_worth(num_samples * 4),
    )


def fold_epoch(
    record: Tensor,
    words: Tensor,
    planes: Tensor,
    sums: Tensor,
    epoch: Tensor,
    num_classes: int,
    parts: int,
) -> None:
    """Take what the open-epoch record holds into epoch ``epoch``, in place.

    Args:
        record: int64 ``[N]``; emptied with `EMPTIED`.
        words: int64 ``[N, W, 2]``; its bits of the epoch are set with `INTO_EPOCH`.
        planes: int32 ``[P, bits, ceil(N / 32)]``; the epoch's classes are overwritten with `INTO_EPOCH`.
        sums: int32 ``[2 or 7, N]``; added to with `INTO_SUMS`. Rows: csrc/epoch_fold.h.
        epoch: int64, one element; outside ``[0, P)`` nothing happens.
        num_classes: K.
        parts: what to do, a sum of `INTO_EPOCH`, `INTO_SUMS`, `EMPTIED`; all three end the epoch.
    """
    torch.ops.mild_ext.fold_epoch(record, words, planes, sums, epoch, num_classes, parts)


# ---- reading


def _predicted_classes(planes: Tensor, num_samples: int, num_classes: int, epoch: int) -> Tensor:
    out = _fake_predicted_classes(planes, num_samples, num_classes, epoch)
    _checks.check_memory(planes=planes)
    _C.predictions(
        planes.data_ptr(),
        num_samples,
        num_classes,
        epoch,
        out.data_ptr(),
        *place(planes.device),
        threads_worth(num_samples),
    )
    return out


def _class_votes(
    planes: Tensor, num_samples: int, num_classes: int, start: int, stop: int, first: int, last: int
) -> Tensor:
    out = _fake_class_votes(planes, num_samples, num_classes, start, stop, first, last)
    if len(out):
        _checks.check_memory(planes=planes)
        _C.class_votes(
            planes.data_ptr(),
            num_samples,
            num_classes,
            start,
            stop,
            first,
            last,
            out.data_ptr(),
            *place(planes.device),
            threads_worth(out.numel()),
        )
    return out


def _majority_vote(
    planes: Tensor,
    excluded: Tensor | None,
    num_samples: int,
    num_classes: int,
    start: int,
    stop: int,
) -> Tensor:
    out = _fake_majority_vote(planes, excluded, num_samples, num_classes, start, stop)
    _checks.check_memory(planes=planes)
    without = None if excluded is None else excluded.contiguous()
    _C.majority_vote(
        planes.data_ptr(),
        num_samples,
        num_classes,
        start,
        stop,
        0 if without is None else without.data_ptr(),
        out.data_ptr(),
        *place(planes.device),
        threads_worth(num_samples * (stop - start)),
    )
    return out


def _count_predicted(
    planes: Tensor, labels: Tensor, num_classes: int, start: int, stop: int
) -> Tensor:
    out = _fake_count_predicted(planes, labels, num_classes, start, stop)
    _checks.check_memory(planes=planes, labels=labels)
    labels = labels.contiguous()
    _C.count_predicted(
        planes.data_ptr(),
        len(labels),
        num_classes,
        start,
        stop,
        labels.data_ptr(),
        out.data_ptr(),
        *place(planes.device),
        threads_worth(len(labels) * (stop - start)),
    )
    return out


def _prediction_changes(
    planes: Tensor, num_samples: int, num_classes: int, start: int, stop: int
) -> tuple[Tensor, Tensor]:
    out, changed = _fake_prediction_changes(planes, num_samples, num_classes, start, stop)
    _checks.check_memory(planes=planes)
    _C.prediction_changes(
        planes.data_ptr(),
        num_samples,
        num_classes,
        start,
        stop,
        out.data_ptr(),
        changed.data_ptr(),
        *place(planes.device),
        threads_worth(num_samples * (stop - start)),
    )
    return out, changed


# ---- registration


def _fake_fold_epoch(
    record: Tensor,
    words: Tensor,
    planes: Tensor,
    sums: Tensor,
    epoch: Tensor,
    num_classes: int,
    parts: int,
) -> None:
    _checks.check_fold(record, words, planes, sums, epoch, num_classes, parts)


def _fake_predicted_classes(
    planes: Tensor, num_samples: int, num_classes: int, epoch: int
) -> Tensor:
    _checks.check_reading(planes, num_samples, num_classes, epoch, epoch + 1)
    return planes.new_empty(num_samples)


def _fake_class_votes(
    planes: Tensor, num_samples: int, num_classes: int, start: int, stop: int, first: int, last: int
) -> Tensor:
    _checks.check_reading(planes, num_samples, num_classes, start, stop)
    if not 0 <= first <= last <= num_samples or first % 32:
        raise ValueError(
            f"samples must be a range in [0, {num_samples}] that begins at a multiple of 32, got {first} to {last}"
        )
    return planes.new_empty((last - first, num_classes))


def _fake_majority_vote(
    planes: Tensor,
    excluded: Tensor | None,
    num_samples: int,
    num_classes: int,
    start: int,
    stop: int,
) -> Tensor:
    _checks.check_reading(planes, num_samples, num_classes, start, stop)
    if excluded is not None:
        _checks.check_class_per_sample("exclude", excluded, planes, num_samples)
    return planes.new_empty((3, num_samples))


def _fake_count_predicted(
    planes: Tensor, labels: Tensor, num_classes: int, start: int, stop: int
) -> Tensor:
    _checks.check_reading(planes, labels.shape[0], num_classes, start, stop)
    _checks.check_class_per_sample("labels", labels, planes, labels.shape[0])
    return planes.new_empty(labels.shape[0])


def _fake_prediction_changes(
    planes: Tensor, num_samples: int, num_classes: int, start: int, stop: int
) -> tuple[Tensor, Tensor]:
    _checks.check_reading(planes, num_samples, num_classes, start, stop)
    return planes.new_empty(num_samples), planes.new_empty(stop - start, dtype=torch.int64)


register(
    ("record_visits", _record_visits, _checks.check_record_visits),
    ("fold_epoch", _fold_epoch, _fake_fold_epoch),
    ("predicted_classes", _predicted_classes, _fake_predicted_classes),
    ("class_votes", _class_votes, _fake_class_votes),
    ("majority_vote", _majority_vote, _fake_majority_vote),
    ("count_predicted", _count_predicted, _fake_count_predicted),
    ("prediction_changes", _prediction_changes, _fake_prediction_changes),
)
