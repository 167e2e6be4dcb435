"""The packed logs of real training runs in ``python_tests/recordings``: what was learned, and the truth.

``benchmarks/record_logs.py`` made them, makes them again, and says what their arrays are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mild_ext import LearningStatus, PlantedLabels
from mild_ext.recording.learning_log import LearningLog

FOLDER = Path(__file__).parents[1] / "recordings"
NAMES = ("digits_sym40_easy_s300", "mcnn_nxt40_hard_s301", "mcnn_clean_right_s302")


@dataclass(frozen=True)
class Recording:
    """One training run on N samples for E epochs, some of whose labels were replaced beforehand.

    Attributes:
        predicted: uint8 [N, E], the class predicted in each epoch's training forward pass.
        given: int64 [N], labels as they came, some of them wrong.
        trained: int64 [N], labels that were trained on: the given ones but for the planted samples.
        true: int64 [N].
        planted: int64 [n], samples trained on a random label that is not the given one, ascending.
        shortfall, shortfall_first_half: float16 [N], how far the trained label's logit stayed behind
            the largest one, mean over all epochs and over the first half, nats, lower = cleaner.
    """

    predicted: NDArray[np.uint8]
    given: NDArray[np.int64]
    trained: NDArray[np.int64]
    true: NDArray[np.int64]
    planted: NDArray[np.int64]
    shortfall: NDArray[np.float16]
    shortfall_first_half: NDArray[np.float16]

    @property
    def withheld(self) -> NDArray[np.int64]:
        """int64 [n], the given labels of the planted samples."""
        return self.given[self.planted]

    @property
    def others(self) -> NDArray[np.bool_]:
        """bool [N], trained on the given label: the samples whose selection is judged."""
        others = np.ones(len(self.given), dtype=np.bool_)
        others[self.planted] = False
        return others

    @property
    def clean(self) -> NDArray[np.bool_]:
        """bool [N], the given label is the true one."""
        return self.given == self.true

    def log(self) -> LearningLog:
        """The learning log, of the labels that were trained on."""
        memorized = self.predicted == self.trained[:, None]
        return LearningLog(memorized, self.trained, true_label=self.true)

    @property
    def planted_labels(self) -> PlantedLabels:
        """What the run was trained on."""
        arrays = (self.trained, self.planted, self.withheld)
        return PlantedLabels(*(torch.from_numpy(array) for array in arrays))

    def status(self) -> LearningStatus:
        """The learning status with predicted classes; the shortfall of each half spread over its epochs."""
        wrong = self.predicted != self.trained[:, None]
        samples, epochs = wrong.shape
        half = epochs // 2
        early = self.shortfall_first_half.astype(np.float64) * half
        late = self.shortfall.astype(np.float64) * epochs - early
        each = [
            total / np.maximum(part.sum(axis=1), 1)
            for total, part in ((early, wrong[:, :half]), (late, wrong[:, half:]))
        ]
        labels, ids = torch.from_numpy(self.trained), torch.arange(samples)
        status = LearningStatus(samples, epochs, num_classes=10)
        for epoch in range(epochs):
            logits = torch.full((samples, 10), -20.0)
            behind = torch.from_numpy(each[epoch >= half]).float()
            logits[ids, labels] = -behind.clamp(1e-5, 9.2)
            logits[ids, torch.from_numpy(self.predicted[:, epoch]).long()] = 0.0
            status.update(ids, logits, labels)
            status.advance()
        return status


def read_recording(name: str) -> Recording:
    """A recording by its name; nothing in the file is executed."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        labels = {kind: file[f"{kind}_label"].astype(np.int64) for kind in ("given", "true")}
        return Recording(
            predicted=file["predicted"],
            trained=file["trained_label"].astype(np.int64),
            planted=file["planted"],
            shortfall=file["shortfall"],
            shortfall_first_half=file["shortfall_first_half"],
            **labels,
        )
