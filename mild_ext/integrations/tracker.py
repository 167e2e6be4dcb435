"""Rounds inside somebody else's training loop: what to record, when to select, whom to train on.

`mild_ext.run_rounds` owns its loop. Here the loop is the user's, or a framework's: it reports
batches and ends of epochs to a `RoundTracker`, and draws its samples from a `KeptSampler`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from mild_ext import processes
from mild_ext.recording.status import LearningStatus
from mild_ext.selection import Selection, select_clean
from mild_ext.selection.table import Table, samples_table, to_frame

if TYPE_CHECKING:
    import pandas as pd

Select = Callable[[LearningStatus], Selection]

_FORMAT = "mild_ext-tracker-1"
_TENSORS = ("kept", "round_dropped", "misclassified", "seen", "clean_probability")


class RoundTracker:
    """Records status through a sequence of rounds and narrows down the samples to train on.

    A round is a number of epochs; at its end the samples with wrong labels are dropped, and the
    next round records the rest anew. After the last round, or where a selection is not supported
    by the data, nothing is recorded any more and training goes on with the samples kept.

    Under torch.distributed every rank has a tracker; `end_epoch` is then a collective (see
    `mild_ext.processes.sync`), and all ranks keep the same samples.

    Args:
        num_samples: samples in the data set; ids are its positions.
        rounds: epochs of each round.
        select: from a round's LearningStatus to a Selection; ``functools.partial(select_clean, ...)``
            sets a rule. None is `select_clean` with its defaults.
        device: where the status lies, see LearningStatus.
        group: process group to merge over; None is the default one, or none.
        seed: of the order in which `sampler` goes through the samples.

    Attributes:
        status: LearningStatus of the current round; the last round's when finished.
        kept: bool ``[N]`` on the CPU, the samples to train on.
        round_dropped: int64 ``[N]``, the round that dropped the sample, -1 where none did.
        misclassified, seen: int32 ``[N]``, epochs, in the last finished round that watched the sample.
        clean_probability: float32 ``[N]`` in [0, 1], that the label is right, from the same round.
        selections: of each round that was finished since this tracker was made or restored.
        round: number of the current round, from 0; the number of rounds when finished.
        epochs: epochs ended so far, all rounds and what came after.
        stop_reason: why there are no more rounds; None while there are.

    Examples:
        >>> import torch
        >>> from mild_ext.integrations import RoundTracker
        >>> tracker = RoundTracker(num_samples=4, rounds=[2, 1])
        >>> for epoch in range(3):
        ...     for i in tracker.sampler(shuffle=False):
        ...         tracker.update(torch.tensor([i]), torch.tensor([[2.0, 1.0]]), torch.tensor([0]))
        ...     tracker.end_epoch()
        >>> tracker.finished, tracker.kept.tolist()
        (True, [True, True, True, True])
    """

    def __init__(
        self,
        num_samples: int,
        rounds: Sequence[int],
        *,
        select: Select | None = None,
        device: torch.device | str = "cpu",
        group: processes.Group = None,
        seed: int = 0,
    ) -> None:
        if not rounds or any(epochs < 1 for epochs in rounds):
            raise ValueError(
                f"rounds must name at least one round of at least one epoch each, got {list(rounds)}"
            )
        self.num_samples, self.rounds = num_samples, tuple(rounds)
        self.device, self.group, self.seed = torch.device(device), group, seed
        self._select = select or select_clean
        self.status = LearningStatus(num_samples, self.rounds[0], device=device)
        self.kept = torch.ones(num_samples, dtype=torch.bool)
        self.round_dropped = torch.full((num_samples,), -1)
        self.misclassified = torch.zeros(num_samples, dtype=torch.int32)
        self.seen = torch.zeros(num_samples, dtype=torch.int32)
        self.clean_probability = torch.ones(num_samples)
        self.selections: list[Selection] = []
        self.round = 0
        self.epochs = 0
        self.stop_reason: str | None = None

    @property
    def finished(self) -> bool:
        """Whether there are no more rounds, and nothing is recorded any more."""
        return self.stop_reason is not None

    @property
    def round_complete(self) -> bool:
        """Whether all epochs of the current round are recorded, and `end_round` is due."""
        return not self.finished and self.status.epoch >= self.status.num_epochs

    def update(self, index: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Record a training batch, see `LearningStatus.update`; nothing when finished."""
        if not self.finished:
            device = self.status.device
            self.status.update(index.to(device), logits.detach().to(device), labels.to(device))

    def end_epoch(self) -> None:
        """To be called after each epoch of training; ends the round too where it was its last."""
        self.advance()
        if self.round_complete:
            self.end_round()

    def advance(self) -> None:
        """Merge the ranks and end the epoch, but leave the end of a round to the caller."""
        if not self.finished:
            self.status.sync(self.group)
            self.status.advance()
        self.epochs += 1

    def sync(self) -> None:
        """Merge what the ranks have recorded so far, e.g. before saving amid an epoch; a collective."""
        if not self.finished:
            self.status.sync(self.group)

    def end_round(self) -> None:
        """Select, and prepare the next round.

        Raises:
            RuntimeError: the round's epochs are not over.
        """
        if not self.round_complete:
            raise RuntimeError(
                f"round {self.round} is not over: {self.status.epoch} of {self.status.num_epochs} epochs "
                "are recorded; call advance() after each"
            )
        watched = self.kept.clone()
        selection = self._select(self.status)
        self.selections.append(selection)
        self._note_evidence(selection, watched)
        proposed = selection.mask.cpu() & watched
        if not selection.supported:
            self.stop_reason = selection.reason
        elif not proposed.any():
            self.stop_reason = "the selection would keep no sample; all were kept instead"
        else:
            self.round_dropped[watched & ~proposed] = self.round
            self.kept.copy_(proposed)  # in place: samplers look at it
        self.round += 1
        if self.stop_reason is None and self.round == len(self.rounds):
            self.stop_reason = f"all {len(self.rounds)} rounds are done"
        if self.stop_reason is None:
            self.status = LearningStatus(
                self.num_samples, self.rounds[self.round], device=self.device
            )

    def _note_evidence(self, selection: Selection, watched: Tensor) -> None:
        epochs = torch.arange(self.status.num_epochs + 1, device=self.status.device)
        table = torch.cartesian_prod(epochs, epochs).float().view(len(epochs), len(epochs), 2)
        new = {
            "misclassified": self.status.lookup(table[..., 0].contiguous()),
            "seen": self.status.lookup(table[..., 1].contiguous()),
            "clean_probability": selection.clean_probability,
        }
        for name, values in new.items():
            old = getattr(self, name)
            old[watched] = values.cpu()[watched].to(old.dtype)

    def sampler(
        self,
        *,
        shuffle: bool = True,
        num_replicas: int | None = None,
        rank: int | None = None,
        drop_last: bool = False,
    ) -> KeptSampler:
        """A sampler for a DataLoader that goes through the kept samples, see `KeptSampler`."""
        return KeptSampler(
            self, shuffle=shuffle, num_replicas=num_replicas, rank=rank, drop_last=drop_last
        )

    def table(self, **columns: Any) -> Table:
        """One row per sample, from the last round that watched it; see `mild_ext.selection.table`."""
        return samples_table(
            dropped=~self.kept,
            clean_probability=self.clean_probability,
            times={"misclassified": self.misclassified, "seen": self.seen},
            round_dropped=self.round_dropped,
            **columns,
        )

    def to_frame(self, **columns: Any) -> pd.DataFrame:
        """`table` as a pandas DataFrame; needs the extra ``export``."""
        return to_frame(self.table(**columns))

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: tensors, numbers and text only."""
        status = self.status.state_dict()
        return {
            "format": _FORMAT,
            "rounds": list(self.rounds),
            "round": self.round,
            "epochs": self.epochs,
            "stop_reason": self.stop_reason,
            "status": status | {"words": status["words"].clone()},
            **{name: getattr(self, name).clone() for name in _TENSORS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`.

        Raises:
            ValueError: it is of another kind, another data set or other rounds.
        """
        if state.get("format") != _FORMAT:
            raise ValueError(
                f"state must be of a RoundTracker ({_FORMAT}), got {state.get('format')}"
            )
        if len(state["kept"]) != self.num_samples:
            raise ValueError(
                f"state is of {len(state['kept'])} samples, this tracker of {self.num_samples}"
            )
        if list(state["rounds"]) != list(self.rounds):
            raise ValueError(
                f"state is of rounds {list(state['rounds'])}, this tracker of {list(self.rounds)}"
            )
        # When finished, the status is still that of the last round.
        recorded = state["round"] - (state["stop_reason"] is not None)
        status = LearningStatus(self.num_samples, self.rounds[recorded], device=self.device)
        status.load_state_dict(state["status"])
        self.status = status
        for name in _TENSORS:
            getattr(self, name).copy_(state[name])
        self.round, self.epochs = state["round"], state["epochs"]
        self.stop_reason = state["stop_reason"]
        self.selections = []

    def save(self, path: str | Path) -> None:
        """Write `state_dict` as safetensors."""
        from safetensors.torch import save_file

        state = self.state_dict()
        status = state.pop("status")
        tensors = {name: state.pop(name) for name in _TENSORS}
        tensors |= {f"status.{k}": v.cpu() for k, v in status.items() if isinstance(v, Tensor)}
        state["status"] = {k: v for k, v in status.items() if not isinstance(v, Tensor)}
        save_file(tensors, path, metadata={"tracker": json.dumps(state)})

    def restore(self, path: str | Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            ValueError: the file is of another kind, another data set or other rounds.
        """
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "tracker" not in metadata:
                raise ValueError(f"{path} was not saved by a RoundTracker")
            state = json.loads(metadata["tracker"])
            for name in file.keys():  # noqa: SIM118
                owner, _, key = name.rpartition(".")
                (state["status"] if owner else state)[key] = file.get_tensor(name)
        self.load_state_dict(state)


class KeptSampler(DistributedSampler[int]):
    """Goes through a tracker's kept samples, each rank through its part.

    The order follows from the tracker's seed and its number of epochs ended, so it changes with every
    epoch without ``set_epoch``, and a resumed training draws what it would have drawn. As
    in torch's DistributedSampler, every rank gets equally many ids: a few are repeated to fill up, or
    some left out with ``drop_last``; neither disturbs the status.

    Args:
        tracker: whose ``kept`` and ``epochs`` count, at the time of iteration.
        shuffle: False: in the order of ids.
        num_replicas, rank: None asks torch.distributed at the time of iteration. Accelerate, and with it
            the Transformers Trainer, deals out batches by itself: give ``num_replicas=1`` there.
        drop_last: leave out the remainder.
    """

    def __init__(
        self,
        tracker: RoundTracker,
        *,
        shuffle: bool = True,
        num_replicas: int | None = None,
        rank: int | None = None,
        drop_last: bool = False,
    ) -> None:
        # Not DistributedSampler.__init__, which wants to know the process group at once. Being one makes
        # Lightning leave the sampler alone.
        if num_replicas == 1 and rank is None:
            rank = 0
        if (num_replicas is None) != (rank is None):
            raise ValueError("num_replicas and rank must be given together")
        self.tracker, self.shuffle, self.drop_last = tracker, shuffle, drop_last
        self._given = None if num_replicas is None or rank is None else (rank, num_replicas)

    @property
    def rank(self) -> int:  # type: ignore[override]
        """Which part is drawn."""
        return self._given[0] if self._given else processes.rank(self.tracker.group)

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        """Into how many parts the samples are dealt."""
        return self._given[1] if self._given else processes.world_size(self.tracker.group)

    def __len__(self) -> int:
        """Ids that one rank gets."""
        count, parts = int(self.tracker.kept.sum()), self.num_replicas
        return count // parts if self.drop_last else -(-count // parts)

    def __iter__(self) -> Iterator[int]:
        ids = self.tracker.kept.nonzero().flatten()
        if self.shuffle:
            order = torch.Generator().manual_seed(self.tracker.seed + self.tracker.epochs)
            ids = ids[torch.randperm(len(ids), generator=order)]
        positions = torch.arange(len(self)) * self.num_replicas + self.rank
        return iter(ids[positions % len(ids)].tolist())

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: the tracker knows the epoch."""
