"""Transition times: how long each sample waited to be memorized, and how long until it was forgotten."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TransitionTimes:
    """Transition times of every sample over a window of epochs.

    All tensors are int32 ``[N]``, on the status' device. Epochs in which a sample was not seen do not
    count; "consecutive" means consecutive among its seen epochs. Source: Hu et al., IJCAI 2023,
    section 3; forgetting events: Toneva et al., ICLR 2019.

    Attributes:
        misclassified: the paper's memorization difficulty, the time spent waiting to be memorized.
            Epochs in ``[0, seen]``; lower = cleaner.
        memorized: the paper's forgetting difficulty, the time spent memorized before being forgotten.
            Epochs in ``[0, seen]``; higher = cleaner.
        metric: the MILD metric, ``misclassified - memorized``. Epochs in ``[-seen, seen]``;
            lower = cleaner.
        first_memorized: first epoch (counted from the window's start) in which the sample was
            memorized; ``num_epochs`` if it never was. Lower = cleaner.
        memorization_events: changes from misclassified to memorized. A count.
        forgetting_events: changes from memorized to misclassified. A count; lower = cleaner.
        longest_memorized_run: longest streak of memorized epochs. Epochs in ``[0, seen]``;
            higher = cleaner.
        seen: epochs in which the sample was visited, in ``[0, num_epochs]``.
        num_epochs: length of the window.
    """

    misclassified: Tensor
    memorized: Tensor
    metric: Tensor
    first_memorized: Tensor
    memorization_events: Tensor
    forgetting_events: Tensor
    longest_memorized_run: Tensor
    seen: Tensor
    num_epochs: int

    def __len__(self) -> int:
        return len(self.seen)

    @property
    def mean_memorization_time(self) -> Tensor:
        """Mean time to a memorization: ``misclassified / max(1, memorization_events)``, float32 ``[N]``, epochs."""
        return self.misclassified / self.memorization_events.clamp(min=1)

    @property
    def mean_forgetting_time(self) -> Tensor:
        """Mean time to a forgetting: ``memorized / max(1, forgetting_events)``, float32 ``[N]``, epochs."""
        return self.memorized / self.forgetting_events.clamp(min=1)
