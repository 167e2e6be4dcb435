"""The text of csrc/dynamics_kernels.cuh on the host, in random orders, against the reference; see test_kernels.py."""

from __future__ import annotations

import ctypes

import on_host
import pytest
import torch
from buffers import (
    INT_TYPES,
    LOGIT_TYPES,
    NO_VISIT,
    generator,
    make_logits,
    random_planes,
    random_words,
    same_record,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from on_host import LOGIT_CODES, buffer, int64, pointer
from torch import Tensor

from mild_ext.recording import reference

pytestmark = on_host.MARKS
lanes_of_a_row = st.sampled_from([1, 4, 32, 256])
few_examples = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def run_visits(
    kernels: ctypes.CDLL,
    record: Tensor,
    index: Tensor,
    logits: Tensor,
    labels: Tensor,
    *,
    statistics: bool = True,
    epoch: int = 0,
    lanes: int,
    grid: int,
    seed: int,
) -> list[int]:
    """Runs the kernel; returns the counts of (bad index, bad label, bad epoch)."""
    faults = torch.zeros(3, dtype=torch.int64)
    scalar = torch.tensor(epoch)
    error = kernels.host_record_visits(
        pointer(record),
        int64(len(record)),
        pointer(index),
        ctypes.c_bool(index.dtype == torch.int64),
        pointer(logits),
        ctypes.c_int(LOGIT_CODES[logits.dtype]),
        int64(logits.shape[0]),
        int64(logits.shape[1]),
        int64(logits.stride(0)),
        pointer(labels),
        ctypes.c_bool(labels.dtype == torch.int64),
        pointer(scalar),
        int64(1),
        pointer(faults),
        ctypes.c_bool(statistics),
        ctypes.c_int(lanes),
        ctypes.c_uint(grid),
        ctypes.c_uint(seed),
    )
    assert error is None, error.decode()
    return faults.tolist()


@few_examples
@given(
    seed=st.integers(0, 2**31 - 1),
    rows=st.integers(0, 300),
    classes=st.one_of(st.integers(1, 40), st.integers(1, 400), st.integers(1, 3000)),
    offset=st.integers(0, 9),
    padding=st.integers(0, 9),
    num_samples=st.integers(1, 60),
    grid=st.integers(1, 5),
    lanes=lanes_of_a_row,
    dtype=st.sampled_from(LOGIT_TYPES),
    index_type=st.sampled_from(INT_TYPES),
    label_type=st.sampled_from(INT_TYPES),
    spread=st.booleans(),
    statistics=st.booleans(),
)
def test_visits(
    kernels: ctypes.CDLL,
    seed: int,
    rows: int,
    classes: int,
    offset: int,
    padding: int,
    num_samples: int,
    grid: int,
    lanes: int,
    dtype: torch.dtype,
    index_type: torch.dtype,
    label_type: torch.dtype,
    spread: bool,
    statistics: bool,
) -> None:
    rows = min(rows, 12) if lanes == 256 else min(rows, 3 + 30_000 // classes)
    rng = generator(seed)
    logits = make_logits(rows, classes, dtype, rng)
    if spread:
        logits = logits + torch.randn(logits.shape, generator=rng).to(dtype)
    stride = classes + padding
    memory = torch.full((offset + rows * stride,), float("nan"), dtype=dtype)
    strided = memory[offset:].view(rows, stride)[:, :classes]
    strided.copy_(logits)
    labels = torch.randint(0, classes, (rows,), generator=rng)
    labels[: rows // 2] = 0
    index = torch.randint(0, num_samples, (rows,), generator=rng)
    record, expected = torch.full((2, num_samples), NO_VISIT)
    arguments = (record, index.to(index_type), strided, labels.to(label_type))
    faults = run_visits(
        kernels, *arguments, statistics=statistics, lanes=lanes, grid=grid, seed=seed
    )
    reference.record_visits(expected, index, logits, labels, statistics)
    assert faults == [0, 0, 0]
    same_record(record, expected)


@pytest.mark.parametrize("lanes", [1, 4, 32, 256])
def test_visits_count_bad_rows_and_record_the_others(kernels: ctypes.CDLL, lanes: int) -> None:
    rng = generator(lanes)
    logits = make_logits(40, 11, torch.float32, rng)
    labels = torch.randint(0, 11, (40,), generator=rng)
    index = torch.randint(0, 30, (40,), generator=rng)
    index[3], index[7], labels[7], labels[12] = -1, 1 << 40, 11, -5
    labels[20:30], index[25] = -100, -1  # padding
    record, expected = torch.full((2, 30), NO_VISIT)
    faults = run_visits(kernels, record, index, logits, labels, lanes=lanes, grid=2, seed=1)
    assert faults == [2, 2, 0]
    good = torch.ones(40, dtype=torch.bool)
    good[[3, 7, 12]] = False
    good[20:30] = False
    reference.record_visits(expected, index[good], logits[good], labels[good])
    same_record(record, expected)
    record.fill_(NO_VISIT)
    index, labels = index.clamp(0, 29), labels.where(labels == -100, labels.clamp(0, 10))
    faults = run_visits(
        kernels, record, index, logits, labels, epoch=1, lanes=lanes, grid=2, seed=1
    )
    assert faults == [0, 0, 30]
    assert (record == NO_VISIT).all()


@few_examples
@given(
    seed=st.integers(0, 2**31 - 1),
    num_samples=st.integers(1, 700),
    num_epochs=st.integers(1, 130),
    classes=st.sampled_from([1, 2, 10, 16, 1000]),
    at=st.floats(0, 1),
    statistics=st.booleans(),
    parts=st.sampled_from([1, 2, 3, 7]),
    grid=st.integers(1, 4),
)
def test_fold(
    kernels: ctypes.CDLL,
    seed: int,
    num_samples: int,
    num_epochs: int,
    classes: int,
    at: float,
    statistics: bool,
    parts: int,
    grid: int,
) -> None:
    rng = generator(seed)
    epoch = min(int(at * num_epochs), num_epochs - 1)
    logits = make_logits(num_samples, classes, torch.float32, rng) * 3
    labels = torch.randint(0, classes, (num_samples,), generator=rng)
    record = reference.visits_of(logits, labels)
    record[torch.rand(num_samples, generator=rng) < 0.2] = NO_VISIT
    buffers = [
        record,
        random_words(num_samples, num_epochs, rng, 0.3),
        random_planes(num_samples, num_epochs, classes, rng),
        torch.zeros((7 if statistics else 2, num_samples), dtype=torch.int32),
    ]
    expected = [x.clone() for x in buffers]
    scalar = torch.tensor(epoch)
    error = kernels.host_fold_epoch(
        pointer(buffers[0]),
        int64(num_samples),
        pointer(buffers[1]),
        int64(buffers[1].shape[1]),
        pointer(buffers[2]),
        ctypes.c_int(buffers[2].shape[1]),
        pointer(buffers[3]),
        pointer(scalar),
        int64(num_epochs),
        ctypes.c_bool(statistics),
        ctypes.c_int(parts),
        ctypes.c_uint(grid),
        ctypes.c_uint(seed),
    )
    assert error is None, error.decode()
    # The sums are the CPU's to the bit, which differ from the reference by what exp in float32 does.
    torch.ops.mild_ext.fold_epoch(*expected, scalar, classes, parts)
    for name, ours, theirs in zip(
        ("record", "words", "planes", "sums"), buffers, expected, strict=True
    ):
        assert torch.equal(ours, theirs), name


class ReadClasses(ctypes.Structure):
    """csrc/dynamics_ops.h: PredictedClasses and a window."""

    _fields_ = [
        ("planes", ctypes.c_void_p),
        ("num_samples", ctypes.c_int64),
        ("bits", ctypes.c_int),
        ("num_classes", ctypes.c_int64),
        ("start", ctypes.c_int64),
        ("stop", ctypes.c_int64),
    ]


@few_examples
@given(
    seed=st.integers(0, 2**31 - 1),
    num_samples=st.integers(1, 700),
    num_epochs=st.integers(1, 40),
    classes=st.sampled_from([1, 2, 10, 100]),
    gaps=st.sampled_from([0.0, 0.2, 1.0]),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    grid=st.integers(1, 4),
)
def test_reading(
    kernels: ctypes.CDLL,
    seed: int,
    num_samples: int,
    num_epochs: int,
    classes: int,
    gaps: float,
    ends: tuple[float, float],
    grid: int,
) -> None:
    rng = generator(seed)
    start = int(min(ends) * (num_epochs - 1))
    stop = max(start + 1, int(max(ends) * num_epochs))
    planes = random_planes(num_samples, num_epochs, classes, rng, gaps)
    read = ctypes.byref(
        ReadClasses(planes.data_ptr(), num_samples, planes.shape[1], classes, start, stop)
    )
    order = (ctypes.c_uint(grid), ctypes.c_uint(seed))
    window = (num_samples, classes, start, stop)
    labels = torch.randint(0, classes, (num_samples,), generator=rng)
    out = torch.full((num_samples,), -7, dtype=torch.int32)

    assert kernels.host_predictions(read, pointer(out), *order) is None
    assert torch.equal(out.long(), reference.class_codes(planes, num_samples)[start] - 1)
    assert kernels.host_count_predicted(read, pointer(labels), pointer(out), *order) is None
    assert torch.equal(out, reference.count_predicted(planes, labels, start, stop))

    first = min(32, num_samples // 32 * 32)
    votes = torch.zeros((num_samples - first, classes), dtype=torch.int32)
    ends_of_samples = (int64(first), int64(num_samples))
    assert kernels.host_class_votes(read, *ends_of_samples, pointer(votes), *order) is None
    assert torch.equal(votes, reference.class_votes(planes, *window)[first:])

    best = torch.full((3, num_samples), -7, dtype=torch.int32)
    for excluded in (None, labels):
        address = None if excluded is None else pointer(excluded)
        assert kernels.host_majority_vote(read, address, pointer(best), *order) is None
        assert torch.equal(best, reference.majority_vote(planes, excluded, *window))

    changed = torch.zeros(stop - start, dtype=torch.int64)
    error = kernels.host_prediction_changes(read, pointer(out), pointer(changed), *order)
    assert error is None, error.decode()
    theirs = reference.prediction_changes(planes, num_samples, start, stop)
    assert torch.equal(out, theirs[0])
    assert torch.equal(changed, theirs[1])

    words = random_words(num_samples, num_epochs, rng, gaps)
    ends_of_epochs = (int64(start), int64(stop))
    kernels.host_first_run(*buffer(words), *ends_of_epochs, int64(2), pointer(out), *order)
    assert torch.equal(out, reference.first_run(words, start, stop, 2))
