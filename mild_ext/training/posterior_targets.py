"""Posterior targets: train on what a label probably should be, instead of keeping or dropping the sample.

A network is trained once. At first it learns the given labels, and what it predicts is recorded. Then
the noise is measured, and from there on each sample's target is the probability of every class, given
its label and its votes:

    target(k)  ~  p(k) L  for the given label,  p(k)  for the other classes

    p(k) = (n_k + 1 / K) / (E + 1)      n_k of the E epochs so far predicted class k
    L    = (1 - r) (K - 1) / r          r: share of wrong labels

L is how many times more often a right label is given than a certain wrong one, so this is Bayes'
rule with the votes as prior. A sample that MILD would keep has a target of nearly 1 on its given label, one
that it would drop nearly 0 there, and all between are weighed instead of decided. With r = 0, L is
infinite and the target is the given label: ordinary training. The method is this project's own;
figures are in docs/better_models.md.

Votes are worth little once wrong labels are memorized, so the loss may hold predictions to their own
running average, with the term of Liu et al., "Early-Learning Regularization Prevents Memorization of
Noisy Labels", NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mild_ext import processes
from mild_ext.recording.status import LearningStatus
from mild_ext.selection.noise_rate import NoiseRate
from mild_ext.selection.planted import PlantedLabels
from mild_ext.selection.result import Selection
from mild_ext.selection.select import select_clean

#: Share of the epochs that learn the given labels alone.
BEGIN = 1 / 3
#: Weight of the term that holds predictions to their running average, and that average's decay per visit.
HOLD, HOLD_MEMORY = 3.0, 0.7
#: Targets of all samples are kept between epochs up to this size; larger ones are made batch by batch.
_TABLE_BYTES = 256 << 20
#: Bounds of a probability inside the logarithm of that term.
_SMALLEST, _LARGEST = 1e-4, 1 - 1e-4


class PosteriorTargets:
    """What each sample's target is now, by the votes of the epochs so far.

    In a training loop of your own::

        planted = plant_labels(labels)
        status = LearningStatus(len(labels), epochs, num_classes=K, device=device)
        targets = PosteriorTargets(status, planted=planted)
        for epoch in range(epochs):
            for index, inputs in loader:
                logits = model(inputs)
                status.update(index, logits, planted.labels[index])
                loss = targets.loss(index, logits)  # or cross_entropy(logits, targets(index))
                ...
            status.sync()  # with several processes
            status.advance()

    Until ``begin`` epochs have ended, the targets are the labels trained on, planted ones included. Then the
    noise is measured, once; the planted samples get their given labels back, and from there on the targets follow
    the votes, anew after each epoch. Where the measured share of wrong labels cannot be told from none
    (its interval begins at 0), the given labels stay alone: the targets of ordinary training, exactly.

    With several processes every rank makes its own from the same arguments: after ``status.sync()`` all hold the
    same votes, so all have the same targets.

    Args:
        status: records the training, ``record`` "classes" or "all".
        planted: what it is trained on, by which the noise is measured; see `plant_labels`.
        labels: integers ``[N]``, the given labels, in place of ``planted``. The noise is then estimated from counts
            alone, unless ``rate`` tells it: a guess, which on hard data is too high.
        rate: the share of wrong labels, in [0, 1), where it is known; None: see above.
        begin: epochs of the given labels alone: a number of epochs (int), or a share of the status' epochs (float).
        hold: strength, at least 0, of the term of `loss` that holds predictions to their running average; 0 leaves it
            out, and keeps no average.
        select: measures the noise: called as ``select(status, labels=..., planted=...)``, ``planted`` only where
            there are some; None is `select_clean`.

    Attributes:
        selection: what was measured when the targets began; None before, with a known rate, and after a resume.
        rate: the share of wrong labels in use; None until it is known, 0.0 where the labels stay alone.
        noise_rate: what was measured, with its interval; None where nothing was, or could be.
        begin: epochs of the given labels alone.

    Raises:
        TypeError: a status that is no LearningStatus, or records no predicted classes; labels that are no integers.
        ValueError: neither or both of ``planted`` and ``labels``, sizes that do not fit, rate, ``begin`` or ``hold``
            out of range.

    Examples:
        >>> import torch
        >>> from mild_ext import LearningStatus
        >>> status = LearningStatus(num_samples=2, num_epochs=3, num_classes=3)
        >>> targets = PosteriorTargets(status, labels=torch.tensor([0, 0]), rate=0.25, begin=2)
        >>> logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 2.0]])
        >>> for epoch in range(2):
        ...     status.update(torch.arange(2), logits, torch.tensor([0, 0]))
        ...     print(targets(torch.arange(2)))
        ...     status.advance()
        tensor([0, 0])
        tensor([0, 0])
        >>> targets(torch.arange(2))  # p = 7/9, 1/9, 1/9 and 1/9, 1/9, 7/9; L = 6
        tensor([[0.9545, 0.0227, 0.0227],
                [0.4286, 0.0714, 0.5000]])
    """

    def __init__(
        self,
        status: LearningStatus,
        *,
        planted: PlantedLabels | None = None,
        labels: Tensor | None = None,
        rate: float | None = None,
        begin: int | float = BEGIN,
        hold: float = HOLD,
        select: Callable[..., Selection] | None = None,
    ) -> None:
        if not isinstance(status, LearningStatus) or status.record == "status":
            got = repr(status) if isinstance(status, LearningStatus) else type(status).__name__
            raise TypeError(
                "status must be a LearningStatus that records predicted classes, LearningStatus(..., num_classes=K); "
                f"got {got}"
            )
        trained = labels if planted is None else planted.labels
        if trained is None or (planted is not None and labels is not None):
            raise ValueError(
                "give planted=plant_labels(labels), the labels trained on, or labels=, the given ones; got "
                + ("neither" if trained is None else "both")
            )
        if rate is not None and not 0 <= rate < 1:
            raise ValueError(f"rate must be in [0, 1), got {rate}")
        if not hold >= 0:
            raise ValueError(f"hold must be at least 0, got {hold}")
        self.status, self.hold = status, float(hold)
        self._planted, self._select, self._known = planted, select or select_clean, rate
        self._trained = self._checked(trained)
        self._given = self._trained if planted is None else self._checked(planted.given)
        self.begin = _epochs(begin, status.num_epochs)
        self.rate: float | None = None
        self.noise_rate: NoiseRate | None = None
        self.selection: Selection | None = None
        self._epoch: int | None = None  # that the targets are of; None: of none yet
        self._table: Tensor | None = None
        self._average: Tensor | None = None
        self._visited: Tensor | None = None

    @property
    def _classes(self) -> int:
        classes = self.status.num_classes
        assert classes is not None
        return classes

    def _checked(self, labels: Tensor) -> Tensor:
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise TypeError(f"labels must be integers, got {labels.dtype}")
        if tuple(labels.shape) != (self.status.num_samples,):
            raise ValueError(
                f"labels must have one entry for each of the status' {self.status.num_samples} samples, got shape "
                f"{list(labels.shape)}"
            )
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= self._classes:
            raise ValueError(
                f"labels must lie in [0, {self._classes}), the classes of the status, got {low} to {high}"
            )
        return labels.to(self.status.device, torch.int64)

    # ---- use

    def __call__(self, index: Tensor) -> Tensor:
        """The targets of a batch, as `torch.nn.functional.cross_entropy` takes them.

        Args:
            index: int64 or int32 ``[B]``, sample ids.

        Returns:
            On the status' device, int64 ``[B]`` class ids while the labels stand alone; afterwards float32
            ``[B, K]``, rows that sum to 1.
        """
        if self.status.epoch != self._epoch:
            self.refresh()
        index = index.to(self.status.device, torch.int64, non_blocking=True)
        if self.rate is None:
            return self._trained[index]
        if self.rate == 0:
            return self._given[index]
        if self._table is not None:
            return self._table[index]
        return self._posterior(self.status.ended_votes(index), self._given[index])

    def loss(self, index: Tensor, logits: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy with the targets, and the term that holds predictions to their running average.

        That is ``hold * mean(log(1 - <p, t>))``, with p the softmax and t the sample's average of it, in which
        a visit counts `HOLD_MEMORY` times as much as the next. Call it once for each training batch.

        Args:
            index: int64 or int32 ``[B]``, sample ids.
            logits: floating point ``[B, K]``, on the status' device.
            label_smoothing: share of the targets spread over all classes.

        Returns:
            A scalar, nats.
        """
        target, logits = self(index), logits.float()
        loss = F.cross_entropy(logits, target, label_smoothing=label_smoothing)
        if self.hold == 0:
            return loss
        index = index.to(self.status.device, torch.int64, non_blocking=True)
        if self._average is None:
            self._start_average()
        assert self._average is not None
        assert self._visited is not None
        probability = logits.softmax(1).clamp(_SMALLEST, _LARGEST)
        average = HOLD_MEMORY * self._average[index] + (1 - HOLD_MEMORY) * probability.detach()
        self._average[index] = average
        self._visited[index] = True
        agreement = (probability * average).sum(1).clamp(max=_LARGEST)
        return loss + self.hold * (1 - agreement).log().mean()

    def refresh(self) -> None:
        """Bring the targets up to date with the epochs that have ended; the first use in an epoch does so by itself.

        With several processes a collective, as ``status.sync``, for the averages of `loss`: call it after
        ``status.advance()`` where `state_dict` is taken there.
        """
        self._epoch = self.status.epoch
        self._merge_ranks()
        self._table = None
        if self._epoch < self.begin:
            return
        if self.rate is None:
            self.rate = self._measure() if self._known is None else self._known
        if self.rate == 0 or 4 * self.status.num_samples * self._classes > _TABLE_BYTES:
            return
        self._table = self._make_table()

    def all(self) -> Tensor:
        """The targets of all samples by the epochs that have ended, float32 ``[N, K]``."""
        if self.status.epoch != self._epoch:
            self.refresh()
        if not self.rate:
            alone = self._trained if self.rate is None else self._given
            return F.one_hot(alone, self._classes).float()
        return self._make_table() if self._table is None else self._table.clone()

    # ---- details

    def _make_table(self) -> Tensor:
        ids = torch.arange(self.status.num_samples, device=self.status.device)
        parts = ids.split(1 << 14)
        return torch.cat(
            [self._posterior(self.status.ended_votes(part), self._given[part]) for part in parts]
        )

    def _measure(self) -> float:
        """The share of wrong labels; 0 where there may be none, or it cannot be told."""
        options: dict[str, Any] = {} if self._planted is None else {"planted": self._planted}
        self.selection = self._select(self.status, labels=self._given, **options)
        # Read now: what is looked up later would be of more epochs.
        _ = self.selection.clean_probability, self.selection.misclassified, self.selection.seen
        self.noise_rate = self.selection.noise_rate
        if self.noise_rate is None or self.noise_rate.low <= 0:
            return 0.0
        return self.noise_rate.rate

    def _posterior(self, votes: Tensor, given: Tensor) -> Tensor:
        """float32 ``[n, K]``, by votes int32 ``[n, K]`` and given labels int64 ``[n]``."""
        assert self.rate
        classes = votes.shape[1]
        ratio = (1 - self.rate) * (classes - 1) / self.rate
        weight = votes + 1 / classes
        own = weight.gather(1, given[:, None]) * ratio
        weight.scatter_(1, given[:, None], own)
        return weight / weight.sum(1, keepdim=True)

    def _start_average(self) -> None:
        shape = (self.status.num_samples, self._classes)
        self._average = torch.zeros(shape, device=self.status.device)
        self._visited = torch.zeros(shape[0], dtype=torch.bool, device=self.status.device)

    def _merge_ranks(self) -> None:
        """Let every rank hold the averages of the samples that others have visited in the last epoch."""
        if self.hold == 0 or processes.world_size() == 1:
            return
        if self._average is None:
            self._start_average()
        assert self._average is not None
        assert self._visited is not None
        wire = processes.Wire(None, self.status.device, processes.DEFAULT_TIMEOUT)
        mine = torch.where(self._visited[:, None], self._average, -1.0)
        newest = wire.all_reduce_max(mine).to(self.status.device)
        self._average = torch.where(newest >= 0, newest, self._average)
        self._visited.zero_()

    # ---- keeping

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs beside the status' own state: numbers, and the average of `loss`."""
        found = self.noise_rate
        return {
            "begin": self.begin,
            "rate": self.rate,
            "noise_rate": None if found is None else found.record(),
            "average": self._average,
            "visited": self._visited,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; the status' state may be loaded before or after.

        Raises:
            ValueError: a state of targets that begin at another epoch.
        """
        if state["begin"] != self.begin:
            raise ValueError(
                f"the state is of targets that begin after {state['begin']} epochs, these after {self.begin}; "
                "make them with the same begin and num_epochs"
            )
        found = state["noise_rate"]
        self.rate = state["rate"]
        self.noise_rate = None if found is None else NoiseRate.from_record(found)
        self._average, self._visited = (
            None if state[name] is None else state[name].to(self.status.device, copy=True)
            for name in ("average", "visited")
        )
        self._epoch = self._table = None


def _epochs(begin: int | float, num_epochs: int) -> int:
    """The number of epochs that ``begin`` means."""
    whole = isinstance(begin, int) and not isinstance(begin, bool)
    if not whole and not (isinstance(begin, float) and 0 <= begin <= 1):
        raise ValueError(
            f"begin must be a whole number of epochs, or a share of them in [0, 1]; got {begin!r}"
        )
    epochs = begin if whole else round(begin * num_epochs)
    if not 0 <= epochs <= num_epochs:
        raise ValueError(f"begin must be in [0, {num_epochs}], the status' epochs; got {begin}")
    return int(epochs)
