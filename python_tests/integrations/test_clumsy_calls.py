"""What people hand to the functions and classes by mistake: an error in their own words, or what they meant."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from mild_ext import LearningStatus, PosteriorTargets, plant_labels, select_clean
from mild_ext.data import load_data
from mild_ext.integrations import RoundTracker

COUNT, CLASSES = 40, 3
LABELS = torch.arange(COUNT) % CLASSES


def recorded():
    status = LearningStatus(COUNT, 4, num_classes=CLASSES)
    for _ in range(4):
        status.update(torch.arange(COUNT), torch.eye(CLASSES)[LABELS], LABELS)
        status.advance()
    return status


CONTAINERS = {
    "list": LABELS.tolist(),
    "numpy": LABELS.numpy(),
    "column": LABELS[:, None],
    "pandas": pd.Series(LABELS.numpy()),
    "text": ["abc"[k] for k in LABELS],
    "int8": LABELS.to(torch.int8),
    "float": LABELS.double(),
}
NO_LABELS = {
    "one-hot": torch.eye(CLASSES)[LABELS],
    "short": LABELS[:5],
    "missing": [None, *LABELS.tolist()[1:]],
    "wrapped": (LABELS - 1).to(torch.uint8),
    "complex": LABELS * 1j,
    "meta": LABELS.to("meta"),
    "text": "abc",
    "dict": dict(enumerate(LABELS.tolist())),
    "ids": LABELS + 1_000_000,
}
TAKERS = {
    "select_clean": lambda labels: select_clean(recorded(), labels=labels, per_class=True),
    "plant_labels": lambda labels: len(plant_labels(labels).labels) == COUNT or plant_labels([]),
    "PosteriorTargets": lambda labels: PosteriorTargets(recorded(), labels=labels),
    "RoundTracker": lambda labels: RoundTracker(COUNT, [2, 2], labels=labels),
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_labels_are_taken_in_every_container_everywhere(taker, container):
    TAKERS[taker](CONTAINERS[container])


@pytest.mark.parametrize("container", CONTAINERS)
def test_labels_are_what_the_container_holds(container):
    given = plant_labels(CONTAINERS[container]).given
    assert given.tolist() == torch.as_tensor(LABELS).tolist()


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("kind", NO_LABELS)
def test_what_are_no_labels_is_refused_everywhere(taker, kind):
    with pytest.raises((TypeError, ValueError), match=r"^(labels|no class can spare)") as raised:
        TAKERS[taker](NO_LABELS[kind])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "rounds", [np.array([2, 3]), torch.tensor([2, 3]), (k for k in (2, 3)), (2, 3), range(2, 4)]
)
def test_rounds_are_whole_numbers_in_any_list(rounds):
    assert list(RoundTracker(COUNT, rounds).rounds) == [2, 3]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: RoundTracker(COUNT, 5), TypeError, r"rounds must list .* got 5"),
        (lambda: RoundTracker(COUNT, "22"), TypeError, r"rounds must list .* got '22'"),
        (lambda: RoundTracker(COUNT, [2.5]), TypeError, r"whole numbers of epochs, got \[2.5\]"),
        (lambda: RoundTracker(COUNT, [True]), TypeError, r"whole numbers of epochs, got \[True\]"),
        (lambda: RoundTracker(COUNT, iter(())), ValueError, r"at least one round"),
        (lambda: select_clean(recorded(), level="0.5"), TypeError, "level must be a number"),
        (lambda: plant_labels(LABELS, share="0.05"), TypeError, "share must be a number"),
        (
            lambda: recorded_with(torch.ones(COUNT, dtype=torch.bool)),
            TypeError,
            r"index.nonzero\(\).flatten\(\)",
        ),
        (lambda: recorded().save("a\0b"), ValueError, r"a\\u0000b: it holds a zero byte"),
        (lambda: load_data(3), TypeError, "data must be text"),
        (lambda: load_data("npz:" + "x" * 300), ValueError, "xxx.* File name too long"),
        (lambda: load_data("csv:" + "x" * 300 + ",label=y"), ValueError, "File name too long"),
        (lambda: load_data("folder:" + "x" * 300), ValueError, "File name too long"),
    ],
)
def test_an_error_is_in_the_words_of_the_call(call, error, message):
    with pytest.raises(error, match=message):
        call()


def recorded_with(index):
    LearningStatus(COUNT, 4).update(index, torch.eye(CLASSES)[LABELS], LABELS)


def test_a_classifier_speaks_of_its_own_settings():
    sklearn = pytest.importorskip("mild_ext.integrations.sklearn")
    X = np.random.default_rng(0).normal(size=(60, 2)) * 1e3
    model = sklearn.MILDClassifier(learning_rate=1e20, first_epochs=3, random_state=0)
    with pytest.raises(RuntimeError, match=r"scale X .StandardScaler., or lower learning_rate$"):
        model.fit(X, np.arange(60) % 2)


def test_the_callback_speaks_of_its_own_arguments():
    lightning = pytest.importorskip("mild_ext.integrations.lightning")
    with pytest.raises(TypeError, match=r"^given_labels must have shape"):
        lightning.MILDCallback(COUNT, [2], given_labels=torch.eye(CLASSES)[LABELS])


def test_a_round_that_is_over_is_to_be_ended_before_the_next_batch_or_epoch():
    tracker = RoundTracker(COUNT, [1, 1])
    batch = (torch.arange(COUNT), torch.eye(CLASSES)[LABELS], LABELS)
    tracker.update(*batch)
    tracker.advance()
    with pytest.raises(RuntimeError, match=r"call end_round\(\) before the next batch or epoch"):
        tracker.update(*batch)
    with pytest.raises(RuntimeError, match=r"call end_round\(\) before the next batch or epoch"):
        tracker.advance()
    assert tracker.epochs == 1
    tracker.end_round()
    tracker.update(*batch)


@pytest.mark.parametrize("state", [None, [], "state"])
def test_what_is_no_state_of_a_tracker_is_named(state):
    with pytest.raises(ValueError, match=f"of a RoundTracker .* got '{type(state).__name__}'"):
        RoundTracker(COUNT, [1]).load_state_dict(state)


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((2, 3, 1), r"use logits\.flatten\(1\)"),
        ((2, 3, 1, 1), r"use logits\.flatten\(1\)"),
        ((2, 1, 3), r"use logits\[:, 0\]"),
        ((2, 3, 4), "one row per pixel or token"),
    ],
)
def test_logits_with_an_axis_too_many_are_told_how_to_lose_it(shape, advice):
    with pytest.raises(ValueError, match=advice):
        LearningStatus(5, 2).update(torch.arange(2), torch.zeros(shape), torch.tensor([0, 1]))


def test_a_sample_twice_in_a_batch_and_a_logit_that_is_nan_count_as_the_docstring_says():
    status = LearningStatus(3, 1)
    logits = torch.tensor([[5.0, 0], [0, 5.0], [5.0, float("nan")], [5.0, 0]])
    status.update(torch.tensor([0, 0, 1, 2]), logits, torch.zeros(4, dtype=torch.long))
    status.advance()
    assert status.words[:, 0, 1].tolist() == [1, 1, 0]
