"""A loop of one's own that records the planted labels and trains on the given ones is found out."""

from __future__ import annotations

import pytest
import torch
from recordings import NAMES, read_recording
from torch import nn
from torch.nn import functional as F

from mild_ext import LearningStatus, plant_labels, select_clean
from mild_ext.selection.suspicion import CLEARLY
from mild_ext.selection.unused import planted_unused
from mild_ext.selection.votes import PlantedEvidence

EPOCHS = 60


def trained(forgotten: bool, *, noise: float = 0.3, seed: int = 0):
    """A network that learns 600 points in 5 overlapping classes by heart, and the labels it was given."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.arange(600) % 5
    inputs = torch.randn(600, 20, generator=generator) + 2.5 * torch.eye(5, 20)[true]
    wrong = torch.rand(600, generator=generator) < noise
    given = torch.where(wrong, (true + torch.randint(1, 5, (600,), generator=generator)) % 5, true)
    planted = plant_labels(given, 0.08, num_classes=5, seed=seed)
    status = LearningStatus(600, EPOCHS, num_classes=5)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(20, 200), nn.ReLU(), nn.Linear(200, 5))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(EPOCHS):
        for batch in torch.randperm(600, generator=generator).split(50):
            logits = net(inputs[batch])
            status.update(batch, logits.detach(), planted.labels[batch])
            loss = F.cross_entropy(logits, (given if forgotten else planted.labels)[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        status.advance()
    return status, planted, given


@pytest.mark.parametrize("seed", [0, 1])
def test_a_loss_of_the_given_labels_is_said_in_the_verdict(seed):
    status, planted, given = trained(forgotten=True, seed=seed)
    selection = select_clean(status, labels=given, planted=planted)
    assert "did not use planted.labels" in selection.reason
    text = str(selection.summary())
    assert "did not use planted.labels" in text
    assert "Compute the loss with planted.labels" in text
    assert "Train longer" not in text


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_loss_of_the_planted_labels_is_not(noise):
    status, planted, given = trained(forgotten=False, noise=noise)
    assert "did not use" not in select_clean(status, labels=given, planted=planted).reason


@pytest.mark.parametrize("name", NAMES)
def test_nor_is_any_recorded_run(name):
    run = read_recording(name)
    status = run.status()
    evidence = PlantedEvidence([status], [run.planted_labels], status.epoch)
    assert not planted_unused(evidence, CLEARLY)
