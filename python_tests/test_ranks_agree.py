"""Ranks that do not have the same say so before anything is trained, and which of them differs."""

from __future__ import annotations

import contextlib
import io
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks import run_on_ranks
from torch.utils.data import TensorDataset

from mild_ext import processes
from mild_ext.cli import main
from mild_ext.training.recipe import Recipe
from mild_ext.training.run_rounds import run_rounds

pytestmark = pytest.mark.slow


def _compare(facts):
    try:
        processes.require_same(facts[processes.rank()])
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ([{"labels": b"a", "order": b"x"}] * 3, ""),
        (
            [{"labels": b"a"}, {"labels": b"a"}, {"labels": b"b"}],
            "same labels, but rank 2 of 3 has",
        ),
        (
            [{"labels": b"b"}, {"labels": b"a"}, {"labels": b"a"}],
            "same labels, but rank 0 of 3 has",
        ),
        (
            [{"labels": b"a", "order": o} for o in (b"x", b"y", b"z")],
            "same order, but ranks 1, 2 of 3 have",
        ),
    ],
)
def test_the_rank_that_differs_is_named_on_all(facts, words):
    messages = run_on_ranks(3, _compare, facts)
    assert len(set(messages)) == 1
    assert words in messages[0]
    assert bool(messages[0]) == bool(words)


def _first_fails():
    def fail():
        raise ValueError("no room")

    try:
        processes.first_rank_does(fail, "the folder")
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_a_failure_of_the_first_rank_ends_the_others_at_once():
    first, *others = run_on_ranks(3, _first_fails, seconds=60)
    assert first == "ValueError: no room"
    assert set(others) == {"RuntimeError: the folder: the first rank has failed; see what it says"}


def _train(what):
    rank = processes.rank()
    labels, seed, ids = torch.arange(60) % 3, 0, None
    if rank == 1:
        labels = labels.roll(1) if what == "labels" else labels
        seed = 1 if what == "settings" else 0
        ids = torch.arange(50) if what == "train_ids" else None
    recipe = Recipe(model="mlp", rounds=1, first_epochs=2, final_epochs=1, plant=0.0)
    data = TensorDataset(torch.randn(60, 4), labels)
    epochs = []
    try:
        run_rounds(
            data,
            lambda: torch.nn.Linear(4, 3),
            recipe,
            labels=labels,
            train_ids=ids,
            seed=seed,
            on_record=epochs.append,
        )
    except ValueError as error:
        return str(error), len(epochs)
    return "", len(epochs)


@pytest.mark.parametrize("what", ["labels", "settings", "train_ids"])
def test_rounds_do_not_begin_where_a_rank_differs(what):
    for message, epochs in run_on_ranks(2, _train, what):
        assert f"same {what}, but rank 1 of 2" in message
        assert epochs == 0


def _command(folder, differs):
    """Each rank reads a folder of its own, as on machines without a shared disk."""
    os.chdir(folder)
    rank = int(os.environ["RANK"])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)), np.arange(60) % 3
    if rank == 1 and differs == "labels":
        y = np.roll(y, 1)
    if rank == 1 and differs == "order":  # the same labels, of other samples
        x = x[::-1]
    os.makedirs(f"rank{rank}", exist_ok=True)
    np.savez(f"rank{rank}/d.npz", x_train=x, y_train=y)
    out = os.path.abspath("run")
    os.chdir(f"rank{rank}")
    options = ["--model=mlp", "--rounds=1", "--first-epochs=2", "--final-epochs=1", "--no-compare"]
    options += ["--data", "npz:d.npz", "--device=cpu", "--quiet", "--out", out]
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        return main(["train", *options]), printed.getvalue()


@pytest.mark.parametrize("differs", ["labels", "order", ""])
def test_the_command_says_which_rank_differs(differs, tmp_path):
    for code, error in run_on_ranks(2, _command, tmp_path, differs, group=False):
        assert code == bool(differs)
        if differs:
            assert "but rank 1 of 2 has others than rank 0" in error
            assert differs in error


def _asked_for():
    asked = []
    start = dist.init_process_group
    dist.init_process_group = lambda *a, **options: (asked.append(options), start(*a, **options))
    with processes.launched_by_torchrun():
        pass
    return asked[0]["timeout"].total_seconds()


def test_the_process_group_has_the_timeout_that_is_documented():
    assert run_on_ranks(2, _asked_for, group=False) == [processes.DEFAULT_TIMEOUT] * 2
