"""Learning logs: what a training run recorded of every sample, in one npz file without pickles.

Arrays (N samples, E epochs; those marked * are optional):

- ``memorized``: uint8 ``[N, ceil(E / 8)]``, ``numpy.packbits`` over the epoch axis of bool [N, E]:
  the training forward pass predicted the given label.
- ``seen`` *: uint8 ``[N, ceil(E / 8)]``, packed alike: the sample was visited. Default: always.
- ``num_epochs``: int, E.
- ``given_label``, ``true_label`` *: integers [N].
- ``loss`` *: float16 [N, E], cross-entropy in nats.
- ``margin`` *: float16 [N, E], the given label's logit minus the largest other one.
- ``predicted`` *: int32 [N, E], the predicted class; -1 where a sample was not seen, or had a NaN.
- ``label_prob`` *: float16 [N, E], softmax probability of the given label.
- ``ids`` *: int64 [N], positions in the data set, where the log is of a part of it. Default: 0 ... N - 1.
- ``oof_probs`` *: float16 [N, K], class probabilities of models that were not trained on the sample
  (cross-validation), as confident learning needs them.

``loss``, ``margin`` and ``label_prob`` are NaN where a sample was not seen. Files with further arrays
are read; those arrays are ignored. `mild-ext train --learning-logs` writes them.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mild_ext.files import write_atomically
from mild_ext.recording._native import _C
from mild_ext.recording.status import LearningStatus

_PER_EPOCH = ("loss", "margin", "label_prob")
_PER_SAMPLE = ("given_label", "true_label", "ids")
_MOST_CLASSES: int = _C.max_classes


@dataclass(frozen=True)
class LearningLog:
    """A run's record; arrays as the module's docstring says, bits unpacked to bool [N, E]."""

    memorized: NDArray[np.bool_]
    given_label: NDArray[np.int64]
    seen: NDArray[np.bool_] | None = None
    true_label: NDArray[np.int64] | None = None
    loss: NDArray[np.float16] | None = None
    margin: NDArray[np.float16] | None = None
    label_prob: NDArray[np.float16] | None = None
    predicted: NDArray[np.int32] | None = None
    ids: NDArray[np.int64] | None = None
    oof_probs: NDArray[np.float16] | None = None

    def __post_init__(self) -> None:
        if self.memorized.ndim != 2 or self.memorized.dtype != np.bool_:
            raise ValueError(
                f"memorized must be bool [N, E], got {self.memorized.dtype} {self.memorized.shape}"
            )
        samples, epochs = self.memorized.shape
        shapes: dict[str, tuple[int, ...]] = {
            "seen": (samples, epochs),
            "given_label": (samples,),
            "true_label": (samples,),
            "ids": (samples,),
            "predicted": (samples, epochs),
            **{name: (samples, epochs) for name in _PER_EPOCH},
        }
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
        if self.oof_probs is not None and (
            self.oof_probs.ndim != 2 or len(self.oof_probs) != samples
        ):
            raise ValueError(f"oof_probs must have shape ({samples}, K)")
        for name in ("given_label", "true_label"):
            _check_integers(name, getattr(self, name), _MOST_CLASSES)
        _check_integers("ids", self.ids, 1 << 62)
        if self.ids is not None and len(np.unique(self.ids)) != samples:
            raise ValueError("ids must name each sample once, but some occur twice")
        for name in ("predicted", *_PER_EPOCH):
            self._check_record(name)

    def _check_record(self, name: str) -> None:
        """That what is said of every sample and epoch can be."""
        array = getattr(self, name)
        if array is None:
            return
        if name == "predicted":
            _check_integers(name, array.astype(np.int64) + 1, _MOST_CLASSES + 1)  # -1: not seen
        elif name == "label_prob" and ((array < 0) | (array > 1)).any():
            raise ValueError("label_prob must lie in [0, 1]")
        elif name == "loss" and (array < 0).any():
            raise ValueError("loss must not be negative")

    @property
    def num_epochs(self) -> int:
        """E."""
        return int(self.memorized.shape[1])

    @property
    def clean(self) -> NDArray[np.bool_] | None:
        """bool [N], the given label is the true one; None where the truth is not in the log."""
        return None if self.true_label is None else self.given_label == self.true_label

    def status(self) -> LearningStatus:
        """The learning status these records amount to, as if recorded by ``update``."""
        samples, epochs = self.memorized.shape
        seen = np.ones_like(self.memorized) if self.seen is None else self.seen
        status = LearningStatus(samples, epochs)
        planes = np.stack([seen, seen & ~self.memorized], axis=1)  # [N, 2, E]
        padded = np.zeros((samples, 2, 64 * status.words.shape[1]), dtype=np.bool_)
        padded[:, :, :epochs] = planes
        packed = np.packbits(padded, axis=2, bitorder="little").view("<i8")  # [N, 2, W]
        words = torch.from_numpy(packed.astype(np.int64).transpose(0, 2, 1).copy())
        status.load_state_dict({**status.state_dict(), "words": words, "epoch": epochs})
        return status


def _check_integers(name: str, array: NDArray[Any] | None, limit: int) -> None:
    if array is None or not len(array):
        return
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, got {array.dtype}")
    if array.min() < 0 or array.max() >= limit:
        raise ValueError(f"{name} must lie in [0, {limit}), got {array.min()} to {array.max()}")


class LogRecorder:
    """Records what a learning log holds beyond the learning status: loss and margin.

    Two float16 values a sample and epoch, where training runs: 40 MB for 100,000 samples and 100
    epochs. The status itself takes two bits.

    Args:
        num_samples: size of the data set, N.
        num_epochs: epochs to record, E.
        device: where logits, labels and indices will be.
    """

    def __init__(
        self, num_samples: int, num_epochs: int, device: torch.device | str = "cpu"
    ) -> None:
        shape = (2, num_epochs, num_samples)  # the samples of an epoch lie together
        self._values = torch.full(shape, torch.nan, dtype=torch.float16, device=device)

    def update(self, epoch: int, index: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Record a batch into an epoch.

        Args:
            epoch: in [0, num_epochs).
            index: int64 [B], the samples.
            logits: [B, K], of the training forward pass.
            labels: int64 [B], the given labels.
        """
        logits = logits.detach().float()
        own = logits.gather(1, labels[:, None])
        others = logits.scatter(1, labels[:, None], -torch.inf)
        margin = (own - others.amax(dim=1, keepdim=True))[:, 0]
        loss = F.cross_entropy(logits, labels, reduction="none")
        largest = torch.finfo(torch.float16).max
        values = torch.stack([loss, margin]).clamp(-largest, largest)
        self._values[:, epoch, index] = values.half()

    def log(
        self,
        status: LearningStatus,
        given: Tensor,
        true: Tensor | None = None,
        *,
        without: Tensor | None = None,
    ) -> LearningLog:
        """The log of the samples seen at all; with the predicted classes, where the status records them.

        Args:
            status: the learning status recorded beside it.
            given, true: int64 [N], the given labels and, where known, the true ones.
            without: bool [N], samples to leave out: those trained on another label than the given one.
        """
        words = status.words.cpu().numpy()  # [N, W, 2]
        planes = np.ascontiguousarray(words.transpose(2, 0, 1).astype("<i8")).view(np.uint8)
        bits = np.unpackbits(planes, axis=2, count=status.num_epochs, bitorder="little")
        seen, wrong = bits.astype(np.bool_)
        there = seen.any(axis=1)
        if without is not None:
            there &= ~without.cpu().numpy()
        ids = np.flatnonzero(there)
        loss, margin = self._values.transpose(1, 2).cpu().numpy()[:, ids]
        predicted = None
        if status.record != "status":
            epochs = [status.predictions(t).cpu().numpy()[ids] for t in range(status.num_epochs)]
            predicted = np.stack(epochs, axis=1)
        return LearningLog(
            memorized=(seen & ~wrong)[ids],
            given_label=given.cpu().numpy()[ids],
            seen=None if seen[ids].all() else seen[ids],
            true_label=None if true is None else true.cpu().numpy()[ids],
            loss=loss,
            margin=margin,
            predicted=predicted,
            ids=None if len(ids) == len(seen) else ids,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """What `load_state_dict` needs."""
        return {"values": self._values}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state_dict` of a recorder of the same size."""
        self._values.copy_(state["values"])


def read_learning_log(path: str | os.PathLike[str]) -> LearningLog:
    """Read a log; nothing in the file is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not an npz file, or an array is missing or has the wrong shape.
    """
    if not zipfile.is_zipfile(path):
        if not Path(path).exists():
            raise FileNotFoundError(f"there is no file {path}")
        raise ValueError(f"{path} is no learning log: not an npz file, or a truncated one")
    with np.load(path, allow_pickle=False) as file:
        missing = {"memorized", "num_epochs", "given_label"} - set(file.files)
        if missing:
            raise ValueError(f"{path} is no learning log: it lacks {', '.join(sorted(missing))}")
        declared = file["num_epochs"]
        if (
            declared.shape != ()
            or declared.dtype.kind not in "iu"
            or not 1 <= declared <= _C.max_epochs
        ):
            raise ValueError(f"{path}: num_epochs must be an integer in [1, {_C.max_epochs}]")
        epochs = int(declared)
        fields: dict[str, Any] = {}
        for name in ("memorized", "seen"):
            if name in file.files:
                bits = file[name]
                if bits.dtype != np.uint8 or bits.ndim != 2 or bits.shape[1] != -(-epochs // 8):
                    raise ValueError(
                        f"{path}: {name} must be uint8 [N, {-(-epochs // 8)}] for {epochs} epochs, "
                        f"got {bits.dtype} {bits.shape}"
                    )
                fields[name] = np.unpackbits(bits, axis=1, count=epochs).astype(np.bool_)
        for name in _PER_SAMPLE:
            if name in file.files:
                fields[name] = file[name]
        for name in (*_PER_EPOCH, "oof_probs"):
            if name in file.files and len(file[name]):
                fields[name] = file[name]
        if "predicted" in file.files:
            fields["predicted"] = file["predicted"]
    try:
        log = LearningLog(**fields)
    except ValueError as error:
        raise ValueError(f"{path} is no learning log that can be: {error}") from error
    integers = {name: getattr(log, name) for name in (*_PER_SAMPLE, "predicted")}
    dtypes = {name: np.int32 if name == "predicted" else np.int64 for name in integers}
    return replace(
        log,
        **{name: a.astype(dtypes[name]) for name, a in integers.items() if a is not None},
    )


def write_learning_log(path: str | os.PathLike[str], log: LearningLog) -> None:
    """Write a log, compressed; the file appears complete or not at all."""
    arrays: dict[str, Any] = {"num_epochs": np.int64(log.num_epochs)}
    for name in ("memorized", "seen"):
        if getattr(log, name) is not None:
            arrays[name] = np.packbits(getattr(log, name), axis=1)
    for name in _PER_SAMPLE:
        if getattr(log, name) is not None:
            arrays[name] = np.asarray(getattr(log, name), dtype=np.int64)
    for name in (*_PER_EPOCH, "oof_probs"):
        if getattr(log, name) is not None:
            arrays[name] = np.asarray(getattr(log, name)).astype(np.float16)
    if log.predicted is not None:
        arrays["predicted"] = np.asarray(log.predicted, dtype=np.int32)

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:  # by name, NumPy would add its own suffix
            np.savez_compressed(file, **arrays)

    write_atomically(path, write)
