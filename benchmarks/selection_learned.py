"""Could a learned rule say better how many samples to drop? A bound on what the logs can teach.

    python benchmarks/selection_learned.py FIRST SECOND THIRD FOURTH FIFTH

Each argument is a folder of learning logs (``record_logs.py``). Randomized trees are given all that
the default rule looks at and more: of four windows the fitted mixture, its verdict, late error,
instability and deciles of the misclassified share; the course of the error; how often samples of each
difficulty change; how the classes differ. They predict the share that the best threshold on the
misclassified count would drop, once as it is and once as a correction of the default rule, on runs
of a folder, or of a data set, that they were not trained on. Printed: macro-F1 as a share of that
threshold's, next to the default rule's own.

Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor

import mild_ext
from mild_ext.recording.learning_log import LearningLog, read_learning_log
from mild_ext.selection.quality import evaluate_selection
from mild_ext.selection.rules import decide
from mild_ext.selection.windows import MIN_WINDOW, WINDOWS, Judged, _Course

#: Runs are also looked at as if they had ended here, for more to learn from.
SHARES_OF_EPOCHS = (1.0, 0.8, 0.6)
#: By the first word of a log's name.
DATA_SETS = {"digitw": "digits", "mcnn": "mnist"}
Case = dict[str, object]


def macro_f1_by_cut(wrong: np.ndarray, clean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share dropped and macro-F1 of every threshold on the misclassified count."""
    good = np.append(0, np.cumsum(np.bincount(wrong[clean], minlength=wrong.max() + 1)))
    bad = np.append(0, np.cumsum(np.bincount(wrong[~clean], minlength=wrong.max() + 1)))
    kept, right, noisy = good + bad, clean.sum(), (~clean).sum()
    dropped = len(clean) - kept
    f1 = good / (kept + right) + (noisy - bad) / (dropped + noisy)
    return dropped / len(clean), f1


def features(log: LearningLog, selection: mild_ext.Selection) -> list[float]:
    """What a rule that never sees the truth may look at."""
    memorized, status, epochs = log.memorized, log.status(), log.num_epochs
    given = log.given_label
    stops = [max(MIN_WINDOW, round(share * epochs)) for share in WINDOWS]
    course = _Course(status, Judged(slice(0, stops[0]), None, None))  # type: ignore[arg-type]
    dropped = 1 - float(selection.mask.float().mean())
    found = [dropped, float(selection.supported), epochs, len(np.unique(given)), len(given)]
    for stop in (*stops, epochs):
        histogram = status.histogram(slice(0, stop)).numpy()
        decision = decide(histogram, "posterior", 0.5)
        mixture, support = decision.mixture, decision.support
        assert mixture is not None
        found += [1 - (histogram * decision.keep).sum() / histogram.sum(), support.supported]
        found += [support.bimodality, support.confusion, mixture.weights_[1], mixture.frailty_]
        found += [*mixture.shapes_, *(mixture.scales_ / stop)]
        found += [course.error(stop), course.instability(stop)]
        found += list(
            np.quantile(1 - memorized[:, :stop].mean(axis=1), np.linspace(0.05, 0.95, 10))
        )
    parts = np.array_split(1 - memorized, 10, axis=1)
    found += [part.mean() for part in parts]
    share, changes = 1 - memorized.mean(axis=1), memorized[:, 1:] != memorized[:, :-1]
    for low, high in ((0.02, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 0.98)):
        group = (share > low) & (share < high)
        by_chance = (2 * share * (1 - share))[group].mean() if group.any() else 1.0
        found += [group.mean(), changes[group].mean() / by_chance if group.any() else 1.0]
    for part in (parts[0], parts[-1]):
        by_class = [part[given == label].mean() for label in np.unique(given)]
        found += [np.std(by_class), min(by_class), max(by_class)]
    return [float(value) for value in found]


def case(whole: LearningLog, epochs: int, name: str, folder: str) -> Case:
    """The first epochs of a log: what is seen, what any threshold reaches, what the default does."""
    log = LearningLog(whole.memorized[:, :epochs], whole.given_label, true_label=whole.true_label)
    selection = mild_ext.select_clean(log.status())
    dropped, f1 = macro_f1_by_cut(epochs - log.memorized.sum(axis=1), log.clean)
    word = name.split("_")[0]
    return {
        "features": features(log, selection),
        "dropped": dropped[::-1],
        "ratio": (f1 / f1.max())[::-1],
        "best": dropped[f1.argmax()],
        "default": 1 - float(selection.mask.float().mean()),
        "default_ratio": evaluate_selection(selection.mask.numpy(), log.clean).macro_f1 / f1.max(),
        "whole": epochs == whole.num_epochs,
        "folder": folder,
        "data set": DATA_SETS.get(word, word),
    }


def cases(folders: list[Path]) -> list[Case]:
    found = []
    for folder in folders:
        for path in sorted(folder.glob("*.npz")):
            log = read_learning_log(path)
            if log.clean.all():
                continue
            lengths = {round(share * log.num_epochs) for share in SHARES_OF_EPOCHS}
            lengths = {length for length in lengths if length * max(WINDOWS) >= MIN_WINDOW}
            found += [case(log, n, path.stem, folder.name) for n in sorted(lengths)]
    return found


def ratios(known: list[Case], shares: np.ndarray) -> np.ndarray:
    """What dropping these shares reaches, of the best."""
    pairs = zip(shares, known, strict=True)
    return np.array([np.interp(share, c["dropped"], c["ratio"]) for share, c in pairs])


def show(title: str, reached: np.ndarray) -> None:
    print(f"{title:58s} {reached.mean():.4f}  {(reached < 0.97).sum():3d} of {len(reached)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folders of learning logs (npz)")
    known = cases(parser.parse_args().folders)
    x = np.array([c["features"] for c in known])
    default = np.array([c["default"] for c in known])
    best = np.array([c["best"] for c in known])
    whole = np.array([c["whole"] for c in known])
    print(f"{len(known)} cases, {x.shape[1]} features; of the best threshold, below 0.97")
    show("default rule", np.array([c["default_ratio"] for c in known])[whole])
    show("    as many dropped of those misclassified most often", ratios(known, default)[whole])
    for apart in ("folder", "data set"):
        groups = np.array([c[apart] for c in known])
        for target, start in (("share", np.zeros_like(default)), ("correction", default)):
            predicted = np.zeros_like(default)
            for group in np.unique(groups):
                own = groups == group
                trees = ExtraTreesRegressor(
                    500, min_samples_leaf=3, max_features=0.5, random_state=0
                )
                trees.fit(x[~own], (best - start)[~own])
                predicted[own] = trees.predict(x[own])
            reached = ratios(known, np.clip(start + predicted, 0, 1))
            show(f"learned {target}, tested on another {apart}", reached[whole])
            if target == "correction":
                agreement = np.corrcoef(predicted[whole], (best - start)[whole])[0, 1]
                print(f"    correlation of the correction with the right one: {agreement:.2f}")


if __name__ == "__main__":
    warnings.simplefilter("ignore", UserWarning)
    main()
