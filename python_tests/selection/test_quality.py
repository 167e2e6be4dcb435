"""Selection quality against the obvious computation and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from mild_ext.selection.quality import auroc, best_threshold, evaluate_selection

flags = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=1)


@given(flags)
def test_against_scikit_learn(rows):
    kept, clean, score = (np.array(column) for column in zip(*rows, strict=True))
    quality = evaluate_selection(kept, clean, score)
    one = {"zero_division": float("nan")}
    for ours, theirs in (
        (quality.precision, precision_score(clean, kept, **one)),
        (quality.recall, recall_score(clean, kept, **one)),
        (quality.noisy_precision, precision_score(~clean, ~kept, **one)),
        (quality.noisy_recall, recall_score(~clean, ~kept, **one)),
    ):
        assert np.isclose(ours, theirs, equal_nan=True)
    assert np.isclose(quality.f1, f1_score(clean, kept, zero_division=1.0))
    assert np.isclose(quality.noisy_f1, f1_score(~clean, ~kept, zero_division=1.0))
    assert quality.macro_f1 == (quality.f1 + quality.noisy_f1) / 2
    if clean.all() or not clean.any():
        assert np.isnan(quality.auroc)
    else:
        assert np.isclose(quality.auroc, roc_auc_score(clean, score))


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1))
def test_best_threshold_is_the_best_of_all(rows):
    m, clean = (np.array(column) for column in zip(*rows, strict=True))
    threshold, value = best_threshold(m, clean)
    every = [evaluate_selection(m <= c, clean).macro_f1 for c in range(10)]
    assert np.isclose(value, max(every))
    assert np.isclose(every[threshold], value)


def test_keeping_everything_where_nothing_is_wrong_is_perfect():
    clean = np.ones(10, dtype=bool)
    assert evaluate_selection(clean, clean).macro_f1 == 1.0
    assert evaluate_selection(np.arange(10) > 0, clean).macro_f1 < 0.5


def test_a_share_of_nothing_is_undefined_and_null_in_files():
    clean, nothing = np.ones(5, dtype=bool), np.zeros(5, dtype=bool)
    assert evaluate_selection(clean, clean).record() == {
        "precision": 1.0, "recall": 1.0, "f1": 1.0, "noise_removed": None,
    }  # fmt: skip
    assert evaluate_selection(nothing, clean).record()["precision"] is None
    assert evaluate_selection(clean, nothing).record()["recall"] is None
    both = evaluate_selection(nothing, nothing).record()
    assert both == {"precision": None, "recall": None, "f1": 1.0, "noise_removed": 1.0}


def test_the_record_of_a_run():
    kept = np.array([True, True, True, False, False])
    wrong = np.array([False, False, True, True, False])
    assert evaluate_selection(kept, ~wrong).record() == {
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "noise_removed": 0.5,
    }


def test_auroc_of_ties_is_a_half():
    assert auroc([1, 1, 1, 1], [True, False, True, False]) == 0.5
    assert auroc([2, 1], [True, False]) == 1.0


def test_bad_shapes():
    with pytest.raises(ValueError, match="one shape"):
        evaluate_selection([True], [True, False])
    with pytest.raises(ValueError, match="non-empty"):
        evaluate_selection([], [])
    with pytest.raises(ValueError, match="empty"):
        best_threshold([], [])


def test_true_labels_are_not_taken_for_what_is_right():
    """As bools, all classes but 0 would be right."""
    true = np.array([0, 1, 2, 1])
    for judge in (
        lambda: evaluate_selection(true > 0, true),
        lambda: evaluate_selection(true, true > 0),
        lambda: best_threshold(true, true),
        lambda: auroc([0.1, 0.2, 0.3, 0.4], true),
    ):
        with pytest.raises(TypeError, match=r"must be bool \[N\], True where .*got int64 \[4\]"):
            judge()
