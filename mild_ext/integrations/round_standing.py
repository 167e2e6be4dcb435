"""`RoundStanding`: where the rounds of a `RoundTracker` stand, to be looked at."""

from __future__ import annotations

from torch import Tensor

from mild_ext.rounds import Rounds
from mild_ext.selection import PlantedLabels


class RoundStanding:
    """What is known of each sample, and how far the rounds have come; nothing here changes anything."""

    _rounds: Rounds

    @property
    def kept(self) -> Tensor:
        """Bool ``[N]`` on the CPU, the samples to train on; written in place."""
        return self._rounds.kept

    @property
    def watched(self) -> Tensor:
        """Bool ``[N]`` on the CPU, the samples to draw: ``kept``, or with reselect="all" all in the rounds."""
        return self._rounds.watched

    @property
    def learned(self) -> Tensor:
        """Bool ``[N]`` on the CPU, the samples whose loss counts; ``kept``, unless some are planted and held out."""
        return self._rounds.learned

    @property
    def taking_part(self) -> Tensor:
        """Bool ``[N]`` on the CPU, the samples of ``train_ids``."""
        return self._rounds.taking_part

    @property
    def labels(self) -> Tensor | None:
        """Int64 ``[N]`` on the CPU, the given labels as far as known, else -1; None while none is."""
        return self._rounds.labels

    @property
    def training_labels(self) -> Tensor:
        """Int64 ``[N]`` on the CPU, the labels to train on: ``labels``, but for those planted in this round.

        Hand it to what makes the batches, e.g. ``IndexedDataset(dataset, labels=tracker.training_labels)``.
        With ``plant`` it is one tensor in shared memory, written in place where a round begins or ends, so
        that a DataLoader's workers see it.

        Raises:
            RuntimeError: the tracker was made without labels.
        """
        labels = self._rounds.training_labels
        if labels is None or not self._rounds.labels_known:
            raise RuntimeError(
                "training_labels needs the given labels: RoundTracker(..., labels=...)"
            )
        return labels

    @property
    def plants(self) -> bool:
        """Whether labels are planted in the rounds."""
        return self._rounds.plants

    @property
    def planted(self) -> PlantedLabels | None:
        """The labels planted in the current round; None where none are."""
        return self._rounds.planted

    @property
    def round_dropped(self) -> Tensor:
        """Int64 ``[N]``, the round that dropped the sample, -1 where none did."""
        return self._rounds.round_dropped

    @property
    def misclassified(self) -> Tensor:
        """Int32 ``[N]``, misclassified epochs in the last finished round that watched the sample."""
        return self._rounds.misclassified

    @property
    def seen(self) -> Tensor:
        """Int32 ``[N]``, epochs in which that round saw the sample."""
        return self._rounds.seen

    @property
    def clean_probability(self) -> Tensor:
        """Float32 ``[N]`` in [0, 1], probability that the label is right, from the same round."""
        return self._rounds.clean_probability

    @property
    def suspicion(self) -> Tensor:
        """Float32 ``[N]``, from the same round; higher = more likely wrong; 0 where never watched."""
        return self._rounds.suspicion

    @property
    def suggested_label(self) -> Tensor:
        """Int64 ``[N]``, the class voted for instead; -1 where there is none, or nothing was planted."""
        return self._rounds.suggested_label

    @property
    def suggestion_confidence(self) -> Tensor:
        """Float32 ``[N]`` in [0, 1], that the suggested label is the true one if the given one is wrong."""
        return self._rounds.suggestion_confidence

    @property
    def dynamics(self) -> dict[str, Tensor]:
        """Training dynamics by name, float32 ``[N]``, of finished rounds, see `mild_ext.rounds.Rounds`."""
        return self._rounds.dynamics

    @property
    def reselect(self) -> str:
        """Whether dropped samples may return, see the argument."""
        return self._rounds.reselect

    @property
    def round(self) -> int:
        """Number of the current round, from 0; when finished, how many there were."""
        return self._rounds.round

    @property
    def stop_reason(self) -> str | None:
        """Why there are no more rounds; None while there are."""
        return self._rounds.stop_reason

    @property
    def finished(self) -> bool:
        """Whether there are no more rounds, and nothing is recorded any more."""
        return self._rounds.finished
