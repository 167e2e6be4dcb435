"""Which labels are planted in each round of a run, and what is trained on meanwhile.

A planted sample is trained on a wrong label for one round, and gets its given label back at its end; see
`mild_ext.selection.planted` for what that is good for.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from mild_ext.recording.status import LearningStatus
from mild_ext.selection.planted import MAX_SHARE, PlantedLabels, plant_labels
from mild_ext.selection.select_planted import LEAST_PLANTED

#: Fewest planted samples where nobody asked for planting, which is then left out: of fewer, the two fifths with the
#: most united votes, by which a share is measured, give it a standard error of more than a tenth.
USEFUL_PLANTED = 50


class RoundPlanting:
    """Plants labels among the samples that a round watches, and takes them back.

    Args:
        num_samples: size of the data set, N.
        share: of the samples watched to plant in each round, in [0, 0.1]; 0 plants nothing.
        seed: of the draws; each round has its own.
        num_classes: K, columns of the logits; None takes one more than the largest label.
        required: where nothing can be planted in the first round: True raises, False leaves a `note`, also where
            fewer than `USEFUL_PLANTED` samples could be.
        trainings: how many of the first round plant beside each other, each in other samples: what they plant
            together counts against these limits.

    Attributes:
        labels: int64 ``[N]``, the labels to train on; None while no labels are given. Where a share is planted,
            one tensor in shared memory, written in place.
        planted: the planted labels of the current round; None where there are none.
        note: why nothing is planted in the current round although a share is asked for; None otherwise.

    Raises:
        ValueError: a share out of range.
    """

    def __init__(
        self,
        num_samples: int,
        share: float = 0.0,
        *,
        seed: int = 0,
        num_classes: int | None = None,
        required: bool = True,
        trainings: int = 1,
    ) -> None:
        if not 0 <= share <= MAX_SHARE:
            raise ValueError(
                f"plant must lie in [0, {MAX_SHARE:g}], the share of the samples to give a wrong label "
                f"in each round, got {share!r}"
            )
        self.num_samples, self.share, self.seed = num_samples, float(share), int(seed)
        self.num_classes, self.required, self.trainings = num_classes, required, int(trainings)
        self.labels: Tensor | None = None
        self.planted: PlantedLabels | None = None
        self.note: str | None = None

    def begin(self, number: int, given: Tensor | None, watched: Tensor, *, repeat: int = 0) -> None:
        """Plant for a round, in place.

        Args:
            number: the round's, from 0.
            given: int64 ``[N]``, the given labels, -1 where not known; None where none is.
            watched: bool ``[N]``, the samples of the round.
            repeat: how often labels were planted for this round before, in trainings beside it; other samples
                are planted each time.

        Raises:
            ValueError: nothing can be planted in the first round, and it is required.
        """
        self.planted = self.note = None
        if self.share > 0:
            try:
                self.planted = self._draw(number, given, watched, repeat)
            except ValueError as error:
                if self.required and number == 0:
                    raise
                self.note = f"nothing was planted in round {number}: {error}"
        self.show(given)

    def end(self, given: Tensor | None) -> None:
        """Give the planted samples their labels back."""
        self.planted = self.note = None
        self.show(given)

    def show(self, given: Tensor | None) -> None:
        """Write the labels to train on; ``given`` as in `begin`."""
        if given is None or self.share == 0:
            self.labels = given
            return
        if self.labels is None:
            # Shared, so that worker processes that read data see what is written.
            self.labels = torch.empty(self.num_samples, dtype=torch.int64).share_memory_()
        self.labels.copy_(given if self.planted is None else self.planted.labels)

    def _draw(
        self, number: int, given: Tensor | None, watched: Tensor, repeat: int
    ) -> PlantedLabels:
        known = None if given is None else int((given >= 0).sum())
        if given is None or known != self.num_samples:
            raise ValueError(
                "planting needs labels=, the given labels of all samples, but "
                f"{known or 0} of {self.num_samples} are known; give them, or plant=0"
            )
        classes = self.num_classes or int(given.max()) + 1
        if int(given.max()) >= classes:
            raise ValueError(
                f"labels must lie in [0, num_classes) = [0, {classes}), got {int(given.max())}"
            )
        self.num_classes = classes
        # Of the whole data set, so that the rounds of a run are all measured, or none.
        trainings = self.trainings if number == 0 else 1
        possible = int((torch.bincount(given) * MAX_SHARE).long().sum())
        if not self.required and 0 < possible * trainings < USEFUL_PLANTED:
            raise ValueError(_too_few(USEFUL_PLANTED, len(given), possible, trainings))
        ids = watched.nonzero().flatten()
        part = plant_labels(
            given[ids],
            self.share,
            num_classes=classes,
            seed=_round_seed(self.seed, number),
            repeat=repeat,
        )
        if len(part) * trainings < LEAST_PLANTED:
            raise ValueError(_too_few(LEAST_PLANTED, len(ids), len(part), trainings))
        labels = given.scatter(0, ids, part.labels)
        return PlantedLabels(labels, ids[part.index], part.withheld)

    def check_trained_on(self, status: LearningStatus) -> None:
        """Make sure that the batches carried the planted labels.

        Raises:
            ValueError: planted samples were trained on other labels.
        """
        if self.planted is None:
            return
        index = self.planted.index
        labels = self.planted.labels.to(status.device)
        counted = status.compute().misclassified.cpu()[index]
        expected = status.misclassified_for(labels).cpu()[index]
        wrong = int((counted != expected).sum())
        if wrong:
            raise ValueError(
                f"{wrong} of the {len(index)} planted samples were trained on other labels than those "
                "planted; train on training_labels: IndexedDataset(dataset, labels=tracker.training_labels)"
            )

    def copy(self) -> RoundPlanting:
        """The same, independent."""
        other = object.__new__(RoundPlanting)
        other.__dict__.update(self.__dict__)
        other.labels = None
        return other

    def settings(self) -> dict[str, Any]:
        """What the labels planted follow from, besides the samples and their labels."""
        return {"plant": self.share, "plant_seed": self.seed, "num_classes": self.num_classes}

    def state_dict(self) -> dict[str, Any]:
        """Settings, and the current round's planted labels."""
        planted = self.planted
        return self.settings() | {
            "note": self.note,
            "index": None if planted is None else planted.index.clone(),
            "labels": None if planted is None else planted.labels[planted.index],
        }

    def load_state_dict(self, state: dict[str, Any], given: Tensor | None) -> None:
        """Go on from a `state_dict` of the same settings; on an error nothing changes.

        Raises:
            ValueError: other settings, or damaged.
        """
        for name, mine in self.settings().items():
            if state[name] != mine:
                raise ValueError(f"state must be of {name} {mine}, got {state[name]}")
        planted = None
        if state["index"] is not None:
            if given is None:
                raise ValueError("state is damaged: it has planted samples, but no labels")
            index = state["index"].cpu()
            try:
                labels = given.scatter(0, index, state["labels"].cpu())
                planted = PlantedLabels(labels, index, given[index])
            except (ValueError, RuntimeError, IndexError) as error:
                raise ValueError(f"state is damaged: its planted labels: {error}") from error
        self.planted, self.note = planted, state["note"]
        self.show(given)


def _too_few(least: int, samples: int, possible: int, trainings: int) -> str:
    times = f" in each of {trainings} trainings" if trainings > 1 else ""
    return (
        f"at least {least} samples must be planted to measure anything, but of {samples} samples, at most a "
        f"tenth of each class, that is {possible}{times}; train without (plant=0, --plant 0)"
    )


def _round_seed(seed: int, number: int) -> int:
    """A seed in [0, 2^63) for the draw of a round, the same on every machine."""
    digest = hashlib.sha256(repr((seed, "planted labels", number)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
