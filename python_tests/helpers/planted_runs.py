"""Runs on paper: when a network learns the class of each sample, and when a wrong label of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mild_ext import LearningStatus, PlantedLabels


@dataclass(frozen=True)
class PaperRun:
    """A finished run: its status, the planted labels, and the labels [N] given and true."""

    status: LearningStatus
    planted: PlantedLabels
    given: Tensor
    true: Tensor

    @property
    def seen(self) -> Tensor:
        """bool [N], in any epoch."""
        seen = torch.zeros(len(self.given), dtype=torch.bool)
        for epoch in range(self.status.num_epochs):
            seen |= self.status.predictions(epoch) >= 0
        return seen

    @property
    def others(self) -> Tensor:
        """bool [N], seen and trained on the given label."""
        return self.seen & ~self.planted.mask


def paper_run(
    n: int = 1000,
    classes: int = 10,
    epochs: int = 20,
    *,
    noise: float = 0.2,
    planted: int = 50,
    hard: float = 0.1,
    wrong_memorized: str = "late",
    right: float = 0.97,
    seen: float = 1.0,
    never: int = 0,
    stop: int | None = None,
    true: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> PaperRun:
    """A run in which every class is learned in the first third.

    Args:
        noise: share of random wrong labels.
        hard: of the right labels, those learned at any time or not at all.
        wrong_memorized: wrong labels are memorized ``late``, ``at once`` or ``never``.
        right: share of predictions that are as they should be; the others are drawn.
        seen: of the epochs, those in which a sample is seen; ``never``: samples never seen.
        stop: epochs recorded.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    def another(labels: Tensor) -> Tensor:
        step = torch.randint(1, classes, (len(labels),), generator=generator)
        return (labels + step) % classes

    if true is None:
        true = torch.randint(0, classes, (n,), generator=generator)
    given = torch.where(uniform(n) < noise, another(true), true)
    index = torch.randperm(n, generator=generator)[:planted]  # in no order
    trained = given.index_copy(0, index, another(given[index]))
    wrong = trained != true
    known = uniform(n) * epochs * 0.3
    memorized = {
        "late": epochs * (0.6 + 0.6 * uniform(n)),
        "never": torch.full((n,), 1e9),
        "at once": torch.zeros(n),
    }[wrong_memorized]
    is_hard = (uniform(n) < hard) & ~wrong
    learned = torch.where(wrong, memorized, torch.where(is_hard, 1.2 * epochs * uniform(n), known))
    there = torch.ones(n, dtype=torch.bool)
    there[torch.randperm(n, generator=generator)[:never]] = False
    status, ids = LearningStatus(n, epochs, num_classes=classes), torch.arange(n)
    for epoch in range(epochs if stop is None else stop):
        drawn = torch.randint(0, classes, (n,), generator=generator)
        class_known = torch.where((known <= epoch) & wrong, true, drawn)
        predicted = torch.where(learned <= epoch, trained, class_known)
        predicted = torch.where(uniform(n) > right, drawn, predicted)
        logits = (-5 * uniform(n, classes)).to(dtype)
        logits[ids, predicted] = 1.0
        batch = (uniform(n) < seen) & there
        status.update(ids[batch], logits[batch], trained[batch])
        if epoch + 1 < epochs:
            status.advance()
    return PaperRun(status, PlantedLabels(trained, index, given[index]), given, true)
