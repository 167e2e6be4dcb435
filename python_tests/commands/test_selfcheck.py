"""``mild-ext selfcheck`` passes here, and notices what is wrong."""

from __future__ import annotations

import argparse

import pytest
import torch

from mild_ext.cli import main
from mild_ext.commands import selfcheck
from mild_ext.recording import ops


def test_passes_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(selfcheck, "WIDTHS", (1, 10, 100))
    assert main(["selfcheck"]) == 0
    assert "cpu: all checks passed" in capsys.readouterr().out


def test_notices_a_wrong_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(selfcheck, "WIDTHS", (3,))
    right = ops.status_histogram
    monkeypatch.setattr(ops, "status_histogram", lambda *a: right(*a) + 1)
    assert selfcheck.main(argparse.Namespace(device="cpu")) == 1
    out = capsys.readouterr().out
    assert "FAILED: AssertionError: status_histogram" in out
    assert "1 checks FAILED" in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_says_what_to_do_without_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selfcheck", "--device", "cuda"]) == 1
    assert "--device cpu" in capsys.readouterr().err
