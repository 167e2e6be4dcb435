"""On a real device: every check of ``mild-ext selfcheck``, and what else needs one."""

from __future__ import annotations

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
