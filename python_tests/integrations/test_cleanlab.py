"""The issue type ``training_dynamics`` in a real Datalab: its issues, scores, information and report."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from noisy import CLASSES, NUM_SAMPLES, Noisy, plain_loop
from planted_runs import paper_run

pytest.importorskip("datasets")
pytest.importorskip("cleanlab.datalab.datalab")

from cleanlab import Datalab

from mild_ext import LearningStatus, select_clean
from mild_ext.integrations.cleanlab import TrainingDynamicsIssueManager

NAME = "training_dynamics"


@pytest.fixture(scope="module")
def tracker():
    return plain_loop([10], 10, num_classes=CLASSES, record="all")


def lab_of(labels, **settings):
    names = np.array(["ant", "bee", "cow"] + [f"class {k}" for k in range(3, 20)])
    lab = Datalab(data={"label": names[labels].tolist()}, label_name="label", verbosity=0)
    lab.find_issues(issue_types={NAME: settings})
    return lab


def test_issues_are_those_of_the_selection(tracker, capsys):
    lab = lab_of(Noisy().labels, status=tracker.status)
    assert "Failed" not in capsys.readouterr().out
    selection = select_clean(tracker.status, labels=Noisy().labels)
    issues = lab.get_issues(NAME)
    assert list(issues) == [f"is_{NAME}_issue", f"{NAME}_score"]
    np.testing.assert_array_equal(issues[f"is_{NAME}_issue"], ~selection.mask)
    np.testing.assert_allclose(issues[f"{NAME}_score"], selection.clean_probability)
    wrong = Noisy().wrong.numpy()
    assert wrong[issues[f"is_{NAME}_issue"]].mean() > 0.8
    summary = lab.get_issue_summary(NAME)
    assert summary["num_issues"].tolist() == [NUM_SAMPLES - selection.num_kept]
    info = lab.get_info(NAME)
    assert (info["supported"], info["noise_rate"]) == (True, selection.noise_rate.rate)
    np.testing.assert_array_equal(info["margin"], tracker.status.dynamics().margin)
    assert {"loss", "confidence", "variability", "el2n", "shortfall"} <= set(info)
    assert "suggested_label" not in info

    lab.report()
    printed = capsys.readouterr().out
    assert f"{NAME} issues" in printed
    assert "slow to learn" in printed
    assert selection.summary() in printed
    for verbosity in (1, 2, 3):
        lab.report(verbosity=verbosity)
    assert f"noise_rate: {selection.noise_rate.rate}" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # cleanlab, of pandas
def test_beside_cleanlabs_own_issue_types(tracker, capsys):
    lab = Datalab(data={"label": Noisy().labels.tolist()}, label_name="label", verbosity=0)
    shares = tracker.status.vote_shares().numpy()
    lab.find_issues(pred_probs=shares, issue_types={"label": {}, NAME: {"status": tracker.status}})
    printed = capsys.readouterr().out
    assert "Failed" not in printed, printed
    issues = lab.get_issues()
    assert (issues["is_label_issue"] == issues[f"is_{NAME}_issue"]).mean() > 0.8


def test_a_selection_or_a_rule_of_ones_own(tracker):
    for settings in (
        {"status": tracker.status, "rule": "quantile", "level": 0.9},
        {"selection": select_clean(tracker.status, "quantile", 0.9)},
    ):
        issues = lab_of(Noisy().labels, **settings).get_issues(NAME)
        expected = ~select_clean(tracker.status, "quantile", 0.9).mask
        np.testing.assert_array_equal(issues[f"is_{NAME}_issue"], expected)
    times = tracker.status.compute()
    assert lab_of(Noisy().labels, status=times).get_info(NAME)["supported"]


def test_with_planted_labels():
    run = paper_run()
    lab = lab_of(run.planted.given.numpy(), status=run.status, planted=run.planted)
    selection = select_clean(run.status, planted=run.planted)
    issues, info = lab.get_issues(NAME), lab.get_info(NAME)
    np.testing.assert_array_equal(issues[f"is_{NAME}_issue"], ~selection.mask)
    np.testing.assert_array_equal(info["suggested_label"], selection.suggested_label)
    assert info["noise_rate_low"] <= info["noise_rate"] <= info["noise_rate_high"]


def test_one_group_is_no_issue():
    status = LearningStatus(60, 5)
    for _ in range(5):
        status.update(torch.arange(60), torch.eye(2)[torch.arange(60) % 2], torch.arange(60) % 2)
        status.advance()
    lab = lab_of(np.arange(60) % 2, status=status)
    info = lab.get_info(NAME)
    assert (info["supported"], info["noise_rate"]) == (False, None)
    assert not lab.get_issues(NAME)[f"is_{NAME}_issue"].any()
    lab.report(show_all_issues=True, verbosity=2)


def test_what_does_not_fit_is_raised_and_not_only_printed(tracker):
    status, selection = tracker.status, tracker.selections[0]
    labels, planted = Noisy().labels, paper_run(n=200, planted=20).planted
    for settings, error, message in (
        ({}, TypeError, "needs a status or a selection"),
        ({"status": status, "levle": 1}, TypeError, "per_class and epochs, got levle"),
        ({"selection": status}, TypeError, "selection must be a Selection, got LearningStatus"),
        ({"selection": selection, "level": 0.9}, TypeError, "level goes into the selection"),
        ({"selection": selection, "planted": planted}, TypeError, "planted goes into the sel"),
        ({"status": LearningStatus(7, 2)}, ValueError, "status must be of the 403 samples"),
        ({"status": status, "planted": planted}, ValueError, "planted must be of the 403 samples"),
    ):
        with pytest.raises(error, match=message):
            lab_of(labels, **settings)


def test_it_is_registered_as_cleanlab_does_it():
    from cleanlab.datalab.internal.issue_manager_factory import REGISTRY
    from cleanlab.datalab.internal.task import Task

    assert REGISTRY[Task.CLASSIFICATION][NAME] is TrainingDynamicsIssueManager
    lab = Datalab(data={"label": [0, 1]}, label_name="label", verbosity=0)
    assert NAME in lab.list_possible_issue_types()
