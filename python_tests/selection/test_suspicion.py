"""How far a verdict is to be trusted: recall, precision, suggestions and transitions of measured runs."""

import numpy as np
import pytest
import torch
from planted_runs import paper_run

from mild_ext import select_clean
from mild_ext.selection.noise_rate import NoiseRate
from mild_ext.selection.suspicion import _precision, _recall


def test_recall_makes_up_for_planted_labels_that_are_right():
    # 20 % wrong in 10 classes: 2.2 % of the planted labels are right. Recall 0.9, of the right ones 5 % dropped.
    rate, recall, right = 0.2, 0.9, 0.05
    chance = rate / 9
    dropped = rate * recall + (1 - rate) * right
    hits = round(10_000 * ((1 - chance) * recall + chance * right))
    found = _recall(hits, 10_000, rate, dropped, 10)
    assert found.value == pytest.approx(recall, abs=1e-3)
    assert 0 < found.low < found.value < found.high < 1


@pytest.mark.parametrize(("hits", "end"), [(0, "low"), (50, "high")])
def test_the_range_of_the_recall_reaches_what_was_seen(hits, end):
    found = _recall(hits, 50, 0.1, 0.1, 10)
    assert getattr(found, end) == found.value == hits / 50
    assert found.low < found.high


@pytest.mark.parametrize(("rate", "classes"), [(0.5, 2), (0.48, 2), (0.95, 10), (0.9, 10)])
def test_where_planted_labels_are_as_often_right_the_recall_is_open(rate, classes):
    found = _recall(30, 50, rate, 0.4, classes)
    assert (found.low, found.high) == (0.0, 1.0)
    assert found.value == 0.6


def test_precision_is_open_as_far_as_the_rate_is():
    clean = torch.tensor([0.1, 0.2, 0.3])
    found = _precision(clean, NoiseRate(0.2, 0.1, 0.4))
    assert found.value == pytest.approx(0.8)
    assert (found.low, found.high) == (pytest.approx(0.4), 1.0)
    assert _precision(clean[:0], NoiseRate(0.2, 0.1, 0.4)) is None


def test_recall_suggestions_and_transition_are_near_the_truth():
    run = paper_run(n=4000, planted=200, noise=0.3, right=0.9)
    selection = select_clean(run.status, planted=run.planted)
    others = run.others
    wrong = others & (run.given != run.true)
    recall = float((~selection.mask[wrong]).double().mean())
    found = selection.estimated_recall
    assert found.low - 0.02 <= recall <= found.high + 0.02
    dropped = others & ~selection.mask
    assert selection.estimated_precision.value == pytest.approx(
        float(wrong[dropped].double().mean()), abs=0.1
    )
    right = (selection.suggested_label == run.true)[wrong].double().mean()
    assert float(selection.suggestion_confidence[wrong].mean()) == pytest.approx(
        float(right), abs=0.1
    )
    assert right > 0.9
    cells = run.true[wrong] * 10 + run.given[wrong]
    truth = torch.bincount(cells, minlength=100).view(10, 10).double()
    assert float(selection.transition.sum()) == pytest.approx(float(truth.sum()), rel=0.15)
    assert np.corrcoef(selection.transition.flatten(), truth.flatten())[0, 1] > 0.7


def test_planted_samples_are_judged_by_their_given_label():
    run = paper_run(n=4000, planted=400, noise=0.3)
    selection = select_clean(run.status, planted=run.planted)
    given, true = (labels[run.planted.index] for labels in (run.given, run.true))
    kept = selection.mask[run.planted.index]
    # Many more of those whose given label is right are kept, though all were trained on another one.
    assert kept[given == true].double().mean() > kept[given != true].double().mean() + 0.4
