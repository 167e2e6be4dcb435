"""Rounds inside somebody else's training loop: what to record, when to select, whom to train on.

`mild_ext.run_rounds` owns its loop. Here the loop is the user's, or a framework's: it reports
batches and ends of epochs to a `RoundTracker`, and draws its samples from a `KeptSampler`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mild_ext import processes
from mild_ext.data.labels import Missing
from mild_ext.integrations.batch_labels import BatchLabels, GivenLabels
from mild_ext.integrations.round_standing import RoundStanding
from mild_ext.integrations.sampler import KeptSampler
from mild_ext.integrations.tracker_file import FORMAT, read_tracker, write_tracker
from mild_ext.reading import reading
from mild_ext.recording._checks import require_tensors
from mild_ext.rounds import (
    MIN_REMOVED,
    RoundOutcome,
    Rounds,
    Select,
    epoch_figures,
    round_figures,
)
from mild_ext.selection import Selection
from mild_ext.selection.table import Table, samples_table, to_frame

if TYPE_CHECKING:
    import pandas as pd


class RoundTracker(RoundStanding):
    """Records status through a sequence of rounds and narrows down the samples to train on.

    A round is a number of epochs; at its end the samples with wrong labels are dropped, and the
    next round records the rest anew. After the last round, or where a selection is refused (see
    `mild_ext.rounds.Rounds`), nothing is recorded any more and training goes on with the samples kept.
    The rules and their defaults are those of `mild_ext.run_rounds`: the same batches give the same samples.

    Under torch.distributed every rank has a tracker; `end_epoch` is then a collective (see
    `LearningStatus.sync`), and all ranks keep the same samples.

    Args:
        num_samples: samples in the data set; ids are its positions.
        rounds: epochs of each round.
        labels: ``[N]``, the given labels, which the selection and its refusals look at, as
            `mild_ext.data.check_labels` takes them. The batches must carry the same, which is looked at after the
            first epoch. None takes them from the batches, until that of every sample is known.
        missing: what to do where ``labels`` has none for a sample that takes part: "refuse", or "drop": leave
            these samples out, as ``train_ids`` would.
        train_ids: the samples that take part, as int64 ids or a mask bool ``[N]``; None for all.
        reselect: "kept": a dropped sample stays out. "all": in every round all are drawn and recorded,
            and a dropped one may return; the loss must then leave out those that are not ``learned``.
        min_removed: a round that drops, or takes back, less than this share of its samples is the last.
        select: called as ``select(status, labels=labels)`` with a round's LearningStatus and int64
            labels ``[N]`` on its device, -1 for a sample that was in no batch, or None if all are;
            returns a Selection. ``functools.partial(select_clean, ...)`` sets a rule. None is
            `select_clean` with its defaults. Where labels are planted, ``planted`` is given as well.
        plant: share of the samples in [0, 0.1] that are given a wrong label on purpose in each round, so that
            the noise can be measured (see `mild_ext.plant_labels`). Needs ``labels``, and batches with
            ``training_labels``. 0, the default, plants nothing: it is your model that learns them, for the
            length of the round.
        num_classes: columns of the logits, for ``plant`` and ``record``; None takes one more than the largest
            of ``labels``.
        record: what each round's status records, see LearningStatus: "all" for the training dynamics. None is
            "classes" where labels are planted, otherwise "status".
        device: where the status lies, see LearningStatus.
        group: process group to merge over; None is the default one, or none.
        seed: of the order in which `sampler` goes through the samples, and of what is planted.

    Attributes:
        rounds: epochs of each round.
        status: LearningStatus of the current round; the last round's when finished.
        selections: of each round that was finished since this tracker was made or restored.
        epochs: epochs ended so far, all rounds and what came after.
        class_names: the text of each class number, where ``labels`` were text; else None.

    Raises:
        TypeError, ValueError: as `mild_ext.rounds.Rounds` and LearningStatus; nothing that can be planted in
            the first round where ``plant`` asks for it.

    Examples:
        >>> import torch
        >>> from mild_ext.integrations import RoundTracker
        >>> tracker = RoundTracker(num_samples=4, rounds=[2, 1])
        >>> for epoch in range(3):
        ...     for i in tracker.sampler(shuffle=False):
        ...         tracker.update(torch.tensor([i]), torch.tensor([[2.0, 1.0]]), torch.tensor([0]))
        ...     outcome = tracker.end_epoch()
        >>> tracker.finished, tracker.kept.tolist()
        (True, [True, True, True, True])
    """

    def __init__(
        self,
        num_samples: int,
        rounds: Sequence[int],
        *,
        labels: Any = None,
        missing: Missing = "refuse",
        train_ids: Tensor | None = None,
        reselect: str = "kept",
        min_removed: float = MIN_REMOVED,
        select: Select | None = None,
        device: torch.device | str = "cpu",
        group: processes.Group = None,
        seed: int = 0,
        plant: float = 0.0,
        num_classes: int | None = None,
        record: str | None = None,
    ) -> None:
        self.class_names: tuple[str, ...] | None = None
        if labels is not None:
            given = GivenLabels.of(labels, num_samples, train_ids, missing)
            labels, train_ids, self.class_names = given.labels, given.train_ids, given.class_names
        self._process = os.getpid()
        self._rounds = Rounds(
            num_samples,
            rounds,
            train_ids=train_ids,
            labels=labels,
            reselect=reselect,
            min_removed=min_removed,
            select=select,
            plant=plant,
            plant_seed=seed,
            num_classes=num_classes,
            record=record,
        )
        self.num_samples, self.rounds = num_samples, self._rounds.rounds
        self.device, self.group, self.seed = torch.device(device), group, seed
        self.status = self._rounds.new_status(self.device)
        self.selections: list[Selection] = []
        self.epochs = 0
        self._noted: BatchLabels | None = None
        self._comparing = False
        self._ended: dict[str, float] = {}
        self._start_noting()

    # ---- recording

    @property
    def round_complete(self) -> bool:
        """Whether all epochs of the current round are recorded, and `end_round` is due."""
        return self._rounds.is_over(self.status)

    def update(self, index: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Record a training batch, see `LearningStatus.update`; nothing when finished."""
        if self.finished:
            return
        self._require_open_round()
        require_tensors(index=index, logits=logits, labels=labels)
        device = self.status.device
        index, labels = index.to(device), labels.to(device)
        self.status.update(index, logits.detach().to(device), labels)
        if self._noted is not None:
            self._noted.update(index, labels)

    def end_epoch(self) -> RoundOutcome | None:
        """To be called after each epoch of training; ends the round too where it was its last.

        Returns:
            What the end of the round did (renew the optimizer then); None where no round ended.
        """
        self.advance()
        return self.end_round() if self.round_complete else None

    def advance(self) -> None:
        """Merge the ranks and end the epoch, but leave the end of a round to the caller.

        Raises:
            ValueError: the batches of a round's first epoch did not carry its ``training_labels``, or those of the
                very first one other labels than were given.
            RuntimeError: in another process than the one the tracker was made in.
        """
        self.require_own_process()
        self._ended = {}
        if not self.finished:
            self._require_open_round()
            self.status.sync(self.group)
            # Among ranks an epoch shows each only its part of the labels: one merge a round will do.
            last = self.status.epoch + 1 == self.status.num_epochs
            if last or self._comparing or processes.world_size(self.group) == 1:
                self._merge_labels()
            self.status.advance()
            if self._comparing:
                self._noted, self._comparing = None, False
            if self.status.epoch == 1:
                self._rounds.check_trained_on(self.status)
        self.epochs += 1

    def _require_open_round(self) -> None:
        if self.round_complete:
            raise RuntimeError(
                "all epochs of this round are recorded: call end_round() before the next batch or epoch "
                "(end_epoch() does both)"
            )

    def require_own_process(self) -> None:
        """Raise a RuntimeError in a process that was started with this tracker: what it records there is lost."""
        if os.getpid() != self._process:
            raise RuntimeError(
                "this RoundTracker was made in another process, which will see nothing of what is recorded here "
                "(notebook_launcher, mp.spawn): make it inside the function that is launched, at its end "
                "tracker.save(FILE) on the first rank, and afterwards restore(FILE) outside"
            )

    def sync(self) -> None:
        """Merge what the ranks have recorded so far, e.g. before saving amid an epoch; a collective."""
        if not self.finished:
            self.status.sync(self.group)
            self._merge_labels()

    def end_round(self) -> RoundOutcome:
        """Select, follow the selection or refuse it, and prepare the next round.

        Raises:
            RuntimeError: the round's epochs are not over, or there are no more rounds.
            TypeError, ValueError: ``select`` did not return a selection of these samples.
        """
        selection, figures = self._rounds.select(self.status), epoch_figures(self.status)
        outcome = self._rounds.end_round(self.status, selection)
        self._ended = figures | round_figures(outcome, selection)
        self.selections.append(selection)
        if not self.finished:
            self.status = self._rounds.new_status(self.device)
        return outcome

    def restart_round(self) -> None:
        """Forget what the current round has recorded and begin it anew, e.g. after training was interrupted in it.

        A round is judged by its whole course, so half of one is of no use; the weights are not the tracker's concern.
        """
        if not self.finished:
            self.epochs -= self.status.epoch
            self.status = self._rounds.new_status(self.device)
            self._start_noting()

    def figures(self) -> dict[str, float]:
        """Figures of the epoch that ended last, for a logger; alike on all ranks. Waits for the device.

        Returns:
            ``mild_ext/memorized``, where predicted classes are recorded ``mild_ext/prediction_changes``, and after the
            last epoch of a round ``mild_ext/dropped``, ``kept``, ``noise_rate``, ``noise_rate_low`` and
            ``noise_rate_high``: see `mild_ext.rounds.epoch_figures` and `mild_ext.rounds.round_figures`. Empty
            before the first epoch's end, and where nothing is recorded any more.
        """
        figures = self._ended
        if not (figures or self.finished):
            figures = epoch_figures(self.status)
        return {f"mild_ext/{name}": value for name, value in figures.items()}

    def _start_noting(self) -> None:
        """Take labels from the batches from here on, as long as some are not known.

        In the very first epoch they are noted in any case, to compare them with those given.
        """
        self._noted = None
        self._comparing = self._rounds.labels_known and self.epochs == 0
        if not self.finished and (self._comparing or not self._rounds.labels_known):
            known = None if self._comparing else self.labels
            self._noted = BatchLabels(self.num_samples, self.device, known)

    def _merge_labels(self) -> None:
        if self._noted is None:
            return
        self._noted.merge(self.group)
        if self._comparing:
            self._noted.require(self.training_labels, self.planted)
            return
        self._rounds.take_labels(self._noted.labels)
        if self._rounds.labels_known:
            self._noted = None

    # ---- drawing and looking

    def sampler(
        self,
        *,
        shuffle: bool = True,
        num_replicas: int | None = None,
        rank: int | None = None,
        drop_last: bool = False,
    ) -> KeptSampler:
        """A sampler for a DataLoader that goes through the samples watched, see `KeptSampler`."""
        return KeptSampler(
            self, shuffle=shuffle, num_replicas=num_replicas, rank=rank, drop_last=drop_last
        )

    def table(self, **columns: Any) -> Table:
        """One row per sample, from the last round that watched it; see `mild_ext.selection.table`.

        Given labels are those known so far, -1 for a sample that was in no batch.
        """
        return samples_table(
            dropped=self.round_dropped >= 0,  # samples that took no part were not dropped
            clean_probability=self.clean_probability,
            suspicion=self.suspicion,
            suggested_labels=self.suggested_label,
            suggestion_confidence=self.suggestion_confidence,
            times={"misclassified": self.misclassified, "seen": self.seen},
            round_dropped=self.round_dropped,
            **{"given_labels": self.labels, "dynamics": self.dynamics, **columns},
        )

    def to_frame(self, **columns: Any) -> pd.DataFrame:
        """`table` as a pandas DataFrame; needs the extra ``export``."""
        return to_frame(self.table(**columns))

    # ---- keeping

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: copies of tensors, numbers, text, lists and None.

        Among several ranks call `sync` on all of them first, unless an epoch has just ended.
        """
        rounds, status = self._rounds, self.status.state_dict()
        if self._noted is not None and not self._comparing:
            # Into the copy alone: what this rank goes by must stay what all ranks go by.
            rounds = rounds.copy()
            rounds.take_labels(self._noted.labels)
        return {
            "format": FORMAT,
            "epochs": self.epochs,
            "rounds": rounds.state_dict(),
            "status": {
                name: value.clone() if isinstance(value, Tensor) else value
                for name, value in status.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`; on an error nothing changes.

        Raises:
            ValueError: it is of another kind, another data set, other settings, or damaged.
        """
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        if found != FORMAT:
            raise ValueError(
                f"state must be of a RoundTracker ({FORMAT}), got {found!r}; start the "
                "rounds anew where it is of another version"
            )
        missing = {"epochs", "rounds", "status"} - set(state)
        if missing:
            raise ValueError(f"state is damaged: it has no {', '.join(sorted(missing))}")
        rounds = self._rounds.copy()
        rounds.load_state_dict(state["rounds"])
        status = rounds.new_status(self.device)
        status.load_state_dict(state["status"])
        # Now that all of it fits: in place, since samplers and data sets look at these tensors.
        self._rounds.load_state_dict(state["rounds"])
        self.status, self.epochs = status, state["epochs"]
        self.selections, self._ended = [], {}
        self._start_noting()

    def save(self, path: str | Path) -> None:
        """Write `state_dict` as safetensors; an existing file is replaced only by a complete one.

        Whoever calls writes: among several ranks, `sync` on all and save on the first.
        """
        write_tracker(path, self.state_dict())

    def restore(self, path: str | Path) -> None:
        """Go on from what `save` wrote; on an error nothing changes.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is of another kind or version, another data set, other settings, or
                damaged.
        """
        state = read_tracker(path)
        with reading(path):
            self.load_state_dict(state)
