"""What a status keeps beside its words: the open epoch's visits, the predicted classes, running sums.

Three buffers, written by native code only (layouts: csrc/visit_record.h, csrc/predicted_classes.h,
csrc/epoch_fold.h). N samples, P epochs, K classes:

- ``visits`` int64 ``[N]``, the *open-epoch record*: of each sample's visits in the current epoch the worst one,
  in one word, which a batch is written into by MAX. So duplicates in a batch, batches in another order, replays
  and other ranks' visits leave the same bits, and the values kept are of one visit, never a mixture.
- ``planes`` int32 ``[P, bits, ceil(N / 32)]``, bits = bit length of K: the predicted class of every sample and epoch.
- ``sums`` int32 ``[2 or 7, N]``: running sums in fixed point. `fold` adds the open epoch to them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mild_ext.recording import dynamics_ops
from mild_ext.recording._native import _C
from mild_ext.recording.buffers import OwnsBuffers, new_buffer

#: Rows of ``sums``; the first two at both levels.
SHORTFALL, SHORTFALL_FIRST_HALF, MARGIN, LOSS, PROBABILITY, PROBABILITY_SQUARED, EL2N = range(7)


class EpochRecord(OwnsBuffers):
    """The three buffers of a status that records ``"classes"`` or ``"all"``, and their operations.

    Args:
        num_samples, num_epochs, num_classes: N, P, K.
        statistics: ``"all"``: also sums of margin, loss, label probability and its square, EL2N.
        device: where the logits are.
    """

    def __init__(
        self,
        num_samples: int,
        num_epochs: int,
        num_classes: int,
        *,
        statistics: bool,
        device: torch.device,
    ) -> None:
        self.num_classes = num_classes
        self.statistics = statistics
        bits = _C.plane_bits(num_classes)
        rows = _C.num_sums if statistics else _C.num_shortfall_sums
        plane = -(-num_samples // 32)
        self.visits = new_buffer((num_samples,), torch.int64, device).fill_(_C.no_visit)
        self.planes = new_buffer((num_epochs, bits, plane), torch.int32, device).zero_()
        self.sums = new_buffer((rows, num_samples), torch.int32, device).zero_()

    @property
    def num_samples(self) -> int:
        """N."""
        return self.visits.shape[0]

    @property
    def num_epochs(self) -> int:
        """P."""
        return self.planes.shape[0]

    @property
    def half_epoch(self) -> int:
        """Length of the first half, whose shortfall is kept apart."""
        return (self.num_epochs + 1) // 2

    @property
    def nbytes(self) -> int:
        """Size of the three buffers."""
        return self.visits.nbytes + self.planes.nbytes + self.sums.nbytes

    def to(self, device: torch.device) -> EpochRecord:
        """Move the buffers to a device, in place."""
        self.visits, self.planes, self.sums = (x.to(device) for x in self._buffers())
        return self

    def _buffers(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.visits, self.planes, self.sums

    # ---- writing

    def fold(self, words: Tensor, epoch: Tensor) -> None:
        """End the epoch: the visits go into its bits, classes and the sums, and are emptied."""
        parts = dynamics_ops.INTO_EPOCH | dynamics_ops.INTO_SUMS | dynamics_ops.EMPTIED
        self._fold(words, self.sums, epoch, parts)

    def settle(self, words: Tensor, epoch: Tensor) -> None:
        """Let bits and classes of the open epoch say what was visited so far; may be done at any time, repeatedly."""
        self._fold(words, self.sums, epoch, dynamics_ops.INTO_EPOCH)

    def sums_so_far(self, words: Tensor, epoch: Tensor) -> Tensor:
        """The sums including the open epoch's visits; a copy."""
        sums = self.sums.clone()
        self._fold(words, sums, epoch, dynamics_ops.INTO_SUMS)
        return sums

    def _fold(self, words: Tensor, sums: Tensor, epoch: Tensor, parts: int) -> None:
        dynamics_ops.fold_epoch(
            self.visits, words, self.planes, sums, epoch, self.num_classes, parts
        )

    def reset(self) -> None:
        """Forget everything."""
        self.visits.fill_(_C.no_visit)
        self.planes.zero_()
        self.sums.zero_()

    # ---- keeping

    def state(self) -> dict[str, Any]:
        """``visits``, ``planes``, ``sums`` (not copies), ``num_classes`` and ``record``."""
        return {
            "record": "all" if self.statistics else "classes",
            "num_classes": self.num_classes,
            "visits": self.visits,
            "planes": self.planes,
            "sums": self.sums,
        }

    def copy_(self, other: EpochRecord) -> None:
        """Take over what another record of the same sizes holds; the buffers stay."""
        self.load(other.state())

    def load(self, state: dict[str, Any]) -> None:
        """Take over a `state` that `check_state` has looked at."""
        for mine, name in zip(self._buffers(), ("visits", "planes", "sums"), strict=True):
            mine.copy_(state[name])


def check_state(state: dict[str, Any], num_samples: int, num_epochs: int, epoch: int) -> None:
    """Raise a ValueError for anything wrong with the part of a status' state that is an `EpochRecord`'s."""
    missing = {"record", "num_classes", "visits", "planes", "sums"} - set(state)
    if missing:
        raise ValueError(f"the state of a LearningStatus lacks {sorted(missing)}")
    record, classes = state["record"], state["num_classes"]
    if record not in ("classes", "all"):
        raise ValueError(f"the state has record={record!r}; it must be 'classes' or 'all'")
    if not isinstance(classes, int) or not 1 <= classes <= _C.max_classes:
        raise ValueError(f"the state is damaged: num_classes is {classes!r}")
    rows = _C.num_sums if record == "all" else _C.num_shortfall_sums
    words = -(-num_samples // 32)
    for name, dtype, shape in (
        ("visits", torch.int64, (num_samples,)),
        ("planes", torch.int32, (num_epochs, _C.plane_bits(classes), words)),
        ("sums", torch.int32, (rows, num_samples)),
    ):
        tensor = state[name]
        if not isinstance(tensor, Tensor) or tensor.dtype != dtype or tuple(tensor.shape) != shape:
            raise ValueError(f"the state is damaged: {name} must be {dtype} {list(shape)}")
    planes = state["planes"].contiguous()
    for t in range(num_epochs):
        if t > epoch:
            good = not planes[t].any()
        else:
            predicted = torch.ops.mild_ext.predicted_classes(planes, num_samples, classes, t)
            good = int(predicted.max()) < classes
        if not good:
            raise ValueError(f"the planes are damaged: epoch {t} has classes that cannot be")
