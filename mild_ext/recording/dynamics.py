"""Training dynamics of every sample: what a status that records more than memorized or not can tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mild_ext.recording import epoch_record as rows_of
from mild_ext.recording import ops
from mild_ext.recording._native import _C
from mild_ext.recording.counts import CountsReading
from mild_ext.recording.epoch_record import EpochRecord

_CHUNK_BYTES = 64 << 20


class MajorityVote(NamedTuple):
    """What most epochs predicted for each sample, on the status' device.

    Attributes:
        label: int32 ``[N]``, the class with the most votes, the lowest of equals; -1 where there are no votes.
        share: float32 ``[N]``, its share of the votes counted, in [0, 1]; 0 where there are none. Higher = more united.
        votes: int32 ``[N]``, votes counted: epochs with a prediction that was not excluded.
    """

    label: Tensor
    share: Tensor
    votes: Tensor


@dataclass(frozen=True)
class Dynamics:
    """Training dynamics of every sample over a whole record.

    All tensors are ``[N]``, on the status' device. An epoch's values are those of the sample's worst visit in it, from
    the logits of the training forward pass against the labels given to ``update``; means are over the epochs in
    which the sample was seen, float32, NaN where there are none. Margin, loss and EL2N of a visit are kept with the
    precision of fp16 (relative 5e-4) and summed exactly in fixed point.

    Attributes:
        margin: mean of (label's logit - largest other logit), clipped at +-1024. Area under the margin, AUM (Pleiss et
            al., NeurIPS 2020). Logits; higher = cleaner.
        loss: mean cross-entropy, clipped at 1024. Nats, >= 0; lower = cleaner (Arpit et al., ICML 2017).
        confidence: mean softmax probability of the label, in [0, 1]; higher = cleaner (Swayamdipta et al., EMNLP 2020).
        variability: standard deviation of that probability over the epochs, in [0, 1/2] (same paper).
        correctness: share of seen epochs in which the label was predicted, in [0, 1]; higher = cleaner (same paper).
        el2n: mean norm of (softmax - one-hot label), in [0, sqrt 2]; higher = harder (Paul et al., NeurIPS 2021).
        forgetting_events: int32, changes from memorized to misclassified (Toneva et al., ICLR 2019). A count; 0 too
            where the label was never predicted (``first_memorized`` is ``num_epochs``), which the paper ranks last.
        first_memorized: int32, first epoch in which the label was predicted; ``num_epochs`` if none. Lower = cleaner.
        prediction_changes: int32, changes of the predicted class between consecutive seen epochs; lower = steadier.
        first_k_learned: int32, the epoch that ends the first ``k`` consecutive seen epochs in which the label was
            predicted; ``num_epochs`` if none. First k-epoch learning (Yuan et al., Late Stopping, ICCV 2023);
            lower = cleaner.
        seen: int32, epochs in which the sample was visited, in [0, num_epochs].
        k: of ``first_k_learned``.
        num_epochs: length of the record.
    """

    margin: Tensor
    loss: Tensor
    confidence: Tensor
    variability: Tensor
    correctness: Tensor
    el2n: Tensor
    forgetting_events: Tensor
    first_memorized: Tensor
    prediction_changes: Tensor
    first_k_learned: Tensor
    seen: Tensor
    k: int
    num_epochs: int

    def __len__(self) -> int:
        return len(self.seen)


class DynamicsReading(CountsReading):
    """The part of `mild_ext.LearningStatus` that reads predicted classes and running sums.

    Reading in the middle of an epoch includes what was recorded of it so far. ``epochs`` is a window of epochs, e.g.
    ``slice(10, 20)``; None: all.
    """

    _record: EpochRecord | None
    _epoch_on_device: Tensor
    _epoch: int

    def _settled(self, needs: str = "classes") -> EpochRecord:
        """The record, with the open epoch in its planes; ``needs``: the least level."""
        record = self._record
        if record is None or (needs == "all" and not record.statistics):
            now = "status" if record is None else "classes"
            raise ValueError(
                f"this status records {now!r}, which does not tell; make it with LearningStatus(..., num_classes=K, "
                f"record={needs!r})"
            )
        self._raise_faults()
        record.settle(self._words, self._epoch_on_device)
        return record

    def _class_per_sample(self, name: str, labels: Tensor, least: int) -> Tensor:
        record = self._record
        assert record is not None
        if not isinstance(labels, Tensor) or labels.dtype not in (torch.int64, torch.int32):
            kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
            raise TypeError(f"{name} must be an int64 or int32 tensor, got {kind}")
        if tuple(labels.shape) != (record.num_samples,):
            raise ValueError(
                f"{name} must be [{record.num_samples}], a class for each sample, got shape {list(labels.shape)}"
            )
        low, high = (int(x) for x in labels.aminmax())
        if low < least or high >= record.num_classes:
            raise ValueError(
                f"{name} must be in [{least}, {record.num_classes}), got values from {low} to {high}"
            )
        return labels.to(self._words.device, torch.int64)

    # ---- predicted classes

    def predictions(self, epoch: int) -> Tensor:
        """The class that each sample was predicted to be in an epoch.

        Args:
            epoch: in ``[0, num_epochs)``.

        Returns:
            int32 ``[N]``, in ``[0, num_classes)``; -1 where the sample was not seen, or had a NaN among its logits.

        Raises:
            ValueError: no such epoch, or a status that records only ``"status"``.
        """
        record = self._settled()
        if not 0 <= epoch < record.num_epochs:
            raise ValueError(f"epoch must be in [0, {record.num_epochs}), got {epoch}")
        out: Tensor = torch.ops.mild_ext.predicted_classes(
            record.planes, record.num_samples, record.num_classes, epoch
        )
        return out

    def votes(
        self, epochs: slice | None = None, *, chunk: int | None = None
    ) -> Iterator[tuple[range, Tensor]]:
        """How many epochs predicted each class, some samples at a time, so that ``[N, K]`` need not exist at once.

        Args:
            epochs: window.
            chunk: samples at a time, a multiple of 32; None: about 64 MiB.

        Yields:
            ``(samples, counts)``: a range of sample ids, and int32 ``[len(samples), K]``; every sample once, in order.
        """
        record = self._settled()
        start, stop = self._window(epochs)
        if chunk is None:
            chunk = max(32, _CHUNK_BYTES // (4 * record.num_classes) // 32 * 32)
        if chunk < 1 or chunk % 32:
            raise ValueError(f"chunk must be a positive multiple of 32, got {chunk}")
        count = record.num_samples
        return (
            (range(first, min(first + chunk, count)), part)
            for first in range(0, count, chunk)
            for part in [
                torch.ops.mild_ext.class_votes(
                    record.planes,
                    count,
                    record.num_classes,
                    start,
                    stop,
                    first,
                    min(first + chunk, count),
                )
            ]
        )

    def ended_votes(self, index: Tensor) -> Tensor:
        """How many of the epochs that have ended predicted each class, for some samples; waits for no device.

        Args:
            index: int64 ``[B]``, sample ids in ``[0, N)``, on the status' device.

        Returns:
            int32 ``[B, K]``.
        """
        record = self._record
        if record is None:
            raise ValueError(
                "this status records no predicted classes; make it with LearningStatus(..., num_classes=K)"
            )
        bits = record.planes[: self._epoch, :, index >> 5] >> (index & 31).int() & 1
        place = torch.arange(bits.shape[1], device=bits.device, dtype=torch.int32)
        codes = (bits << place[:, None]).sum(1)  # [epochs, B]; 0: no vote
        votes = torch.zeros(
            (len(index), record.num_classes + 1), dtype=torch.int32, device=bits.device
        )
        votes.scatter_add_(1, codes.T, torch.ones_like(codes.T, dtype=torch.int32))
        return votes[:, 1:]

    def vote_shares(
        self,
        epochs: slice | None = None,
        *,
        smoothing: float = 1.0,
        samples: range | None = None,
    ) -> Tensor:
        """The share of a sample's epochs that predicted each class, smoothed: for methods that want probabilities.

        ``(votes for the class + smoothing / K) / (all votes + smoothing)``: as if ``smoothing`` further epochs had been
        spread over all classes alike, which leaves no probability at 0, and few votes less sure than many. cleanlab's
        ``find_label_issues`` takes them as ``pred_probs`` without cross-validation: predictions made before a wrong
        label was memorized stand against it. That is so only in epochs before the model has memorized everything.

        Args:
            epochs: window.
            smoothing: pseudo-votes of a sample, at least 0.
            samples: a range of sample ids with step 1, so that ``[N, K]`` need not exist at once; None: all.

        Returns:
            float32 ``[len(samples), K]``, in [0, 1], rows sum to 1; ``1 / K`` throughout where a sample has no votes.
            A row depends on its own sample alone.

        Raises:
            ValueError: no such samples, a negative smoothing, or a status that records only ``"status"``.
        """
        record = self._settled()
        start, stop = self._window(epochs)
        wanted = range(record.num_samples) if samples is None else samples
        if wanted.step != 1 or not 0 <= wanted.start <= wanted.stop <= record.num_samples:
            raise ValueError(
                f"samples must be a range with step 1 in [0, {record.num_samples}], got {samples}"
            )
        if not 0 <= smoothing < float("inf"):
            raise ValueError(f"smoothing must be at least 0 and finite, got {smoothing}")
        classes = record.num_classes
        shares = torch.empty((len(wanted), classes), device=self._words.device)
        chunk = max(32, _CHUNK_BYTES // (4 * classes) // 32 * 32)
        for first in range(wanted.start // 32 * 32, wanted.stop, chunk):
            last = min(first + chunk, wanted.stop)
            counts = torch.ops.mild_ext.class_votes(
                record.planes, record.num_samples, classes, start, stop, first, last
            )[max(0, wanted.start - first) :]
            total = counts.sum(1, keepdim=True)
            shares[last - len(counts) - wanted.start : last - wanted.start] = torch.where(
                total > 0, (counts + smoothing / classes) / (total + smoothing), 1 / classes
            )
        return shares

    def majority_vote(
        self, epochs: slice | None = None, exclude: Tensor | None = None
    ) -> MajorityVote:
        """The class that most epochs predicted, e.g. besides the given label.

        Args:
            epochs: window.
            exclude: int64 or int32 ``[N]``, a class for each sample whose votes are left out; -1: none.

        Returns:
            MajorityVote.
        """
        record = self._settled()
        start, stop = self._window(epochs)
        if exclude is not None:
            exclude = self._class_per_sample("exclude", exclude, -1)
        label, count, votes = torch.ops.mild_ext.majority_vote(
            record.planes, exclude, record.num_samples, record.num_classes, start, stop
        )
        return MajorityVote(label, count / votes.clamp(min=1), votes)

    def misclassified_for(self, labels: Tensor, epochs: slice | None = None) -> Tensor:
        """Seen epochs that predicted something else than ``labels``, which need not be those trained on.

        Args:
            labels: int64 or int32 ``[N]``, in ``[0, num_classes)``.
            epochs: window.

        Returns:
            int32 ``[N]``, in ``[0, seen]``; lower = cleaner. For the labels trained on, this is
            ``compute(epochs).misclassified``.
        """
        record = self._settled()
        start, stop = self._window(epochs)
        wanted = self._class_per_sample("labels", labels, 0)
        agree: Tensor = torch.ops.mild_ext.count_predicted(
            record.planes, wanted, record.num_classes, start, stop
        )
        return ops.transition_times(self._words, start, stop)[7] - agree

    def prediction_changes(self, epochs: slice | None = None) -> Tensor:
        """Changes of the predicted class between consecutive seen epochs: int32 ``[N]``, a count; lower = steadier."""
        return self._changes(epochs)[0]

    def label_wave(self, epochs: slice | None = None) -> Tensor:
        """How many samples changed their predicted class in each epoch, since the last epoch in which they were seen.

        Training may stop at the first local minimum of these counts (Yuan et al., Label Wave, ICLR 2024).

        Returns:
            int64 ``[P]`` on the CPU, P the window's length; the first entry is 0.
        """
        return self._changes(epochs)[1].cpu()

    def _changes(self, epochs: slice | None) -> tuple[Tensor, Tensor]:
        record = self._settled()
        start, stop = self._window(epochs)
        changes, changed = torch.ops.mild_ext.prediction_changes(
            record.planes, record.num_samples, record.num_classes, start, stop
        )
        return changes, changed

    # ---- running sums

    @property
    def half_epoch(self) -> int:
        """Length of the first half of the epochs, ``(num_epochs + 1) // 2``, whose shortfall is kept apart."""
        return (self._num_epochs + 1) // 2

    def shortfall(self, *, first_half: bool = False) -> Tensor:
        """By how much each sample's label fell short of being predicted, in the mean over its seen epochs.

        The shortfall of an epoch is ``max(0, largest other logit - label's logit)``: 0 where the label is predicted,
        clipped at log 10^4. A running sum, so there is no window but the first half.

        Args:
            first_half: only epochs ``[0, half_epoch)``.

        Returns:
            float32 ``[N]``, nats, in ``[0, 9.21]``; NaN where the sample was not seen. Lower = cleaner.
        """
        record = self._settled()
        half = first_half and self._epoch >= self.half_epoch
        row = rows_of.SHORTFALL_FIRST_HALF if half else rows_of.SHORTFALL
        sums = record.sums_so_far(self._words, self._epoch_on_device)[row]
        stop = self.half_epoch if first_half else self._num_epochs
        seen = ops.transition_times(self._words, 0, stop)[7]
        return _mean(sums, row, seen, self._num_epochs).float()

    def dynamics(self, *, k: int = 3) -> Dynamics:
        """Margin, loss, confidence and more of every sample, over the whole record; needs ``record="all"``.

        These are running sums: there are no windows of epochs. Use `compute` and the predicted classes for those.

        Args:
            k: consecutive epochs for ``first_k_learned``, at least 1.

        Returns:
            Dynamics, on the status' device.
        """
        record = self._settled("all")
        stop = self._num_epochs
        first_k = torch.ops.mild_ext.first_run(self._words, 0, stop, k)
        sums = record.sums_so_far(self._words, self._epoch_on_device)
        times = ops.transition_times(self._words, 0, stop)
        seen = times[7]
        means = [_mean(sums[row], row, seen, stop) for row in range(_C.num_sums)]
        probability = means[rows_of.PROBABILITY]
        variance = means[rows_of.PROBABILITY_SQUARED] - probability.square()
        return Dynamics(
            margin=means[rows_of.MARGIN].float(),
            loss=means[rows_of.LOSS].float(),
            confidence=probability.float(),
            variability=variance.clamp(min=0).sqrt().float(),
            correctness=(times[1].double() / seen).float(),
            el2n=means[rows_of.EL2N].float(),
            forgetting_events=times[5],
            first_memorized=times[3],
            prediction_changes=self._changes(None)[0],
            first_k_learned=first_k,
            seen=seen,
            k=k,
            num_epochs=stop,
        )


def _mean(sums: Tensor, row: int, seen: Tensor, num_epochs: int) -> Tensor:
    """float64 ``[N]``: the mean over seen epochs of a row of the sums; NaN for none."""
    mean: Tensor = sums.double() / (1 << _C.sum_places(num_epochs)[row]) / seen
    return mean
