"""Posterior targets: train on what a label probably should be, instead of keeping or dropping the sample.

A network is trained once. At first it learns the labels as they are, a few of them planted, and what it
predicts is recorded. When it begins to memorize wrong labels, as the planted ones show, the noise is
measured; from there on each sample's target is the probability of every class,

    target(given label) = c                          c: that the label is right, as measured
    target(k)           = (1 - c) v_k                any other class k
    v_k = (n_k + 1 / K) / (sum over the other classes)    n_k of the epochs so far predicted class k

A sample that MILD would keep has a target of nearly 1 on its given label, one that it would drop nearly 0
there, and all between are weighed instead of decided. Where nothing is wrong, c is 1 throughout: ordinary
training. The method is this project's own; figures are in docs/better_models_evidence.md.

A network that memorizes little by the middle of the training, as with much augmentation, has learned little: what it
predicts is no target, and it takes hard labels for wrong ones. Then samples are weighed by c, with no more wrong labels
than the low end of the measured interval, and that is all: v is 0.

Where targets follow the votes, the loss also holds predictions to their own running average, with the term of Liu et
al., "Early-Learning Regularization Prevents Memorization of Noisy Labels", NeurIPS 2020.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mild_ext import processes
from mild_ext.data.labels import check_labels
from mild_ext.recording.status import LearningStatus
from mild_ext.selection.noise_rate import NoiseRate
from mild_ext.selection.planted import PlantedLabels
from mild_ext.selection.result import Selection
from mild_ext.selection.select import select_clean

#: The targets begin once this share of the planted labels is memorized, in the mean over the last so many epochs ...
MEMORIZED, OVER_EPOCHS = 0.15, 3
#: ... but not before so many epochs, or that share of them all: of fewer, little can be measured.
LEAST_EPOCHS, LEAST_SHARE = 10, 1 / 3
#: Where fewer are memorized after that share of the epochs, votes are not learned either: samples are only weighed.
LATEST_SHARE = 0.5
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

    Until the targets begin, they are the labels trained on, planted ones included. Then the noise is measured,
    once; the planted samples get their given labels back, and from there on the targets follow the votes, anew
    after each epoch. Where the measured share of wrong labels cannot be told from none (its interval begins
    at 0), the given labels stay alone: ordinary training, exactly. Where wrong labels are not memorized by
    `LATEST_SHARE` of the epochs, the noise is measured then, and samples are only weighed by the probability that
    their label is right, at the low end of the interval: the votes of a network that has learned so little are no
    targets.

    With several processes every rank makes its own from the same arguments: after ``status.sync()`` all hold the
    same votes, so all have the same targets.

    Args:
        status: records the training, ``record`` "classes" or "all".
        planted: what it is trained on, by which the noise is measured; see `plant_labels`.
        labels: integers ``[N]``, the given labels, in place of ``planted``. The noise is then estimated from counts
            alone: a guess, which on hard data is too high.
        begin: epochs of the labels alone: a number of epochs (int), or a share of the status' epochs (float). None:
            until `MEMORIZED` of the planted labels are memorized; without planted ones, a third.
        hold: strength, at least 0, of the term of `loss` that holds predictions to their running average; 0 leaves it
            out, and keeps no average.
        select: measures the noise: called as ``select(status, labels=..., planted=...)``, ``planted`` only where
            there are some; None is `select_clean`.

    Attributes:
        began: the number of epochs after which the noise was measured; None as long as it is not.
        rate: the share of wrong labels in use; None until it is known, 0.0 where the labels stay alone.
        weighs: whether samples are only weighed, as where little is memorized by the middle of the training.
        noise_rate: what was measured, with its interval; None where nothing was, or could be.
        selection: what was measured: which labels are wrong. None before, and after a resume; its ``table()`` works in
            that epoch. `select_clean` of the finished status is no substitute: later epochs learn the targets.

    Raises:
        TypeError: a status that is no LearningStatus, or records no predicted classes; labels that are no integers.
        ValueError: neither or both of ``planted`` and ``labels``, sizes that do not fit, ``begin`` or ``hold`` out of
            range.

    Examples:
        >>> import torch
        >>> from mild_ext import LearningStatus, PosteriorTargets, plant_labels
        >>> planted = plant_labels(torch.arange(600) % 3)
        >>> status = LearningStatus(num_samples=600, num_epochs=12, num_classes=3)
        >>> targets = PosteriorTargets(status, planted=planted, begin=10)
        >>> index = torch.arange(600)
        >>> for epoch in range(10):  # a network that predicts the given labels
        ...     status.update(index, torch.eye(3)[planted.given], planted.labels)
        ...     assert torch.equal(targets(index), planted.labels)
        ...     status.advance()
        >>> torch.equal(targets(index), planted.given), targets.rate  # nothing is wrong
        (True, 0.0)
    """

    def __init__(
        self,
        status: LearningStatus,
        *,
        planted: PlantedLabels | None = None,
        labels: Tensor | None = None,
        begin: int | float | None = None,
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
        if not hold >= 0:
            raise ValueError(f"hold must be at least 0, got {hold}")
        self.status, self.hold = status, float(hold)
        self._planted, self._select = planted, select or select_clean
        self._trained = self._checked(trained)
        self._given = self._trained if planted is None else self._checked(planted.given)
        both = torch.stack([self._trained, self._given])
        self._labels_checksum = zlib.crc32(both.cpu().numpy().tobytes())
        if begin is None and planted is None:
            begin = LEAST_SHARE
        self.begin = None if begin is None else _epochs(begin, status.num_epochs)
        self.began: int | None = None
        self.rate: float | None = None
        self.noise_rate: NoiseRate | None = None
        self.selection: Selection | None = None
        self.weighs = False
        self._epoch: int | None = None  # that the targets are of; None: of none yet
        self._right: Tensor | None = None  # [N], the probability that the given label is right
        self._worth = 1.0  # of predictions, what they are held to by; in [0, 1]
        self._table: Tensor | None = None
        self._average: Tensor | None = None
        self._visited: Tensor | None = None

    @property
    def _classes(self) -> int:
        classes = self.status.num_classes
        assert classes is not None
        return classes

    def _checked(self, labels: Any) -> Tensor:
        checked = check_labels(labels, count=self.status.num_samples, num_classes=self._classes)
        return checked.values.to(self.status.device)

    # ---- use

    def __call__(self, index: Tensor) -> Tensor:
        """The targets of a batch, as `torch.nn.functional.cross_entropy` takes them.

        Args:
            index: int64 or int32 ``[B]``, sample ids.

        Returns:
            On the status' device, int64 ``[B]`` class ids while the labels stand alone; afterwards float32
            ``[B, K]``, rows that sum to 1, or, where samples are only weighed, to the sample's weight.
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
        return self._posterior(index)

    def loss(self, index: Tensor, logits: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy with the targets, and the term that holds predictions to their running average.

        That is ``hold * worth * mean(log(1 - <p, t>))``, with p the softmax and t the sample's average of it, in which
        a visit counts `HOLD_MEMORY` times as much as the next. ``worth`` in [0, 1] is what predictions are worth
        holding to: how many more of them are right than wrong, by the labels withheld from the planted samples. The
        term joins in when the targets begin to follow the votes; where the labels stay alone the loss is the
        cross-entropy, and where samples are only weighed the mean of the cross-entropy by these weights, over the
        batch. Call it once for each training batch.

        Args:
            index: int64 or int32 ``[B]``, sample ids.
            logits: floating point ``[B, K]``, on the status' device.
            label_smoothing: share of the targets spread over all classes.

        Returns:
            A scalar, nats.
        """
        target, logits = self(index), logits.float()
        if self.weighs:
            weight = target.sum(1)
            each = F.cross_entropy(
                logits, target / weight[:, None], label_smoothing=label_smoothing, reduction="none"
            )
            return (weight * each).sum() / weight.sum()
        loss = F.cross_entropy(logits, target, label_smoothing=label_smoothing)
        if self.hold == 0 or not self.rate:
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
        return loss + self.hold * self._worth * (1 - agreement).log().mean()

    def refresh(self) -> None:
        """Bring the targets up to date with the epochs that have ended; the first use in an epoch does so by itself.

        With several processes a collective, as ``status.sync``, for the averages of `loss`: call it after
        ``status.advance()`` where `state_dict` is taken there.
        """
        self._epoch = self.status.epoch
        self._merge_ranks()
        self._table = None
        if self.rate is None:
            late = not self._is_time()
            if not late or self._is_late():
                self.began = self._epoch
                self.rate, least = self._measure()
                self.weighs = late and self.rate > 0
                if self.weighs:
                    assert self._right is not None
                    self._right = _with_mean(self._right, 1 - least)
        if (
            self.rate
            and not self.weighs
            and 4 * self.status.num_samples * self._classes <= _TABLE_BYTES
        ):
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

    def _is_time(self) -> bool:
        """Whether the targets begin now."""
        now, last = self.status.epoch, self.status.num_epochs
        if self.begin is not None:
            return now > 0 and now >= self.begin
        if now < max(1, min(LEAST_EPOCHS, round(LEAST_SHARE * last))):
            return False
        recent = range(max(0, now - OVER_EPOCHS), now)
        return sum(self._memorized(epoch) for epoch in recent) / len(recent) >= MEMORIZED

    def _is_late(self) -> bool:
        """Whether so little is memorized by now that the votes will not be learned."""
        return self.begin is None and self.status.epoch >= LATEST_SHARE * self.status.num_epochs

    def _memorized(self, epoch: int) -> float:
        """Share of the planted labels memorized in an epoch: predicted, beyond what any wrong class would be."""
        assert self._planted is not None
        predicted = self.status.predictions(epoch).long()
        index = self._planted.index.to(predicted.device)
        mine = predicted[index]
        there = (mine >= 0).sum()
        learned = (mine == self._trained[index]).sum() / there
        if self._classes > 2:
            withheld = (mine == self._given[index]).sum() / there
            by_chance = (1 - learned - withheld) / (self._classes - 2)
        else:  # as often as the labels of others are predicted against
            others = (predicted >= 0).index_fill_(0, index, False)
            by_chance = ((predicted != self._trained) & others).sum() / others.sum()
        return float(((learned - by_chance) / (1 - by_chance).clamp(min=1e-6)).nan_to_num(0.0))

    def _measure(self) -> tuple[float, float]:
        """The share of wrong labels, and the least it may be; 0 where there may be none, or it cannot be told."""
        options: dict[str, Any] = {} if self._planted is None else {"planted": self._planted}
        self.selection = self._select(self.status, labels=self._given, **options)
        # Read now: what is looked up later would be of more epochs.
        _ = self.selection.suspicion, self.selection.misclassified, self.selection.seen
        self._right = self.selection.clean_probability.to(self.status.device, torch.float32)
        found = self.noise_rate = self.selection.noise_rate
        if found is None:
            return 0.0, 0.0
        self._worth = self._worth_holding(found.rate)
        # Plain errors can be sure where how many there are besides is not, as in a training still in motion.
        plain = 0.0 if found.plainly_wrong is None else found.plainly_wrong.low
        least = found.low or plain
        return (found.rate, least) if least > 0 else (0.0, 0.0)

    def _worth_holding(self, rate: float) -> float:
        """How much more often the votes are right than wrong, in [0, 1], by labels that were never trained on."""
        if self._planted is None:
            return 1.0
        index = self._planted.index.to(self.status.device)
        best = self.status.majority_vote(exclude=self._trained).label[index]
        right = float((best == self._given[index]).double().mean()) / (1 - rate)
        return min(max(2 * right - 1, 0.0), 1.0)

    def _make_table(self) -> Tensor:
        ids = torch.arange(self.status.num_samples, device=self.status.device)
        if self.weighs:
            return self._posterior(ids)
        ended = slice(0, self.status.epoch)
        return self._joined(self.status.vote_shares(ended, smoothing=1.0), ids)

    def _posterior(self, index: Tensor) -> Tensor:
        """float32 ``[B, K]``, targets that follow the votes of the epochs so far."""
        assert self._right is not None
        if self.weighs:  # the given label alone, by the probability that it is right
            alone = self._right.new_zeros(len(index), self._classes)
            return alone.scatter_(1, self._given[index, None], self._right[index, None])
        return self._joined(self.status.ended_votes(index) + 1 / self._classes, index)

    def _joined(self, votes: Tensor, index: Tensor) -> Tensor:
        """Targets of the samples ``index`` from what speaks for each class, ``[B, K]``, which is overwritten."""
        assert self._right is not None
        given, right = self._given[index, None], self._right[index, None]
        votes.scatter_(1, given, 0.0)
        votes *= (1 - right) / votes.sum(1, keepdim=True)
        return votes.scatter_(1, given, right)

    def _start_average(self) -> None:
        shape = (self.status.num_samples, self._classes)
        self._average = torch.zeros(shape, device=self.status.device)
        self._visited = torch.zeros(shape[0], dtype=torch.bool, device=self.status.device)

    def _merge_ranks(self) -> None:
        """Let every rank hold the averages of the samples that others have visited in the last epoch."""
        if self.hold == 0 or not self.rate or self.weighs or processes.world_size() == 1:
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
        """What a resumed training needs beside the status' own state: numbers and tensors."""
        found = self.noise_rate
        return {
            "begin": self.begin,
            "labels": self._labels_checksum,
            "began": self.began,
            "rate": self.rate,
            "noise_rate": None if found is None else found.record(),
            "worth": self._worth,
            "weighs": self.weighs,
            "right": self._right,
            "average": self._average,
            "visited": self._visited,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; the status' state may be loaded before or after.

        Raises:
            ValueError: a state of targets that begin otherwise, or of other samples.
        """
        if state["begin"] != self.begin:
            raise ValueError(
                f"the state is of targets with begin={state['begin']}, these have {self.begin}; make them with the "
                "same begin and num_epochs"
            )
        if state.get("labels", self._labels_checksum) != self._labels_checksum:
            raise ValueError(
                "the state is of other labels, or of other planted ones; plant with the same share and seed, or save "
                "planted and load it"
            )
        right = state["right"]
        if right is not None and len(right) != self.status.num_samples:
            raise ValueError(
                f"the state is of {len(right)} samples, the status of {self.status.num_samples}"
            )
        found = state["noise_rate"]
        self.began, self.rate, self._worth = state["began"], state["rate"], state["worth"]
        self.weighs = state["weighs"]
        self.noise_rate = None if found is None else NoiseRate.from_record(found)
        self._right, self._average, self._visited = (
            None if state[name] is None else state[name].to(self.status.device, copy=True)
            for name in ("right", "average", "visited")
        )
        self._epoch = self._table = None


def _with_mean(probability: Tensor, mean: float) -> Tensor:
    """Probabilities ``[N]`` whose log-odds are shifted by one number, so that they have the mean."""
    odds = probability.double().clamp(1e-9, 1 - 1e-9).logit()
    low, high = -50.0, 50.0
    for _ in range(60):  # the mean grows with the shift
        shift = (low + high) / 2
        low, high = (shift, high) if (odds + shift).sigmoid().mean() < mean else (low, shift)
    return (odds + low).sigmoid().float()


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
