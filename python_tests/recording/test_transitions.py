"""Transition times on histories short enough to work out by hand."""

from __future__ import annotations

import pytest
import torch

from mild_ext import LearningStatus

COLUMNS = (
    "misclassified",
    "memorized",
    "metric",
    "first_memorized",
    "memorization_events",
    "forgetting_events",
    "longest_memorized_run",
    "seen",
)


def history(text: str) -> LearningStatus:
    """One sample; per epoch 1 memorized, 0 misclassified, - not seen."""
    status = LearningStatus(1, len(text))
    for letter in text:
        if letter != "-":
            logits = torch.tensor([[1.0, 0.0]])
            status.update(torch.tensor([0]), logits, torch.tensor([1 - int(letter)]))
        status.advance()
    return status


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # misclassified, memorized, metric, first, 0->1, 1->0, longest run, seen
        ("0", (1, 0, 1, 1, 0, 0, 0, 1)),
        ("1", (0, 1, -1, 0, 0, 0, 1, 1)),
        ("-", (0, 0, 0, 1, 0, 0, 0, 0)),
        ("0011", (2, 2, 0, 2, 1, 0, 2, 4)),
        ("0101", (2, 2, 0, 1, 2, 1, 1, 4)),
        ("1-1-0", (1, 2, -1, 0, 0, 1, 2, 3)),
        ("0--1", (1, 1, 0, 3, 1, 0, 1, 2)),
        ("1" * 64, (0, 64, -64, 0, 0, 0, 64, 64)),
        ("1" * 65, (0, 65, -65, 0, 0, 0, 65, 65)),
        ("0" * 63 + "11" + "0", (64, 2, 62, 63, 1, 1, 2, 66)),
        ("0" * 64 + "1", (64, 1, 63, 64, 1, 0, 1, 65)),
        ("1" * 64 + "0", (1, 64, -63, 0, 0, 1, 64, 65)),
        ("1" * 3 + "-" * 64 + "1" * 3, (0, 6, -6, 0, 0, 0, 6, 6)),
        ("1" * 40 + "0" + "1" * 50 + "0", (2, 90, -88, 0, 1, 2, 50, 92)),
    ],
)
def test_by_hand(text: str, expected: tuple[int, ...]) -> None:
    times = history(text).compute()
    assert tuple(int(getattr(times, name)) for name in COLUMNS) == expected
    assert times.num_epochs == len(text)


def test_window_counts_from_its_start() -> None:
    times = history("0" * 70 + "1").compute(slice(65, 71))
    assert times.first_memorized.item() == 5
    assert times.seen.item() == 6


def test_mean_times() -> None:
    times = history("0010011").compute()
    assert times.mean_memorization_time.item() == 2.0
    assert times.mean_forgetting_time.item() == 3.0
    never = history("000").compute()
    assert never.mean_memorization_time.item() == 3.0
    assert never.mean_forgetting_time.item() == 0.0


def test_is_immutable() -> None:
    times = history("01").compute()
    with pytest.raises(AttributeError):
        times.seen = times.metric  # type: ignore[misc]
