"""How good a selection is where the true labels are known.

What is undefined, here and wherever a quality is written or printed: a share of nothing (precision
where nothing was kept, recall where no label is right, noise removed where none is wrong, AUROC with
one kind of label) is nan, and null in files. An F1 is the overlap of two sets, and two empty sets
agree: it is always defined, 1 where nothing was there to find and nothing was said.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class SelectionQuality:
    """A kept set against the truth. All but the counts in [0, 1], higher = better.

    Attributes:
        num_samples, num_clean: counts.
        precision, recall, f1: of finding clean samples; a share of nothing is nan.
        noisy_precision, noisy_recall, noisy_f1: of finding wrong labels, likewise.
        macro_f1: mean of the two F1; a selection that keeps everything does not shine here.
            With no wrong label at all the noisy F1 is 1 if nothing was dropped, else 0.
        auroc: probability that a clean sample's score exceeds a noisy one's; nan with one kind.
    """

    num_samples: int
    num_clean: int
    precision: float
    recall: float
    f1: float
    noisy_precision: float
    noisy_recall: float
    noisy_f1: float
    macro_f1: float
    auroc: float

    def as_dict(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)

    def record(self) -> dict[str, float | None]:
        """What a run's files say: ``precision``, ``recall``, ``f1``, and ``noise_removed``, the share
        of the wrong labels that was dropped (`noisy_recall`); None where undefined.
        """
        shares = {
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "noise_removed": self.noisy_recall,
        }
        return {name: None if math.isnan(value) else value for name, value in shares.items()}


def evaluate_selection(
    kept: ArrayLike, clean: ArrayLike, score: ArrayLike | None = None
) -> SelectionQuality:
    """Precision, recall, F1 and AUROC of a kept set.

    Args:
        kept: bool [n], True = kept.
        clean: bool [n], True = the label is right.
        score: float [n], higher = cleaner, for the AUROC; default: ``kept`` itself.

    Raises:
        TypeError: ``kept`` or ``clean`` is no bool, such as the true labels in place of ``given == true``.
        ValueError: the shapes differ or there are no samples.
    """
    k, c = _bools("kept", kept), _bools("clean", clean)
    s = k.astype(np.float64) if score is None else np.asarray(score, dtype=np.float64)
    if k.ndim != 1 or k.shape != c.shape or k.shape != s.shape or not len(k):
        raise ValueError(
            "kept, clean and score must be non-empty and of one shape, got "
            f"{k.shape}, {c.shape} and {s.shape}"
        )
    precision, recall, f1 = _found(k, c)
    noisy_precision, noisy_recall, noisy_f1 = _found(~k, ~c)
    return SelectionQuality(
        num_samples=len(k),
        num_clean=int(c.sum()),
        precision=precision,
        recall=recall,
        f1=f1,
        noisy_precision=noisy_precision,
        noisy_recall=noisy_recall,
        noisy_f1=noisy_f1,
        macro_f1=(f1 + noisy_f1) / 2,
        auroc=auroc(s, c),
    )


def _bools(name: str, values: ArrayLike) -> NDArray[np.bool_]:
    """Class numbers, taken for bools, would all but those of class 0 be True."""
    array = np.asarray(values)
    if array.dtype != np.bool_ and array.size:
        what = {
            "kept": "True where a sample is kept",
            "clean": "True where the given label is right: given_labels == true_labels",
        }[name]
        raise TypeError(f"{name} must be bool [N], {what}; got {array.dtype} {list(array.shape)}")
    return array.astype(bool)


def _found(said: NDArray[np.bool_], true: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Precision and recall, nan where there was nothing said or to find; F1, 1 where neither."""
    hits, n_said, n_true = int((said & true).sum()), int(said.sum()), int(true.sum())
    precision = hits / n_said if n_said else math.nan
    recall = hits / n_true if n_true else math.nan
    f1 = 2 * hits / (n_said + n_true) if n_said + n_true else 1.0
    return precision, recall, f1


def auroc(score: ArrayLike, clean: ArrayLike) -> float:
    """Area under the ROC curve of scores float [n], higher = cleaner; ties count half; nan if only one kind is there.

    ``clean``: bool [n], else a TypeError.
    """
    s, p = np.asarray(score, dtype=np.float64), _bools("clean", clean)
    if p.all() or not p.any():
        return float("nan")
    _, where = np.unique(s, return_inverse=True)
    total = np.bincount(where)
    rank = np.cumsum(total) - (total - 1) / 2  # mean rank of each tied group, from 1
    n_positive = int(p.sum())
    above = rank[where][p].sum() - n_positive * (n_positive + 1) / 2
    return float(above / (n_positive * (len(p) - n_positive)))


def best_threshold(misclassified: ArrayLike, clean: ArrayLike) -> tuple[int, float]:
    """The count c for which keeping ``misclassified <= c`` has the highest macro-F1, and that F1.

    Needs the truth (``clean``, bool [n], else a TypeError): it is what a rule could reach at best, not a rule.
    """
    m, c = np.asarray(misclassified, dtype=np.int64), _bools("clean", clean)
    if not len(m) or m.shape != c.shape:
        raise ValueError(
            f"misclassified and clean must be non-empty and of one shape, got {m.shape} and {c.shape}"
        )
    size = int(m.max()) + 1
    good = np.cumsum(np.bincount(m[c], minlength=size))
    bad = np.cumsum(np.bincount(m[~c], minlength=size))
    n_good, n_bad = good[-1], bad[-1]
    either = good + bad + n_good
    clean_f1 = np.where(either > 0, 2 * good / np.maximum(either, 1), 1.0)
    found = n_bad - bad
    said = n_good - good + found
    noisy_f1 = np.where(said + n_bad > 0, 2 * found / np.maximum(said + n_bad, 1), 1.0)
    macro = (clean_f1 + noisy_f1) / 2
    best = int(np.argmax(macro))
    return best, float(macro[best])
