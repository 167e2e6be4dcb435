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
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mild_ext.reading import reading
from mild_ext.recording.status import LearningStatus
from mild_ext.sealed import read_sealed_arrays, write_arrays

_PER_EPOCH = ("loss", "margin", "label_prob")
_PER_SAMPLE = ("given_label", "true_label", "ids")


@dataclass(frozen=True)
class LearningLog:
    """A run's record; arrays as the module's docstring says, bits unpacked to bool [N, E].

    Raises:
        ValueError: shapes that do not fit together, or values that no recording can contain: negative labels, ids that
            occur twice, probabilities outside [0, 1], a negative loss.
    """

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
        if not samples or not epochs:
            raise ValueError(
                f"memorized must have a sample and an epoch, got {self.memorized.shape}"
            )
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
        self._check_values()

    def _check_values(self) -> None:
        """Whatever no recording can contain is damage, or another kind of file."""
        samples = len(self.memorized)
        if self.seen is not None and self.seen.dtype != np.bool_:
            raise ValueError(f"seen must be bool, got {self.seen.dtype}")
        for name in _PER_SAMPLE:
            values = getattr(self, name)
            if values is not None and int(values.min()) < 0:
                row = int(np.flatnonzero(values < 0)[0])
                raise ValueError(
                    f"{name} must not be negative, got {values[row]} at {row}; leave samples without a label out"
                )
        if self.ids is not None and len(np.unique(self.ids)) != samples:
            values, times = np.unique(self.ids, return_counts=True)
            raise ValueError(
                f"ids must name each sample once, but {values[times > 1][0]} occurs twice"
            )
        if self.predicted is not None and int(self.predicted.min()) < -1:
            raise ValueError(f"predicted must be a class, or -1, got {self.predicted.min()}")
        probabilities = self.oof_probs
        if probabilities is not None:
            if probabilities.ndim != 2 or len(probabilities) != samples:
                raise ValueError(f"oof_probs must have shape ({samples}, K)")
            _require_in_unit_range("oof_probs", probabilities)
        if self.label_prob is not None:
            _require_in_unit_range("label_prob", self.label_prob)
        if self.loss is not None and bool((self.loss < 0).any()):
            raise ValueError("loss must not be negative: it is a cross-entropy in nats")

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
        epochs: int | None = None,
    ) -> LearningLog:
        """The log of the samples seen at all; with the predicted classes, where the status records them.

        Args:
            status: the learning status recorded beside it.
            given, true: int64 [N], the given labels and, where known, the true ones.
            without: bool [N], samples to leave out: those trained on another label than the given one.
            epochs: the first epochs of the status, to which the log is cut; None: all.
        """
        epochs = status.num_epochs if epochs is None else epochs
        words = status.words.cpu().numpy()  # [N, W, 2]
        planes = np.ascontiguousarray(words.transpose(2, 0, 1).astype("<i8")).view(np.uint8)
        bits = np.unpackbits(planes, axis=2, count=epochs, bitorder="little")
        seen, wrong = bits.astype(np.bool_)
        there = seen.any(axis=1)
        if without is not None:
            there &= ~without.cpu().numpy()
        ids = np.flatnonzero(there)
        loss, margin = self._values[:, :epochs].transpose(1, 2).cpu().numpy()[:, ids]
        predicted = None
        if status.record != "status":
            each = [status.predictions(t).cpu().numpy()[ids] for t in range(epochs)]
            predicted = np.stack(each, axis=1)
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


def _require_in_unit_range(name: str, values: NDArray[Any]) -> None:
    if bool((values < 0).any()) or bool((values > 1).any()):
        raise ValueError(f"{name} must lie in [0, 1]: they are probabilities")


def read_learning_log(path: str | os.PathLike[str]) -> LearningLog:
    """Read a log; nothing in the file is executed.

    Logs that `write_learning_log` wrote are held against their checksum. Others', and those of earlier versions, have
    none: of those, only what can be no recording is noticed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not an npz file, damaged, or an array is missing, has the wrong shape, or values that cannot be.
    """
    arrays = read_sealed_arrays(path)
    with reading(path):
        missing = {"memorized", "num_epochs", "given_label"} - set(arrays)
        if missing:
            raise ValueError(f"it is no learning log: it lacks {', '.join(sorted(missing))}")
        number = arrays["num_epochs"]
        if number.dtype.kind not in "iu" or number.size != 1:
            raise ValueError(f"num_epochs must be one integer, got {number.dtype} {number.shape}")
        epochs = int(number.reshape(()))
        fields: dict[str, Any] = {}
        for name in ("memorized", "seen"):
            if name in arrays:
                fields[name] = _unpacked(name, arrays[name], epochs)
        for name in (*_PER_SAMPLE, "predicted"):
            if name in arrays:
                kind = np.int32 if name == "predicted" else np.int64
                fields[name] = _integers(name, arrays[name], kind)
        for name in (*_PER_EPOCH, "oof_probs"):
            if name in arrays and len(np.atleast_1d(arrays[name])):
                if arrays[name].dtype.kind != "f":
                    raise ValueError(f"{name} must be floating-point, got {arrays[name].dtype}")
                fields[name] = arrays[name]
        return LearningLog(**fields)


def _unpacked(name: str, bits: NDArray[Any], epochs: int) -> NDArray[np.bool_]:
    """bool [N, E] of packed bits; the bits that fill up the last byte must be 0."""
    wanted = -(-epochs // 8)
    if bits.dtype != np.uint8 or bits.ndim != 2 or bits.shape[1] != wanted or epochs < 1:
        raise ValueError(
            f"{name} must be uint8 [N, {wanted}] for {epochs} epochs, got {bits.dtype} {bits.shape}"
        )
    every = np.unpackbits(bits, axis=1)
    if every[:, epochs:].any():
        raise ValueError(f"{name} has bits past epoch {epochs - 1}")
    return every[:, :epochs].astype(np.bool_)


def _integers(name: str, values: NDArray[Any], kind: type[np.signedinteger[Any]]) -> NDArray[Any]:
    """The same integers in another type, or a ValueError where they do not fit, or are none."""
    if values.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, got {values.dtype}")
    converted: NDArray[Any] = values.astype(kind)
    if values.size and (
        int(values.max()) > np.iinfo(kind).max or not np.array_equal(converted, values)
    ):
        raise ValueError(f"{name} must fit {np.dtype(kind)}, got up to {values.max()}")
    return converted


def write_learning_log(path: str | os.PathLike[str], log: LearningLog) -> None:
    """Write a log, compressed and sealed; the file appears complete or not at all."""
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
    write_arrays(path, arrays)
