"""The iterative procedure as a state machine: whom to watch, when to select, when to refuse, when to stop.

Hu et al., "MILD: Modeling the Instance Learning Dynamics for Learning with Noisy Labels",
IJCAI 2023, Algorithm 1, with refusals and stop rules of our own. There is no loop here and no model:
`mild_ext.training.run_rounds` and `mild_ext.integrations.RoundTracker` train, record, and ask.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mild_ext.recording.status import LearningStatus
from mild_ext.rounds.planting import RoundPlanting
from mild_ext.rounds.round_end import (
    UNKNOWN,
    RoundOutcome,
    Select,
    checked_mask,
    evidence,
    who_takes_part,
)
from mild_ext.rounds.round_record import checked_record, newest_dynamics
from mild_ext.rounds.round_state import TENSORS, checked_state, rounds_state
from mild_ext.selection import PlantedLabels, Selection, select_clean

#: A round that would leave less than this share of the samples it watched is refused.
SMALLEST_KEPT_SHARE = 0.05
#: A round that changes the fate of less than this share of its samples is the last, by default.
MIN_REMOVED = 0.01

RESELECT = ("kept", "all")


class Rounds:
    """Which samples to watch and to learn from, round after round, and why it ends.

    In each round, record ``watched`` into a `new_status`, learn from ``kept``; when the status has all
    its epochs, `select` and then `end_round`; go on until ``finished``. A selection is not followed, and
    the rounds end, where it is not supported by the data, would keep less than a share of
    `SMALLEST_KEPT_SHARE` of the samples watched, or would empty a class.

    Args:
        num_samples: size of the data set, N; sample ids are positions in it.
        rounds: epochs of each round.
        train_ids: the samples that take part, as int64 ids or as a mask bool ``[N]``; None for all.
        labels: integers ``[N]``, the given labels, -1 where not known; None where none is known yet
            (see `take_labels`).
        reselect: "kept": a dropped sample stays out. "all": all that take part are watched in every
            round, and a dropped one may return.
        min_removed: a round that drops, or takes back, less than this share in [0, 1) of the samples
            it learned from is the last.
        select: makes the selection, see `Select`; None is `select_clean`.
        plant: share of the samples watched, in [0, 0.1], that are given a wrong label on purpose in each
            round, so that the noise can be measured; train on ``training_labels`` then. 0 plants nothing.
        plant_seed: of the draws; the same seed plants the same labels.
        num_classes: columns of the logits, K, for ``plant`` and ``record``; None: one more than the largest label.
        record: what each round's status records, see LearningStatus; None is "classes" where labels are
            planted, otherwise "status".
        plant_required: where no labels can be planted in the first round: True raises, False leaves it, with
            a note in the outcome. Later rounds always leave it.
        plant_trainings: trainings of the first round that plant beside each other, see `RoundPlanting`.

    Attributes:
        taking_part: bool ``[N]``; like all tensors here, on the CPU.
        labels: int64 ``[N]``, -1 where not known, or None.
        kept: bool ``[N]``, the samples to learn from; written in place.
        round_dropped: int64 ``[N]``, the round that dropped the sample, -1 where none did.
        misclassified: int32 ``[N]``, misclassified epochs in the last finished round that watched the
            sample; with ``seen`` the evidence its fate was decided on.
        seen: int32 ``[N]``, epochs in which that round saw the sample.
        clean_probability: float32 ``[N]`` in [0, 1], probability that the label is right, from the
            same round; 1 for samples that were never watched.
        suspicion: float32 ``[N]``, from the same round; higher = more likely wrong; 0 for samples that were
            never watched. Comparable among samples that were last watched in one round.
        suggested_label: int64 ``[N]``, the class the network voted for instead; -1 where there is none, or
            nothing was planted.
        suggestion_confidence: float32 ``[N]`` in [0, 1], that it is the true one if the given one is wrong.
        dynamics: training dynamics by name, float32 ``[N]``, from the last round that watched the sample under
            its given label, NaN where none did (`mild_ext.selection.table.dynamics_columns`); empty unless
            ``record="all"``.
        round: number of the current round, from 0; when finished, how many there were.
        stop_reason: why there are no more rounds; None while there are.

    Raises:
        TypeError: labels are not integers.
        ValueError: no rounds, no samples, labels of the wrong shape, a setting out of range, or nothing that
            can be planted: labels that are not known, or classes too small.

    Examples:
        >>> import torch
        >>> from mild_ext.rounds import Rounds
        >>> rounds = Rounds(4, rounds=[1, 1], labels=torch.tensor([0, 0, 1, 1]))
        >>> status = rounds.new_status()
        >>> status.update(torch.arange(4), torch.eye(2)[[0, 0, 1, 1]], rounds.labels)
        >>> status.advance()
        >>> outcome = rounds.end_round(status, rounds.select(status))
        >>> rounds.finished, outcome.removed, outcome.stop_reason == outcome.refused
        (True, 0, True)
    """

    def __init__(
        self,
        num_samples: int,
        rounds: Sequence[int],
        *,
        train_ids: Tensor | None = None,
        labels: Tensor | None = None,
        reselect: str = "kept",
        min_removed: float = MIN_REMOVED,
        select: Select | None = None,
        plant: float = 0.0,
        plant_seed: int = 0,
        num_classes: int | None = None,
        plant_required: bool = True,
        plant_trainings: int = 1,
        record: str | None = None,
    ) -> None:
        rounds = _whole_epochs(rounds)
        if reselect not in RESELECT:
            raise ValueError(f"reselect must be one of {', '.join(RESELECT)}; got {reselect!r}")
        if not 0 <= min_removed < 1:
            raise ValueError(f"min_removed must be in [0, 1), got {min_removed}")
        self.record = checked_record(record, plant > 0)
        self.num_samples, self.rounds = num_samples, tuple(int(epochs) for epochs in rounds)
        self.reselect, self.min_removed = reselect, float(min_removed)
        self.taking_part = who_takes_part(train_ids, num_samples)
        self._select: Select = select or select_clean
        self._planting = RoundPlanting(
            num_samples, plant, seed=plant_seed, num_classes=num_classes,
            required=plant_required, trainings=plant_trainings,
        )  # fmt: skip
        self.labels: Tensor | None = None
        if labels is not None:
            self.take_labels(labels)
        self.kept = self.taking_part.clone()
        self.round_dropped = torch.full((num_samples,), -1)
        self.misclassified = torch.zeros(num_samples, dtype=torch.int32)
        self.seen = torch.zeros(num_samples, dtype=torch.int32)
        self.clean_probability = torch.ones(num_samples)
        self.suspicion = torch.zeros(num_samples)
        self.suggested_label = torch.full((num_samples,), UNKNOWN)
        self.suggestion_confidence = torch.zeros(num_samples)
        self.dynamics: dict[str, Tensor] = {}
        self.round = 0
        self.stop_reason: str | None = None
        self._planting.begin(0, self.labels, self.watched)

    # ---- where it stands

    @property
    def finished(self) -> bool:
        """Whether there are no more rounds."""
        return self.stop_reason is not None

    @property
    def watched(self) -> Tensor:
        """Bool ``[N]``, the samples to draw, and to record while there are rounds; not a copy."""
        return self.taking_part if self.reselect == "all" and not self.finished else self.kept

    @property
    def learned(self) -> Tensor:
        """Bool ``[N]``, the samples whose loss counts: those kept, but for samples that are planted *and* held out.

        With reselect="all" dropped samples are watched but not learned from, so from the second round on nearly
        no wrong label is learned. Planted labels stand for the wrong ones, so they must not be learned either.
        """
        if self.planted is None or self.round == 0 or self.reselect != "all":
            return self.kept
        return self.kept & ~self.planted.mask

    @property
    def num_epochs(self) -> int:
        """Epochs of the current round; of the last one when finished."""
        return self.rounds[self.round - self.finished]

    @property
    def labels_known(self) -> bool:
        """Whether the label of every sample that takes part is known."""
        return self.labels is not None and bool((self.labels[self.taking_part] >= 0).all())

    @property
    def plants(self) -> bool:
        """Whether labels are to be planted."""
        return self._planting.share > 0

    @property
    def planted(self) -> PlantedLabels | None:
        """The labels planted in the current round, of all N samples; None where none are."""
        return self._planting.planted

    @property
    def training_labels(self) -> Tensor | None:
        """Int64 ``[N]``, the labels to train on: the given ones, but for those planted in the current round.

        Where labels are planted this is one tensor, in shared memory, written in place as rounds begin and
        end, so that worker processes see it. None where no labels are given.
        """
        return self._planting.labels

    def new_status(self, device: torch.device | str = "cpu") -> LearningStatus:
        """An empty status for the current round; it records predicted classes where labels are planted."""
        record = self.record or ("status" if self.planted is None else "classes")
        classes = self._planting.num_classes
        if classes is None and record != "status" and self.labels is not None and self.labels_known:
            classes = int(self.labels.max()) + 1
        return LearningStatus(
            self.num_samples, self.num_epochs, num_classes=classes, record=record, device=device
        )

    def is_over(self, status: LearningStatus) -> bool:
        """Whether all epochs of the current round are in its status, and `select` is due."""
        return not self.finished and status.epoch >= status.num_epochs

    def take_labels(self, labels: Tensor) -> None:
        """Learn given labels; those that are known already stay.

        Args:
            labels: integers ``[N]``, negative where not known.

        Raises:
            TypeError, ValueError: labels are not integers, or not one for each sample.
        """
        labels = torch.as_tensor(labels)
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"labels must be integers, got {labels.dtype}")
        if tuple(labels.shape) != (self.num_samples,):
            raise ValueError(
                f"labels must have one entry for each of the {self.num_samples} samples, got shape "
                f"{list(labels.shape)}"
            )
        new = labels.detach().to("cpu", torch.int64, copy=True).clamp_(min=UNKNOWN)
        if self.labels is not None:
            new = torch.where(self.labels >= 0, self.labels, new)
        if bool((new >= 0).any()):
            self.labels = new
            self._planting.show(new)

    # ---- the end of a round

    def select(
        self, status: LearningStatus, scouts: Sequence[tuple[LearningStatus, PlantedLabels]] = ()
    ) -> Selection:
        """The selection for the current round; changes nothing.

        Args:
            status: of the round, with all its epochs.
            scouts: trainings beside it on the same samples, each from fresh weights and with other labels planted:
                status and planted labels. Their evidence is pooled with the round's.

        Raises:
            RuntimeError: the round's epochs are not over, or there are no more rounds.
            ValueError: the status is not of this round, or not of the labels planted in it.
        """
        self._require_over(status)
        labels = None if self.labels is None else self.labels.to(status.device)
        if self.planted is None:
            return self._select(status, labels=labels)
        self.check_trained_on(status)
        if not scouts:
            return self._select(status, labels=labels, planted=self.planted)
        return self._select(
            [status, *(seen for seen, _ in scouts)],
            labels=labels,
            planted=[self.planted, *(planted for _, planted in scouts)],
        )

    def check_trained_on(self, status: LearningStatus) -> None:
        """Make sure that what the status has recorded was trained on ``training_labels``.

        Raises:
            ValueError: planted samples were trained on other labels.
        """
        self._planting.check_trained_on(status)

    def end_round(
        self, status: LearningStatus, selection: Selection, *, early: bool = False
    ) -> RoundOutcome:
        """Follow the selection or refuse it, and go over to the next round; on an error nothing changes.

        Args:
            status: of the current round, with all its epochs.
            selection: of that status; only the verdict on ``watched`` counts.
            early: the round ends before all its epochs are recorded; its training goes on.

        Raises:
            RuntimeError: the round's epochs are not over, or there are no more rounds.
            TypeError, ValueError: the status is not of this round, or the selection has no mask for
                its samples.
        """
        self._require_over(status, early)
        proposed = checked_mask(selection, self.num_samples) & self.watched
        watched, learned = self.watched.clone(), self.kept.clone()
        refused = self._refusal(proposed) if selection.supported else str(selection.reason)
        self._note_evidence(status, selection)
        if refused is None:
            self.round_dropped[learned & ~proposed] = self.round
            self.round_dropped[proposed] = -1
            self.kept.copy_(proposed)  # in place: samplers may look at it
        number, epochs = self.round, status.epoch
        changed, count = int((learned ^ self.kept).sum()), int(learned.sum())
        planted, note = self.planted, self._planting.note
        self.round += 1
        if refused is not None:
            self.stop_reason = refused
        elif changed < self.min_removed * count:
            self.stop_reason = (
                f"round {number} changed the fate of {changed} samples, less than a share of "
                f"{self.min_removed:g} of {count}"
            )
        elif self.round == len(self.rounds):
            self.stop_reason = f"the recipe's {len(self.rounds)} rounds are done"
        self._planting.end(self.labels)
        if not self.finished:
            self._planting.begin(self.round, self.labels, self.watched)
        return RoundOutcome(
            number,
            epochs,
            watched,
            learned,
            self.kept.clone(),
            refused,
            self.stop_reason,
            planted,
            note,
        )

    def _require_over(self, status: LearningStatus, early: bool = False) -> None:
        if self.finished:
            raise RuntimeError(f"there are no more rounds to end: {self.stop_reason}")
        size = (status.num_samples, status.num_epochs)
        expected = (self.num_samples, self.num_epochs)
        if size != expected:
            raise ValueError(
                f"the status of round {self.round} must have (num_samples, num_epochs) = {expected}, got "
                f"{size}; take it from new_status()"
            )
        if not early and not self.is_over(status):
            raise RuntimeError(
                f"round {self.round} is not over: {status.epoch} of {status.num_epochs} epochs are recorded; advance()"
            )

    def _refusal(self, proposed: Tensor) -> str | None:
        """Why a proposed selection must not be followed, or None."""
        num_kept, num_watched = int(proposed.sum()), int(self.watched.sum())
        if num_kept < SMALLEST_KEPT_SHARE * num_watched:
            return (
                f"the selection would keep {num_kept} of {num_watched} samples, less than a share of "
                f"{SMALLEST_KEPT_SHARE:g}: everything was kept instead"
            )
        if self.labels is None:
            return None
        before, after = (set(self.labels[m].unique().tolist()) for m in (self.watched, proposed))
        emptied = sorted(before - after - {UNKNOWN})
        if emptied:
            return f"the selection would empty class {emptied[0]}: everything was kept instead"
        return None

    def _note_evidence(self, status: LearningStatus, selection: Selection) -> None:
        """Remember what this round saw of the samples it watched."""
        new = {
            name: torch.where(self.watched, values.cpu().to(TENSORS[name]), getattr(self, name))
            for name, values in evidence(status, selection, self.planted).items()
        }
        for name, values in new.items():
            getattr(self, name).copy_(values)
        self.dynamics = newest_dynamics(self.dynamics, status, self.watched, self.planted)

    # ---- keeping

    def copy(self) -> Rounds:
        """Rounds with the same settings, in the same state."""
        other = copy.copy(self)
        for name in TENSORS:
            setattr(other, name, getattr(self, name).clone())
        other.dynamics = dict(self.dynamics)  # replaced, never written to
        other._planting = self._planting.copy()
        other._planting.show(other.labels)
        return other

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: copies of tensors, numbers, text, lists and None."""
        return rounds_state(self, self._planting)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict` of rounds with the same settings; on an error nothing changes.

        Labels that were not known here are taken over.

        Raises:
            ValueError: the state is of another kind, of other samples, labels or settings, or damaged.
        """
        found = checked_state(self, self._planting, state)
        if found.labels is not None:
            self.take_labels(found.labels)
        for name, values in found.tensors.items():
            getattr(self, name).copy_(values)
        self.dynamics = found.dynamics
        self.round, self.stop_reason = found.round, found.stop_reason
        self._planting.load_state_dict(found.planting, self.labels)


def _whole_epochs(rounds: Any) -> list[int]:
    """Epochs of each round, from whatever lists whole numbers."""
    if (
        isinstance(rounds, str | bytes)
        or not hasattr(rounds, "__iter__")
        or getattr(rounds, "ndim", 1) != 1
    ):
        raise TypeError(
            f"rounds must list the epochs of each round, as in [20, 10], got {rounds!r}"
        )
    found = [n.item() if getattr(n, "ndim", None) == 0 else n for n in rounds]
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in found):
        raise TypeError(f"rounds must be whole numbers of epochs, got {found}")
    if not found or min(found) < 1:
        raise ValueError(
            f"rounds must name at least one round of at least one epoch each, got {found}"
        )
    return found
