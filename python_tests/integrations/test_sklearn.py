"""`MILDClassifier`: scikit-learn's own checks, and wrong labels found in arrays."""

from __future__ import annotations

import numpy as np
import pytest
from noisy import Noisy

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from mild_ext.integrations.sklearn import MILDClassifier

QUICK = {"hidden_size": 32, "rounds": 2, "first_epochs": 8, "round_epochs": 2, "final_epochs": 20}


@pytest.fixture(scope="module")
def arrays():
    data = Noisy()
    labels = np.array(["ant", "bee", "cow"])
    return data.inputs.numpy(), labels[data.labels], labels[data.true], data.wrong.numpy()


# One estimator for all checks; none is skipped or expected to fail.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([MILDClassifier(**QUICK, learning_rate=0.05)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_wrong_labels_are_found_and_not_learned(arrays):
    X, y, true, wrong = arrays
    classifier = MILDClassifier(first_epochs=15, final_epochs=30, random_state=0).fit(X, y)
    assert (~classifier.kept_)[wrong].mean() > 0.7
    assert classifier.kept_[~wrong].mean() > 0.85
    assert (
        "at least 50" in classifier.rounds_[0]["planting_note"]
    )  # 403 samples are too few to plant in
    assert classifier.score(X, true) > 0.8 > classifier.score(X, y)
    quality = classifier.clean_probability_
    assert quality.shape == y.shape
    assert 0 <= quality.min() <= quality.max() <= 1
    assert quality[~classifier.kept_].mean() < quality[classifier.kept_].mean()
    np.testing.assert_allclose(classifier.predict_proba(X).sum(1), 1)
    assert set(classifier.predict(X)) == {"ant", "bee", "cow"}
    assert classifier.rounds_[0]["round"] == 0
    assert classifier.stop_reason_


def test_the_same_random_state_gives_the_same_classifier(arrays):
    X, y, *_ = arrays
    one, two, other = (
        MILDClassifier(**QUICK, random_state=seed).fit(X, y).predict_proba(X) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


@pytest.mark.slow
def test_it_works_in_scikit_learns_tools(arrays):
    X, y, *_ = arrays
    classifier = MILDClassifier(**QUICK, random_state=0)
    assert len(cross_val_score(clone(classifier), X, y, cv=2)) == 2
    search = GridSearchCV(classifier, {"level": [0.3, 0.6]}, cv=2).fit(X, y)
    assert search.best_params_["level"] in (0.3, 0.6)


def test_one_class_needs_no_network(arrays):
    X, *_ = arrays
    classifier = MILDClassifier().fit(X, np.full(len(X), 7))
    assert (classifier.predict(X) == 7).all()
    assert classifier.kept_.all()
    assert classifier.module_ is None


def test_wrong_settings_are_refused(arrays):
    X, y, *_ = arrays
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        MILDClassifier(rounds=0).fit(X, y)


@pytest.mark.parametrize(
    "labels",
    [
        [None, "b", "a", "b"],
        ["", "b", "a", "b"],
        ["nan", "b", "a", "b"],
        np.array([-1, 0, 1, 0]),
        np.array([-1.0, 0, 0, 0]),
    ],
)
def test_samples_without_a_label_are_no_class(labels):
    with pytest.raises(ValueError, match=r"y is missing for 1 of 4 samples \(rows 0\)"):
        MILDClassifier().fit(np.zeros((4, 2)), np.array(labels))
