"""The learning status of every training sample, recorded while a model trains."""

from __future__ import annotations

import operator
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mild_ext import ops
from mild_ext._checks import require_tensor
from mild_ext._native import FAST_LANE, C
from mild_ext.transitions import COLUMNS, TransitionTimes

_FORMAT = "mild_ext.LearningStatus/1"

# How many torch_dispatch modes (fake tensors, tracers, counters, ...) are active. They see operators only, so the
# fast lane below must not pass them by.
_dispatch_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)


class LearningStatus:
    """Which samples the model had right, epoch by epoch: two bits for each sample and epoch.

    Call :meth:`update` with the training batch's own logits (train mode, before the optimizer step) and
    :meth:`advance` at the end of every epoch. A sample counts as *memorized* in an epoch if its label was the
    argmax of its logits in every visit of that epoch; see :func:`mild_ext.reference.memorized` for ties and NaN.

    Every write is an OR into grow-only bit planes, so duplicates in a batch, replayed batches and merges of
    several processes' buffers give one well-defined answer, the same on CPU and GPU. As with any in-place operation
    of torch, two threads must not update one status at the same time.

    Args:
        num_samples: Size N of the training set; sample ids are 0 ... N - 1.
        num_epochs: Epochs p of the round, in [1, 4096].
        device: Where the status lives: the logits' device.

    Attributes:
        words: The buffer, int64 [N, ceil(p / 64), 2]: bit t % 64 of word t // 64 is epoch t; plane 0 is *seen*,
            plane 1 *wrong*. 16 bytes a sample for p <= 64.
        num_samples: N.
        num_epochs: p.

    Example:
        >>> import torch
        >>> from mild_ext import LearningStatus
        >>> status = LearningStatus(num_samples=3, num_epochs=2)
        >>> logits = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
        >>> status.update(torch.tensor([0, 2]), logits, labels=torch.tensor([0, 0]))
        >>> status.advance()
        >>> status.compute().memorization  # epochs misclassified: sample 2 once; sample 1 was never seen
        tensor([0, 0, 1], dtype=torch.int32)
    """

    def __init__(
        self, num_samples: int, num_epochs: int, *, device: torch.device | str = "cpu"
    ) -> None:
        self.num_samples = _positive("num_samples", num_samples)
        self.num_epochs = _positive("num_epochs", num_epochs)
        if self.num_epochs > C.max_epochs:
            raise ValueError(f"num_epochs must be at most {C.max_epochs}; got {num_epochs}")
        device = torch.device(device)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError(f"device must be a CPU or CUDA device; got {device}")
        if device.type == "cuda" and not C.cuda_built:
            raise RuntimeError(
                f"device is {device}, but this mild_ext was built without CUDA; reinstall it where nvcc is on PATH "
                "(MILD_EXT_CUDA=ON pip install --force-reinstall --no-deps .)"
            )
        # Ordinary tensors even if made inside torch.inference_mode(): they are written to outside of it.
        with torch.inference_mode(False):
            shape = (self.num_samples, -(-self.num_epochs // 64), 2)
            self.words = torch.zeros(shape, dtype=torch.int64, device=device)
            # The kernel reads the epoch from memory: a compiled or captured step goes on recording rightly.
            self._epoch_scalar = torch.zeros((), dtype=torch.int64, device=device)
            self._faults = torch.zeros(C.num_faults, dtype=torch.int64, device=device)
        self._epoch = 0

    @property
    def device(self) -> torch.device:
        """Where the status lives."""
        return self.words.device

    @property
    def nbytes(self) -> int:
        """Size of the buffer in bytes."""
        return self.words.nbytes

    @property
    def epoch(self) -> int:
        """The current epoch, in [0, num_epochs]; ``num_epochs`` once all are recorded."""
        return self._epoch

    def __repr__(self) -> str:
        return (
            f"LearningStatus(num_samples={self.num_samples}, num_epochs={self.num_epochs}, "
            f"device='{self.device}', epoch={self.epoch})"
        )

    # ---- recording ------------------------------------------------------------------------------------------

    def update(self, index: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Records one batch in the current epoch.

        No gradient flows from here, whatever the logits require. On a GPU nothing is synchronised: an ``index`` or
        ``labels`` on the CPU is copied there without blocking.

        Args:
            index: The samples' ids, int64 or int32 [B], in [0, num_samples).
            logits: Scores, float32, float64, float16 or bfloat16 [B, C]. Rows may be strided.
            labels: The given (possibly wrong) labels, int64 or int32 [B], in [0, C).

        Raises:
            TypeError: If an argument is no dense tensor or has another dtype.
            ValueError: If shapes do not match, or on the CPU, if an index, a label or the epoch is out of range.
                Nothing of the batch is recorded then. On a GPU, rows with an index or label out of range are
                skipped and counted, and the next call that reads the status back raises.
            RuntimeError: If a tensor is on another device than the status.
        """
        # The fast lane hands torch's tensors to the native code directly; it declines (and does nothing) on
        # anything out of the ordinary. A traced or compiled step records the operator instead.
        if not torch.compiler.is_compiling():
            if self._epoch >= self.num_epochs:
                raise ValueError(
                    f"all num_epochs = {self.num_epochs} declared epochs are over; make the LearningStatus with more "
                    "epochs, or reset() it for a new round"
                )
            if (
                FAST_LANE
                and not _dispatch_modes()
                and C.try_update(
                    self.words,
                    self._faults,
                    index,
                    logits,
                    labels,
                    self._epoch_scalar,
                    self.num_epochs,
                    torch.get_num_threads(),
                )
            ):
                return
        self._update_by_operator(index, logits, labels)

    def _update_by_operator(self, index: Tensor, logits: Tensor, labels: Tensor) -> None:
        for name, tensor in (("index", index), ("logits", logits), ("labels", labels)):
            require_tensor(name, tensor)
        device = self.words.device
        if device.type != "cpu":
            if index.device.type == "cpu":
                index = index.to(device, non_blocking=True)
            if labels.device.type == "cpu":
                labels = labels.to(device, non_blocking=True)
        ops.update(
            self.words,
            self._faults,
            index,
            logits.detach(),
            labels,
            self._epoch_scalar,
            self.num_epochs,
        )

    def advance(self) -> None:
        """Ends the current epoch: what is recorded from here on belongs to the next.

        Raises:
            ValueError: If all declared epochs are over.
        """
        if self._epoch >= self.num_epochs:
            raise ValueError(f"all num_epochs = {self.num_epochs} declared epochs are over")
        self._epoch_scalar.add_(1)
        self._epoch += 1

    def reset(self) -> None:
        """Forgets everything and goes back to epoch 0, in place."""
        self.words.zero_()
        self._faults.zero_()
        self._set_epoch(0)

    def merge_(self, other: LearningStatus) -> LearningStatus:
        """Adds what another process or part recorded: the bitwise OR of both.

        Commutative, associative and idempotent. The epoch becomes the later of the two.

        Args:
            other: A status with the same ``num_samples`` and ``num_epochs``, on any device.

        Returns:
            This status.
        """
        if not isinstance(other, LearningStatus):
            raise TypeError(f"other must be a LearningStatus; got {type(other).__name__}")
        sizes = (self.num_samples, self.num_epochs)
        if sizes != (other.num_samples, other.num_epochs):
            raise ValueError(
                "other must have the same num_samples and num_epochs, "
                f"{sizes}; got {(other.num_samples, other.num_epochs)}"
            )
        self._raise_faults()
        other._raise_faults()
        self.words.bitwise_or_(other.words.to(self.device))
        self._set_epoch(max(self.epoch, other.epoch))
        return self

    # ---- reading --------------------------------------------------------------------------------------------

    def compute(self, epochs: slice | None = None) -> TransitionTimes:
        """Transition times of every sample.

        Args:
            epochs: A window such as ``slice(10, 20)``; all ``num_epochs`` if None.

        Returns:
            :class:`TransitionTimes` on the status' device.
        """
        start, stop = self._window(epochs)
        self._raise_faults()
        rows = ops.transition_times(self.words, start, stop).unbind(0)
        return TransitionTimes(**dict(zip(COLUMNS, rows, strict=True)), num_epochs=stop - start)

    def histogram(self, epochs: slice | None = None) -> Tensor:
        """How many samples were misclassified m times and seen n times.

        Args:
            epochs: A window such as ``slice(10, 20)``; all ``num_epochs`` if None.

        Returns:
            Counts, int64 [P + 1, P + 1] on the CPU over (misclassified, seen), P the window's length. Cell [0, 0]
            holds the samples never seen in the window.
        """
        start, stop = self._window(epochs)
        self._raise_faults()
        counts: Tensor = ops.histogram(self.words, start, stop)
        return counts.cpu()

    def lookup(self, table: Tensor, epochs: slice | None = None) -> Tensor:
        """A value for each sample from a table over (misclassified, seen): a mask, a posterior.

        Args:
            table: bool or float32 [P + 1, P + 1], on any device.
            epochs: A window such as ``slice(10, 20)``; all ``num_epochs`` if None.

        Returns:
            ``table[misclassified, seen]`` of every sample, [N] on the status' device. Nothing else of size N is
            allocated.
        """
        start, stop = self._window(epochs)
        require_tensor("table", table)
        self._raise_faults()
        values: Tensor = ops.lookup(self.words, table.detach().to(self.device), start, stop)
        return values

    # ---- keeping --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything, for a checkpoint: ``words``, ``num_epochs``, ``epoch``."""
        self._raise_faults()
        return {"words": self.words.clone(), "num_epochs": self.num_epochs, "epoch": self.epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over what :meth:`state_dict` of a status of the same size gave; in place.

        Raises:
            KeyError: If an entry is missing.
            TypeError: If ``words`` is no int64 tensor.
            ValueError: If the sizes differ.
        """
        missing = {"words", "num_epochs", "epoch"} - state_dict.keys()
        if missing:
            raise KeyError(f"state_dict lacks {sorted(missing)}")
        words, num_epochs = state_dict["words"], int(state_dict["num_epochs"])
        epoch = int(state_dict["epoch"])
        require_tensor("state_dict['words']", words)
        if words.dtype != torch.int64:
            raise TypeError(f"state_dict['words'] must be int64; got {words.dtype}")
        if words.shape != self.words.shape or num_epochs != self.num_epochs:
            raise ValueError(
                f"state_dict is of another size: words {list(words.shape)} over {num_epochs} epochs; this status "
                f"has {list(self.words.shape)} over {self.num_epochs}"
            )
        if not 0 <= epoch <= num_epochs:
            raise ValueError(f"state_dict['epoch'] must be in [0, {num_epochs}]; got {epoch}")
        self.words.copy_(words)
        self._faults.zero_()
        self._set_epoch(epoch)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the status to a safetensors file; an existing file is replaced whole or not at all."""
        from safetensors.torch import save_file

        self._raise_faults()
        path = Path(path)
        metadata = {
            "format": _FORMAT,
            "num_epochs": str(self.num_epochs),
            "epoch": str(self.epoch),
        }
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            part = Path(folder) / "status.safetensors"
            save_file({"words": self.words.cpu()}, part, metadata=metadata)
            part.replace(path)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], device: torch.device | str = "cpu"
    ) -> LearningStatus:
        """Reads what :meth:`save` wrote.

        Raises:
            ValueError: If the file holds no learning status.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise ValueError(
                        f"{path} holds no learning status (format {metadata.get('format')!r}, "
                        f"expected {_FORMAT!r})"
                    )
                words = file.get_tensor("words")
        except SafetensorError as error:
            raise ValueError(f"{path} holds no learning status: {error}") from error
        status = cls(words.shape[0], int(metadata["num_epochs"]), device=device)
        status.load_state_dict({**metadata, "words": words})
        return status

    # ---- inside ---------------------------------------------------------------------------------------------

    def _set_epoch(self, epoch: int) -> None:
        self._epoch_scalar.fill_(epoch)
        self._epoch = epoch

    def _window(self, epochs: slice | None) -> tuple[int, int]:
        """``epochs`` as [start, stop) with Python's rules for slices."""
        if epochs is None:
            return 0, self.num_epochs
        if not isinstance(epochs, slice):
            raise TypeError(
                f"epochs must be a slice such as slice(10, 20), or None; got {type(epochs).__name__}"
            )
        start, stop, step = epochs.indices(self.num_epochs)
        if step != 1 or stop <= start:
            raise ValueError(
                f"epochs must select at least one of the {self.num_epochs} epochs, in steps of 1; got {epochs}"
            )
        return start, stop

    def _raise_faults(self) -> None:
        """Raises, once, for what a GPU could only count."""
        if self.device.type == "cpu":
            return
        bad_index, bad_label, bad_epoch = self._faults.tolist()
        if not (bad_index or bad_label or bad_epoch):
            return
        self._faults.zero_()
        raise ValueError(
            f"rows passed to update() since the last check were skipped: {bad_index} with an index outside "
            f"[0, {self.num_samples}), {bad_label} with a label outside [0, classes), {bad_epoch} after the last of "
            f"{self.num_epochs} epochs. All others were recorded; calling again reads them."
        )


def _positive(name: str, value: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer; got {type(value).__name__}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1; got {value}")
    return number
