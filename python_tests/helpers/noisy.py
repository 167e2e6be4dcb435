"""A small classification problem with wrong labels, and the words a plain loop records on it."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from mild_ext import LearningStatus
from mild_ext.integrations import RoundTracker

torch.set_num_threads(1)

NUM_SAMPLES, FEATURES, CLASSES = 403, 8, 3


class Noisy(Dataset):
    """``(index, input, given label)``; a third of the labels are wrong."""

    def __init__(self, num_samples: int = NUM_SAMPLES) -> None:
        generator = torch.Generator().manual_seed(0)
        self.true = torch.randint(CLASSES, (num_samples,), generator=generator)
        centers = 3 * torch.eye(CLASSES, FEATURES)
        noise = torch.randn(num_samples, FEATURES, generator=generator)
        self.inputs = centers[self.true] + noise
        self.wrong = torch.rand(num_samples, generator=generator) < 0.33
        self.labels = torch.where(self.wrong, (self.true + 1) % CLASSES, self.true)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int):
        return i, self.inputs[i], self.labels[i]


def make_model() -> nn.Module:
    """A small network, the same at every call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, CLASSES))


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """What all loops train it with."""
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def keep_even(status: LearningStatus, *, labels: torch.Tensor | None = None):
    """A selection that needs no long training: drops samples with an odd id."""
    mask = torch.arange(status.num_samples) % 2 == 0
    return SimpleNamespace(mask=mask, clean_probability=mask.float(), supported=True, reason="")


def plain_loop(rounds, epochs: int, *, ranks: int = 1, batch_size: int = 32, **options):
    """Train as the integrations do, in one process; returns the tracker.

    With ``ranks``, each step takes one batch of every rank's part, and the gradient is the mean of the
    ranks', as DDP computes it.
    """
    dataset, model = Noisy(), make_model()
    tracker = RoundTracker(len(dataset), rounds, seed=5, **options)
    optimizer = make_optimizer(model)
    loaders = [
        DataLoader(dataset, batch_size, sampler=tracker.sampler(num_replicas=ranks, rank=rank))
        for rank in range(ranks)
    ]
    for _ in range(epochs):
        for step in zip(*loaders, strict=True):
            optimizer.zero_grad()
            for index, inputs, labels in step:
                logits = model(inputs)
                (F.cross_entropy(logits, labels) / ranks).backward()
                tracker.update(index, logits, labels)
            optimizer.step()
        if tracker.end_epoch() is not None:
            optimizer = make_optimizer(model)
    return tracker
