"""What runs with predicted classes and planted labels say, sample by sample.

A *vote* is the class that one epoch predicted for a sample. Everything with an entry per sample stays
on the statuses' device and is read in whole passes; of the planted samples, few by design, every
epoch's prediction is at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mild_ext.recording.transitions import TransitionTimes
from mild_ext.selection.planted import PlantedLabels

#: Of more samples, a regular part is compared with the planted ones where only a share is asked for.
ENOUGH = 100_000


@dataclass(frozen=True)
class Votes:
    """The votes of a window of epochs; tensors ``[R N]``, see `PlantedEvidence`.

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
    """The evidence of one or more runs whose training labels were partly planted.

    Of several runs, all of the same samples and from fresh weights, every sample is there once a run: its *rows*
    ``[R N]``, run by run. A sample that one run trained on a planted label is a planted row there, and an ordinary
    one in the others.

    Args:
        statuses: a LearningStatus a run, R of them, that record predicted classes.
        planted: the labels that each was trained on.
        recorded: number of epochs that were recorded in each; windows lie in these.

    Attributes:
        trained: int64 ``[R N]`` on the statuses' device, the labels trained on.
        given: int64 ``[R N]`` there, the given labels.
        whole_share: float32 ``[R N]`` there, `misclassified_share` of all recorded epochs.
        seen: bool ``[R N]`` there, the samples seen at all.
        others: bool ``[R N]`` there, the rows seen whose label is not planted.
        index: int64 ``[n]`` there, the planted rows that were seen; ``n`` of them.
        shortfall: float32 ``[R N]`` in [0, log 10^4] nats, the mean over the run; 0 where never seen.
        early_shortfall: the same over the first half of the epochs.
    """

    def __init__(
        self, statuses: Sequence[Any], planted: Sequence[PlantedLabels], recorded: int
    ) -> None:
        self.statuses, self.recorded = tuple(statuses), recorded
        self.num_runs, self.num_samples = len(self.statuses), int(statuses[0].num_samples)
        self.num_classes = int(statuses[0].num_classes)
        device = statuses[0].device
        self.trained = torch.cat([labels.labels for labels in planted]).to(device)
        self.given = torch.cat([labels.given for labels in planted]).to(device)
        self.whole_share = self.misclassified_share(slice(0, recorded))
        self.seen = self.whole_share >= 0
        rows = [labels.index + run * self.num_samples for run, labels in enumerate(planted)]
        index = torch.cat(rows).to(device)
        self.index = index[self.seen[index]]
        self.others = self.seen.index_fill(0, index, False)
        self.shortfall = self._rows(lambda s: s.shortfall()).nan_to_num(0.0)
        self.early_shortfall = self._rows(lambda s: s.shortfall(first_half=True)).nan_to_num(0.0)

    def _rows(self, read: Callable[[Any], Tensor]) -> Tensor:
        """What is read of each run's samples, run by run."""
        parts = [read(status) for status in self.statuses]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @property
    def num_others(self) -> int:
        """Rows seen whose label is not planted."""
        return int(self.others.sum())

    @cached_property
    def weight(self) -> Tensor:
        """float32 ``[R, N]``, what each run counts for a sample: equally where its given label was trained on.

        A sample that was planted in all runs that saw it has these instead; one never seen has zeros.
        """
        others, seen = (x.view(self.num_runs, -1) for x in (self.others, self.seen))
        used = torch.where(others.any(0), others, seen).float()
        return used / used.sum(0).clamp(min=1)

    @cached_property
    def ordinary(self) -> Tensor:
        """bool ``[N]``, the samples whose given label was trained on in some run that saw them."""
        return self.others.view(self.num_runs, -1).any(0)

    @property
    def planted_only(self) -> Tensor:
        """int64 ``[j]``, positions in ``index`` of the rows, one a sample, of samples that are nowhere ordinary."""
        sample = self.index % self.num_samples
        if self.num_runs == 1:
            return torch.arange(len(sample), device=sample.device)
        last = torch.full((self.num_samples,), -1, device=sample.device)
        last[sample] = torch.arange(len(sample), device=sample.device)
        last = last[(last >= 0) & ~self.ordinary]
        return last

    def over_runs(self, rows: Tensor) -> Tensor:
        """The mean over runs of a figure ``[R N]``, by `weight`: float32 ``[N]``."""
        if self.num_runs == 1:
            return rows
        return (rows.view(self.num_runs, -1) * self.weight).sum(0)

    def misclassified_share(self, window: slice) -> Tensor:
        """float32 ``[R N]``, share of the window's seen epochs that predicted another class than the label
        trained on, in [0, 1]; -1 where the sample was not seen in the window."""
        size = window.stop - window.start + 1
        m, n = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        table = torch.where(n > 0, m / n.clamp(min=1), -1.0).float().contiguous()
        return self._rows(lambda status: status.lookup(table, window))

    def votes(self, window: slice) -> Votes:
        """The votes of a window."""
        length = window.stop - window.start
        parts = []
        for status, trained in zip(self.statuses, self.trained.chunk(self.num_runs), strict=True):
            first = status.majority_vote(window)
            second = status.majority_vote(window, exclude=trained)
            united = (first.share * length).round().long()
            parts.append((first.label.long(), united, second.label.long(), second.share))
        columns = zip(*parts, strict=True)
        return Votes(*(torch.cat(rows) if len(rows) > 1 else rows[0] for rows in columns))

    def runner_up(self, votes: Votes) -> tuple[Tensor, Tensor]:
        """The class most voted for in all runs besides the given label, int64 ``[N]``, and its share of such votes.

        Of each run only its own runner-up counts, with its share; -1 and 0 where there is none.
        """
        if self.num_runs == 1:
            return votes.runner_up, votes.runner_up_share
        label = votes.runner_up.view(self.num_runs, -1)
        share = votes.runner_up_share.view(self.num_runs, -1) * self.weight * (label >= 0)
        total = torch.stack([(share * (label == mine)).sum(0) for mine in label])
        best = total.max(0)
        return label.gather(0, best.indices[None])[0].masked_fill(best.values <= 0, -1), best.values

    def times(self, window: slice) -> TransitionTimes:
        """Transition times of every sample in a window: the means over runs, by `weight`, rounded."""
        runs = [status.compute(window) for status in self.statuses]

        def mean(name: str) -> Tensor:
            rows = torch.cat([getattr(times, name) for times in runs]).float()
            return self.over_runs(rows).round().int()

        seen = mean("seen")
        misclassified = mean("misclassified").minimum(seen)
        rest = ("first_memorized", "memorization_events", "forgetting_events")
        return TransitionTimes(
            misclassified=misclassified,
            memorized=seen - misclassified,
            metric=2 * misclassified - seen,
            **{name: mean(name) for name in (*rest, "longest_memorized_run")},
            seen=seen,
            num_epochs=window.stop - window.start,
        )

    @cached_property
    def planted_predictions(self) -> NDArray[np.int64]:
        """Predicted classes of the planted samples, int64 ``[n, recorded epochs]``; -1 where not seen."""
        run = self.index // self.num_samples
        parts = []
        for r, status in enumerate(self.statuses):
            sample = self.index[run == r] - r * self.num_samples
            epochs = [status.predictions(t)[sample] for t in range(self.recorded)]
            parts.append(torch.stack(epochs, dim=1))
        return torch.cat(parts).cpu().numpy().astype(np.int64)

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
        The window, and the shares in it, float32 ``[R N]``.
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
