"""The helper that several files' tests run in processes: a rank that fails or hangs is no one else's end."""

import os
import time

import numpy as np
import pytest
import ranks
from ranks import run_on_ranks

from mild_ext import processes

pytestmark = pytest.mark.slow


def _large(size):
    return np.full(size, processes.rank())


def test_results_come_by_rank_however_large():
    one, two = run_on_ranks(2, _large, 1_000_000)
    assert (one == 0).all()
    assert (two == 1).all()


def _fails_or_waits():
    if os.environ["RANK"] == "1":
        raise KeyError("lost")
    time.sleep(600)


def test_a_rank_that_fails_is_named_and_the_others_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(ranks, "GRACE", 1.0)
    start = time.monotonic()
    with pytest.raises(AssertionError, match=r"rank 1 failed:(?s:.)*KeyError: 'lost'"):
        run_on_ranks(2, _fails_or_waits, group=False)
    assert time.monotonic() - start < 60


def test_ranks_that_hang_are_ended():
    with pytest.raises(AssertionError, match=r"ranks \[0, 1\] did not end"):
        run_on_ranks(2, time.sleep, 600, seconds=3)


def _dies():
    if os.environ["RANK"] == "0":
        os._exit(1)
    return 7


def test_a_rank_without_a_result_gives_none():
    assert run_on_ranks(2, _dies, group=False) == [None, 7]
