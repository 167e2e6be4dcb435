"""The learning status of every sample, recorded inside the training loop."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mild_ext.files import write_atomically
from mild_ext.processes import DEFAULT_TIMEOUT, Group, Wire, world_size
from mild_ext.recording import ops
from mild_ext.recording._native import _C, READS_TENSORS, has_cuda
from mild_ext.recording.merge import count_epoch, merge_epoch_, pack_epoch
from mild_ext.recording.transitions import TransitionTimes

# How many torch_dispatch modes (fake tensors, tracers, counters) are active; they only see ops.
_dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack

_FORMAT = "mild_ext.LearningStatus/1"
_FAULTS = (
    "an index out of range [0, num_samples)",
    "a label out of range [0, classes)",
    "the epoch past num_epochs",
)


class LearningStatus:
    """For every sample and epoch: was it seen, and was it memorized (its label predicted)?

    Two bits per sample and epoch, in one buffer on the CPU or on a CUDA device. `update` writes a batch in
    place: one kernel, no synchronisation, no allocation. All writes are ORs: the same batch twice, duplicates
    in a batch, and batches in another order leave the same bits. A sample with several visits in an
    epoch counts as memorized only if all of them were.

    Args:
        num_samples: size of the data set, N. Sample ids are positions in it, in ``[0, N)``.
        num_epochs: epochs to record, P, in ``[1, 4096]``. Costs ``16 N ceil(P / 64)`` bytes.
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
    """

    def __init__(
        self, num_samples: int, num_epochs: int, *, device: torch.device | str = "cpu"
    ) -> None:
        for name, value, most in (
            ("num_samples", num_samples, 1 << 40),
            ("num_epochs", num_epochs, _C.max_epochs),
        ):
            if isinstance(value, bool) or not hasattr(value, "__index__"):
                raise TypeError(f"{name} must be an int, got {type(value).__name__}")
            if not 1 <= value <= most:
                raise ValueError(f"{name} must be in [1, {most}], got {value}")
        device = torch.device(device)
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"device must be cpu or cuda, got {device}")
        if device.type == "cuda" and not has_cuda():
            raise RuntimeError(
                "this build of mild_ext has no CUDA code, so the status cannot be on a CUDA device; "
                "install it again where nvcc is found (MILD_EXT_CUDA=ON pip install "
                "--force-reinstall ...), or use device='cpu' with logits.cpu()"
            )
        num_samples, num_epochs = operator.index(num_samples), operator.index(num_epochs)
        width = -(-num_epochs // 64)
        # Ordinary tensors even inside torch.inference_mode(): they are going to be written to outside of it.
        with torch.inference_mode(False):
            self._words = torch.empty((num_samples, width, 2), dtype=torch.int64, device=device)
            if device.type == "cpu":  # before it is touched
                _C.advise_large_pages(self._words.data_ptr(), self._words.nbytes)
            self._words.zero_()
            # The kernel reads the epoch from here, so that a replayed CUDA graph, and a compiled step, record
            # into the current one. The host's copy spares everybody else the read-back.
            self._epoch_on_device = torch.zeros((), dtype=torch.int64, device=device)
            self._faults = torch.zeros(_C.num_faults, dtype=torch.int64, device=device)
        self._num_epochs = num_epochs
        self._epoch = 0
        # The last epoch that was merged with other ranks, and the number of its bits then.
        self._synced = (0, 0)

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
    def device(self) -> torch.device:
        """Where the words are."""
        return self._words.device

    @property
    def words(self) -> Tensor:
        """The status buffer, int64 ``[N, ceil(P / 64), 2]``: plane 0 *seen*, plane 1 *wrong*; not a copy."""
        return self._words

    @property
    def nbytes(self) -> int:
        """Size of the status buffer in bytes."""
        return self._words.nbytes

    def __repr__(self) -> str:
        return (
            f"LearningStatus(num_samples={self.num_samples}, num_epochs={self.num_epochs}, "
            f"device={str(self.device)!r}, epoch={self.epoch})"
        )

    # ---- recording

    def update(self, index: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Record a batch of the current epoch, from the logits of the training forward pass.

        Args:
            index: int64 or int32 ``[B]``, sample ids in ``[0, N)``. For a status on CUDA it may be on the CPU (as
                a DataLoader gives it); it is then moved without blocking.
            logits: float64, float32, float16 or bfloat16 ``[B, K]``, on the status' device.
            labels: int64 or int32 ``[B]``, the given labels, in ``[0, K)``.

        Raises:
            TypeError: wrong dtypes.
            ValueError: shapes that do not match, or all epochs are recorded already. On the CPU also an index or
                label out of range; on CUDA such rows are skipped and counted, and the next read raises.
            RuntimeError: logits on another device.

        In every case of an error, nothing of the batch was recorded (on CUDA: nothing of the bad rows).
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
            if (
                READS_TENSORS
                and not _dispatch_modes()
                and _C.try_update(
                    self._words,
                    self._faults,
                    self._epoch_on_device,
                    index,
                    logits,
                    labels,
                    self._num_epochs,
                    torch.get_num_threads(),
                )
            ):
                return
        words = self._words
        if words.is_cuda:
            index, labels = (
                x.to(words.device, non_blocking=True) if isinstance(x, Tensor) and x.is_cpu else x
                for x in (index, labels)
            )
        ops.update_status(
            words, self._faults, self._epoch_on_device, index, logits, labels, self._num_epochs
        )

    def advance(self) -> None:
        """End the epoch: what comes next is recorded into the following one.

        Raises:
            ValueError: there is no epoch left to end.
        """
        if self._epoch >= self._num_epochs:
            raise ValueError(
                f"advance() was called more often than num_epochs = {self._num_epochs} times; make the "
                "status with a larger num_epochs, or reset() it for the next round"
            )
        self._epoch += 1
        self._epoch_on_device.add_(1)

    def reset(self) -> None:
        """Forget everything, and begin with epoch 0; the buffer is kept (a new round)."""
        self._words.zero_()
        self._faults.zero_()
        self._set_epoch(0)

    def merge_(self, other: LearningStatus) -> LearningStatus:
        """Take over what another status of the same samples has recorded (bitwise OR), in place.

        Args:
            other: a status of the same size, e.g. of another process, or of a part of the epoch.

        Returns:
            This status, in the later of the two epochs.

        Raises:
            TypeError, ValueError: ``other`` is no LearningStatus of the same size.
        """
        if not isinstance(other, LearningStatus):
            raise TypeError(f"other must be a LearningStatus, got {type(other).__name__}")
        mine, theirs = (self.num_samples, self.num_epochs), (other.num_samples, other.num_epochs)
        if mine != theirs:
            raise ValueError(
                f"only statuses of the same size can be merged: this one has (num_samples, num_epochs) = "
                f"{mine}, the other {theirs}"
            )
        self._raise_faults()
        other._raise_faults()
        self._words |= other._words.to(self.device)
        self._set_epoch(max(self._epoch, other._epoch))
        return self

    def sync(self, group: Group = None, *, timeout: float = DEFAULT_TIMEOUT) -> int:
        """Merge the words of all ranks into each rank's status by bitwise OR.

        A collective: every rank of the group calls it, once per epoch before `advance`. Only epochs
        recorded since the last sync travel, usually one. Without a process group, or alone in
        it, there is nothing to do.

        Args:
            group: torch.distributed process group; None is the default one. All ranks' statuses have the same
                size and stand in the same epoch. They may have seen different numbers of batches, none at all,
                or the same samples.
            timeout: seconds to wait for the other ranks.

        Returns:
            Bytes of bit planes that this rank sent (counted as in `mild_ext.recording.merge`).

        Raises:
            ValueError: the ranks' statuses differ in size, or stand in different epochs.
            RuntimeError: a rank died, or did not arrive in time. What this rank recorded is intact.
        """
        if world_size(group) == 1:
            return 0
        wire = Wire(group, self.device, timeout)
        wire.check_alive()
        sent = 0
        for epoch in self._epochs_to_send(wire):
            planes = pack_epoch(self._words, epoch).flatten()
            merged, epoch_bytes = wire.bitwise_or(planes)
            merge_epoch_(self._words, epoch, merged.view(2, -1))
            sent += epoch_bytes
        last = self._last_epoch
        self._synced = last, count_epoch(self._words, last)
        return sent

    @property
    def _last_epoch(self) -> int:
        return min(self._epoch, self._num_epochs - 1)

    def _epochs_to_send(self, wire: Wire) -> range:
        """The epochs in which some rank recorded something since the last sync, agreed on by all ranks."""
        # Bits are only ever set, so an epoch has news if and only if its number of bits has grown.
        synced, bits = self._synced
        news = [
            epoch
            for epoch in range(synced, self._last_epoch + 1)
            if count_epoch(self._words, epoch) != (bits if epoch == synced else 0)
        ]
        window = (news[0], news[-1] + 1) if news else (self._num_epochs, 0)
        mine = [self.num_samples, self._num_epochs, self._epoch, *window]
        table = wire.all_gather(torch.tensor(mine)).tolist()
        for column, name in enumerate(("num_samples", "num_epochs", "epoch")):
            values = [row[column] for row in table]
            if len(set(values)) > 1:
                raise ValueError(
                    f"sync: the ranks' statuses must have the same {name}, got {values} by rank; call "
                    "advance() equally often on every rank, and load the same checkpoint on each"
                )
        return range(min(row[3] for row in table), max(row[4] for row in table))

    def _set_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._synced = (0, 0)
        self._epoch_on_device.fill_(epoch)

    # ---- reading

    def compute(self, epochs: slice | None = None) -> TransitionTimes:
        """Transition times of every sample.

        Args:
            epochs: window of epochs, e.g. ``slice(10, 20)``; None: all.

        Returns:
            TransitionTimes, on the status' device.

        Raises:
            ValueError: an empty window, or one with a step. On CUDA also if an earlier `update` met bad values.
        """
        start, stop = self._window(epochs)
        fields = ops.transition_times(self._words, start, stop)
        self._raise_faults()
        return TransitionTimes(*fields.unbind(0), stop - start)  # type: ignore[call-arg, arg-type]

    def histogram(self, epochs: slice | None = None) -> Tensor:
        """How many samples were misclassified m times and seen n times: all that the mixture needs.

        Args:
            epochs: window of epochs; None: all.

        Returns:
            int64 ``[P + 1, P + 1]`` on the CPU, P the window's length; entry ``[m, n]``. ``[0, 0]`` counts the
            samples that were never seen.

        Raises:
            ValueError: as `compute`.
        """
        start, stop = self._window(epochs)
        counts = ops.status_histogram(self._words, start, stop).cpu()
        self._raise_faults()
        return counts

    def lookup(self, table: Tensor, epochs: slice | None = None) -> Tensor:
        """``table[misclassified, seen]`` of every sample, e.g. the mask of a selection.

        Args:
            table: bool or float32 ``[P + 1, P + 1]``, P the window's length.
            epochs: window of epochs; None: all.

        Returns:
            ``[N]``, of the table's dtype, on the status' device.

        Raises:
            TypeError, ValueError: a table of the wrong dtype or shape; otherwise as `compute`.
        """
        start, stop = self._window(epochs)
        values = ops.status_lookup(self._words, table.to(self.device), start, stop)
        self._raise_faults()
        return values

    def _window(self, epochs: slice | None) -> tuple[int, int]:
        if epochs is None:
            return 0, self._num_epochs
        if not isinstance(epochs, slice):
            raise TypeError(
                f"epochs must be a slice, e.g. slice(0, 10), got {type(epochs).__name__}"
            )
        start, stop, step = epochs.indices(self._num_epochs)
        if step != 1 or start >= stop:
            raise ValueError(
                f"epochs must be a non-empty window without a step inside [0, {self._num_epochs}), got "
                f"{epochs}"
            )
        return start, stop

    def _raise_faults(self) -> None:
        """Raise for what kernels had to skip; counting begins anew. Only here does the host wait for the device."""
        if self._words.is_cpu:
            return
        counts = self._faults.tolist()
        if not any(counts):
            return
        self._faults.zero_()
        what = ", ".join(
            f"{count} rows with {name}"
            for count, name in zip(counts, _FAULTS, strict=True)
            if count
        )
        raise ValueError(
            f"earlier calls of update() met bad values: {what}. These rows were not recorded; everything else "
            "was. Look at the index and labels given to update(), and at the number of advance() calls"
        )

    # ---- keeping

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs: ``words`` (not a copy), ``num_epochs``, ``epoch``."""
        self._raise_faults()
        return {"words": self._words, "num_epochs": self._num_epochs, "epoch": self._epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict` of a status of the same size; on an error nothing is changed.

        Raises:
            ValueError: not the state of a status of this size, or a damaged one.
        """
        words, epoch = _checked_state(state)
        if (
            tuple(words.shape) != tuple(self._words.shape)
            or state["num_epochs"] != self._num_epochs
        ):
            raise ValueError(
                f"the state is of {words.shape[0]} samples and {state['num_epochs']} epochs, but this status "
                f"has {self.num_samples} and {self.num_epochs}"
            )
        self._words.copy_(words)
        self._faults.zero_()
        self._set_epoch(epoch)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the status to a safetensors file. An existing file is replaced only once the new one is complete."""
        state = self.state_dict()
        metadata = {
            "format": _FORMAT,
            "num_epochs": str(self._num_epochs),
            "epoch": str(self._epoch),
        }
        tensors = {"words": state["words"]}
        write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], device: torch.device | str = "cpu"
    ) -> LearningStatus:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or no saved status.
        """
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise ValueError(f"{path} is no saved learning status (format {_FORMAT})")
                state = {
                    "words": file.get_tensor("words"),
                    "num_epochs": int(metadata["num_epochs"]),
                    "epoch": int(metadata["epoch"]),
                }
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
        words, epoch = _checked_state(state)
        status = cls(words.shape[0], state["num_epochs"], device=device)
        status._words.copy_(words)
        status._set_epoch(epoch)
        return status


def _checked_state(state: dict[str, Any]) -> tuple[Tensor, int]:
    """The words and epoch of a state, after looking at everything that could be wrong with it."""
    missing = {"words", "num_epochs", "epoch"} - set(state)
    if missing:
        raise ValueError(f"the state of a LearningStatus must have the keys {sorted(missing)}")
    words, num_epochs, epoch = state["words"], state["num_epochs"], state["epoch"]
    if not isinstance(words, Tensor) or words.dtype != torch.int64 or words.dim() != 3:
        raise ValueError("words must be an int64 tensor [num_samples, num_words, 2]")
    if not 1 <= num_epochs <= _C.max_epochs or not 0 <= epoch <= num_epochs:
        raise ValueError(f"there cannot be epoch {epoch} of {num_epochs} epochs")
    if words.shape[0] < 1 or tuple(words.shape[1:]) != (-(-num_epochs // 64), 2):
        raise ValueError(f"words of shape {list(words.shape)} do not fit {num_epochs} epochs")
    past = num_epochs % 64
    if past and bool((words[:, -1] >> past & (1 << (64 - past)) - 1).any()):
        raise ValueError(f"the words are damaged: they have bits past epoch {num_epochs - 1}")
    if bool((words[..., 1] & ~words[..., 0]).any()):
        raise ValueError(
            "the words are damaged: some samples are wrong in epochs they were not seen in"
        )
    return words, epoch
