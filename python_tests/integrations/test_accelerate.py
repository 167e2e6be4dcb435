"""The tracker in an Accelerate loop: its words are the reference's for the batches that were seen."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from noisy import NUM_SAMPLES, Noisy, keep_even, make_model, make_optimizer, plain_loop
from ranks import run_on_ranks
from torch.nn import functional as F
from torch.utils.data import DataLoader

from mild_ext.integrations import RoundTracker
from mild_ext.recording import reference

accelerate = pytest.importorskip("accelerate")

EPOCHS = 3


def keep_words(words):
    """A selection that notes what it was given to select from."""

    def select(status, *, labels):
        assert torch.equal(labels, Noisy().labels), "every process knows the labels of all"
        words.append(status.words.numpy().copy())
        return keep_even(status)

    return select


def train():
    """Words at the end of the round, and every batch as (epoch, index, logits, labels)."""
    os.environ["OMP_NUM_THREADS"] = "1"  # Accelerate warns, and sets it, where it is not set
    accelerator = accelerate.Accelerator(cpu=True)
    words, batches = [], []
    tracker = RoundTracker(NUM_SAMPLES, [EPOCHS], seed=5, select=keep_words(words))
    loader = DataLoader(Noisy(), 32, sampler=tracker.sampler(num_replicas=1))
    model = make_model()
    model, optimizer, loader = accelerator.prepare(model, make_optimizer(model), loader)
    for epoch in range(EPOCHS):
        for index, inputs, labels in loader:
            logits = model(inputs)
            loss = F.cross_entropy(logits, labels)
            tracker.update(index, logits, labels)
            arrays = (x.detach().cpu().numpy().copy() for x in (index, logits, labels))
            batches.append((epoch, *arrays))
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        tracker.end_epoch()  # merges what the processes have seen
    return words[0], batches


def by_reference(batches):
    words = torch.zeros(NUM_SAMPLES, 1, 2, dtype=torch.int64)
    for epoch, *arrays in batches:
        reference.update_status(words, epoch, *map(torch.from_numpy, arrays))
    return words.numpy()


def test_words_on_one_process_are_those_of_the_reference_and_of_a_plain_loop():
    words, batches = train()
    np.testing.assert_array_equal(words, by_reference(batches))
    plain = []
    plain_loop([EPOCHS], EPOCHS, select=keep_words(plain))
    np.testing.assert_array_equal(words, plain[0])


@pytest.mark.slow
def test_words_on_two_processes_are_those_of_the_reference():
    results = run_on_ranks(2, train)
    expected = by_reference([batch for _, batches in results for batch in batches])
    for words, _ in results:
        np.testing.assert_array_equal(words, expected)
    # Each process really had its own half: together they saw everybody, alone they did not.
    alone = by_reference(results[0][1])
    assert (expected[:, 0, 0] == 2**EPOCHS - 1).all()
    assert not (alone[:, 0, 0] == 2**EPOCHS - 1).all()
