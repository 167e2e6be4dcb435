"""Visits, folds and predicted classes: every operation against the reference; operator properties; bad input."""

from __future__ import annotations

import math
from collections.abc import Iterator

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
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mild_ext.recording import dynamics_ops, reference
from mild_ext.recording._native import _C as C

ops = torch.ops.mild_ext
seeds = st.integers(0, 2**31 - 1)
ISAS = ["plain", "avx2", "avx512"]


@pytest.fixture(params=ISAS[: ISAS.index(C.best_isa()) + 1])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set this machine has."""
    before = C.isa()
    C.use_isa(request.param)
    yield request.param
    C.use_isa(before)


def run_record(
    record: Tensor, index: Tensor, logits: Tensor, labels: Tensor, statistics: bool = True
) -> None:
    faults = torch.zeros(C.num_faults, dtype=torch.int64)
    ops.record_visits(
        record, faults, torch.tensor(0), index, logits, labels, 1, logits.shape[1], statistics
    )


def empty(num_samples: int) -> Tensor:
    return torch.full((num_samples,), NO_VISIT)


# ---- record_visits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize("dtype", LOGIT_TYPES)
@pytest.mark.parametrize("classes", [1, 2, 3, 7, 10, 15, 16, 17, 33, 64, 100, 257, 1000, 2500])
def test_visits_of_each_type_and_width(
    isa: str, dtype: torch.dtype, classes: int, statistics: bool
) -> None:
    rng = generator(classes)
    for spread in (0.1, 1.0, 5.0):
        logits = (torch.randn((100, classes), generator=rng) * spread).to(dtype)
        labels = torch.randint(0, classes, (100,), generator=rng)
        labels[::2] = logits.argmax(1)[::2]
        index = torch.randperm(120, generator=rng)[:100]
        record, expected = empty(120), empty(120)
        run_record(record, index, logits, labels, statistics)
        reference.record_visits(expected, index, logits, labels, statistics)
        same_record(record, expected)


@given(
    seed=seeds,
    rows=st.integers(0, 50),
    classes=st.integers(1, 90),
    num_samples=st.integers(1, 30),
    dtype=st.sampled_from(LOGIT_TYPES),
    index_type=st.sampled_from(INT_TYPES),
    label_type=st.sampled_from(INT_TYPES),
    layout=st.sampled_from(["contiguous", "rows strided", "columns strided", "offset", "expanded"]),
    statistics=st.booleans(),
)
def test_visits_equal_reference(
    seed: int,
    rows: int,
    classes: int,
    num_samples: int,
    dtype: torch.dtype,
    index_type: torch.dtype,
    label_type: torch.dtype,
    layout: str,
    statistics: bool,
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
    record, expected = empty(num_samples), empty(num_samples)
    run_record(record, index.to(index_type), logits, labels.to(label_type), statistics)
    reference.record_visits(expected, index, logits, labels, statistics)
    same_record(record, expected)


INF, NAN = math.inf, math.nan


@pytest.mark.parametrize("dtype", LOGIT_TYPES)
@pytest.mark.parametrize(
    ("row", "label", "misclassified", "margin", "predicted", "loss"),
    [
        ([2.0, 1.0], 0, False, 1.0, 0, math.log1p(math.exp(-1))),
        ([2.0, 1.0], 1, True, -1.0, 0, 1 + math.log1p(math.exp(-1))),
        ([1.0, 1.0], 0, False, 0.0, 0, math.log(2)),
        ([1.0, 1.0], 1, True, 0.0, 0, math.log(2)),
        ([0.0, -0.0], 1, True, 0.0, 0, math.log(2)),
        ([NAN, 1.0], 1, True, -INF, None, INF),
        ([1.0, -NAN], 0, True, -INF, None, INF),
        ([NAN], 0, True, -INF, None, INF),
        ([INF, 1.0], 0, False, INF, 0, 0.0),
        ([INF, 1.0], 1, True, -INF, 0, INF),
        ([INF, INF], 1, True, 0.0, 0, math.log(2)),
        ([-INF, -INF, -INF], 0, False, 0.0, 0, math.log(3)),
        ([-INF, -INF], 1, True, 0.0, 0, math.log(2)),
        ([3.0, -INF, -INF], 0, False, INF, 0, 0.0),
        ([-INF, 3.0], 0, True, -INF, 1, INF),
        ([5.0], 0, False, INF, 0, 0.0),
        ([-INF], 0, False, INF, 0, 0.0),
    ],
)
def test_special_rows(
    isa: str,
    dtype: torch.dtype,
    row: list[float],
    label: int,
    misclassified: bool,
    margin: float,
    predicted: int | None,
    loss: float,
) -> None:
    record = empty(1)
    run_record(record, torch.tensor([0]), torch.tensor([row], dtype=dtype), torch.tensor([label]))
    key, got, got_loss, _ = (int(x) for x in reference.visit_fields(record))
    assert (record.item() >= 0) is misclassified
    if predicted is None:
        assert key == 0xFFFF
    else:
        if row != [-INF]:  # one class that is -inf: 0 or inf, nobody cares
            half = key & 0x7FFF if misclassified else 0x7FFF - key
            assert half == int(torch.tensor(abs(margin)).half().view(torch.int16))
        assert got == predicted
    expected = int(torch.tensor(loss).half().view(torch.int16))
    assert abs(got_loss - expected) <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_16_bit_pattern(isa: str, dtype: torch.dtype) -> None:
    patterns = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(dtype)
    for value in (0.0, 1.5, -1.5, INF, -INF, NAN):
        logits = torch.stack([patterns, torch.full_like(patterns, value)], dim=1)
        labels = torch.arange(len(logits)) % 2
        record, expected = empty(len(logits)), reference.visits_of(logits, labels)
        run_record(record, torch.arange(len(logits)), logits, labels)
        same_record(record, expected)


def test_the_worst_visit_stays_whole() -> None:
    logits = torch.tensor([[3.0, 0.0, 1.0], [0.0, 4.0, 1.0], [0.0, 1.0, 3.9], [9.0, 0.0, 0.0]])
    labels = torch.zeros(4, dtype=torch.int64)
    record = empty(1)
    run_record(record, torch.zeros(4, dtype=torch.int64), logits, labels)
    assert record.item() == int(reference.visits_of(logits, labels)[1])


def test_threads_give_the_same_bits() -> None:
    rng = generator(0)
    logits = torch.randn((4096, 1000), generator=rng)
    labels = torch.randint(0, 1000, (4096,), generator=rng)
    index = torch.randint(0, 50, (4096,), generator=rng)  # every sample in every thread's part
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            results.append(empty(50))
            run_record(results[-1], index, logits, labels)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


# ---- fold_epoch -----------------------------------------------------------------------------------------------


def random_record(num_samples: int, classes: int, rng: torch.Generator) -> Tensor:
    logits = make_logits(num_samples, classes, torch.float32, rng)
    logits *= torch.rand((num_samples, 1), generator=rng) * 20
    record = reference.visits_of(logits, torch.randint(0, classes, (num_samples,), generator=rng))
    record[torch.rand(num_samples, generator=rng) < 0.2] = NO_VISIT
    return record


@given(
    seed=seeds,
    num_samples=st.integers(1, 130),
    num_epochs=st.integers(1, 130),
    classes=st.sampled_from([1, 2, 3, 10, 16, 100, 1000]),
    at=st.floats(0, 1),
    statistics=st.booleans(),
    parts=st.integers(0, 7),
)
def test_fold_equals_reference(
    seed: int,
    num_samples: int,
    num_epochs: int,
    classes: int,
    at: float,
    statistics: bool,
    parts: int,
) -> None:
    rng = generator(seed)
    rows = C.num_sums if statistics else C.num_shortfall_sums
    epoch = min(int(at * num_epochs), num_epochs - 1)
    buffers = [
        random_record(num_samples, classes, rng),
        random_words(num_samples, num_epochs, rng, 0.3),
        random_planes(num_samples, num_epochs, classes, rng),
        torch.randint(-(1 << 20), 1 << 20, (rows, num_samples), generator=rng).int(),
    ]
    expected = [x.clone() for x in buffers]
    ops.fold_epoch(*buffers, torch.tensor(epoch), classes, parts)
    reference.fold_epoch(*expected, epoch, parts)
    for name, ours, theirs in zip(("record", "words", "planes"), buffers, expected, strict=False):
        assert torch.equal(ours, theirs), name
    exact = [row for row in range(rows) if row not in (4, 5)]
    assert torch.equal(buffers[3][exact], expected[3][exact])
    # exp in float32 against float64: a relative error of 1e-6 is 16 steps of 2^-24.
    assert (buffers[3] - expected[3]).abs().max() <= 16


@pytest.mark.parametrize("statistics", [False, True])
def test_fold_gives_the_same_bits_on_each_instruction_set(statistics: bool) -> None:
    rng = generator(3)
    record = random_record(1000, 10, rng)
    results, before = [], C.isa()
    for name in ISAS[: ISAS.index(C.best_isa()) + 1]:
        C.use_isa(name)
        sums = torch.zeros((7 if statistics else 2, 1000), dtype=torch.int32)
        words = torch.zeros((1000, 1, 2), dtype=torch.int64)
        planes = torch.zeros((5, 4, 32), dtype=torch.int32)
        ops.fold_epoch(record.clone(), words, planes, sums, torch.tensor(0), 10, 7)
        results.append((sums, words, planes))
    C.use_isa(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("epoch", [-1, 5, 1 << 40])
def test_fold_past_the_last_epoch_does_nothing(epoch: int) -> None:
    rng = generator(0)
    buffers = [
        random_record(40, 10, rng),
        random_words(40, 5, rng, 0.3),
        random_planes(40, 5, 10, rng),
        torch.zeros((2, 40), dtype=torch.int32),
    ]
    before = [x.clone() for x in buffers]
    ops.fold_epoch(*buffers, torch.tensor(epoch), 10, 7)
    assert all(map(torch.equal, buffers, before))


@pytest.mark.parametrize("num_epochs", [1, 2, 64, 65, 4096])
def test_sums_have_room_for_all_epochs(num_epochs: int) -> None:
    worst = reference.visits_of(torch.tensor([[NAN, 0.0]]), torch.tensor([0]))
    best = reference.visits_of(torch.tensor([[900.0, 0.0]]), torch.tensor([0]))
    for record in (worst, best):
        most = reference.contributions(record, num_epochs).long().abs() * num_epochs
        assert most.max() <= 1 << 30
    assert C.sum_places(num_epochs)[4] == min(24, 30 - (num_epochs - 1).bit_length())


# ---- reading --------------------------------------------------------------------------------------------------


@given(
    seed=seeds,
    num_samples=st.integers(1, 130),
    num_epochs=st.integers(1, 80),
    classes=st.sampled_from([1, 2, 3, 10, 16, 100, 1000]),
    gaps=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    length=st.integers(1, 5),
)
def test_reading_equals_reference(
    seed: int,
    num_samples: int,
    num_epochs: int,
    classes: int,
    gaps: float,
    ends: tuple[float, float],
    length: int,
) -> None:
    rng = generator(seed)
    planes = random_planes(num_samples, num_epochs, classes, rng, gaps)
    start = int(min(ends) * (num_epochs - 1))
    stop = max(start + 1, int(max(ends) * num_epochs))
    window = (num_samples, classes, start, stop)
    codes = reference.class_codes(planes, num_samples)
    predicted = ops.predicted_classes(planes, num_samples, classes, start)
    assert torch.equal(predicted.long(), codes[start] - 1)
    first = min(32, num_samples // 32 * 32)
    votes = reference.class_votes(planes, *window)
    assert torch.equal(ops.class_votes(planes, *window, 0, num_samples), votes)
    assert torch.equal(ops.class_votes(planes, *window, first, num_samples), votes[first:])
    labels = torch.randint(0, classes, (num_samples,), generator=rng)
    some = labels.where(torch.rand(num_samples, generator=rng) < 0.8, -1)
    for excluded in (None, labels, some):
        ours = ops.majority_vote(planes, excluded, *window)
        assert torch.equal(ours, reference.majority_vote(planes, excluded, *window))
    assert torch.equal(
        ops.count_predicted(planes, labels, classes, start, stop),
        reference.count_predicted(planes, labels, start, stop),
    )
    ours = ops.prediction_changes(planes, *window)
    theirs = reference.prediction_changes(planes, num_samples, start, stop)
    assert all(map(torch.equal, ours, theirs))
    words = random_words(num_samples, num_epochs, rng, gaps)
    assert torch.equal(
        ops.first_run(words, start, stop, length), reference.first_run(words, start, stop, length)
    )


def test_reading_with_threads_equals_reference() -> None:
    rng = generator(4)
    planes = random_planes(3200, 20, 10, rng).repeat(1, 1, 40)
    n, labels = 128_000, torch.arange(128_000) % 10
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        votes = ops.class_votes(planes, n, 10, 0, 20, 0, n)
        best = ops.majority_vote(planes, labels, n, 10, 0, 20)
        changes, changed = ops.prediction_changes(planes, n, 10, 0, 20)
    finally:
        torch.set_num_threads(before)
    part = planes[..., :100].contiguous()
    assert torch.equal(votes, reference.class_votes(part, 3200, 10, 0, 20).repeat(40, 1))
    expected = reference.majority_vote(part, labels[:3200], 3200, 10, 0, 20)
    assert torch.equal(best, expected.repeat(1, 40))
    theirs = reference.prediction_changes(part, 3200, 0, 20)
    assert torch.equal(changes, theirs[0].repeat(40))
    assert torch.equal(changed, theirs[1] * 40)


# ---- operators and bad input ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_opcheck() -> None:
    rng = generator(0)
    record, faults = empty(40), torch.zeros(C.num_faults, dtype=torch.int64)
    words, planes = random_words(40, 70, rng, 0.1), random_planes(40, 70, 10, rng)
    sums = torch.zeros((7, 40), dtype=torch.int32)
    labels = torch.randint(0, 10, (40,), generator=rng)
    batch = (torch.tensor([3, 0]), torch.randn(2, 10), torch.tensor([4, 0]))
    for name, arguments in {
        "record_visits": (record, faults, torch.tensor(3), *batch, 70, 10, True),
        "fold_epoch": (record, words, planes, sums, torch.tensor(3), 10, 7),
        "predicted_classes": (planes, 40, 10, 3),
        "class_votes": (planes, 40, 10, 3, 9, 0, 40),
        "majority_vote": (planes, labels, 40, 10, 3, 9),
        "count_predicted": (planes, labels, 10, 3, 9),
        "prediction_changes": (planes, 40, 10, 3, 9),
        "first_run": (words, 0, 70, 3),
    }.items():
        torch.library.opcheck(getattr(ops, name).default, arguments)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"index": torch.tensor([0, 5, 1])}, ValueError, r"index\[1\] is 5"),
        ({"labels": torch.tensor([0, 4, 1])}, ValueError, r"labels\[1\] is 4"),
        ({"labels": torch.tensor([-1, 0, 1])}, ValueError, r"labels\[0\] is -1"),
        ({"logits": torch.zeros((3, 5))}, ValueError, r"a column for each of the status' num_classes"),
        ({"logits": torch.zeros((3, 4), dtype=torch.int64)}, TypeError, r"logits must be float64"),
        ({"epoch": torch.tensor(10)}, ValueError, r"epoch is 10"),
        ({"record": torch.zeros(5, dtype=torch.int32)}, ValueError, r"record must be int64"),
        ({"faults": torch.zeros(2, dtype=torch.int64)}, ValueError, r"faults \(int64"),
    ],
)  # fmt: skip
def test_bad_batch_raises_and_records_nothing(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    arguments: dict[str, object] = {
        "record": empty(5),
        "faults": torch.zeros(C.num_faults, dtype=torch.int64),
        "epoch": torch.tensor(0),
        "index": torch.tensor([0, 1, 2]),
        "logits": torch.randn(3, 4),
        "labels": torch.tensor([0, 1, 3]),
        "num_epochs": 10,
        "num_classes": 4,
        "statistics": True,
        **change,
    }
    before = arguments["record"].clone()  # type: ignore[attr-defined]
    with pytest.raises(error, match=message):
        dynamics_ops.record_visits(**arguments)  # type: ignore[arg-type]
    assert torch.equal(arguments["record"], before)  # type: ignore[arg-type]


def test_bad_reading() -> None:
    planes = torch.zeros((5, 4, 2), dtype=torch.int32)
    with pytest.raises(ValueError, match="planes must be int32"):
        ops.predicted_classes(planes, 70, 10, 0)
    with pytest.raises(ValueError, match="planes must be int32"):
        ops.predicted_classes(planes, 40, 100, 0)
    with pytest.raises(ValueError, match="window of epochs must"):
        ops.majority_vote(planes, None, 40, 10, 3, 6)
    with pytest.raises(ValueError, match="multiple of 32"):
        ops.class_votes(planes, 40, 10, 0, 5, 3, 40)
    with pytest.raises(ValueError, match="labels must be int64"):
        ops.count_predicted(planes, torch.zeros(40), 10, 0, 5)
    with pytest.raises(ValueError, match="fold_epoch wants"):
        ops.fold_epoch(
            empty(40),
            torch.zeros((40, 1, 2), dtype=torch.int64),
            planes,
            torch.zeros((3, 40), dtype=torch.int32),
            torch.tensor(0),
            10,
            7,
        )
