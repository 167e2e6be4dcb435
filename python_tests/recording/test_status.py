"""LearningStatus: recording through both lanes, laws of merging, keeping, errors, compilation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch._dynamo.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mild_ext import LearningStatus, TransitionTimes
from mild_ext.recording import reference
from mild_ext.recording import status as status_module

Batch = tuple[Tensor, Tensor, Tensor]

IDS, ZEROS = torch.tensor([0, 1]), torch.zeros(2, 3)


def batch(seed: int, rows: int = 6, classes: int = 3, num_samples: int = 10) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    return (
        torch.randint(0, num_samples, (rows,), generator=rng),
        torch.randn((rows, classes), generator=rng),
        torch.randint(0, classes, (rows,), generator=rng),
    )


def recorded(seed: int, num_samples: int = 10, num_epochs: int = 70) -> LearningStatus:
    """A status with random batches in some of its epochs."""
    status = LearningStatus(num_samples, num_epochs)
    for epoch in range(num_epochs):
        for part in range(2):
            if (seed + epoch + part) % 5:
                status.update(*batch(seed * 1000 + epoch * 2 + part, num_samples=num_samples))
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


def test_new_status() -> None:
    status = LearningStatus(3, 65)
    assert status.words.shape == (3, 2, 2)
    assert status.words.dtype == torch.int64
    assert status.nbytes == 96
    assert status.device == torch.device("cpu")
    assert status.epoch == 0
    assert repr(status) == "LearningStatus(num_samples=3, num_epochs=65, device='cpu', epoch=0)"


def test_records_each_epoch_in_its_bit(lane: str) -> None:
    status = LearningStatus(4, 130)
    expected = torch.zeros_like(status.words)
    for epoch in range(130):
        index, logits, labels = batch(epoch, num_samples=4)
        status.update(index, logits, labels)
        reference.update_status(expected, epoch, index, logits, labels)
        status.advance()
    assert torch.equal(status.words, expected)
    assert status.epoch == 130


@pytest.mark.parametrize(
    "change",
    [
        lambda i, x, y: (i.int(), x.double(), y.int()),
        lambda i, x, y: (i, x.half(), y),
        lambda i, x, y: (i, x.bfloat16(), y),
        lambda i, x, y: (i, x.t().contiguous().t(), y),
        lambda i, x, y: (i, torch.cat([x, x], 1)[:, : x.shape[1]], y),
        lambda i, x, y: (i, x.clone().requires_grad_() * 1.0, y),
        lambda i, x, y: (i, torch.nn.Parameter(x), y),
        lambda i, x, y: (torch.stack([i, i], 1)[:, 0], x, torch.stack([y, y], 1)[:, 0]),
    ],
)
def test_lanes_take_every_kind_of_tensor(
    lane: str, change: Callable[[Tensor, Tensor, Tensor], Batch]
) -> None:
    index, logits, labels = change(*batch(0))
    status = LearningStatus(10, 5)
    status.update(index, logits, labels)
    expected = torch.zeros_like(status.words)
    reference.update_status(expected, 0, index, logits.detach(), labels)
    assert torch.equal(status.words, expected)
    assert not status.words.requires_grad


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_under_gradient_modes(lane: str, mode: Callable[[], torch.no_grad]) -> None:
    with mode():
        status = LearningStatus(10, 5)
        status.update(*batch(0))
    status.update(*batch(1))
    status.advance()
    with mode():
        status.update(*batch(2))
        status.advance()
    expected = torch.zeros_like(status.words)
    for seed, epoch in ((0, 0), (1, 0), (2, 1)):
        reference.update_status(expected, epoch, *batch(seed))
    assert torch.equal(status.words, expected)


def test_under_autocast_and_backward(lane: str) -> None:
    model = torch.nn.Linear(4, 3)
    status = LearningStatus(10, 5)
    index, inputs, labels = torch.arange(6), torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(inputs)
        status.update(index, logits, labels)
    assert logits.dtype == torch.bfloat16
    torch.nn.functional.cross_entropy(logits.float(), labels).backward()
    assert model.weight.grad is not None
    expected = torch.zeros_like(status.words)
    reference.update_status(expected, 0, index, logits.detach(), labels)
    assert torch.equal(status.words, expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ((IDS + torch.tensor([0, 9]), ZEROS, IDS), ValueError, r"index\[1\] is 10"),
        ((-IDS, ZEROS, IDS), ValueError, r"index\[1\] is -1"),
        ((IDS, ZEROS, 3 * IDS), ValueError, r"labels\[1\] is 3"),
        ((IDS, torch.zeros(3, 3), IDS), ValueError, r"index must be"),
        ((IDS, ZEROS.long(), IDS), TypeError, r"logits must be"),
        (([0, 1], ZEROS, IDS), TypeError, r"index must be a tensor, got list"),
        ((IDS, ZEROS.to_sparse(), IDS), TypeError, r"logits must be a dense"),
        ((IDS, ZEROS.to("meta"), IDS), RuntimeError, r"logits is on meta"),
    ],
)
def test_bad_batch_raises_and_records_nothing(
    lane: str, change: tuple[object, Tensor, Tensor], error: type[Exception], message: str
) -> None:
    status = LearningStatus(10, 5)
    with pytest.raises(error, match=message):
        status.update(*change)  # type: ignore[arg-type]
    assert not status.words.any()


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("left", [0.0, 0.9])  # freed, as FSDP does between steps; shrunk
@pytest.mark.parametrize("sizes", [{}, {"num_classes": 3}])
def test_memory_that_is_gone_is_refused(
    lane: str, which: int, left: float, sizes: dict[str, int]
) -> None:
    arguments = [tensor[2:] for tensor in batch(0, rows=8)]
    memory = arguments[which].untyped_storage()
    memory.resize_(int(left * memory.nbytes()))
    status = LearningStatus(10, 5, **sizes)
    with pytest.raises(ValueError, match="bytes of memory, but its storage holds"):
        status.update(*arguments)
    assert not status.words.any()


@pytest.mark.parametrize("sizes", [{}, {"num_classes": 2}])
def test_negated_view(lane: str, sizes: dict[str, int]) -> None:
    stored = torch.tensor([[1.0, 2.0]])
    imaginary = torch.complex(stored, stored).conj().imag
    for logits in (imaginary, torch._neg_view(stored)):  # both are [-1, -2]
        status = LearningStatus(1, 1, **sizes)
        status.update(torch.tensor([0]), logits, torch.tensor([0]))
        assert status.words.tolist() == [[[1, 0]]]


def test_more_epochs_than_declared(lane: str) -> None:
    status = LearningStatus(10, 2)
    for _ in range(2):
        status.update(*batch(0))
        status.advance()
    before = status.words.clone()
    with pytest.raises(ValueError, match=r"epochs of this status are recorded|advance"):
        status.update(*batch(1))
    with pytest.raises(ValueError, match=r"epochs of this status are recorded|advance"):
        status.advance()
    assert torch.equal(status.words, before)
    assert status.epoch == 2
    status.reset()
    assert status.epoch == 0
    assert not status.words.any()
    status.update(*batch(1))
    assert status.words.any()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((0, 1), ValueError),
        ((1, 0), ValueError),
        ((-1, 1), ValueError),
        ((1, 4097), ValueError),
        ((1.5, 1), TypeError),
        ((1, "2"), TypeError),
    ],
)
def test_bad_sizes(arguments: tuple[int, int], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"num_samples|num_epochs"):
        LearningStatus(*arguments)


def test_bad_device() -> None:
    with pytest.raises(ValueError, match="cpu or cuda"):
        LearningStatus(1, 1, device="meta")


# ---- laws -----------------------------------------------------------------------------------------------------


def merged(*parts: LearningStatus) -> LearningStatus:
    result = LearningStatus(10, 70)
    for part in parts:
        assert result.merge_(part) is result
    return result


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_merge_is_commutative_associative_idempotent(a: int, b: int, c: int) -> None:
    x, y, z = recorded(a), recorded(b), recorded(c)
    assert torch.equal(merged(x, y).words, merged(y, x).words)
    assert torch.equal(merged(merged(x, y), z).words, merged(x, merged(y, z)).words)
    assert torch.equal(merged(x, x).words, x.words)
    assert merged(x, y).epoch == 70


@given(st.integers(0, 2**31 - 1), st.integers(1, 12))
def test_batches_in_any_order_and_size_equal_one_shot(seed: int, size: int) -> None:
    index, logits, labels = batch(seed, rows=40)
    whole, parts = LearningStatus(10, 1), LearningStatus(10, 1)
    whole.update(index, logits, labels)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    for rows in order.split(size):
        parts.update(index[rows], logits[rows], labels[rows])
        parts.update(index[rows], logits[rows], labels[rows])  # a replayed batch changes nothing
    assert torch.equal(whole.words, parts.words)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.integers(0, 69), st.integers(1, 70))
def test_times_add_up(seed: int, start: int, length: int) -> None:
    status = recorded(seed)
    times = status.compute(slice(start, start + length))
    window = min(length, 70 - start)
    assert isinstance(times, TransitionTimes)
    assert times.num_epochs == window
    assert len(times) == 10
    assert torch.equal(times.misclassified + times.memorized, times.seen)
    assert torch.equal(times.metric, times.misclassified - times.memorized)
    assert (times.memorization_events - times.forgetting_events).abs().max() <= 1
    assert (times.longest_memorized_run <= times.memorized).all()
    assert torch.equal(times.first_memorized == window, times.memorized == 0)
    counts = status.histogram(slice(start, start + length))
    assert counts.shape == (window + 1, window + 1)
    assert counts.sum() == 10
    for m, n in zip(times.misclassified.tolist(), times.seen.tolist(), strict=True):
        assert counts[m, n] > 0
    table = torch.arange((window + 1) ** 2, dtype=torch.float32).view(window + 1, window + 1)
    values = status.lookup(table, slice(start, start + length))
    assert torch.equal(values, table[times.misclassified.long(), times.seen.long()])


def test_merge_refuses_other_sizes() -> None:
    status = LearningStatus(3, 4)
    with pytest.raises(ValueError, match="same size"):
        status.merge_(LearningStatus(3, 5))
    with pytest.raises(TypeError, match="LearningStatus"):
        status.merge_(status.words)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("epochs", "error"),
    [(slice(3, 3), ValueError), (slice(0, 4, 2), ValueError), (slice(9, 12), ValueError), (3, TypeError)],
)  # fmt: skip
def test_bad_window(epochs: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="epochs must"):
        LearningStatus(2, 5).compute(epochs)  # type: ignore[arg-type]


def test_windows_follow_the_rules_of_slices() -> None:
    status = recorded(1)
    assert torch.equal(status.histogram(slice(-10, None)), status.histogram(slice(60, 70)))
    assert torch.equal(status.histogram(slice(60, 1000)), status.histogram(slice(60, 70)))
    assert torch.equal(status.histogram(), status.histogram(slice(0, 70)))


# ---- keeping --------------------------------------------------------------------------------------------------


def test_save_and_load(tmp_path: Path) -> None:
    status = recorded(2)
    path = tmp_path / "status.safetensors"
    status.save(path)
    loaded = LearningStatus.load(path)
    assert torch.equal(loaded.words, status.words)
    assert (loaded.num_samples, loaded.num_epochs, loaded.epoch) == (10, 70, 70)
    assert [entry.name for entry in tmp_path.iterdir()] == ["status.safetensors"]


def test_loading_something_else(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"words": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"no saved|no safetensors"):
        LearningStatus.load(tmp_path / "other.safetensors")
    (tmp_path / "noise").write_bytes(b"noise" * 10)
    with pytest.raises(ValueError, match=r"no saved|no safetensors"):
        LearningStatus.load(tmp_path / "noise")


def test_goes_on_from_a_state_dict() -> None:
    status = LearningStatus(10, 5)
    status.update(*batch(0))
    status.advance()
    snapshot = copy.deepcopy(status.state_dict())
    before = status.words.clone()
    status.update(*batch(1))
    status.advance()
    status.load_state_dict(snapshot)
    assert torch.equal(status.words, before)
    assert status.epoch == 1
    status.update(*batch(1))  # goes on in the right epoch
    assert torch.equal(status.words & 1, before)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"words": torch.zeros(10, 1, 2)}, ValueError),
        ({"words": torch.zeros((9, 1, 2), dtype=torch.int64)}, ValueError),
        ({"num_epochs": 6}, ValueError),
        ({"epoch": 6}, ValueError),
    ],
)
def test_bad_state_dict(change: dict[str, object], error: type[Exception]) -> None:
    status = LearningStatus(10, 5)
    status.update(*batch(0))
    before = status.words.clone()
    with pytest.raises(error, match=r"words|state|epoch"):
        status.load_state_dict({**status.state_dict(), **change})
    assert torch.equal(status.words, before)
    with pytest.raises(ValueError, match="keys"):
        status.load_state_dict({"words": before})


def test_deepcopy_is_independent() -> None:
    status = recorded(0)
    twin = copy.deepcopy(status)
    status.reset()
    assert twin.epoch == 70
    assert twin.words.any()


def test_memory_may_move() -> None:
    status = LearningStatus(10, 5)
    status.words.share_memory_()
    status.update(*batch(0))
    expected = torch.zeros_like(status.words)
    reference.update_status(expected, 0, *batch(0))
    assert torch.equal(status.words, expected)


# ---- tracing and compilation ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_whole_and_never_again_as_epochs_advance() -> None:
    torch._dynamo.reset()
    model = torch.nn.Linear(4, 3)
    status, expected = LearningStatus(10, 70), torch.zeros((10, 2, 2), dtype=torch.int64)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, backend=counter)
    def step(index: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        logits = model(inputs)
        status.update(index, logits, labels)
        return torch.nn.functional.cross_entropy(logits, labels)

    for epoch in range(66):
        rng = torch.Generator().manual_seed(epoch)
        index = torch.randperm(10, generator=rng)[:6]
        inputs = torch.randn((6, 4), generator=rng)
        labels = torch.randint(0, 3, (6,), generator=rng)
        step(index, inputs, labels).backward()
        reference.update_status(expected, epoch, index, model(inputs).detach(), labels)
        status.advance()
    assert torch.equal(status.words, expected)
    assert counter.frame_count == 1
    torch._dynamo.reset()


def test_compiled_step_raises_past_the_end() -> None:
    torch._dynamo.reset()
    status = LearningStatus(10, 1)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(index: Tensor, logits: Tensor, labels: Tensor) -> None:
        status.update(index, logits, labels)

    step(*batch(0))
    status.advance()
    before = status.words.clone()
    with pytest.raises(ValueError, match="epoch is 1"):
        step(*batch(1))
    assert torch.equal(status.words, before)
    torch._dynamo.reset()


def test_fake_tensors_reach_the_operator() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    index, logits, labels = batch(0)
    status = LearningStatus(10, 5)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        status.update(mode.from_tensor(index), mode.from_tensor(logits), mode.from_tensor(labels))
    assert not status.words.any()


def test_function_transforms() -> None:
    index, inputs, labels = batch(0)
    status = LearningStatus(10, 5)

    def loss(weight: Tensor) -> Tensor:
        logits = inputs * weight
        status.update(index, logits, labels)
        return torch.nn.functional.cross_entropy(logits, labels)

    torch.func.grad(loss)(torch.tensor(1.0))
    expected = torch.zeros_like(status.words)
    reference.update_status(expected, 0, index, inputs, labels)
    assert torch.equal(status.words, expected)


def test_logits_in_the_place_of_the_index_are_not_to_be_made_integers():
    index, labels, logits = torch.arange(4), torch.tensor([0, 1, 2, 0]), torch.randn(4, 3)
    with pytest.raises(TypeError, match="the order is index, logits, labels"):
        LearningStatus(8, 4).update(logits, labels, index)
