"""Whoever trains, ``record`` reaches the status, and what it recorded comes out as columns."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest
import torch
from noisy import CLASSES, NUM_SAMPLES, Noisy, keep_even, make_model, plain_loop

from mild_ext import Dynamics, LearningStatus, Recipe, run_rounds, select_clean
from mild_ext.cli import main
from mild_ext.data import ArrayDataset
from mild_ext.integrations import RoundTracker
from mild_ext.selection.planted import PlantedLabels
from mild_ext.selection.table import dynamics_columns, to_frame, write_table
from mild_ext.training.run_rounds import RoundsResult

NAMES = {f.name for f in dataclasses.fields(Dynamics)} - {"seen", "k", "num_epochs"} | {"shortfall"}
ALL = {"record": "all", "num_classes": CLASSES}


@pytest.fixture(scope="module")
def tracker():
    return plain_loop([6], 6, **ALL)


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_columns_are_those_of_the_dynamics(tracker):
    columns, found = dynamics_columns(tracker.status), tracker.status.dynamics()
    assert set(columns) == NAMES
    for name in NAMES - {"shortfall"}:
        assert columns[name].dtype == torch.float32
        assert torch.equal(columns[name], getattr(found, name).float())
    assert torch.equal(columns["shortfall"], tracker.status.shortfall())
    for options in ({}, {"num_classes": CLASSES}):
        assert dynamics_columns(LearningStatus(5, 2, **options)) == {}


def test_what_is_not_known_is_missing():
    status = LearningStatus(3, 2, **ALL)
    status.update(torch.tensor([0, 1]), torch.randn(2, CLASSES), torch.tensor([0, 1]))
    status.advance()
    for values in dynamics_columns(status, without=torch.tensor([True, False, False])).values():
        assert values.isnan().tolist() == [True, False, True]


@pytest.mark.parametrize("record", ["classes", "all"])
@pytest.mark.parametrize("labels", [Noisy().labels, None])
def test_classes_are_counted_where_labels_are_given(record, labels):
    options = {"labels": labels} if labels is not None else {"num_classes": CLASSES}
    tracker = RoundTracker(NUM_SAMPLES, [2, 1], record=record, **options)
    assert (tracker.status.record, tracker.status.num_classes) == (record, CLASSES)
    assert RoundTracker(NUM_SAMPLES, [2], **options).status.record == "status"


def test_what_cannot_be_recorded_is_refused():
    with pytest.raises(ValueError, match="record='all' needs num_classes"):
        RoundTracker(NUM_SAMPLES, [2], record="all")
    with pytest.raises(ValueError, match="record must be one of status, classes, all; got 'loss'"):
        RoundTracker(NUM_SAMPLES, [2], record="loss")
    planting = {"labels": Noisy().labels, "plant": 0.05}
    with pytest.raises(
        ValueError, match=r"classes, all where labels are planted \(plant=0 plants none\); got"
    ):
        RoundTracker(NUM_SAMPLES, [2], record="status", **planting)
    with pytest.raises(ValueError, match="record must be one of auto, status, classes, all; got"):
        Recipe(record="loss")


def test_recording_changes_nothing_else(tracker):
    plain = plain_loop([6], 6)
    assert torch.equal(tracker.status.words, plain.status.words)
    assert torch.equal(tracker.kept, plain.kept)
    assert plain.dynamics == {}


def test_a_later_round_speaks_of_the_samples_it_watched():
    tracker = plain_loop([3, 2], 3, **ALL, select=keep_even)
    first = {name: values.clone() for name, values in tracker.dynamics.items()}
    assert set(first) == NAMES
    tracker = plain_loop([3, 2], 5, **ALL, select=keep_even)
    second = dynamics_columns(tracker.status)
    watched = torch.arange(NUM_SAMPLES) % 2 == 0
    for name in NAMES:
        expected = torch.where(watched, second[name], first[name])
        assert torch.equal(tracker.dynamics[name], expected)


def test_dynamics_are_part_of_the_state(tmp_path):
    one = plain_loop([3, 2], 3, **ALL, select=keep_even)
    one.save(tmp_path / "tracker.safetensors")
    other = RoundTracker(NUM_SAMPLES, [3, 2], seed=5, **ALL, select=keep_even)
    other.restore(tmp_path / "tracker.safetensors")
    assert set(other.dynamics) == NAMES
    for name in NAMES:
        assert torch.equal(other.dynamics[name], one.dynamics[name])
    # What was saved before there were dynamics has none.
    state = one.state_dict()
    del state["rounds"]["dynamics"]
    other.load_state_dict(state)
    assert other.dynamics == {}
    state["rounds"]["dynamics"] = {"margin": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"damaged: margin must be torch.float32 \[403\]"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match="the state has record='all', but this status record='cl"):
        RoundTracker(NUM_SAMPLES, [3, 2], seed=5, num_classes=CLASSES, record="classes").restore(
            tmp_path / "tracker.safetensors"
        )


def test_tables_have_them(tracker, tmp_path):
    selection = tracker.selections[0]
    table, rounds = selection.table(), tracker.table()
    assert set(table) >= NAMES
    assert set(rounds) >= NAMES
    times = tracker.status.compute()
    for name in NAMES:
        np.testing.assert_array_equal(rounds[name], tracker.dynamics[name])
        expected = getattr(times, name, tracker.dynamics[name])
        np.testing.assert_array_equal(table[name], expected)
    assert not set(plain_loop([6], 6).selections[0].table()) & {"margin", "loss", "el2n"}
    assert "margin" not in selection.table(times=times)  # the status may be of another round by now

    rounds["margin"][:2] = np.nan
    write_table(rounds, tmp_path / "t.csv")
    rows = read(tmp_path / "t.csv")
    assert [row["margin"] for row in rows[:2]] == ["", ""]
    assert float(rows[2]["margin"]) == pytest.approx(rounds["margin"][2], rel=1e-5)
    assert rows[2]["first_k_learned"] == f"{rounds['first_k_learned'][2]:.0f}"
    pytest.importorskip("pandas")
    assert to_frame(rounds)["margin"].isna().sum() == 2


def test_planted_samples_have_none_in_their_selection():
    rng = torch.Generator().manual_seed(0)
    given = torch.arange(200) % CLASSES
    index = torch.randperm(200, generator=rng)[:20]
    planted = PlantedLabels(
        given.scatter(0, index, (given[index] + 1) % CLASSES), index, given[index]
    )
    status = LearningStatus(200, 8, **ALL)
    for _ in range(8):
        logits = torch.randn((200, CLASSES), generator=rng) + 3 * torch.eye(CLASSES)[given]
        status.update(torch.arange(200), logits, planted.labels)
        status.advance()
    table = select_clean(status, planted=planted, labels=given).table()
    np.testing.assert_array_equal(np.isnan(table["margin"]), planted.mask)


def test_a_run_has_them(tmp_path):
    data = Noisy()
    recipe = Recipe(
        rounds=1, first_epochs=5, final_epochs=0, batch_size=32, lr=0.05, plant=0.0, record="all"
    )
    dataset = ArrayDataset(data.inputs, data.labels)
    statuses = []
    result = run_rounds(
        dataset, make_model, recipe, on_round=lambda done: statuses.append(done.status)
    )
    expected = dynamics_columns(statuses[0])
    assert set(result.dynamics) == set(expected) == NAMES
    result.save(tmp_path / "result.safetensors")
    for found in (result, RoundsResult.load(tmp_path / "result.safetensors")):
        for name in NAMES:
            assert torch.equal(found.dynamics[name], expected[name])
        assert set(found.table()) >= NAMES


def test_the_commands_write_them(tmp_path, tracker, capsys):
    data = Noisy()
    np.savez(tmp_path / "d.npz", x_train=data.inputs.numpy(), y_train=data.labels.numpy())
    fast = ["--rounds=1", "--first-epochs=4", "--final-epochs=1", "--lr=0.05", "--quiet"]
    arguments = ["train", "--data", f"npz:{tmp_path / 'd.npz'}", *fast, "--out"]
    assert main([*arguments, str(tmp_path / "run"), "--record", "all"]) == 0
    rows = read(tmp_path / "run" / "selection.csv")
    assert set(rows[0]) >= NAMES
    status = LearningStatus.load(tmp_path / "run" / "status" / "round-00.safetensors")
    margin = dynamics_columns(status)["margin"].tolist()
    assert [float(row["margin"]) for row in rows] == pytest.approx(margin, rel=1e-5)
    assert main([*arguments, str(tmp_path / "plain"), "--record", "auto"]) == 0
    assert not set(read(tmp_path / "plain" / "selection.csv")[0]) & NAMES

    saved = str(tmp_path / "run" / "status" / "round-00.safetensors")
    assert main(["select", saved, "--out", str(tmp_path / "issues.csv")]) == 0
    issues = read(tmp_path / "issues.csv")
    assert set(issues[0]) >= NAMES
    assert [row["margin"] for row in issues] == [row["margin"] for row in rows]


def test_the_scikit_learn_classifier_has_them():
    pytest.importorskip("sklearn", minversion="1.6")
    from mild_ext.integrations.sklearn import MILDClassifier

    data = Noisy()
    quick = {"rounds": 1, "first_epochs": 4, "final_epochs": 1, "random_state": 0}
    classifier = MILDClassifier(record="all", **quick).fit(data.inputs.numpy(), data.labels.numpy())
    assert set(classifier.dynamics_) == NAMES
    assert {values.dtype for values in classifier.dynamics_.values()} == {np.dtype(np.float32)}
    wrong = data.wrong.numpy()
    margin = classifier.dynamics_["margin"]
    assert margin[~wrong].mean() > margin[wrong].mean()
    plain = MILDClassifier(**quick).fit(data.inputs.numpy(), data.labels.numpy())
    assert plain.dynamics_ == {}
    np.testing.assert_array_equal(plain.kept_, classifier.kept_)
