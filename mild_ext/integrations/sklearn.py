"""A scikit-learn classifier that finds wrong labels in its training set and learns from the others."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from mild_ext.data.label_column import is_missing
from mild_ext.data.sets import array_data
from mild_ext.training.models import build_model
from mild_ext.training.recipe import DEFAULT_PLANT, Recipe
from mild_ext.training.run_rounds import run_rounds

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "mild_ext.integrations.sklearn needs scikit-learn 1.6 or newer: pip install 'mild_ext[sklearn]'"
    ) from error


class MILDClassifier(ClassifierMixin, BaseEstimator):
    """A small network trained on the samples whose label is believed (see `mild_ext.run_rounds`).

    For dense arrays of features; inputs are standardized inside.

    Args:
        hidden_size: width of the network's hidden layers.
        rounds: largest number of rounds.
        first_epochs, round_epochs, final_epochs: epochs of the first round, of each later round, and of the
            final training.
        batch_size: samples per step.
        learning_rate: at the start of each round; a cosine to zero from there.
        weight_decay: of SGD with momentum 0.9.
        plant: share of the samples, in [0, 0.1], given a wrong label on purpose in each round, to measure the
            noise; the final network never sees one. 0: none. Left out, with a note in ``rounds_``, where the
            default cannot be met, as with fewer than 500 samples.
        record: what each round records, see `mild_ext.LearningStatus`: "all" for ``dynamics_``. "auto": no more than
            is needed.
        rule, level, per_class: of the selection, see `mild_ext.select_clean`.
        reselect, round_start: how a later round begins, see `mild_ext.Recipe`.
        device: where to train, e.g. ``"cuda"``.
        random_state: int, RandomState or None; everything random follows from it.

    Attributes:
        classes_: ``[K]``, the labels.
        n_features_in_: number of features.
        kept_: bool ``[N]``, True for the training samples whose label is believed.
        clean_probability_: float32 ``[N]`` in [0, 1], probability that the label is right.
        suspicion_: float32 ``[N]``; higher = more likely a wrong label.
        suggested_label_: ``[N]``, of ``classes_``: what the network voted for instead of the given label, which
            stands where there is nothing to suggest.
        dynamics_: training dynamics by name (margin, loss, confidence, ...; see `mild_ext.Dynamics`), float32 ``[N]``,
            from the last round that watched the sample under its given label, NaN where none did; empty unless
            ``record="all"``.
        noise_rate_: share of wrong labels in [0, 1] as planted ones measured it; None where none were planted.
        rounds_: one record per round.
        stop_reason_: why there were no more rounds.
        module_: the network, from float features ``[B, n_features_in_]`` to logits ``[B, K]``; None where the
            training set has one class only.

    Examples:
        >>> from sklearn.datasets import load_digits
        >>> from mild_ext.integrations.sklearn import MILDClassifier
        >>> X, y = load_digits(return_X_y=True)
        >>> y[::4] = (y[::4] + 1) % 10  # every fourth label is wrong
        >>> quick = {"rounds": 2, "first_epochs": 20, "final_epochs": 10}
        >>> classifier = MILDClassifier(**quick, random_state=0).fit(X[:1200], y[:1200])
        >>> bool(classifier.kept_[::4].mean() < 0.25 < 0.9 < classifier.kept_[1::4].mean())
        True
    """

    def __init__(
        self,
        *,
        hidden_size: int = 256,
        rounds: int = 5,
        first_epochs: int = 30,
        round_epochs: int = 30,
        final_epochs: int = 60,
        batch_size: int = 32,
        learning_rate: float = 0.01,
        weight_decay: float = 5e-3,
        plant: float = 0.05,
        record: str = "auto",
        rule: str = "posterior",
        level: float = 0.5,
        per_class: bool | None = None,
        reselect: str = "all",
        round_start: str = "scratch",
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.hidden_size = hidden_size
        self.rounds = rounds
        self.first_epochs = first_epochs
        self.round_epochs = round_epochs
        self.final_epochs = final_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.plant = plant
        self.record = record
        self.rule = rule
        self.level = level
        self.per_class = per_class
        self.reselect = reselect
        self.round_start = round_start
        self.device = device
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> MILDClassifier:
        """Find the wrong labels, and train on the others.

        Args:
            X: ``[N, F]``, finite numbers.
            y: ``[N]``, labels of any kind that scikit-learn allows.

        Returns:
            This classifier.

        Raises:
            ValueError: values that are not finite, shapes that don't match, or labels that are missing: None, empty
                text, what pandas reads as missing, and -1, unless -1 and 1 are the two classes.
        """
        X, y = validate_data(self, X, y, dtype=np.float32)
        _require_labels(np.asarray(y))
        check_classification_targets(y)
        self.classes_, encoded = np.unique(y, return_inverse=True)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.kept_ = np.ones(len(encoded), dtype=bool)
        self.clean_probability_ = np.ones(len(encoded), dtype=np.float32)
        self.suspicion_ = np.zeros(len(encoded), dtype=np.float32)
        self.suggested_label_ = self.classes_[encoded]
        self.dynamics_: dict[str, NDArray[np.float32]] = {}
        self.noise_rate_: float | None = None
        self.rounds_: list[dict[str, Any]] = []
        self.stop_reason_ = "all samples have one label"
        self.module_: torch.nn.Module | None = None
        if len(self.classes_) == 1:
            return self
        recipe = Recipe().override(
            {
                "model": "mlp",
                "width": int(self.hidden_size),
                "rounds": int(self.rounds),
                "first_epochs": int(self.first_epochs),
                "round_epochs": int(self.round_epochs),
                "final_epochs": int(self.final_epochs),
                "batch_size": int(self.batch_size),
                "lr": float(self.learning_rate),
                "weight_decay": float(self.weight_decay),
                "plant": None if self.plant == DEFAULT_PLANT else float(self.plant),
                "record": self.record,
                "rule": self.rule,
                "level": float(self.level),
                "per_class": self.per_class,
                "reselect": self.reselect,
                "round_start": self.round_start,
                "augment": "none",
            }
        )
        data = array_data(
            "arrays",
            np.array(X),  # a copy: torch takes no read-only arrays
            torch.from_numpy(encoded.astype(np.int64)),
            [str(label) for label in self.classes_],
        )
        result = run_rounds(
            data.train,
            lambda: build_model(
                recipe.model,
                data.input_shape,
                data.num_classes,
                width=recipe.width,
                mean=data.mean,
                std=data.std,
            ),
            recipe,
            num_classes=data.num_classes,
            seed=seed,
            device=self.device,
        )
        self.kept_ = result.kept.numpy()
        self.clean_probability_ = result.clean_probability.numpy()
        self.suspicion_ = result.suspicion.numpy()
        suggested = result.suggested_label.numpy()
        self.suggested_label_ = self.classes_[np.where(suggested >= 0, suggested, encoded)]
        self.dynamics_ = {name: values.numpy() for name, values in result.dynamics.items()}
        self.noise_rate_ = None if result.noise_rate is None else result.noise_rate.rate
        self.rounds_, self.stop_reason_ = result.rounds, result.stop_reason
        assert result.model is not None
        self.module_ = result.model.cpu().eval()
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of each of ``classes_``, ``[N, K]``; X: ``[N, F]``."""
        check_is_fitted(self)
        features: NDArray[np.float64] = validate_data(self, X, reset=False, dtype=np.float64)
        if self.module_ is None:
            return np.ones((len(features), 1))
        # In double precision, so that a sample's result does not depend on those beside it.
        module = copy.deepcopy(self.module_).double()
        with torch.no_grad():
            probabilities: NDArray[np.float64] = module(torch.tensor(features)).softmax(1).numpy()
        return probabilities

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable of ``classes_``, ``[N]``; X: ``[N, F]``."""
        probabilities = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[probabilities.argmax(1)]
        return labels


def _require_labels(y: NDArray[Any]) -> None:
    """Raise a ValueError where samples have no label, which would make a class of its own."""
    if y.dtype.kind in "OUS":
        absent = np.array([is_missing(label) for label in y.tolist()], dtype=bool)
    else:
        absent = (y == -1) & (not set(np.unique(y).tolist()) <= {-1, 1})
    rows = np.flatnonzero(absent)
    if len(rows):
        raise ValueError(
            f"y is missing for {len(rows)} of {len(y)} samples (rows {', '.join(map(str, rows[:5]))}"
            f"{', ...' if len(rows) > 5 else ''}); fit on the others: X[labeled], y[labeled]"
        )
