"""A sync while another thread records: nothing is lost on any rank, or the sync is refused."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from ranks import run_on_ranks

from mild_ext import processes
from mild_ext.recording.epoch_planes import count_epoch, count_planes, pack_epoch
from mild_ext.recording.status import LearningStatus

SAMPLES, EPOCHS = 20_000, 3


def test_planes_count_what_their_words_hold():
    words = torch.randint(-(2**63), 2**63 - 1, (1001, 2, 2))
    for epoch in (0, 63, 64, 100):
        assert count_planes(pack_epoch(words, epoch)) == count_epoch(words, epoch)


def batch(generator, rank):
    index = torch.randint(rank * 3000, SAMPLES, (64,), generator=generator)
    return (
        index,
        torch.randn(64, 4, generator=generator),
        torch.randint(4, (64,), generator=generator),
    )


def _record_while_syncing(syncs):
    """Each rank's words, and those that one process has that sees this rank's batches alone."""
    rank = processes.rank()
    generator = torch.Generator().manual_seed(rank)
    status, alone = LearningStatus(SAMPLES, EPOCHS), LearningStatus(SAMPLES, EPOCHS)
    for _ in range(EPOCHS):
        done = threading.Event()

        def go_on(done=done):
            while not done.is_set():
                one = batch(generator, rank)
                status.update(*one)
                alone.update(*one)

        thread = threading.Thread(target=go_on)
        thread.start()
        for _ in range(syncs):
            status.sync()
        done.set()
        thread.join()
        status.sync()
        status.advance()
        alone.advance()
    return status.words.numpy(), alone.words.numpy()


@pytest.mark.slow
def test_what_is_recorded_during_a_sync_is_sent_by_the_next():
    results = run_on_ranks(2, _record_while_syncing, 15)
    everything = results[0][1] | results[1][1]
    for words, alone in results:
        assert (words & alone == alone).all(), "a rank lost visits of its own"
        np.testing.assert_array_equal(words, everything)


def _late_visit(record):
    rank = processes.rank()
    status = LearningStatus(100, 3, num_classes=4, record=record)
    first = torch.arange(10), torch.eye(4)[torch.zeros(10).long()], torch.ones(10).long()
    status.update(*first)
    status.sync()
    if rank == 1:
        status.update(torch.tensor([50]), torch.eye(4)[:1], torch.tensor([3]))
    status.advance()
    try:
        status.sync()
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("record", ["classes", "all"])
def test_a_visit_after_the_sync_of_sums_is_noticed_by_all(record):
    for message in run_on_ranks(2, _late_visit, record):
        assert "had visits after it" in message


def _visit_during(record):
    status = LearningStatus(100, 3, num_classes=4, record=record)
    status.update(torch.arange(10), torch.eye(4)[torch.zeros(10).long()], torch.ones(10).long())
    if processes.rank() == 1:
        send = processes.Wire.all_reduce_max

        def send_late(self, tensor):
            merged = send(self, tensor)
            status.update(torch.tensor([50]), torch.eye(4)[:1], torch.tensor([3]))
            return merged

        processes.Wire.all_reduce_max = send_late
        try:
            status.sync()
        except RuntimeError as error:
            return str(error)
        finally:
            processes.Wire.all_reduce_max = send
    else:
        status.sync()
    return ""


@pytest.mark.slow
def test_a_sync_of_sums_during_an_update_is_refused():
    messages = run_on_ranks(2, _visit_during, "classes")
    assert messages[0] == ""
    assert "in another thread meanwhile" in messages[1]


@pytest.mark.parametrize("record", ["status", "classes", "all"])
def test_a_status_saved_while_others_record_can_be_read(record, tmp_path):
    status = LearningStatus(20_000, 4, num_classes=5, record=record)
    stop = threading.Event()

    def go():
        generator = torch.Generator().manual_seed(0)
        while not stop.is_set():
            index = torch.randint(20_000, (512,), generator=generator)
            status.update(index, torch.randn(512, 5, generator=generator), index % 5)

    thread = threading.Thread(target=go)
    thread.start()
    try:
        for _ in range(20):
            status.save(tmp_path / "status.safetensors")
            LearningStatus.load(tmp_path / "status.safetensors")
    finally:
        stop.set()
        thread.join()
