"""What a history of learning status says about each sample."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TransitionTimes:
    """Transition times of N samples over a window of ``num_epochs`` epochs.

    All tensors are int32 of shape [N], on the status' device. Only epochs in which the sample was *seen* count;
    an epoch without a visit neither breaks a run nor makes a transition.

    Attributes:
        memorization: Memorization difficulty: epochs misclassified, in [0, seen]; **lower = cleaner**.
        forgetting: Forgetting difficulty: epochs memorized, in [0, seen]; higher = cleaner.
        metric: The MILD metric, ``memorization - forgetting``, in epochs, in [-seen, seen]; **lower = cleaner**.
        first_memorized: First epoch memorized, counted from the window's start; ``num_epochs`` if never.
        memorization_events: Changes from misclassified to memorized between consecutive seen epochs; count.
        forgetting_events: Changes from memorized to misclassified (Toneva et al., ICLR 2019); count.
        longest_memorized_run: Longest streak of memorized among the seen epochs; epochs.
        seen: Epochs in which the sample was visited, in [0, num_epochs].
        num_epochs: Length of the window.

    Source: Hu et al., "MILD", IJCAI 2023 (arXiv 2306.11560), for difficulty and metric.
    """

    memorization: Tensor
    forgetting: Tensor
    metric: Tensor
    first_memorized: Tensor
    memorization_events: Tensor
    forgetting_events: Tensor
    longest_memorized_run: Tensor
    seen: Tensor
    num_epochs: int

    def __len__(self) -> int:
        return self.seen.shape[0]

    @property
    def mean_memorization_time(self) -> Tensor:
        """float32 [N]: epochs misclassified per memorization event (or in all, where there is none)."""
        return self.memorization / self.memorization_events.clamp(min=1)

    @property
    def mean_forgetting_time(self) -> Tensor:
        """float32 [N]: epochs memorized per forgetting event (or in all, where there is none)."""
        return self.forgetting / self.forgetting_events.clamp(min=1)

    def to(self, device: torch.device | str) -> TransitionTimes:
        """The same on another device."""
        columns = {name: getattr(self, name).to(device) for name in COLUMNS}
        return TransitionTimes(**columns, num_epochs=self.num_epochs)


#: The tensor fields, in the order of the rows of ``mild_ext.ops.transition_times``.
COLUMNS: tuple[str, ...] = tuple(
    field.name for field in fields(TransitionTimes) if field.name != "num_epochs"
)
