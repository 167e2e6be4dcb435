"""LearningStatus at its three levels: against plain torch over whole runs, laws, merging, keeping, errors."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch._dynamo.testing
from buffers import generator, make_logits, same_record
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mild_ext import Dynamics, LearningStatus
from mild_ext.recording import reference
from mild_ext.recording import status as status_module
from mild_ext.recording.epoch_record import EpochRecord

Batch = tuple[Tensor, Tensor, Tensor]
LEVELS = ["classes", "all"]


def batch(seed: int, rows: int = 30, classes: int = 5, num_samples: int = 40) -> Batch:
    rng = generator(seed)
    logits = make_logits(rows, classes, torch.float32, rng) * 2
    return (
        torch.randint(0, num_samples, (rows,), generator=rng),
        logits,
        torch.randint(0, classes, (rows,), generator=rng),
    )


def record_of(status: LearningStatus) -> EpochRecord:
    assert status._record is not None
    return status._record


def same(one: LearningStatus, other: LearningStatus) -> bool:
    """Every buffer, bit for bit."""
    a, b = record_of(one), record_of(other)
    return (
        torch.equal(one.words, other.words)
        and torch.equal(a.visits, b.visits)
        and torch.equal(a.planes, b.planes)
        and torch.equal(a.sums, b.sums)
        and one.epoch == other.epoch
    )


def recorded(seed: int, epochs: int = 9, record: str = "all", until: int = 9) -> LearningStatus:
    status = LearningStatus(40, epochs, num_classes=5, record=record)
    for epoch in range(until):
        for part in range(2):
            if (seed + epoch + part) % 4:
                status.update(*batch(seed * 1000 + epoch * 2 + part))
        status.advance()
    return status


@pytest.fixture(params=["fast lane", "operator"])
def lane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways an eager update can take."""
    if request.param == "operator":
        monkeypatch.setattr(status_module, "READS_TENSORS", False)
    elif not status_module.READS_TENSORS:
        pytest.skip("this torch has no DLPack exchange table")
    return str(request.param)


# ---- what it is -----------------------------------------------------------------------------------------------


def test_levels() -> None:
    assert LearningStatus(10, 5).record == "status"
    assert LearningStatus(10, 5, num_classes=3).record == "classes"
    assert LearningStatus(10, 5, num_classes=3, record="status").nbytes == 160
    status = LearningStatus(10, 5, num_classes=3, record="all")
    assert (status.record, status.num_classes, status.half_epoch) == ("all", 3, 3)
    assert "num_classes=3, record='all'" in repr(status)


@pytest.mark.parametrize(("classes", "megabytes"), [(10, 84), (100, 108), (1000, 132)])
def test_memory(classes: int, megabytes: int) -> None:
    status = LearningStatus(3200, 64, num_classes=classes, record="all")
    assert status.nbytes == 3200 * megabytes
    status = LearningStatus(3200, 64, num_classes=classes, record="classes")
    assert status.nbytes == 3200 * (megabytes - 20)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"record": "all"}, ValueError, "needs num_classes"),
        ({"record": "everything", "num_classes": 3}, ValueError, "record must be one of"),
        ({"num_classes": 0}, ValueError, "num_classes must be in"),
        ({"num_classes": (1 << 18) + 1}, ValueError, "num_classes must be in"),
        ({"num_classes": 2.5}, TypeError, "num_classes must be an int"),
    ],
)
def test_bad_levels(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LearningStatus(10, 5, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("record", ["status", "classes"])
def test_what_is_not_recorded_says_how_to(record: str) -> None:
    status = LearningStatus(10, 5, num_classes=3, record=record)
    with pytest.raises(ValueError, match="record='all'"):
        status.dynamics()
    if record == "status":
        with pytest.raises(ValueError, match="record='classes'"):
            status.predictions(0)
        with pytest.raises(ValueError, match="record='classes'"):
            status.votes()


def test_logits_must_have_the_classes(lane: str) -> None:
    status = LearningStatus(10, 5, num_classes=3)
    with pytest.raises(ValueError, match="num_classes=4"):
        status.update(torch.tensor([0]), torch.zeros(1, 4), torch.tensor([0]))


# ---- a whole run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_against_plain_torch(lane: str, record: str, dtype: torch.dtype) -> None:
    rng = generator(0)
    samples, epochs, classes = 50, 7, 6
    logits = (torch.randn((epochs, samples, classes), generator=rng) * 3).to(dtype)
    labels = torch.randint(0, classes, (samples,), generator=rng)
    seen = torch.rand((epochs, samples), generator=rng) < 0.8
    seen[:, 0] = False
    status = LearningStatus(samples, epochs, num_classes=classes, record=record)
    plain = LearningStatus(samples, epochs)
    for t in range(epochs):
        ids = seen[t].nonzero()[:, 0]
        for rows in ids[torch.randperm(len(ids), generator=rng)].split(16):
            for each in (status, plain):
                each.update(rows, logits[t, rows], labels[rows])
        if t < epochs - 1:  # the last epoch stays open: reading includes it
            status.advance()
            plain.advance()
    assert torch.equal(status.words, plain.words)
    assert torch.equal(status.histogram(), plain.histogram())

    predicted = logits.float().argmax(2).where(seen, -1)
    for t in range(epochs):
        assert torch.equal(status.predictions(t).long(), predicted[t])
    votes = torch.cat([counts for _, counts in status.votes(chunk=32)])
    hot = torch.nn.functional.one_hot(predicted + 1, classes + 1)[..., 1:]
    assert torch.equal(votes.long(), hot.sum(0))
    assert torch.equal(status.misclassified_for(labels), status.compute().misclassified)
    other = (labels + 1) % classes
    wrong = (seen & (predicted != other)).sum(0)
    assert torch.equal(status.misclassified_for(other.int()).long(), wrong)
    vote = status.majority_vote(slice(2, 6), exclude=labels)
    without = hot[2:6].sum(0).scatter(1, labels[:, None], 0)
    assert torch.equal(vote.votes.long(), without.sum(1))
    assert torch.equal(vote.label.long(), without.argmax(1).where(without.sum(1) > 0, -1))
    torch.testing.assert_close(vote.share, without.amax(1) / without.sum(1).clamp(min=1))
    assert vote.label[0] == -1
    shares = status.vote_shares()
    torch.testing.assert_close(shares.sum(1), torch.ones(samples))

    x = logits.float()
    at = labels[None, :, None].expand(epochs, -1, 1)
    own = x.gather(2, at)[..., 0]
    margin = own - x.scatter(2, at, -torch.inf).amax(2)
    count = seen.sum(0)

    def mean(values: Tensor, window: slice = slice(None)) -> Tensor:
        return values.where(seen, 0)[window].sum(0) / seen[window].sum(0)

    # A visit's values are kept as fp16: a relative error of 2^-11, of values up to about 20.
    close = {"rtol": 5e-4, "atol": 5e-4, "equal_nan": True}
    short = (-margin).clamp(0, 9.21034037)
    torch.testing.assert_close(status.shortfall(), mean(short), **close)
    torch.testing.assert_close(status.shortfall(first_half=True), mean(short, slice(0, 4)), **close)
    assert status.shortfall()[0].isnan()
    if record == "classes":
        return
    d = status.dynamics(k=2)
    assert isinstance(d, Dynamics)
    assert len(d) == samples
    p = x.softmax(2)
    prob = p.gather(2, at)[..., 0]
    one_hot = torch.nn.functional.one_hot(labels, classes)
    torch.testing.assert_close(d.margin, mean(margin), **close)
    torch.testing.assert_close(d.loss, mean(-prob.log()), **close)
    torch.testing.assert_close(d.confidence, mean(prob), **close)
    variance = mean(prob.square()) - mean(prob).square()
    # Where a sample is always alike the variance is a difference of rounded numbers: its root is coarse.
    torch.testing.assert_close(
        d.variability, variance.clamp(min=0).sqrt(), rtol=1e-3, atol=2e-3, equal_nan=True
    )
    torch.testing.assert_close(d.el2n, mean((p - one_hot).norm(dim=2)), **close)
    torch.testing.assert_close(d.correctness, mean((predicted == labels).float()), **close)
    assert torch.equal(d.seen.long(), count)
    assert torch.equal(d.forgetting_events, status.compute().forgetting_events)
    assert torch.equal(d.prediction_changes, status.prediction_changes())
    assert int(d.prediction_changes.sum()) == int(status.label_wave().sum())


def test_first_half_at_every_epoch() -> None:
    """The shortfall of the first half, read at any time: before, at and after the half."""
    status, half = recorded(3, until=0), None
    for epoch in range(9):
        status.update(*batch(epoch))
        if epoch < 5:
            half = status.shortfall(first_half=True)
            torch.testing.assert_close(half, status.shortfall(), equal_nan=True)
        else:
            torch.testing.assert_close(
                status.shortfall(first_half=True), half, rtol=0, atol=0, equal_nan=True
            )
        status.advance()


def test_equals_the_aum_package() -> None:
    aum = pytest.importorskip("aum")
    rng = generator(1)
    calculator = aum.AUMCalculator(save_dir=".", compressed=True)
    status = LearningStatus(20, 5, num_classes=10, record="all")
    labels = torch.randint(0, 10, (20,), generator=rng)
    for _ in range(5):
        logits = torch.randn((20, 10), generator=rng) * 3
        status.update(torch.arange(20), logits, labels)
        calculator.update(logits, labels, list(range(20)))
        status.advance()
    theirs = torch.tensor([calculator.sums[i] / calculator.counts[i] for i in range(20)])
    torch.testing.assert_close(status.dynamics().margin, theirs.float(), rtol=5e-4, atol=5e-4)


# ---- laws -----------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(0, 2**31 - 1), st.integers(1, 12), st.integers(1, 4), st.sampled_from(LEVELS))
def test_any_order_split_ranks_and_replay_give_the_same_bits(
    seed: int, size: int, ranks: int, record: str
) -> None:
    rng = generator(seed)
    whole, parts = (LearningStatus(40, 3, num_classes=5, record=record) for _ in range(2))
    for epoch in range(3):
        index, logits, labels = batch(seed + epoch)
        whole.update(index, logits, labels)
        others = [copy.deepcopy(parts) for _ in range(ranks)]
        for k, rows in enumerate(torch.randperm(len(index), generator=rng).split(size)):
            for _ in range(2):  # a replayed batch changes nothing
                others[k % ranks].update(index[rows], logits[rows], labels[rows])
            if k % 3 == 0:
                others[k % ranks].predictions(epoch)  # nor does reading
        for other in others:
            parts.merge_(other)
        assert same(whole, parts)
        whole.advance()
        parts.advance()
        assert same(whole, parts)


@settings(max_examples=15)
@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_merging_an_open_epoch_is_commutative_associative_idempotent(
    a: int, b: int, c: int
) -> None:
    def one(seed: int) -> LearningStatus:
        status = recorded(7, until=4)
        status.update(*batch(seed))
        return status

    assert same(one(a).merge_(one(b)), one(b).merge_(one(a)))
    assert same(one(a).merge_(one(b)).merge_(one(c)), one(a).merge_(one(b).merge_(one(c))))
    assert same(one(a).merge_(one(a)), one(a))


def test_merging_ended_epochs_of_disjoint_samples() -> None:
    whole = recorded(0, until=0)
    parts = [recorded(0, until=0) for _ in range(2)]
    for epoch in range(9):
        index, logits, labels = batch(epoch)
        whole.update(index, logits, labels)
        for k, part in enumerate(parts):
            mine = index % 2 == k
            part.update(index[mine], logits[mine], labels[mine])
            if k == 0 or epoch < 2:  # the second stopped early, before the half
                part.advance()
        whole.advance()
        if epoch == 2:
            break
    for part, until in zip(parts, (3, 2), strict=True):
        assert part.epoch == until
    merged = copy.deepcopy(parts[0]).merge_(parts[1])
    assert same(merged, whole)
    assert same(copy.deepcopy(parts[1]).merge_(parts[0]), whole)
    assert same(copy.deepcopy(merged).merge_(parts[0]), whole)
    assert same(copy.deepcopy(parts[0]).merge_(merged), whole)


def test_merging_one_that_stopped_before_the_half_keeps_its_half() -> None:
    early, late = recorded(0, until=2), recorded(0, until=0)
    for _ in range(7):
        late.advance()
    merged = late.merge_(early)
    torch.testing.assert_close(
        merged.shortfall(first_half=True), early.shortfall(), rtol=0, atol=0, equal_nan=True
    )


def test_ended_epochs_that_differ_are_not_merged() -> None:
    one, other = recorded(1), recorded(2)
    before = copy.deepcopy(one)
    with pytest.raises(ValueError, match=r"in every epoch before advance\(\)"):
        one.merge_(other)
    assert same(one, before)
    with pytest.raises(ValueError, match="same size"):
        one.merge_(recorded(1, record="classes"))


# ---- keeping --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", LEVELS)
def test_save_load_and_go_on(tmp_path: Path, record: str) -> None:
    status = recorded(2, record=record, until=5)
    status.update(*batch(5))  # in the middle of an epoch
    status.save(tmp_path / "status.safetensors")
    loaded = LearningStatus.load(tmp_path / "status.safetensors")
    assert (loaded.record, loaded.num_classes) == (record, 5)
    assert same(status, loaded)
    for each in (status, loaded):
        each.update(*batch(6))
        each.advance()
    assert same(status, loaded)
    twin = recorded(3, record=record)
    twin.load_state_dict(copy.deepcopy(status.state_dict()))
    assert same(status, twin)


def test_states_of_other_levels_are_refused() -> None:
    old = LearningStatus(40, 9).state_dict()
    assert set(old) == {"words", "num_epochs", "epoch"}  # as before there were levels
    status = recorded(0)
    with pytest.raises(ValueError, match="record='status'"):
        status.load_state_dict(old)
    with pytest.raises(ValueError, match="record='all'"):
        LearningStatus(40, 9).load_state_dict(status.state_dict())
    with pytest.raises(ValueError, match="classes"):
        LearningStatus(40, 9, num_classes=6, record="all").load_state_dict(status.state_dict())
    LearningStatus(40, 9, num_classes=5, record="status").load_state_dict(old)


@pytest.mark.parametrize(
    "change",
    [
        {"visits": torch.zeros(39, dtype=torch.int64)},
        {"sums": torch.zeros((2, 40), dtype=torch.int32)},
        {"planes": torch.full((9, 3, 2), -1, dtype=torch.int32)},
        {"num_classes": 0},
        {"record": "some"},
    ],
)
def test_damaged_states_are_refused(change: dict[str, object]) -> None:
    status = recorded(0)
    with pytest.raises(ValueError, match=r"damaged|record="):
        status.load_state_dict({**status.state_dict(), **change})
    assert same(status, recorded(0))


def test_reset_forgets() -> None:
    status = recorded(0, until=3)
    status.update(*batch(0))
    status.reset()
    assert same(status, LearningStatus(40, 9, num_classes=5, record="all"))


def test_loaded_states_of_fewer_reads_are_the_same() -> None:
    """Reading in the middle of an epoch leaves nothing behind that recording would not."""
    one, other = recorded(0, until=2), recorded(0, until=2)
    for seed in range(3):
        one.update(*batch(seed))
        other.update(*batch(seed))
        other.dynamics()
        other.majority_vote()
    one.advance()
    other.advance()
    assert same(one, other)


# ---- errors of reading ----------------------------------------------------------------------------------------


def test_bad_reading() -> None:
    status = recorded(0)
    with pytest.raises(ValueError, match="epoch must be in"):
        status.predictions(9)
    with pytest.raises(ValueError, match=r"labels must be \[40\]"):
        status.misclassified_for(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"labels must be in \[0, 5\)"):
        status.misclassified_for(torch.full((40,), 5))
    with pytest.raises(TypeError, match="exclude must be an int64"):
        status.majority_vote(exclude=torch.zeros(40))
    with pytest.raises(ValueError, match="multiple of 32"):
        status.votes(chunk=33)
    with pytest.raises(ValueError, match="epochs must be"):
        status.majority_vote(slice(3, 3))
    with pytest.raises(ValueError, match="k must be"):
        status.dynamics(k=0)


# ---- compilation ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_whole_and_never_again_as_epochs_advance() -> None:
    torch._dynamo.reset()
    status = LearningStatus(40, 20, num_classes=5, record="all")
    expected = LearningStatus(40, 20, num_classes=5, record="all")
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, backend=counter)
    def step(index: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        status.update(index, logits, labels)
        return torch.nn.functional.cross_entropy(logits, labels)

    for epoch in range(20):
        step(*batch(epoch))
        expected.update(*batch(epoch))
        status.advance()
        expected.advance()
    assert same(status, expected)
    assert counter.frame_count == 1
    torch._dynamo.reset()


def test_visits_of_an_update_are_the_references() -> None:
    status, expected = recorded(0, until=1), torch.full((40,), -(1 << 63))
    index, logits, labels = batch(11)
    status.update(index, logits, labels)
    reference.record_visits(expected, index, logits, labels)
    same_record(record_of(status).visits, expected)
