"""Recordings with planted labels: reading them, and the learning status they amount to.

A recording is one training run on N samples of K classes for E epochs (``record_logs.py`` makes them);
the truth serves to score and never to decide. Arrays of the npz:

- ``predicted``: uint8 [N, E], the class that each epoch's training forward pass predicted;
- ``given_label``, ``trained_label``, ``true_label``: [N]; ``planted``: int64 [n], the samples planted;
- ``margin``, ``loss``: float16 [N, E]; or ``label_probability`` and ``top_probability``, from which both follow
  but for the margin of a label that is predicted (there: against all other classes together); or
  ``shortfall`` and ``shortfall_first_half`` [N] alone, which is enough for the measured selection only;
- ``num_classes``: K; 10 where it is missing.

Quality is that of the samples that were trained on their given label. *Of the best threshold*: macro-F1 of
finding right and wrong labels, as a share of what the best threshold on the misclassified count of the best
of seven windows of epochs reaches; that threshold is chosen by the truth. The measured selection may pass it, for
it looks at more than counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

import mild_ext
from mild_ext.recording.learning_log import LearningLog

LIMIT = np.log(1e4)  # of an epoch's shortfall, as in the status
#: Domain of a recording, by the first word of its name.
DOMAINS = {"digitw": "digits", "mcnn": "mnist", "blobs": "synth", "cnn": "cifar", "cnn5": "cifar"}
DOMAINS |= {"hworse": "human", "digits500": "digits", "synth2": "synth", "synth50": "synth"}


@dataclass(frozen=True)
class Recording:
    """A recording; arrays as the file's first lines say."""

    name: str
    arrays: dict[str, np.ndarray]

    @property
    def domain(self) -> str:
        words = [word for word in self.name.split("_") if word != "planted"]
        first = words[1] if words[1:2] == ["hworse"] else words[0]
        return DOMAINS.get(first, first)

    @property
    def noise(self) -> str:
        """Kind and percentage, as sym20; none where no label is wrong."""
        words = self.name.removeprefix("planted_").split("_")
        return "none" if self.clean.all() else words[1]

    @property
    def classes(self) -> int:
        return int(self.arrays.get("num_classes", 10))

    @cached_property
    def trained(self) -> np.ndarray:
        return self.arrays["trained_label"].astype(np.int64)

    @cached_property
    def others(self) -> np.ndarray:
        others = np.ones(len(self.trained), dtype=bool)
        others[self.arrays["planted"]] = False
        return others

    @cached_property
    def clean(self) -> np.ndarray:
        """bool, of the samples that were trained on their given label."""
        return (self.arrays["given_label"] == self.arrays["true_label"])[self.others]

    @cached_property
    def memorized(self) -> np.ndarray:
        return self.arrays["predicted"] == self.trained[:, None]

    @cached_property
    def planted(self) -> mild_ext.PlantedLabels:
        given, index = self.arrays["given_label"].astype(np.int64), self.arrays["planted"]
        return mild_ext.PlantedLabels(
            torch.from_numpy(self.trained), torch.from_numpy(index), torch.from_numpy(given[index])
        )

    @cached_property
    def shortfall(self) -> np.ndarray:
        """float32 [N, E], of every epoch."""
        a, wrong = self.arrays, ~self.memorized
        if "margin" in a:
            values = -a["margin"].astype(np.float32)
        elif "label_probability" in a:
            ratio = a["label_probability"].astype(np.float32)
            ratio /= np.maximum(a["top_probability"].astype(np.float32), 1e-5)
            values = -np.log(np.clip(ratio, 1e-4, 1.0))
        else:  # spread over the misclassified epochs of each half, so that the means are as recorded
            half = wrong.shape[1] // 2
            early = a["shortfall_first_half"].astype(np.float64) * half
            late = a["shortfall"].astype(np.float64) * wrong.shape[1] - early
            sums = np.stack([early, late], axis=1) / np.stack(
                [np.maximum(part.sum(axis=1), 1) for part in (wrong[:, :half], wrong[:, half:])], 1
            )
            values = np.repeat(sums, [half, wrong.shape[1] - half], axis=1).astype(np.float32)
        return np.where(wrong, np.clip(values, 1e-5, LIMIT), 0.0).astype(np.float32)

    def status(self) -> mild_ext.LearningStatus:
        """The learning status of the run: predicted classes and shortfall, through `update`."""
        predicted = torch.from_numpy(self.arrays["predicted"].astype(np.int64))
        samples, epochs = predicted.shape
        labels, ids = torch.from_numpy(self.trained), torch.arange(samples)
        status = mild_ext.LearningStatus(samples, epochs, num_classes=self.classes)
        for epoch in range(epochs):
            logits = torch.full((samples, self.classes), -20.0)
            logits[ids, labels] = -torch.from_numpy(self.shortfall[:, epoch].copy())
            logits[ids, predicted[:, epoch]] = 0.0
            status.update(ids, logits, labels)
            status.advance()
        return status

    @cached_property
    def log(self) -> LearningLog | None:
        """What the other methods read, of the labels trained on; None where loss or margin are unknown."""
        a, margin = self.arrays, None
        if "margin" in a and "loss" in a:
            loss, margin = a["loss"], a["margin"]
        elif "label_probability" in a:
            own = np.clip(a["label_probability"].astype(np.float32), 6e-8, 1 - 1e-4)
            loss, margin = -np.log(own), np.where(self.memorized, np.log(own / (1 - own)), 0.0)
            margin = np.where(self.memorized, margin, -self.shortfall)
        if margin is None:
            return None
        halves = [np.asarray(values).astype(np.float16) for values in (loss, margin)]
        return LearningLog(self.memorized, self.trained, loss=halves[0], margin=halves[1])

    @cached_property
    def best(self) -> float:
        """Macro-F1 of the best threshold on the misclassified count of the best window."""
        p = self.memorized.shape[1]
        third, half, two = p // 3, p // 2, 2 * p // 3
        bounds = ((0, p), (0, third), (0, half), (0, two), (third, two), (half, p), (third, p))
        wrong = ~self.memorized[self.others]
        return max(best_cut(wrong[:, a:b].sum(axis=1), self.clean) for a, b in bounds)


def best_cut(score: np.ndarray, clean: np.ndarray) -> float:
    """The highest macro-F1 of any threshold on a score that is higher for wrong labels."""
    order = np.argsort(score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) > 0, True))
    kept = ends + 1
    good = np.cumsum(clean[order])[ends]
    right, wrong = clean.sum(), (~clean).sum()
    dropped = len(clean) - kept
    found = wrong - (kept - good)
    f1 = good / (kept + right) + np.where(dropped + wrong > 0, found / (dropped + wrong), 1.0)
    return float(f1.max())


def read(path: Path) -> Recording:
    with np.load(path, allow_pickle=False) as file:
        return Recording(path.stem, {name: file[name] for name in file.files})
