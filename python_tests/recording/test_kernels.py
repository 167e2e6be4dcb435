"""The CUDA kernels' own text, compiled for the host and run in random orders, against the reference.

Index arithmetic, bounds, grid-stride loops, votes, barriers and atomics are the kernels' own; cpp/cuda_on_host.h
only stands in for the language. Sizes are small: a thread is a fiber here.
"""

from __future__ import annotations

import ctypes

import on_host
import pytest
import torch
from buffers import INT_TYPES, LOGIT_TYPES, generator, make_logits, random_words
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from on_host import LOGIT_CODES, buffer, int64, pointer
from torch import Tensor

from mild_ext import LearningStatus
from mild_ext.recording import reference

pytestmark = on_host.MARKS
lanes_of_a_row = st.sampled_from([1, 4, 32, 256])
few_examples = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def run_update(
    kernels: ctypes.CDLL,
    words: Tensor,
    index: Tensor,
    logits: Tensor,
    labels: Tensor,
    epoch: int,
    num_epochs: int,
    *,
    lanes: int,
    grid: int,
    seed: int,
) -> list[int]:
    """Runs the kernel; returns the counts of (bad index, bad label, bad epoch)."""
    faults = torch.zeros(3, dtype=torch.int64)
    epoch_scalar = torch.tensor(epoch)
    error = kernels.host_update(
        *buffer(words),
        pointer(index),
        ctypes.c_bool(index.dtype == torch.int64),
        pointer(logits),
        ctypes.c_int(LOGIT_CODES[logits.dtype]),
        int64(logits.shape[0]),
        int64(logits.shape[1]),
        int64(logits.stride(0)),
        pointer(labels),
        ctypes.c_bool(labels.dtype == torch.int64),
        pointer(epoch_scalar),
        int64(num_epochs),
        pointer(faults),
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
    classes=st.one_of(st.integers(1, 40), st.integers(1, 400)),
    offset=st.integers(0, 9),
    padding=st.integers(0, 9),
    num_samples=st.integers(1, 60),
    epoch=st.integers(0, 129),
    grid=st.integers(1, 5),
    lanes=lanes_of_a_row,
    dtype=st.sampled_from(LOGIT_TYPES),
    index_type=st.sampled_from(INT_TYPES),
    label_type=st.sampled_from(INT_TYPES),
)
def test_update(
    kernels: ctypes.CDLL,
    seed: int,
    rows: int,
    classes: int,
    offset: int,
    padding: int,
    num_samples: int,
    epoch: int,
    grid: int,
    lanes: int,
    dtype: torch.dtype,
    index_type: torch.dtype,
    label_type: torch.dtype,
) -> None:
    rows = min(rows, 12) if lanes == 256 else rows  # a block is 256 fibers
    rng = generator(seed)
    logits = make_logits(rows, classes, dtype, rng)
    stride = classes + padding
    memory = torch.full((offset + rows * stride,), float("nan"), dtype=dtype)
    strided = memory[offset:].view(rows, stride)[:, :classes]
    strided.copy_(logits)
    labels = torch.randint(0, classes, (rows,), generator=rng)
    labels[: rows // 2] = 0
    index = torch.randint(0, num_samples, (rows,), generator=rng)
    words = random_words(num_samples, 130, rng, gaps=0.5)
    expected = words.clone()
    arguments = (words, index.to(index_type), strided, labels.to(label_type), epoch, 130)
    faults = run_update(kernels, *arguments, lanes=lanes, grid=grid, seed=seed)
    reference.update_status(expected, epoch, index, logits, labels)
    assert faults == [0, 0, 0]
    assert torch.equal(words, expected)


@few_examples
@given(seed=st.integers(0, 2**31 - 1), grid=st.integers(1, 3), lanes=lanes_of_a_row)
def test_update_counts_bad_rows_and_records_the_others(
    kernels: ctypes.CDLL, seed: int, grid: int, lanes: int
) -> None:
    rows, classes, num_samples = (9 if lanes == 256 else 100), 11, 30
    rng = generator(seed)
    logits = make_logits(rows, classes, torch.float32, rng)
    labels = torch.randint(0, classes, (rows,), generator=rng)
    index = torch.randint(0, num_samples, (rows,), generator=rng)
    bad = torch.tensor([-1, 1 << 40, -(1 << 63), (1 << 63) - 1, num_samples, classes - 1])
    bad_index = torch.rand(rows, generator=rng) < 0.2
    bad_label = torch.rand(rows, generator=rng) < 0.2
    index[bad_index] = bad[torch.randint(0, 5, (int(bad_index.sum()),), generator=rng)]
    labels[bad_label] = bad[torch.randint(0, 5, (int(bad_label.sum()),), generator=rng)]
    padding = torch.rand(rows, generator=rng) < 0.2
    labels[padding] = -100  # whatever the index
    bad_index, bad_label = bad_index & ~padding, bad_label & ~padding
    words = torch.zeros((num_samples, 1, 2), dtype=torch.int64)
    expected = words.clone()
    faults = run_update(
        kernels, words, index, logits, labels, 7, 64, lanes=lanes, grid=grid, seed=seed
    )
    good = ~bad_index & ~bad_label
    reference.update_status(expected, 7, index[good], logits[good], labels[good])
    assert faults == [int(bad_index.sum()), int(bad_label.sum()), 0]
    assert torch.equal(words, expected)


@pytest.mark.parametrize("epoch", [-1, 64, 65, 1 << 40])
def test_update_counts_rows_past_the_last_epoch(kernels: ctypes.CDLL, epoch: int) -> None:
    words = torch.zeros((3, 1, 2), dtype=torch.int64)
    ids = torch.arange(3)
    faults = run_update(
        kernels, words, ids, torch.zeros(3, 5), ids, epoch, 64, lanes=4, grid=1, seed=0
    )
    assert faults == [0, 0, 3]
    assert not words.any()


@few_examples
@given(
    seed=st.integers(0, 2**31 - 1),
    num_samples=st.integers(1, 700),
    num_epochs=st.integers(1, 200),
    gaps=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    grid=st.integers(1, 4),
    binned=st.integers(1, 200),
)
def test_passes(
    kernels: ctypes.CDLL,
    seed: int,
    num_samples: int,
    num_epochs: int,
    gaps: float,
    ends: tuple[float, float],
    grid: int,
    binned: int,
) -> None:
    rng = generator(seed)
    words = random_words(num_samples, num_epochs, rng, gaps)
    start = int(min(ends) * (num_epochs - 1))
    stop = max(start + 1, int(max(ends) * num_epochs))
    side = stop - start + 1
    window = (int64(start), int64(stop))
    order = (ctypes.c_uint(grid), ctypes.c_uint(seed))

    times = torch.full((8, num_samples), -7, dtype=torch.int32)
    assert kernels.host_transition_times(*buffer(words), *window, pointer(times), *order) is None
    assert torch.equal(times, reference.transition_times(words, start, stop))

    binned = min(binned, side, 48 * 1024 // (4 * side))
    counts = torch.zeros((side, side), dtype=torch.int64)
    error = kernels.host_histogram(
        *buffer(words), *window, pointer(counts), ctypes.c_int(binned), *order
    )
    assert error is None, error.decode()
    assert torch.equal(counts, reference.status_histogram(words, start, stop))

    for table in (torch.rand((side, side), generator=rng), torch.rand((side, side)) < 0.5):
        values = torch.empty(num_samples, dtype=table.dtype)
        size = ctypes.c_int(table.element_size())
        kernels.host_lookup(*buffer(words), *window, pointer(table), pointer(values), size, *order)
        assert torch.equal(values, reference.status_lookup(words, table, start, stop))


@pytest.mark.parametrize(("num_epochs", "binned"), [(64, 65), (109, 110), (110, 110), (4096, 2)])
def test_values_of_seen_that_the_histogram_keeps_in_a_block(
    kernels: ctypes.CDLL, num_epochs: int, binned: int
) -> None:
    assert kernels.host_binned_values(int64(num_epochs + 1)) == binned


def test_a_missed_epoch_costs_no_global_atomic_in_a_long_window(kernels: ctypes.CDLL) -> None:
    samples, epochs = 700, 300
    status = LearningStatus(samples, epochs)
    ids = torch.arange(samples)
    logits, labels = torch.eye(2)[ids % 2], torch.zeros(samples, dtype=torch.int64)
    for epoch in range(epochs):
        here = ids % epochs != epoch  # every sample misses one epoch
        status.update(ids[here], logits[here], labels[here])
        status.advance()
    words = status.words
    window, order = (int64(0), int64(epochs)), (ctypes.c_uint(2), ctypes.c_uint(5))
    counts = torch.zeros((epochs + 1, epochs + 1), dtype=torch.int64)
    before = kernels.host_wide_adds()
    binned = ctypes.c_int(kernels.host_binned_values(int64(epochs + 1)))
    error = kernels.host_histogram(*buffer(words), *window, pointer(counts), binned, *order)
    assert error is None, error.decode()
    assert torch.equal(counts, reference.status_histogram(words, 0, epochs))
    assert counts[:, epochs - 1].sum() == samples
    assert kernels.host_wide_adds() - before == 2 * int((counts > 0).sum())  # one a block and bin
