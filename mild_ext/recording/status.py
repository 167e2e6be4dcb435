"""The learning status of every sample, recorded inside the training loop."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mild_ext.processes import DEFAULT_TIMEOUT, Group, Wire, world_size
from mild_ext.reading import reading
from mild_ext.recording import dynamics_ops, ops
from mild_ext.recording._checks import RECORDS, checked_device, checked_level
from mild_ext.recording._native import _C, READS_TENSORS
from mild_ext.recording.buffers import OwnsBuffers, new_buffer
from mild_ext.recording.dynamics import DynamicsReading
from mild_ext.recording.epoch_record import EpochRecord
from mild_ext.recording.merge_records import merge_records
from mild_ext.recording.status_files import (
    checked_state,
    read_state,
    record_of,
    require_fits,
    write_state,
)
from mild_ext.recording.sync import RankMerge

# How many torch_dispatch modes (fake tensors, tracers, counters) are active; they only see ops.
_dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack

#: Rows with this label are skipped: torch's ``ignore_index``.
IGNORED_LABEL: int = _C.ignored_label


class LearningStatus(OwnsBuffers, DynamicsReading):
    """For every sample and epoch: was it seen, and was it memorized (its label predicted)? And, if asked for, more.

    Everything comes from one pass over the logits of the training forward pass: one kernel a batch, no
    synchronisation, no allocation, on the CPU or on a CUDA device. The same batch twice, duplicates in a batch, and
    batches in another order leave the same bits. Of several visits of a sample in an epoch the worst counts (largest
    other logit - label's logit is greatest): it is memorized only if all visits were.

    Args:
        num_samples: size of the data set, N. Sample ids are positions in it, in ``[0, N)``.
        num_epochs: epochs to record, P, in ``[1, 4096]``.
        num_classes: columns of the logits, K, in ``[1, 262144]``; needed for more than ``record="status"``.
        record: what to keep. Bytes a sample for each 64 epochs, and once:

            - ``"status"``: seen, memorized; 16.
            - ``"classes"``: also the predicted class (`predictions`, `votes`, `majority_vote`, `misclassified_for`,
              `label_wave`) and the running `shortfall`; 16 + 8 ceil(log2(K + 1)), and 16 once.
            - ``"all"``: also running margin, loss, label probability and EL2N (`dynamics`); 20 more once.

            None: ``"classes"`` where num_classes is given, otherwise ``"status"``.
        device: where the model's logits are.

    Raises:
        ValueError: sizes out of range.
        RuntimeError: a CUDA device, but this build has no CUDA code.

    Examples:
        >>> import torch
        >>> status = LearningStatus(num_samples=4, num_epochs=2)
        >>> logits = torch.tensor([[2.0, 1.0], [2.0, 1.0]])
        >>> status.update(index=torch.tensor([0, 3]), logits=logits, labels=torch.tensor([0, 1]))
        >>> status.advance()
        >>> status.compute().metric.tolist()  # lower = cleaner
        [-1, 0, 0, 1]
        >>> status = LearningStatus(num_samples=4, num_epochs=2, num_classes=2)
        >>> status.update(index=torch.tensor([0, 3]), logits=logits, labels=torch.tensor([0, 1]))
        >>> status.predictions(0).tolist()
        [0, -1, -1, 0]
        >>> status.shortfall()[[0, 3]].tolist()  # lower = cleaner
        [0.0, 1.0]
    """

    def __init__(
        self,
        num_samples: int,
        num_epochs: int,
        *,
        num_classes: int | None = None,
        record: str | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        record = checked_level(num_samples, num_epochs, num_classes, record)
        device = checked_device(device)
        num_samples, num_epochs = operator.index(num_samples), operator.index(num_epochs)
        width = -(-num_epochs // 64)
        self._words = new_buffer((num_samples, width, 2), torch.int64, device).zero_()
        device = self._words.device  # with its index
        # The kernel reads the epoch from here, so that a replayed CUDA graph, and a compiled step, record
        # into the current one. The host's copy spares everybody else the read-back.
        self._epoch_on_device = new_buffer((), torch.int64, device).zero_()
        self._faults = new_buffer((_C.num_faults,), torch.int64, device).zero_()
        self._record = (
            None
            if record == "status" or num_classes is None
            else EpochRecord(
                num_samples,
                num_epochs,
                operator.index(num_classes),
                statistics=record == "all",
                device=device,
            )
        )
        self._num_classes = None if num_classes is None else operator.index(num_classes)
        self._num_epochs = num_epochs
        self._epoch = 0
        self._ranks = RankMerge()

    # ---- what it is

    @property
    def num_samples(self) -> int:
        """Size of the data set, N."""
        return self._words.shape[0]

    @property
    def num_epochs(self) -> int:
        """Epochs that can be recorded, P."""
        return self._num_epochs

    @property
    def epoch(self) -> int:
        """The epoch `update` records into, in ``[0, num_epochs]``; ``num_epochs``: all are recorded."""
        return self._epoch

    @property
    def record(self) -> str:
        """What is kept: ``"status"``, ``"classes"`` or ``"all"``."""
        if self._record is None:
            return "status"
        return "all" if self._record.statistics else "classes"

    @property
    def num_classes(self) -> int | None:
        """Columns of the logits, K, if they were told."""
        return self._num_classes

    @property
    def words(self) -> Tensor:
        """The status buffer, int64 ``[N, ceil(P / 64), 2]``: plane 0 *seen*, plane 1 *wrong*; not a copy."""
        if self._record is not None:
            self._record.settle(self._words, self._epoch_on_device)
        return self._words

    @property
    def open_visits(self) -> Tensor | None:
        """The open-epoch record, int64 ``[N]`` (csrc/visit_record.h); not a copy. None with ``record="status"``."""
        return None if self._record is None else self._record.visits

    @property
    def nbytes(self) -> int:
        """Size of all buffers in bytes."""
        return self._words.nbytes + (0 if self._record is None else self._record.nbytes)

    def __repr__(self) -> str:
        classes = "" if self._num_classes is None else f"num_classes={self._num_classes}, "
        record = "" if self._record is None else f"record={self.record!r}, "
        return (
            f"LearningStatus(num_samples={self.num_samples}, num_epochs={self.num_epochs}, {classes}{record}"
            f"device={str(self.device)!r}, epoch={self.epoch})"
        )

    # ---- recording

    def update(self, index: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Record a batch of the current epoch, from the logits of the training forward pass.

        Args:
            index: int64 or int32 ``[B]``, sample ids in ``[0, N)``. For a status on CUDA it may be on the CPU (as
                a DataLoader gives it); it is then moved, from pinned memory without waiting for the device.
            logits: float64, float32, float16 or bfloat16 ``[B, K]``, on the status' device. Of a binary model ``[B]``
                or ``[B, 1]``, the logit of class 1 against class 0: class 1 is predicted where it is above 0.
            labels: int64 or int32 ``[B]``, the given labels, in ``[0, K)``. Rows labelled -100 (torch's
                ``ignore_index``, as for padding) are skipped.

        Raises:
            TypeError: wrong dtypes.
            ValueError: shapes that do not match, or all epochs are recorded already. On the CPU also an index or
                label out of range; on CUDA such rows are skipped and counted, and the next read raises.
            RuntimeError: logits on another device.

        A sample that is several times in a batch counts by its worst row, and a row with a NaN among its logits is
        not memorized, whatever its label. In every case of an error, nothing of the batch was recorded (on CUDA:
        nothing of the bad rows).
        """
        # The fast lane: native code reads torch's tensors by itself. The dispatcher, and asking the tensors for
        # their sizes from Python, would cost more than the work of a small batch. It declines, and does nothing,
        # where a tensor is out of the ordinary or wrong. Whoever compiles, traces or fakes gets the op instead.
        if not torch.compiler.is_compiling():
            if self._epoch >= self._num_epochs:
                raise ValueError(
                    f"all {self._num_epochs} epochs of this status are recorded; make it with a larger "
                    "num_epochs, or reset() it for the next round"
                )
            if READS_TENSORS and not _dispatch_modes():
                # Written out, and not in a function of its own: a call more costs a tenth of a small batch.
                record = self._record
                if record is None:
                    done = _C.try_update(
                        self._words,
                        self._faults,
                        self._epoch_on_device,
                        index,
                        logits,
                        labels,
                        self._num_epochs,
                        torch.get_num_threads(),
                    )
                else:
                    done = _C.try_record(
                        record.visits,
                        self._faults,
                        self._epoch_on_device,
                        index,
                        logits,
                        labels,
                        self._num_epochs,
                        record.num_classes,
                        record.statistics,
                        torch.get_num_threads(),
                    )
                if done:
                    return
        words, record = self._words, self._record
        if isinstance(logits, Tensor) and self._num_classes != 1:
            logits = _two_columns(logits)
        if words.is_cuda:
            index, labels = (
                x.to(words.device, non_blocking=True) if isinstance(x, Tensor) and x.is_cpu else x
                for x in (index, labels)
            )
        clock = (self._faults, self._epoch_on_device)
        if record is None:
            ops.update_status(words, *clock, index, logits, labels, self._num_epochs)
        else:
            dynamics_ops.record_visits(
                record.visits,
                *clock,
                index,
                logits,
                labels,
                self._num_epochs,
                record.num_classes,
                record.statistics,
            )

    def advance(self) -> None:
        """End the epoch: what comes next is recorded into the following one.

        On CUDA it runs on the current stream, like `update`. Where the updates ran on another one, let this stream wait
        for it first.

        Raises:
            ValueError: there is no epoch left to end.
        """
        if self._epoch >= self._num_epochs:
            raise ValueError(
                f"advance() was called more often than num_epochs = {self._num_epochs} times; make the "
                "status with a larger num_epochs, or reset() it for the next round"
            )
        if self._record is not None:
            self._ranks.end_epoch(self._record)
            self._record.fold(self._words, self._epoch_on_device)
        self._epoch += 1
        self._epoch_on_device.add_(1)

    def reset(self) -> None:
        """Forget everything, and begin with epoch 0; the buffer is kept (a new round)."""
        self._words.zero_()
        self._faults.zero_()
        if self._record is not None:
            self._record.reset()
        self._set_epoch(0)

    def merge_(self, other: LearningStatus) -> LearningStatus:
        """Take over what another status of the same samples has recorded, in place.

        Status bits are joined by OR, visits of the open epoch by taking the worst. What ``"classes"`` and ``"all"``
        keep of ended epochs are sums: there a sample may have been seen by one of the two only, or by both alike.

        Args:
            other: a status of the same size, e.g. of another process, or of a part of the epoch.

        Returns:
            This status, in the later of the two epochs.

        Raises:
            TypeError, ValueError: ``other`` is no LearningStatus of the same size and record, or both saw a sample in
                an ended epoch and differ there. Nothing was changed.
        """
        if not isinstance(other, LearningStatus):
            raise TypeError(f"other must be a LearningStatus, got {type(other).__name__}")
        mine, theirs = (
            (s.num_samples, s.num_epochs, s.record, None if s._record is None else s.num_classes)
            for s in (self, other)
        )
        if mine != theirs:
            raise ValueError(
                "only statuses of the same size can be merged: this one has (num_samples, num_epochs, record, "
                f"num_classes) = {mine}, the other {theirs}"
            )
        self._raise_faults()
        other._raise_faults()
        epoch = max(self._epoch, other._epoch)
        others_words = other.words.to(self.device)
        if self._record is not None and other._record is not None:
            words, record = merge_records(
                (self.words, self._record, self._epoch),
                (others_words, other._record, other._epoch),
            )
            # Into the buffers that are there: a captured CUDA graph goes on writing to these.
            self._words.copy_(words)
            self._record.copy_(record)
        else:
            self._words |= others_words
        self._set_epoch(epoch)
        return self

    def sync(self, group: Group = None, *, timeout: float = DEFAULT_TIMEOUT) -> int:
        """Merge what all ranks have recorded into each rank's status.

        A collective: every rank of the group calls it, once per epoch before `advance`. With ``record="status"`` the
        words are merged by OR; only epochs recorded since the last sync travel, usually one. With more, the open
        epoch's visits are merged by taking the worst of each sample, so it must be called in every epoch. Without a
        process group, or alone in it, there is nothing to do.

        Args:
            group: torch.distributed process group; None is the default one. All ranks' statuses have the same
                size and stand in the same epoch. They may have seen different numbers of batches, none at all,
                or the same samples.
            timeout: seconds to wait for the other ranks.

        Returns:
            Bytes that this rank sent: as in `mild_ext.recording.epoch_planes`, or 8 a sample, of the visits.

        Raises:
            ValueError: the ranks' statuses differ in size, or stand in different epochs; an epoch was ended without
                sync (``record`` "classes" and "all"); an `update` of any rank met bad values on its CUDA device.
            RuntimeError: a rank died, or did not arrive in time; or another thread called `update` meanwhile, where
                that cannot be told apart (several epochs at once, or ``record`` "classes" and "all"). What this rank
                recorded is intact. With ``record="status"`` and a sync in every epoch, other threads may go on with
                `update`: what is not sent now is sent by the next sync.
        """
        if world_size(group) == 1:
            return 0
        wire = Wire(group, self.device, timeout)
        wire.check_alive()
        sizes = {
            "num_samples": self.num_samples,
            "num_epochs": self._num_epochs,
            "epoch": self._epoch,
            "record": RECORDS.index(self.record),
            "num_classes": 0 if self._record is None else self._record.num_classes,
        }
        return self._ranks.merge(wire, sizes, self._words, self._record, self._faults)

    def _set_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._ranks.restart(epoch)
        self._epoch_on_device.fill_(epoch)

    # ---- keeping

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs; buffers are not copies.

        ``words``, ``num_epochs``, ``epoch``; beyond ``record="status"`` also ``record``, ``num_classes``, ``visits``,
        ``planes``, ``sums``.
        """
        self._raise_faults()
        state = {"words": self.words, "num_epochs": self._num_epochs, "epoch": self._epoch}
        return state if self._record is None else state | self._record.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict` of a status of the same size; on an error nothing is changed.

        Raises:
            ValueError: not the state of a status of this size and record, or a damaged one.
        """
        words, epoch = checked_state(state)
        require_fits(state, self.num_samples, self._num_epochs, self.record, self._num_classes)
        if self._record is not None:
            self._record.load(state)
        self._words.copy_(words)
        self._faults.zero_()
        self._set_epoch(epoch)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the status to a safetensors file. An existing file is replaced only once the new one is complete."""
        write_state(path, self.state_dict())

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], device: torch.device | str = "cpu"
    ) -> LearningStatus:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or no saved status.
        """
        state = read_state(path)
        with reading(path):
            words, _ = checked_state(state)
        status = cls(
            words.shape[0],
            state["num_epochs"],
            num_classes=state.get("num_classes"),
            record=record_of(state),
            device=device,
        )
        status.load_state_dict(state)
        return status


def _two_columns(logits: Tensor) -> Tensor:
    """Logits ``[B, 2]`` of a binary model's ``[B]`` or ``[B, 1]``; other logits as they are."""
    if logits.dim() == 2 and logits.shape[1] == 1:
        logits = logits[:, 0]
    if logits.dim() != 1 or not logits.is_floating_point():
        return logits
    return torch.stack([torch.zeros_like(logits), logits], dim=1)
