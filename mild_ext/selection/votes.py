"""What a status with predicted classes and planted labels says, sample by sample.

A *vote* is the class that one epoch predicted for a sample. Everything with an entry per sample stays
on the status' device and is read in whole passes; of the planted samples, few by design, every
epoch's prediction is at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mild_ext.selection.planted import PlantedLabels

#: Of more samples, a regular part is compared with the planted ones where only a share is asked for.
ENOUGH = 100_000


@dataclass(frozen=True)
class Votes:
    """The votes of a window of epochs; tensors ``[N]``.

    Attributes:
        winner: int64, the class most voted for; -1 where there are no votes.
        united: int64 in ``[0, P]``, how united the votes are: the winner's share of them, times the
            window's length P. For a sample seen in every epoch that is the winner's count.
        runner_up: int64, the class most voted for besides the label trained on; -1 where there is none.
        runner_up_share: float32 in [0, 1], its share of the votes for other classes than that label.
    """

    winner: Tensor
    united: Tensor
    runner_up: Tensor
    runner_up_share: Tensor


class Majority(NamedTuple):
    """The class most voted for, int64 ``[n]``, -1 where there are no votes; its votes; all votes counted."""

    winner: NDArray[np.int64]
    votes: NDArray[np.int64]
    total: NDArray[np.int64]


def running_majority(
    predicted: NDArray[np.int64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The class most voted for up to each epoch, the lowest of equals, and its votes; -1 and 0 without any.

    Memory and time are those of the predictions ``[n, epochs]`` (-1: no vote), whatever the number of classes.
    """
    samples, epochs = predicted.shape
    # How often an epoch's class was voted for up to it: its place among the equal ones of a row in order.
    order = np.argsort(predicted, axis=1, kind="stable")
    in_order = np.take_along_axis(predicted, order, axis=1)
    place = np.broadcast_to(np.arange(epochs), predicted.shape)
    first = np.ones(predicted.shape, dtype=np.bool_)
    first[:, 1:] = in_order[:, 1:] != in_order[:, :-1]
    start = np.maximum.accumulate(np.where(first, place, 0), axis=1)
    times = np.empty(predicted.shape, dtype=np.int64)
    np.put_along_axis(times, order, place - start + 1, axis=1)
    winner, votes = np.full(samples, -1, dtype=np.int64), np.zeros(samples, dtype=np.int64)
    for label, count in zip(predicted.T, times.T, strict=True):
        better = (label >= 0) & ((count > votes) | ((count == votes) & (label < winner)))
        winner, votes = np.where(better, label, winner), np.where(better, count, votes)
        yield winner, votes


class PlantedEvidence:
    """The evidence of a status whose training labels were partly planted.

    Args:
        status: a LearningStatus that records predicted classes.
        planted: the labels it was trained on.
        recorded: number of epochs that were recorded; windows lie in these.

    Attributes:
        trained: int64 ``[N]`` on the status' device, the labels trained on.
        given: int64 ``[N]`` there, the given labels.
        whole_share: float32 ``[N]`` there, `misclassified_share` of all recorded epochs.
        seen: bool ``[N]`` there, the samples seen at all.
        others: bool ``[N]`` there, the samples seen whose label is not planted.
        index: int64 ``[n]`` there, the planted samples that were seen; ``n`` of them.
        shortfall: float32 ``[N]`` in [0, log 10^4] nats, the mean over the run; 0 where never seen.
        early_shortfall: the same over the first half of the epochs.
    """

    def __init__(self, status: Any, planted: PlantedLabels, recorded: int) -> None:
        self.status, self.recorded = status, recorded
        self.num_classes = int(status.num_classes)
        device = status.device
        self.trained, self.given = planted.labels.to(device), planted.given.to(device)
        self.whole_share = self.misclassified_share(slice(0, recorded))
        self.seen = self.whole_share >= 0
        index = planted.index.to(device)
        self.index = index[self.seen[index]]
        self.others = self.seen.index_fill(0, index, False)
        self.shortfall = status.shortfall().nan_to_num(0.0)
        self.early_shortfall = status.shortfall(first_half=True).nan_to_num(0.0)

    @property
    def num_others(self) -> int:
        """Samples seen whose label is not planted."""
        return int(self.others.sum())

    def misclassified_share(self, window: slice) -> Tensor:
        """float32 ``[N]``, share of the window's seen epochs that predicted another class than the label
        trained on, in [0, 1]; -1 where the sample was not seen in the window."""
        size = window.stop - window.start + 1
        m, n = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        table = torch.where(n > 0, m / n.clamp(min=1), -1.0)
        share: Tensor = self.status.lookup(table.float().contiguous(), window)
        return share

    def votes(self, window: slice) -> Votes:
        """The votes of a window."""
        first = self.status.majority_vote(window)
        second = self.status.majority_vote(window, exclude=self.trained)
        length = window.stop - window.start
        return Votes(
            first.label.long(),
            (first.share * length).round().long(),
            second.label.long(),
            second.share,
        )

    @cached_property
    def planted_predictions(self) -> NDArray[np.int64]:
        """Predicted classes of the planted samples, int64 ``[n, recorded epochs]``; -1 where not seen."""
        epochs = [self.status.predictions(t)[self.index] for t in range(self.recorded)]
        return torch.stack(epochs, dim=1).cpu().numpy().astype(np.int64)

    def planted_majority(self, *exclude: NDArray[np.int64]) -> Majority:
        """What the planted samples' votes of all epochs come to.

        Args:
            exclude: a class per sample, int64 ``[n]``, whose votes are left out.
        """
        predicted = self.planted_predictions
        for labels in exclude:
            predicted = np.where(predicted == labels[:, None], -1, predicted)
        for winner, votes in running_majority(predicted):  # noqa: B007 (the last one counts)
            pass
        return Majority(winner, votes, (predicted >= 0).sum(axis=1))

    @cached_property
    def planted_labels(self) -> NDArray[np.int64]:
        """The labels that the planted samples were trained on, int64 ``[n]``."""
        return self.trained[self.index].cpu().numpy()

    @cached_property
    def withheld(self) -> NDArray[np.int64]:
        """The given labels of the planted samples, int64 ``[n]``."""
        return self.given[self.index].cpu().numpy()


def some(values: Tensor) -> Tensor:
    """About `ENOUGH` of the values, one in so many, or all."""
    return values[:: max(1, len(values) // ENOUGH)].contiguous()


def separation(score: Tensor, evidence: PlantedEvidence) -> float:
    """How well a score tells planted labels from all others: the area under the ROC curve, [0, 1].

    The share of pairs of a planted and another sample of which the planted one has the higher score;
    ties count half.
    """
    planted = score[evidence.index].sort().values
    others = some(score[evidence.others])
    lower = torch.searchsorted(planted, others, right=False)
    upper = torch.searchsorted(planted, others, right=True)
    below = (lower + upper).double().mean() / 2  # planted samples below the other one
    return 1.0 - float(below) / max(1, len(planted))


def choose_count_window(evidence: PlantedEvidence) -> tuple[slice, Tensor]:
    """The window whose misclassified shares separate planted labels from all others best.

    Returns:
        The window, and the shares in it, float32 ``[N]``.
    """
    p = evidence.recorded
    third, half, two = p // 3, p // 2, 2 * p // 3
    bounds = ((0, p), (0, third), (0, half), (0, two), (third, two), (half, p), (third, p))
    best, chosen = -1.0, None
    for start, stop in bounds:
        if stop <= start:
            continue
        window = slice(start, stop)
        whole = stop - start == p
        share = evidence.whole_share if whole else evidence.misclassified_share(window)
        area = separation(share, evidence)
        if area > best:
            best, chosen = area, (window, share)
    assert chosen is not None
    return chosen
