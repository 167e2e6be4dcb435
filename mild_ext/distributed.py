"""Learning status over several ranks: merging their words, and spreading the samples over them.

`sync` gives every rank the words of all. The operation is a bitwise OR, which NCCL does not have, so
it is built from two collectives that every backend has. Each rank packs what is new into two bit
planes per epoch, cuts them into one slice per rank, and

1. all-to-all: slice j of every rank goes to rank j, which ORs them;
2. all-gather: the merged slices go to everybody.

Sent by each of R ranks: ``2 (R - 1) / R`` times the planes, the least any all-reduce needs. The planes
of one epoch take N/4 bytes, so that is 2 bits per sample and epoch for two ranks, 3 for four, and
never more than 4.

`ShardedStatus` is for data sets whose words do not fit one device: each rank keeps its share of the
samples, and selection works from the summed histogram.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from mild_ext.status import LearningStatus
    from mild_ext.transitions import TransitionTimes

Group = Any  # torch.distributed.ProcessGroup, which some builds of torch lack

#: Seconds that a rank waits for the others unless told otherwise.
DEFAULT_TIMEOUT = 600.0
_EPOCHS_PER_WORD = 64
_ROWS = 1 << 20  # rows packed at a time (a multiple of 8): bounds the temporaries


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
    wire = _Wire(group, device, DEFAULT_TIMEOUT)
    wire.check_alive()
    total: list[float] = wire.all_gather(torch.tensor(values, dtype=torch.float64)).sum(0).tolist()
    return total


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
        dist.init_process_group("cpu:gloo,cuda:nccl")
    else:
        dist.init_process_group("gloo")
    try:
        yield
        dist.barrier()
        # One of gloo's threads still clears up after this, for which it needs the GIL. Where it waits for that when the
        # interpreter ends, the process is aborted (https://github.com/pytorch/pytorch/issues/190489).
        time.sleep(0.1)
    finally:
        dist.destroy_process_group()


def sync(status: LearningStatus, group: Group = None, *, timeout: float = DEFAULT_TIMEOUT) -> int:
    """Merge the words of all ranks into each rank's status by bitwise OR.

    A collective: every rank of the group calls it, once per epoch before ``advance()``. Only epochs
    recorded since the last sync travel, usually one. Without a process group, or alone in
    it, there is nothing to do.

    Args:
        status: this rank's status; all ranks' have the same size and stand in the same epoch. Ranks
            may have seen different numbers of batches, none at all, or the same samples.
        group: process group; None is the default one.
        timeout: seconds to wait for the other ranks.

    Returns:
        Bytes of bit planes that this rank sent (counted as in the module's description).

    Raises:
        ValueError: the ranks' statuses differ in size, or stand in different epochs.
        RuntimeError: a rank died, or did not arrive in time. What this rank recorded is intact.
    """
    ranks = world_size(group)
    if ranks == 1:
        return 0
    wire = _Wire(group, status.device, timeout)
    wire.check_alive()
    sent = 0
    for epoch in _epochs_to_send(status, wire):
        planes = pack_epoch(status.words, epoch).flatten()
        merged, epoch_bytes = wire.bitwise_or(planes)
        merge_epoch_(status.words, epoch, merged.view(2, -1))
        sent += epoch_bytes
    last = _last_epoch(status)
    status._synced = last, count_epoch(status.words, last)
    return sent


def _last_epoch(status: LearningStatus) -> int:
    return min(status.epoch, status.num_epochs - 1)


def _epochs_to_send(status: LearningStatus, wire: _Wire) -> range:
    """The epochs in which some rank recorded something since the last sync, agreed on by all ranks."""
    # Bits are only ever set, so an epoch has news if and only if its number of bits has grown.
    synced, bits = status._synced
    news = [
        epoch
        for epoch in range(synced, _last_epoch(status) + 1)
        if count_epoch(status.words, epoch) != (bits if epoch == synced else 0)
    ]
    window = (news[0], news[-1] + 1) if news else (status.num_epochs, 0)
    mine = [status.num_samples, status.num_epochs, status.epoch, *window]
    table = wire.all_gather(torch.tensor(mine)).tolist()
    for column, name in enumerate(("num_samples", "num_epochs", "epoch")):
        values = [row[column] for row in table]
        if len(set(values)) > 1:
            raise ValueError(
                f"sync: the ranks' statuses must have the same {name}, got {values} by rank; call "
                "advance() equally often on every rank, and load the same checkpoint on each"
            )
    return range(min(row[3] for row in table), max(row[4] for row in table))


def count_epoch(words: Tensor, epoch: int) -> int:
    """Number of bits set in both planes of an epoch; words: int64 ``[N, W, 2]``."""
    word, bit = divmod(epoch, _EPOCHS_PER_WORD)
    mask = (1 << bit) if bit < 63 else -(1 << 63)
    parts = words[:, word].split(_ROWS)
    return sum(int(torch.count_nonzero(part & mask)) for part in parts)


def pack_epoch(words: Tensor, epoch: int) -> Tensor:
    """The two bit planes of one epoch.

    Args:
        words: int64 ``[N, W, 2]``.
        epoch: in ``[0, 64 W)``.

    Returns:
        uint8 ``[2, ceil(N / 8)]``: bit ``i % 8`` of byte ``i // 8`` belongs to sample i. Plane 0 is
        *seen*, plane 1 *wrong*.
    """
    word, bit = divmod(epoch, _EPOCHS_PER_WORD)
    count = words.shape[0]
    shifts = torch.arange(8, dtype=torch.uint8, device=words.device).view(8, 1)
    planes = torch.empty(2, -(-count // 8), dtype=torch.uint8, device=words.device)
    for row in range(0, count, _ROWS):
        bits = ((words[row : row + _ROWS, word] >> bit) & 1).to(torch.uint8)
        bits = torch.nn.functional.pad(bits, (0, 0, 0, -len(bits) % 8))
        packed = (bits.view(-1, 8, 2) << shifts).sum(1, dtype=torch.uint8)
        planes[:, row // 8 : row // 8 + len(packed)] = packed.T
    return planes


def merge_epoch_(words: Tensor, epoch: int, planes: Tensor) -> None:
    """OR the bit planes of one epoch into the words, in place; the inverse of `pack_epoch`."""
    word, bit = divmod(epoch, _EPOCHS_PER_WORD)
    shifts = torch.arange(8, dtype=torch.uint8, device=words.device)
    for row in range(0, words.shape[0], _ROWS):
        part = words[row : row + _ROWS, word]
        packed = planes[:, row // 8 : row // 8 + _ROWS // 8].to(words.device)
        bits = ((packed.unsqueeze(-1) >> shifts) & 1).flatten(1)[:, : len(part)].T
        part |= bits.to(torch.int64) << bit


class ShardedStatus:
    """Learning status whose samples are spread over the ranks of a group.

    Rank r keeps the words of the samples ``ids[r]``: consecutive, as many on each rank as the division
    allows. A batch may hold any samples: their statuses are kept aside, 4 bytes per visit, and
    `advance` sends them to their owners (a collective). Works like `LearningStatus` otherwise;
    what has an entry per sample covers this rank's samples, while `histogram` is summed over all
    ranks, so that `select_clean` gives each rank its part of one and the same selection.

    Args:
        num_samples: samples in the data set, all ranks together.
        num_epochs: epochs to record.
        group: process group; None is the default one (or this process alone).
        device: where this rank's words are.
        timeout: seconds to wait for the other ranks in a collective.

    Attributes:
        total_samples: samples in the data set.
        ids: this rank's samples, a range of ids.
        local: their LearningStatus.
    """

    def __init__(
        self,
        num_samples: int,
        num_epochs: int,
        *,
        group: Group = None,
        device: torch.device | str = "cpu",
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        from mild_ext.status import LearningStatus

        ranks, self.group, self.timeout = world_size(group), group, timeout
        self.total_samples = num_samples
        self._share = -(-num_samples // ranks)
        if self._share >= 1 << 30:
            raise ValueError(
                f"num_samples must leave fewer than 2^30 samples per rank, got {num_samples} for "
                f"{ranks} ranks; use more ranks"
            )
        start = min(rank(group) * self._share, num_samples)
        self.ids = range(start, min(start + self._share, num_samples))
        if len(self.ids) == 0:
            raise ValueError(
                f"num_samples must give every rank a sample, got {num_samples} for {ranks} ranks"
            )
        self.local = LearningStatus(len(self.ids), num_epochs, device=device)
        self._visits: list[Tensor] = []

    @property
    def num_samples(self) -> int:
        """Samples of this rank."""
        return len(self.ids)

    @property
    def num_epochs(self) -> int:
        """Epochs that can be recorded."""
        return self.local.num_epochs

    @property
    def epoch(self) -> int:
        """The current epoch."""
        return self.local.epoch

    @property
    def device(self) -> torch.device:
        """Where this rank's words are."""
        return self.local.device

    def update(self, index: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Record a batch of any samples; as `LearningStatus.update`, but not yet seen by others.

        Raises:
            ValueError: an index is outside ``[0, total_samples)``.
        """
        from mild_ext.status import LearningStatus

        if self.epoch >= self.num_epochs:
            raise ValueError(f"all {self.num_epochs} epochs are recorded; reset() first")
        if index.shape != labels.shape or index.ndim != 1:
            raise ValueError(
                f"index must be [B] like labels, got {list(index.shape)} and {list(labels.shape)}"
            )
        if len(index) == 0:
            return
        if bool(((index < 0) | (index >= self.total_samples)).any()):
            raise ValueError(f"index must be in [0, {self.total_samples})")
        # The native core says what is memorized: one row of a status of its own per sample of the batch.
        rows = LearningStatus(len(index), 1, device=self.device)
        rows.update(torch.arange(len(index), device=self.device), logits, labels)
        self._visits.append(index.to(torch.int64) * 2 + rows.words[:, 0, 1])

    def sync(self) -> int:
        """Send the visits to the ranks that own the samples; a collective.

        Returns:
            Bytes this rank sent.

        Raises:
            RuntimeError: a rank died, or did not arrive in time. The visits are kept.
        """
        visits = torch.cat(self._visits).unique() if self._visits else torch.empty(0).long()
        sent = 0
        if world_size(self.group) > 1:
            wire = _Wire(self.group, self.device, self.timeout)
            wire.check_alive()
            # Sorted by id, so each owner's part is one piece.
            owners = torch.arange(wire.ranks + 1, device=visits.device) * (2 * self._share)
            pieces = torch.searchsorted(visits, owners).diff()
            offsets = (visits % (2 * self._share)).to(torch.int32)
            received = wire.all_to_all(offsets, pieces.tolist())
            sent = offsets.element_size() * (len(offsets) - int(pieces[rank(self.group)]))
            visits = received.to(torch.int64)
        self._visits.clear()
        if len(visits):
            wrong = (visits % 2).to(self.device)
            # Class 0 is the label of all, and the larger logit where the visit was memorized.
            logits = torch.stack([1 - wrong, wrong], dim=1).float()
            labels = torch.zeros_like(wrong)
            self.local.update((visits // 2).to(self.device), logits, labels)
        return sent

    def advance(self) -> None:
        """`sync`, then go on to the next epoch; a collective."""
        self.sync()
        self.local.advance()

    def reset(self) -> None:
        """Forget everything that was recorded on this rank; call it on all."""
        self._visits.clear()
        self.local.reset()

    def histogram(self, epochs: slice | None = None) -> Tensor:
        """Counts over the samples of all ranks, as `LearningStatus.histogram`; a collective."""
        counts = self.local.histogram(epochs)
        if world_size(self.group) > 1:
            wire = _Wire(self.group, self.device, self.timeout)
            counts = wire.all_gather(counts.flatten()).sum(0).view_as(counts)
        return counts

    def lookup(self, table: Tensor, epochs: slice | None = None) -> Tensor:
        """`LearningStatus.lookup` for this rank's samples."""
        return self.local.lookup(table, epochs)

    def add_up(self, values: Sequence[float]) -> list[float]:
        """The sums over all ranks of figures about each one's samples; a collective."""
        return add_up(values, self.device, self.group)

    def compute(self, epochs: slice | None = None) -> TransitionTimes:
        """`LearningStatus.compute` for this rank's samples."""
        return self.local.compute(epochs)

    def state_dict(self) -> dict[str, Any]:
        """This rank's state; every rank saves its own. Call it after `sync`."""
        return self.local.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave on the same rank of as many."""
        self._visits.clear()
        self.local.load_state_dict(state)


class _Wire:
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
