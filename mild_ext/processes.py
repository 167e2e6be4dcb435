"""The processes of a training: how many there are, which one this is, and what they tell each other.

Everything here works alone too, where it has nothing to do. The collectives are those that every
backend of torch.distributed has.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

Group = Any  # torch.distributed.ProcessGroup, which some builds of torch lack

#: Seconds that a rank waits for the others unless told otherwise.
DEFAULT_TIMEOUT = 600.0


def world_size(group: Group = None) -> int:
    """Number of ranks; 1 where torch.distributed is not in use."""
    if group is None and not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size(group)


def rank(group: Group = None) -> int:
    """This process' rank in the group; 0 where torch.distributed is not in use."""
    return dist.get_rank(group) if world_size(group) > 1 else 0


def require_one_process(what: str) -> None:
    """Raise a ValueError that says ``what`` needs one process, if there are more."""
    if world_size() > 1:
        raise ValueError(
            f"{what} by one process, but there are {world_size()}: leave it out, or start the run "
            "without torchrun"
        )


def barrier(group: Group = None) -> None:
    """Wait until all ranks are here; nothing to do where torch.distributed is not in use."""
    if world_size(group) > 1:
        add_up([0.0], torch.device("cpu"), group)


def add_up(values: Sequence[float], device: torch.device, group: Group = None) -> list[float]:
    """Each value summed over the ranks; a collective. device: a device of the training."""
    if world_size(group) == 1:
        return list(values)
    wire = Wire(group, device, DEFAULT_TIMEOUT)
    wire.check_alive()
    total: list[float] = wire.all_gather(torch.tensor(values, dtype=torch.float64)).sum(0).tolist()
    return total


def first_rank_does(what: Callable[[], object], name: str) -> None:
    """Let the first rank do something, while the others wait until it is done; a collective.

    Raises:
        What ``what`` raises, on the first rank; RuntimeError on the others then, that says so.
    """
    error: Exception | None = None
    if rank() == 0:
        try:
            what()
        except Exception as raised:
            error = raised
    failed = add_up([float(error is not None)], torch.device("cpu"))[0]
    if error is not None:
        raise error
    if failed:
        raise RuntimeError(f"{name}: the first rank has failed; see what it says")


def require_same(facts: Mapping[str, bytes], group: Group = None) -> None:
    """Make sure that all ranks have the same; a collective.

    Args:
        facts: what must be the same, by what it is called, e.g. ``{"labels": labels.numpy().tobytes()}``; the same
            names on each rank.

    Raises:
        ValueError: on all ranks, naming those that differ from most others, and in what.
    """
    if world_size(group) == 1:
        return
    digests = [hashlib.sha256(fact).digest()[:8] for fact in facts.values()]
    mine = torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests])
    wire = Wire(group, torch.device("cpu"), DEFAULT_TIMEOUT)
    wire.check_alive()
    table = wire.all_gather(mine).tolist()
    for name, column in zip(facts, zip(*table, strict=True), strict=True):
        usual = max(column, key=column.count)
        others = [rank for rank, digest in enumerate(column) if digest != usual]
        if others:
            listed = ", ".join(map(str, others))
            raise ValueError(
                f"all ranks must have the same {name}, but {'ranks' if len(others) > 1 else 'rank'} {listed} of "
                f"{len(column)} {'have' if len(others) > 1 else 'has'} others than rank {column.index(usual)}; look at "
                "the files and options on that machine"
            )


def data_parallel(model: nn.Module, group: Group = None) -> nn.Module:
    """The model for the forward pass in training: wrapped to average gradients over the ranks."""
    if world_size(group) == 1:
        return model
    return nn.parallel.DistributedDataParallel(model, process_group=group)


@contextlib.contextmanager
def launched_by_torchrun() -> Iterator[None]:
    """Be one of the processes that torchrun started, if it did; leave their group at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=timedelta(seconds=DEFAULT_TIMEOUT))
    else:
        dist.init_process_group("gloo", timeout=timedelta(seconds=DEFAULT_TIMEOUT))
    try:
        yield
        dist.barrier()
        # One of gloo's threads still clears up after this, for which it needs the GIL. Where it waits for that when the
        # interpreter ends, the process is aborted (https://github.com/pytorch/pytorch/issues/190489).
        time.sleep(0.1)
    finally:
        dist.destroy_process_group()


class Wire:
    """The collectives, on a device the group's backend can use, with a timeout and clear errors."""

    def __init__(self, group: Group, device: torch.device, timeout: float) -> None:
        self.group, self.timeout = group, timedelta(seconds=timeout)
        self.ranks, self.rank = dist.get_world_size(group), dist.get_rank(group)
        backend = str(dist.get_backend(group))
        self.gloo = backend == "gloo"
        if backend == "nccl" and device.type != "cuda":
            device = torch.device("cuda", torch.cuda.current_device())
        self.device = torch.device("cpu") if self.gloo else device

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"sync: rank {self.rank} of {self.ranks} lost contact with another rank, or waited for "
                f"{self.timeout.total_seconds():g} s in vain: {error}. What this rank recorded is "
                "intact; look at the other ranks' logs, and resume from the last checkpoint"
            ) from error

    def check_alive(self) -> None:
        """Fail, naming the missing rank, where the backend can tell which one that is."""
        if self.gloo:
            with self._errors():
                dist.monitored_barrier(self.group, timeout=self.timeout, wait_all_ranks=True)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """``[n]`` on each rank to ``[R, n]``, on the CPU."""
        tensor = tensor.to(self.device)
        out = tensor.new_empty(self.ranks, tensor.numel())
        self._all_gather(out, tensor)
        return out.cpu()

    def _all_gather(self, rows: Tensor, tensor: Tensor) -> None:
        with self._errors():
            dist.all_gather(list(rows), tensor, self.group, async_op=True).wait(self.timeout)

    def all_to_all(self, tensor: Tensor, counts: list[int]) -> Tensor:
        """Send consecutive pieces of ``counts[j]`` elements to rank j; returns what came, in order."""
        theirs = self.all_gather(torch.tensor(counts))[:, self.rank].tolist()
        tensor = tensor.to(self.device)
        out = tensor.new_empty(sum(theirs))
        with self._errors():
            work = dist.all_to_all_single(out, tensor, theirs, counts, self.group, async_op=True)
            work.wait(self.timeout)
        return out

    def all_reduce_max(self, tensor: Tensor) -> Tensor:
        """The largest of the ranks' values, entry by entry, in a new tensor on the backend's device."""
        tensor = tensor.to(self.device, copy=True)
        with self._errors():
            work = dist.all_reduce(tensor, dist.ReduceOp.MAX, self.group, async_op=True)
            work.wait(self.timeout)
        return tensor

    def bitwise_or(self, tensor: Tensor) -> tuple[Tensor, int]:
        """All-reduce a uint8 vector by OR; returns the result and the bytes this rank sent."""
        slice_bytes = -(-tensor.numel() // self.ranks)
        padded = tensor.new_zeros(self.ranks * slice_bytes)
        padded[: tensor.numel()] = tensor
        padded = padded.to(self.device)
        slices = torch.empty_like(padded)
        merged = torch.empty_like(padded)
        with self._errors():
            work = dist.all_to_all_single(slices, padded, group=self.group, async_op=True)
            work.wait(self.timeout)
        mine = functools.reduce(torch.bitwise_or, slices.view(self.ranks, -1))
        self._all_gather(merged.view(self.ranks, -1), mine)
        return merged[: tensor.numel()], 2 * (self.ranks - 1) * slice_bytes
