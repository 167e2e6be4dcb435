"""Every copy of a status has memory of its own: copied, pickled, forked, or sent to another process."""

from __future__ import annotations

import contextlib
import copy
import io
import multiprocessing
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mild_ext import LearningStatus
from mild_ext.recording.sharded import ShardedStatus

# torch 2.4 and 2.5 unpickle their own storages so.
pytestmark = pytest.mark.filterwarnings("ignore:You are using `torch.load`:FutureWarning")

KINDS: dict[str, dict[str, Any]] = {
    "status": {},
    "classes": {"num_classes": 3},
    "all": {"num_classes": 3, "record": "all"},
}
EPOCHS = 6


def record_epoch(status: LearningStatus | ShardedStatus, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    status.update(
        torch.randint(10, (8,), generator=rng),
        torch.randn(8, 3, generator=rng).to(status.device),
        torch.randint(3, (8,), generator=rng).to(status.device),
    )
    status.advance()


def record_all(status: LearningStatus) -> LearningStatus:
    """From where it stands to the end."""
    for epoch in range(status.epoch, EPOCHS):
        record_epoch(status, epoch)
    return status


def begun(kind: str, device: str = "cpu") -> LearningStatus:
    """A status in the middle of its third epoch."""
    status = LearningStatus(10, EPOCHS, device=device, **KINDS[kind])
    record_epoch(status, 0)
    record_epoch(status, 1)
    here = status.device
    status.update(
        torch.arange(4, device=here),
        torch.eye(4, 3, device=here),
        torch.ones(4, device=here).long(),
    )
    return status


def snapshot(status: LearningStatus) -> dict[str, Any]:
    return {
        name: value.detach().cpu().clone() if isinstance(value, Tensor) else value
        for name, value in status.state_dict().items()
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name]
        for name, value in one.items()
    )


def buffers(status: LearningStatus) -> Iterator[Tensor]:
    yield from (status._words, status._epoch_on_device, status._faults)
    if status._record is not None:
        yield from (status._record.visits, status._record.planes, status._record.sums)


def through_torch_save(status: LearningStatus) -> LearningStatus:
    file = io.BytesIO()
    torch.save(status, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert isinstance(loaded, LearningStatus)
    return loaded


COPIES: dict[str, Callable[[LearningStatus], LearningStatus]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda status: pickle.loads(pickle.dumps(status)),
    "torch.save": through_torch_save,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_goes_its_own_way(kind: str, way: str) -> None:
    status = begun(kind)
    before = snapshot(status)
    twin = COPIES[way](status)
    assert type(twin) is LearningStatus
    assert same(snapshot(twin), before)
    assert not {x.data_ptr() for x in buffers(status)} & {x.data_ptr() for x in buffers(twin)}

    record_all(twin)
    assert same(snapshot(status), before), "the original was written to"
    assert same(snapshot(record_all(status)), snapshot(twin)), "the copy recorded elsewhere"
    assert (twin.epoch, int(twin._epoch_on_device)) == (EPOCHS, EPOCHS)


def test_a_copy_keeps_what_a_subclass_adds_and_the_identity_of_what_it_holds() -> None:
    class Named(LearningStatus):
        names: list[str]

    status = Named(3, 2)
    status.names = ["a"]
    first, second = copy.deepcopy([status, status])
    assert first is second
    assert first.names == ["a"]
    assert first.names is not status.names


def test_a_copy_made_in_inference_mode_can_be_written_to_outside() -> None:
    with torch.inference_mode():
        twin = copy.deepcopy(begun("all"))
    record_all(twin)


def test_a_merge_and_a_load_keep_the_addresses_that_a_captured_graph_writes_to() -> None:
    for kind in KINDS:
        status = begun(kind)
        other = copy.deepcopy(status)
        other.update(torch.tensor([5]), torch.eye(1, 3), torch.tensor([2]))
        addresses = [x.data_ptr() for x in buffers(status)]
        status.merge_(other)
        assert [x.data_ptr() for x in buffers(status)] == addresses
        status.load_state_dict(other.state_dict())
        status.reset()
        assert [x.data_ptr() for x in buffers(status)] == addresses


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_state_dict_loads_without_executing_anything(kind: str) -> None:
    status, file = begun(kind), io.BytesIO()
    torch.save(status.state_dict(), file)
    file.seek(0)
    twin = LearningStatus(10, EPOCHS, **KINDS[kind])
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert same(snapshot(twin), snapshot(status))


# ---- other processes


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Newer Pythons warn of a fork beside threads (torch's own pool)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process", DeprecationWarning)
        yield


def _go_on(status: LearningStatus, answers: Any) -> None:
    record_all(status)
    answers.put((status.epoch, int(status._epoch_on_device), status.compute().seen.cpu().numpy()))


def _go_on_as_rank(rank: int, status: LearningStatus, answers: Any) -> None:
    _go_on(status, answers)


def _expect(status: LearningStatus, before: dict[str, Any], answers: Any, count: int) -> None:
    received = [answers.get(timeout=120) for _ in range(count)]
    assert same(snapshot(status), before), "another process wrote into this one's status"
    assert not any(x.is_shared() for x in buffers(status)), "moved into shared memory"
    seen = record_all(status).compute().seen.numpy()
    for epoch, epoch_on_device, theirs in received:
        assert (epoch, epoch_on_device) == (EPOCHS, EPOCHS)
        assert (theirs == seen).all(), "bits went into the wrong epochs"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_started_with_a_status(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    context = torch.multiprocessing.get_context(method)
    status = begun("all")
    before, answers = snapshot(status), context.Queue()
    process = context.Process(target=_go_on, args=(status, answers))
    with _quiet():
        process.start()
    _expect(status, before, answers, 1)
    process.join(120)
    assert process.exitcode == 0


@pytest.mark.slow
def test_spawned_ranks_each_get_a_status_of_their_own() -> None:
    status = begun("classes")
    before, answers = snapshot(status), torch.multiprocessing.get_context("spawn").Queue()
    started = torch.multiprocessing.spawn(
        _go_on_as_rank, args=(status, answers), nprocs=2, join=False
    )
    _expect(status, before, answers, 2)
    while not started.join():
        pass


def test_a_queue_hands_over_a_copy_and_not_the_buffer() -> None:
    queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
    status = begun("all")
    before = snapshot(status)
    queue.put(status)
    record_all(status)
    received = queue.get()
    assert same(snapshot(received), before), "the receiver sees what the sender did later"
    assert not any(x.is_shared() for x in buffers(received))
    assert same(snapshot(record_all(received)), snapshot(status))


class _Holds(Dataset[Tensor]):
    """A data set that carries a status, as one does that looks its samples' state up; one item writes to it."""

    def __init__(self, status: LearningStatus) -> None:
        self.status = status

    def __len__(self) -> int:
        return 2

    def __getitem__(self, item: int) -> Tensor:
        record_all(self.status)
        return self.status.compute().seen


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_workers_of_a_dataloader(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    status = begun("classes")
    before = snapshot(status)
    with _quiet():
        loader = DataLoader(
            _Holds(status), batch_size=None, num_workers=2, multiprocessing_context=method
        )
        results = list(loader)
    assert same(snapshot(status), before)
    seen = record_all(status).compute().seen
    assert all(torch.equal(result, seen) for result in results)


def test_a_sharded_status_is_copied_with_its_visits() -> None:
    status = ShardedStatus(10, EPOCHS)
    record_epoch(status, 0)
    status.update(torch.tensor([1]), torch.eye(1, 3), torch.tensor([0]))
    twin = pickle.loads(pickle.dumps(status))
    for one in (twin, status):
        one.advance()
    assert torch.equal(twin.compute().seen, status.compute().seen)
    record_epoch(twin, 1)
    assert status.epoch == 2
    assert int(status.local._epoch_on_device) == 2


# ---- on a device

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_on_a_device_goes_its_own_way(way: str) -> None:
    status = begun("all", "cuda")
    before = snapshot(status)
    twin = COPIES[way](status)
    assert twin.device == status.device
    record_all(twin)
    assert same(snapshot(status), before)
    assert same(snapshot(record_all(status)), snapshot(twin))


@pytest.mark.cuda
@needs_cuda
@pytest.mark.slow
def test_a_spawned_process_gets_its_own_status_on_the_device() -> None:
    context = torch.multiprocessing.get_context("spawn")
    status = begun("all", "cuda")
    before, answers = snapshot(status), context.Queue()
    process = context.Process(target=_go_on, args=(status, answers))
    process.start()
    epoch, epoch_on_device, theirs = answers.get(timeout=300)
    process.join(120)
    assert same(snapshot(status), before)
    assert (epoch, epoch_on_device) == (EPOCHS, EPOCHS)
    assert (theirs == record_all(status).compute().seen.cpu().numpy()).all()
