"""On a real device: every check of ``mild-ext selfcheck``, and what else needs one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from mild_ext import LearningStatus
from mild_ext.commands import selfcheck
from mild_ext.recording import reference
from mild_ext.recording._native import has_cuda

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not (torch.cuda.is_available() and has_cuda()),
        reason="needs a CUDA device and a build with CUDA",
    ),
]
CHECKS = [getattr(selfcheck, name) for name in dir(selfcheck) if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_selfcheck(check: Callable[[torch.device], None]) -> None:
    check(torch.device("cuda", 0))


def test_same_bits_as_the_cpu() -> None:
    on_cpu, on_cuda = LearningStatus(100, 70), LearningStatus(100, 70, device="cuda")
    for epoch in range(70):
        index, logits, labels = selfcheck.batch(10, torch.float32, epoch)
        on_cpu.update(index, logits, labels)
        on_cuda.update(index.cuda(), logits.cuda(), labels.cuda())
        on_cpu.advance()
        on_cuda.advance()
    assert torch.equal(on_cuda.words.cpu(), on_cpu.words)
    assert torch.equal(on_cuda.histogram(slice(3, 66)), on_cpu.histogram(slice(3, 66)))
    assert torch.equal(on_cuda.merge_(on_cpu).words.cpu(), on_cpu.words)


def test_compiled_step() -> None:
    torch._dynamo.reset()
    status = LearningStatus(100, 5, device="cuda")
    step = torch.compile(status.update, fullgraph=True, backend="aot_eager")
    index, logits, labels = selfcheck.batch(10, torch.float32, 0)
    step(index.cuda(), logits.cuda(), labels.cuda())
    expected = torch.zeros((100, 1, 2), dtype=torch.int64)
    reference.update_status(expected, 0, index, logits, labels)
    assert torch.equal(status.words.cpu(), expected)
    torch._dynamo.reset()


def test_logits_elsewhere_are_refused() -> None:
    index, logits, labels = selfcheck.batch(10, torch.float32, 0)
    with pytest.raises(RuntimeError, match="logits is on cpu"):
        LearningStatus(100, 5, device="cuda").update(index, logits, labels)
    with pytest.raises(RuntimeError, match="is on cuda:0"):
        LearningStatus(100, 5).update(index, logits.cuda(), labels)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_second_device_while_the_first_is_current() -> None:
    torch.cuda.set_device(0)
    selfcheck.check_update(torch.device("cuda", 1))
    selfcheck.check_passes(torch.device("cuda", 1))
    assert torch.cuda.current_device() == 0


_UPDATES_IN_A_FRESH_THREAD = """
import threading, torch
from mild_ext import LearningStatus
device = torch.device("cuda", 1)
done = []
def record():
    for kind in ({}, {"num_classes": 3, "record": "all"}):
        status = LearningStatus(8, 2, device=device, **kind)
        for _ in range(2):
            status.update(torch.arange(4, device=device), torch.eye(4, 3, device=device),
                          torch.zeros(4, dtype=torch.int64, device=device))
            status.advance()
        done.append(int(status.compute().seen.sum()))
thread = threading.Thread(target=record)
thread.start(); thread.join()
assert done == [8, 8], done
assert not torch._C._cuda_hasPrimaryContext(0), "a context was made on device 0"
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_thread_that_never_chose_a_device_makes_no_context_on_the_first() -> None:
    subprocess.run([sys.executable, "-c", _UPDATES_IN_A_FRESH_THREAD], check=True, timeout=300)


def test_the_first_update_may_be_inside_a_capture() -> None:
    """In a process of its own: here every kernel is loaded already."""
    code = """
import torch
from mild_ext import LearningStatus
status = LearningStatus(8, 2, num_classes=3, record="all", device="cuda")
index, logits = torch.arange(4, device="cuda"), torch.eye(4, 3, device="cuda")
labels = torch.zeros(4, dtype=torch.int64, device="cuda")
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    status.update(index, logits, labels)
for _ in range(2):
    graph.replay()
    status.advance()
assert int(status.compute().seen.sum()) == 8
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
