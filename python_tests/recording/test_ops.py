"""Every operation against the reference, bit for bit; operator properties; what bad input does."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from buffers import INT_TYPES, LOGIT_TYPES, generator, make_logits, random_words
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mild_ext import LearningStatus
from mild_ext.recording import ops, reference
from mild_ext.recording._native import _C as C
from mild_ext.recording._native import READS_TENSORS

INT64_MIN = -(1 << 63)

seeds = st.integers(0, 2**31 - 1)


ISAS = ["plain", "avx2", "avx512"]


@pytest.fixture(params=ISAS[: ISAS.index(C.best_isa()) + 1])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set this machine has."""
    before = C.isa()
    C.use_isa(request.param)
    yield request.param
    C.use_isa(before)


def run_update(
    words: Tensor, index: Tensor, logits: Tensor, labels: Tensor, epoch: int, num_epochs: int
) -> None:
    faults = torch.zeros(C.num_faults, dtype=torch.int64)
    torch.ops.mild_ext.update_status(
        words, faults, torch.tensor(epoch), index, logits, labels, num_epochs
    )
    assert not faults.any()


# ---- update ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", LOGIT_TYPES)
@pytest.mark.parametrize("classes", [1, 2, 3, 7, 10, 63, 64, 65, 100, 257, 1000])
def test_update_equals_reference_for_each_type_and_width(
    isa: str, dtype: torch.dtype, classes: int
) -> None:
    rng = generator(classes)
    logits = make_logits(200, classes, dtype, rng)
    labels = torch.randint(0, classes, (200,), generator=rng)
    labels[:100] = 0
    index = torch.randint(0, 150, (200,), generator=rng)
    words, expected = torch.zeros((150, 1, 2), dtype=torch.int64), None
    run_update(words, index, logits, labels, 5, 64)
    expected = torch.zeros_like(words)
    reference.update_status(expected, 5, index, logits, labels)
    assert torch.equal(words, expected)
    if classes > 1:
        assert 0 < reference.is_memorized(logits, labels).sum() < 200


@given(
    seed=seeds,
    rows=st.integers(0, 40),
    classes=st.integers(1, 90),
    num_samples=st.integers(1, 30),
    epoch=st.integers(0, 199),
    dtype=st.sampled_from(LOGIT_TYPES),
    index_type=st.sampled_from(INT_TYPES),
    label_type=st.sampled_from(INT_TYPES),
    layout=st.sampled_from(["contiguous", "rows strided", "columns strided", "offset", "expanded"]),
)
def test_update_equals_reference(
    seed: int,
    rows: int,
    classes: int,
    num_samples: int,
    epoch: int,
    dtype: torch.dtype,
    index_type: torch.dtype,
    label_type: torch.dtype,
    layout: str,
) -> None:
    rng = generator(seed)
    logits = make_logits(rows, classes, dtype, rng)
    if layout == "rows strided":
        logits = torch.cat([logits, torch.zeros_like(logits)], dim=1)[:, :classes]
    elif layout == "columns strided":
        logits = logits.t().contiguous().t()
    elif layout == "offset":
        logits = torch.cat([torch.zeros(1, dtype=dtype), logits.flatten()])[1:].view(rows, classes)
    elif layout == "expanded" and rows > 0:
        logits = logits[:1].expand(rows, classes)
    labels = torch.randint(0, classes, (rows,), generator=rng)
    index = torch.randint(0, num_samples, (rows,), generator=rng)
    words = random_words(num_samples, 200, rng, gaps=0.5)
    expected = words.clone()
    run_update(words, index.to(index_type), logits, labels.to(label_type), epoch, 200)
    reference.update_status(expected, epoch, index, logits, labels)
    assert torch.equal(words, expected)


@pytest.mark.parametrize("dtype", LOGIT_TYPES)
def test_first_maximum_wins(isa: str, dtype: torch.dtype) -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0]] * 3, dtype=dtype)
    words = torch.zeros((3, 1, 2), dtype=torch.int64)
    run_update(words, torch.arange(3), logits, torch.arange(3), 0, 1)
    assert words.tolist() == [[[1, 0]], [[1, 1]], [[1, 1]]]


@pytest.mark.parametrize("dtype", LOGIT_TYPES)
@pytest.mark.parametrize(
    ("row", "label", "memorized"),
    [
        ([math.nan, 1.0], 1, False),
        ([1.0, math.nan], 0, False),
        ([1.0, -math.nan], 0, False),
        ([-math.nan, 1.0], 1, False),
        ([math.nan], 0, False),
        ([-math.nan], 0, False),
        ([math.inf, 1.0], 0, True),
        ([math.inf, math.inf], 1, False),
        ([-math.inf, -math.inf], 0, True),
        ([-math.inf], 0, True),
        ([-0.0, 0.0], 0, True),
        ([-0.0, 0.0], 1, False),
        ([0.0, -0.0], 0, True),
        ([5.0], 0, True),
    ],
)
def test_special_values(
    isa: str, dtype: torch.dtype, row: list[float], label: int, memorized: bool
) -> None:
    logits = torch.tensor([row], dtype=dtype)
    words = torch.zeros((1, 1, 2), dtype=torch.int64)
    run_update(words, torch.tensor([0]), logits, torch.tensor([label]), 0, 1)
    assert words.tolist() == [[[1, int(not memorized)]]]
    assert reference.is_memorized(logits, torch.tensor([label])).item() is memorized


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_16_bit_pattern_compares_as_torch_says(isa: str, dtype: torch.dtype) -> None:
    patterns = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(dtype)
    against = torch.tensor([0.0, -0.0, 1.5, -1.5, math.inf, -math.inf, math.nan], dtype=dtype)
    for value in against:
        for label in (0, 1):
            logits = torch.stack([patterns, value.expand_as(patterns)], dim=1)
            labels = torch.full((len(patterns),), label)
            words = torch.zeros((len(patterns), 1, 2), dtype=torch.int64)
            run_update(words, torch.arange(len(patterns)), logits, labels, 0, 1)
            assert torch.equal(words[:, 0, 1] == 0, reference.is_memorized(logits, labels))


@pytest.mark.parametrize("epoch", [0, 62, 63, 64, 127, 128])
def test_bit_of_the_epoch(epoch: int) -> None:
    words = torch.zeros((2, 3, 2), dtype=torch.int64)
    run_update(words, torch.tensor([1]), torch.tensor([[0.0, 1.0]]), torch.tensor([0]), epoch, 150)
    expected = torch.zeros_like(words)
    expected[1, epoch // 64] = INT64_MIN if epoch % 64 == 63 else 1 << epoch % 64
    assert torch.equal(words, expected)


def test_duplicates_with_different_answers_are_wrong() -> None:
    words = torch.zeros((1, 1, 2), dtype=torch.int64)
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    run_update(words, torch.zeros(3, dtype=torch.int64), logits, torch.zeros(3).long(), 0, 1)
    assert words.tolist() == [[[1, 1]]]


def test_threads_give_the_same_bits() -> None:
    rng = generator(0)
    logits = torch.randn((4096, 1000), generator=rng)
    labels = logits.argmax(1)
    labels[::3] = 0
    index = torch.randint(0, 50, (4096,), generator=rng)  # every sample in every thread's part
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            words = torch.zeros((50, 1, 2), dtype=torch.int64)
            run_update(words, index, logits, labels, 3, 64)
            results.append(words)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


# ---- the passes over the buffer -------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    seed=seeds,
    num_samples=st.integers(0, 60),
    num_epochs=st.integers(1, 200),
    gaps=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    window=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_passes_equal_reference(
    seed: int, num_samples: int, num_epochs: int, gaps: float, window: tuple[float, float]
) -> None:
    rng = generator(seed)
    words = random_words(num_samples, num_epochs, rng, gaps)
    start = int(min(window) * (num_epochs - 1))
    stop = max(start + 1, int(max(window) * num_epochs))
    side = stop - start + 1
    assert torch.equal(
        ops.transition_times(words, start, stop), reference.transition_times(words, start, stop)
    )
    assert torch.equal(
        ops.status_histogram(words, start, stop), reference.status_histogram(words, start, stop)
    )
    for table in (
        torch.rand((side, side), generator=rng),
        torch.rand((side, side), generator=rng) < 0.5,
        torch.rand((side, side), generator=rng).t(),
    ):
        assert torch.equal(
            ops.status_lookup(words, table, start, stop),
            reference.status_lookup(words, table, start, stop),
        )


@given(st.integers(INT64_MIN, -INT64_MIN - 1), st.integers(INT64_MIN, -INT64_MIN - 1))
def test_transition_times_of_any_word(seen: int, wrong: int) -> None:
    words = torch.tensor([[[seen, wrong]]])
    assert torch.equal(ops.transition_times(words, 0, 64), reference.transition_times(words, 0, 64))


def test_passes_equal_reference_on_each_instruction_set(isa: str) -> None:
    words = random_words(500, 130, generator(1), gaps=0.1)
    table = torch.rand((131, 131), generator=generator(2))
    assert torch.equal(
        ops.transition_times(words, 0, 130), reference.transition_times(words, 0, 130)
    )
    assert torch.equal(
        ops.status_histogram(words, 0, 130), reference.status_histogram(words, 0, 130)
    )
    assert torch.equal(
        ops.status_lookup(words, table, 0, 130), reference.status_lookup(words, table, 0, 130)
    )


def test_most_epochs() -> None:
    words = random_words(20, C.max_epochs, generator(3), gaps=0.01)
    words[0] = 0
    words[1, :, 0], words[1, :, 1] = -1, 0  # memorized throughout
    words[2] = -1  # misclassified throughout
    stop = C.max_epochs
    assert torch.equal(
        ops.transition_times(words, 0, stop), reference.transition_times(words, 0, stop)
    )
    counts = ops.status_histogram(words, 0, stop)
    assert counts[0, 0] == 1
    assert counts[0, stop] == 1
    assert counts[stop, stop] == 1
    assert torch.equal(counts, reference.status_histogram(words, 0, stop))


def test_passes_with_threads_equal_reference() -> None:
    words = random_words(4000, 70, generator(4), gaps=0.05).repeat(100, 1, 1)  # enough for threads
    table = torch.rand((71, 71), generator=generator(5))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        results = (
            ops.transition_times(words, 0, 70),
            ops.status_histogram(words, 0, 70),
            ops.status_lookup(words, table, 0, 70),
        )
    finally:
        torch.set_num_threads(before)
    words = words[:4000]
    assert torch.equal(results[0], reference.transition_times(words, 0, 70).repeat(1, 100))
    assert torch.equal(results[1], reference.status_histogram(words, 0, 70) * 100)
    assert torch.equal(results[2], reference.status_lookup(words, table, 0, 70).repeat(100))


# ---- operators ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_opcheck() -> None:
    words = random_words(8, 70, generator(0), gaps=0.1)
    faults = torch.zeros(C.num_faults, dtype=torch.int64)
    batch = (torch.tensor([3, 0]), torch.randn(2, 5), torch.tensor([4, 0]))
    registered = torch.ops.mild_ext
    torch.library.opcheck(
        registered.update_status.default, (words, faults, torch.tensor(3), *batch, 70)
    )
    torch.library.opcheck(registered.transition_times.default, (words, 0, 70))
    torch.library.opcheck(registered.status_histogram.default, (words, 5, 70))
    torch.library.opcheck(registered.status_lookup.default, (words, torch.rand(71, 71), 0, 70))


# ---- bad input ------------------------------------------------------------------------------------------------


def update_arguments() -> dict[str, object]:
    return {
        "words": torch.zeros((5, 1, 2), dtype=torch.int64),
        "faults": torch.zeros(C.num_faults, dtype=torch.int64),
        "epoch": torch.tensor(0),
        "index": torch.tensor([0, 1, 2]),
        "logits": torch.randn(3, 4),
        "labels": torch.tensor([0, 1, 3]),
        "num_epochs": 10,
    }


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"index": torch.tensor([0, 5, 1])}, ValueError, r"index\[1\] is 5"),
        ({"index": torch.tensor([0, 1, -1])}, ValueError, r"index\[2\] is -1"),
        ({"index": torch.tensor([INT64_MIN, 1, 1])}, ValueError, r"index\[0\] is -9223372036854775808"),
        ({"index": torch.tensor([0, 1, -1], dtype=torch.int32)}, ValueError, r"index\[2\] is -1"),
        ({"labels": torch.tensor([0, 4, 1])}, ValueError, r"labels\[1\] is 4"),
        ({"labels": torch.tensor([-1, 0, 1])}, ValueError, r"labels\[0\] is -1"),
        ({"labels": torch.tensor([0, 1])}, ValueError, r"labels must be"),
        ({"index": torch.tensor([[0], [1], [2]])}, ValueError, r"index must be"),
        ({"index": torch.tensor(0)}, ValueError, r"index must be"),
        ({"index": torch.tensor([0.0, 1.0, 2.0])}, TypeError, r"index must be int64"),
        ({"labels": torch.tensor([True, False, True])}, TypeError, r"labels must be int64"),
        ({"logits": torch.zeros((3, 4), dtype=torch.int64)}, TypeError, r"logits must be float64"),
        ({"logits": torch.zeros((3, 4), dtype=torch.complex64)}, TypeError, r"logits must be float64"),
        ({"logits": torch.zeros(3)}, ValueError, r"logits must be"),
        ({"logits": torch.zeros((3, 2, 2))}, ValueError, r"logits must be"),
        ({"logits": torch.zeros((3, 0))}, ValueError, r"at least one class"),
        ({"epoch": torch.tensor(10)}, ValueError, r"epoch is 10"),
        ({"epoch": torch.tensor(-1)}, ValueError, r"epoch is -1"),
        ({"epoch": torch.tensor(0, dtype=torch.int32)}, ValueError, r"epoch \(int64, one"),
        ({"epoch": torch.tensor([0, 0])}, ValueError, r"epoch \(int64, one"),
        ({"num_epochs": 65}, ValueError, r"num_epochs <= 64"),
        ({"num_epochs": 0}, ValueError, r"num_epochs <= 64"),
        ({"words": torch.zeros((5, 2), dtype=torch.int64)}, ValueError, r"words must be int64"),
        ({"words": torch.zeros((5, 1, 2), dtype=torch.int32)}, ValueError, r"words must be int64"),
        ({"words": torch.zeros((5, 2, 2), dtype=torch.int64)[:, :1]}, ValueError, r"contiguous"),
        ({"words": torch.zeros(11, dtype=torch.int64)[1:].view(5, 1, 2)}, ValueError, r"16 bytes"),
        ({"faults": torch.zeros(2, dtype=torch.int64)}, ValueError, r"faults \(int64"),
    ],
)  # fmt: skip
def test_bad_update_raises_and_records_nothing(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    arguments = {**update_arguments(), **change}
    words = arguments["words"]
    assert isinstance(words, Tensor)
    with pytest.raises(error, match=message):
        ops.update_status(*arguments.values())
    assert not words.any()


@pytest.mark.parametrize("window", [(0, 0), (-1, 3), (3, 2), (0, 65)])
def test_bad_window(window: tuple[int, int]) -> None:
    words = torch.zeros((2, 1, 2), dtype=torch.int64)
    for op in (ops.transition_times, ops.status_histogram):
        with pytest.raises(ValueError, match="window of epochs must"):
            op(words, *window)


def test_bad_table() -> None:
    words = torch.zeros((2, 1, 2), dtype=torch.int64)
    with pytest.raises(ValueError, match=r"table must be \[5, 5\]"):
        ops.status_lookup(words, torch.zeros(4, 5), 0, 4)
    with pytest.raises(TypeError, match="table must be bool"):
        ops.status_lookup(words, torch.zeros((5, 5), dtype=torch.float64), 0, 4)


def test_empty_batch_records_nothing() -> None:
    words = torch.zeros((2, 1, 2), dtype=torch.int64)
    none = torch.zeros(0, dtype=torch.int64)
    run_update(words, none, torch.zeros(0, 3), none, 0, 1)
    assert not words.any()


def test_misaligned_logits_are_copied() -> None:
    raw = bytearray(4 * 6 + 1)
    logits = torch.frombuffer(raw, dtype=torch.float32, offset=1, count=6).view(2, 3)
    logits.copy_(torch.tensor([[0.0, 2.0, 1.0], [5.0, 2.0, 1.0]]))
    words = torch.zeros((2, 1, 2), dtype=torch.int64)
    run_update(words, torch.tensor([0, 1]), logits, torch.tensor([1, 1]), 0, 1)
    assert words.tolist() == [[[1, 0]], [[1, 1]]]


def test_negated_view_is_read_as_its_values() -> None:
    logits = torch.tensor([[1.0 + 1.0j, 1.0 + 2.0j]]).conj().imag  # [-1, -2], stored as [1, 2]
    assert logits.is_neg()
    words = torch.zeros((1, 1, 2), dtype=torch.int64)
    run_update(words, torch.tensor([0]), logits, torch.tensor([0]), 0, 1)
    assert words.tolist() == [[[1, 0]]]


def test_unknown_instruction_set() -> None:
    with pytest.raises(ValueError, match="isa must be plain"):
        C.use_isa("mmx")


@pytest.mark.parametrize("name", ["index", "logits", "labels"])
@pytest.mark.parametrize("offset", [0, 4])
def test_freed_storage_is_refused(name, offset):
    """Sharded training frees storages under living tensors; their addresses must not be followed."""
    status = LearningStatus(8, 2)
    batch = {
        "index": torch.arange(8),
        "logits": torch.randn(8, 3),
        "labels": torch.zeros(8, dtype=torch.int64),
    }
    batch = {key: value[offset : offset + 4] for key, value in batch.items()}
    batch[name].untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=f"{name} needs .* bytes of memory"):
        status.update(**batch)
    assert not status.words.any()


def test_the_last_row_of_a_storage_and_rows_apart_in_it_are_read_in_place():
    status = LearningStatus(10, 5)
    if not READS_TENSORS:
        pytest.skip("this torch has no DLPack exchange table")
    index, logits, labels = torch.arange(4), torch.eye(12, 9), torch.arange(4)
    for rows in (logits[8:, :4], logits[::3, 2:8], logits[-4:]):
        arguments = (status._words, status._faults, status._epoch_on_device, index, rows, labels)
        assert C.try_update(*arguments, 5, 1), "declined"
