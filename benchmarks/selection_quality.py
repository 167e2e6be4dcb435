"""How well do selection rules find wrong labels? On recorded learning logs with known truth.

    python benchmarks/selection_quality.py LOG.npz [LOG.npz ...] [--csv FILE]
    python benchmarks/selection_quality.py LOG.npz [LOG.npz ...] --windows | --seen S [--leave] | --sensitivity
    python benchmarks/selection_quality.py --planted RECORDING.npz [RECORDING.npz ...]

Each log is one training run (format: ``mild_ext.recording.learning_log``). Compared, each with its usual
settings: this package's rules; two-component Gaussian mixtures on the last loss and on the mean
loss (loss scaled to [0, 1], tolerance 1e-2, covariance floor 5e-4, posterior 0.5: DivideMix);
AUM, the mean margin, with such a mixture; a Beta mixture on the share of misclassified epochs (EM
with weighted moments, ten iterations: Arazo et al., 2019); forgetting counts (Toneva et al., 2019:
drop what was never learned or forgotten more often than average); confident learning by cleanlab
(needs out-of-fold probabilities in the log and ``pip install cleanlab``; its default filter).
``best`` knows the truth: what any threshold on the misclassified count of all epochs could reach.
``--sensitivity`` moves every constant of the default rule by 20 % instead, one at a time and all together.
``--planted``: recordings with planted labels, and the rule that measures by them (planted_quality.py).

Needs scikit-learn for the Gaussian mixtures.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mild_ext
from mild_ext.mixture import follow_up
from mild_ext.recording.learning_log import LearningLog, read_learning_log
from mild_ext.selection import decide as rules
from mild_ext.selection import noise_rate, support
from mild_ext.selection import windows as course
from mild_ext.selection.quality import best_threshold, evaluate_selection

Kept = tuple[np.ndarray, np.ndarray]  # kept bool [N], score [N] (higher = cleaner)


def ours(log: LearningLog, **options: Any) -> Kept:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        selection = mild_ext.select_clean(log.status(), **options)
    # Equal probabilities (all of them, where two groups are not supported) are ranked by the count.
    score = selection.clean_probability.numpy() - 1e-9 * selection.misclassified.numpy()
    return selection.mask.numpy(), score


def labels(log: LearningLog) -> torch.Tensor:
    return torch.from_numpy(log.given_label)


def gaussian_mixture(values: np.ndarray, clean_is_low: bool) -> Kept:
    from sklearn.mixture import GaussianMixture

    x = values.astype(np.float64)
    x = ((x - x.min()) / max(np.ptp(x), 1e-12))[:, None]
    model = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probability = model.fit(x).predict_proba(x)
    means = model.means_[:, 0]
    clean = probability[:, means.argmin() if clean_is_low else means.argmax()]
    return clean > 0.5, clean


def beta_mixture(log: LearningLog, iterations: int = 10) -> Kept:
    from scipy.stats import beta

    x = np.clip(1.0 - log.memorized.mean(axis=1), 1e-4, 1 - 1e-4)
    a, b, weight = np.array([1.0, 2.0]), np.array([2.0, 1.0]), np.array([0.5, 0.5])
    for _ in range(iterations):
        density = np.stack([w * beta.pdf(x, i, j) for w, i, j in zip(weight, a, b, strict=True)])
        share = density / np.maximum(density.sum(axis=0), 1e-300)
        total = share.sum(axis=1)
        mean = share @ x / total
        variance = (share * (x - mean[:, None]) ** 2).sum(axis=1) / total
        a = mean * (mean * (1 - mean) / variance - 1)
        b = a * (1 - mean) / mean
        weight = total / len(x)
    order = np.argsort(a / (a + b))
    return share[order[0]] > 0.5, share[order[0]]


def forgetting(log: LearningLog) -> Kept:
    memorized = log.memorized
    events = (memorized[:, :-1] & ~memorized[:, 1:]).sum(axis=1)
    learned = memorized.any(axis=1)
    score = -np.where(learned, events, memorized.shape[1])
    return learned & (events <= events[learned].mean()), score.astype(float)


def confident_learning(log: LearningLog) -> Kept | None:
    if log.oof_probs is None:
        return None
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        return None
    probabilities = log.oof_probs.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    issues = find_label_issues(log.given_label, probabilities, n_jobs=1)
    return ~issues, probabilities[np.arange(len(issues)), log.given_label]


def known_rate(log: LearningLog) -> Kept:
    return ours(log, rule="quantile", threshold=float(log.clean.mean()))


METHODS: dict[str, Callable[[LearningLog], Kept | None]] = {
    "ours: posterior (default)": ours,
    "ours: posterior, all epochs": lambda log: ours(log, epochs=slice(0, log.num_epochs)),
    "ours: posterior, labels given": lambda log: ours(log, labels=labels(log)),
    "ours: posterior, per class": lambda log: ours(log, labels=labels(log), per_class=True),
    "ours: scale": lambda log: ours(log, rule="scale"),
    "ours: release": lambda log: ours(log, rule="release"),
    "ours: quantile, rate known": known_rate,
    "Gaussian mixture, last loss": lambda log: gaussian_mixture(log.loss[:, -1], True),
    "Gaussian mixture, mean loss": lambda log: gaussian_mixture(log.loss.mean(axis=1), True),
    "AUM + Gaussian mixture": lambda log: gaussian_mixture(log.margin.mean(axis=1), False),
    "Beta mixture": beta_mixture,
    "forgetting counts": forgetting,
    "confident learning (cleanlab)": confident_learning,
}

#: Those that recordings with planted labels are compared on.
WITHOUT_TRUTH = (
    "ours: posterior (default)",
    "ours: posterior, labels given",
    "Gaussian mixture, last loss",
    "Gaussian mixture, mean loss",
    "AUM + Gaussian mixture",
    "Beta mixture",
    "forgetting counts",
)


def compare(paths: list[Path]) -> list[dict[str, Any]]:
    rows = []
    for path in paths:
        log = read_learning_log(path)
        if log.clean is None or log.loss is None or log.margin is None:
            sys.exit(f"{path}: the comparison needs true_label, loss and margin")
        best = best_threshold((~log.memorized).sum(axis=1), log.clean)[1]
        for name, method in METHODS.items():
            start = time.perf_counter()
            result = method(log)
            seconds = time.perf_counter() - start
            if result is None:
                continue
            quality = evaluate_selection(result[0], log.clean, result[1])
            rows.append(
                {"log": path.stem, "noise": float(1 - log.clean.mean()), "method": name}
                | {"best": best, "seconds": seconds, "kept": float(result[0].mean())}
                | quality.as_dict()
            )
    return rows


def windows(paths: list[Path]) -> None:
    """Windows of at least 8 epochs, many lengths and starts: sane, or declared unsupported?"""
    counts = {"with": [0, 0, 0], "without": [0, 0, 0]}  # windows, supported, of these bad
    least = 2.0
    for path in paths:
        log = read_learning_log(path)
        status, epochs = log.status(), log.num_epochs
        own = counts["without" if log.clean.all() else "with"]
        worst, where = 2.0, "none"
        for length in sorted({8, 10, 12, 16, 20, 30, epochs}):
            for start in range(0, epochs - length + 1, max(1, (epochs - length) // 8)):
                selection = mild_ext.select_clean(status, epochs=slice(start, start + length))
                own[0] += 1
                if not selection.supported:
                    continue
                own[1] += 1
                if log.clean.all():
                    own[2] += selection.num_kept < selection.num_samples
                    continue
                quality = evaluate_selection(selection.mask.numpy(), log.clean)
                ratio = quality.macro_f1 / selection.best_threshold(log.clean)[1]
                own[2] += ratio < 0.9
                if ratio < worst:
                    worst, where = ratio, f"[{start}, {start + length}) {ratio:.3f}"
        least = min(least, worst)
        print(f"{path.stem:28s} worst supported window: {where}", flush=True)
    print(
        "with noise: {} windows, {} supported, {} of them below 0.9 of their best threshold".format(
            *counts["with"]
        ),
        f"(least {least:.3f})",
    )
    print(
        "without noise: {} windows, {} supported, {} of them drop samples".format(
            *counts["without"]
        )
    )


def partly_seen(paths: list[Path], shares: list[float], leave: bool) -> None:
    """The default rule where samples are left out of epochs at random, as by a sampler.

    ``shares``: of the epochs in which a sample is seen; of two, each sample has its own in between.
    ``leave``: these are the first ones, after which it is gone.
    """
    ratios, unsupported = [], 0
    for path in paths:
        log = read_learning_log(path)
        if log.clean.all():
            continue
        rng = np.random.default_rng(1)
        share = rng.uniform(min(shares), max(shares), size=(len(log.clean), 1))
        seen = rng.random(log.memorized.shape) < share
        if leave:
            seen = np.arange(log.num_epochs) < np.ceil(share * log.num_epochs)
        selection = mild_ext.select_clean(replace(log, seen=seen).status())
        wrong, total = (seen & ~log.memorized).sum(axis=1), seen.sum(axis=1)
        metric = 2 * wrong - total + log.num_epochs
        wrong_share = np.rint(2 * log.num_epochs * wrong / np.maximum(total, 1)).astype(int)
        best = max(best_threshold(m, log.clean)[1] for m in (metric, wrong_share))
        quality = evaluate_selection(selection.mask.numpy(), log.clean)
        ratios.append(quality.macro_f1 / best)
        unsupported += not selection.supported
    ratio = np.array(ratios)
    print(
        f"each sample seen in {'the first ' * leave}{' to '.join(f'{s:.1%}' for s in shares)} of the "
        f"epochs: {len(ratio)} logs with noise, macro-F1 {ratio.mean():.3f} of the best threshold on "
        f"the metric or on the misclassified share, {(ratio < 0.97).sum()} below 0.97, {unsupported} not supported"
    )


def noise_rates(paths: list[Path]) -> None:
    """The default rule's estimate of the noise rate against the rate itself."""
    errors, covered = [], []
    for path in paths:
        log = read_learning_log(path)
        rate = mild_ext.select_clean(log.status()).noise_rate
        true = 1.0 - log.clean.mean()
        if rate is not None and true > 0:
            errors.append(rate.rate - true)
            covered.append(rate.low <= true <= rate.high)
    if errors:
        print(
            f"\nNoise rate, {len(errors)} logs with noise: mean error {np.mean(errors):+.3f}, mean "
            f"absolute error {np.abs(errors).mean():.3f}; within low to high: {np.mean(covered):.0%}"
        )


#: Every constant of the default rule: where it stands, its name, and for a pair which of the two.
CONSTANTS: tuple[tuple[Any, str, int | None], ...] = (
    (course, "PARTS", None),
    (course, "MIN_WINDOW", None),
    (course, "CLEAR_BIMODALITY", None),
    (course, "MUCH_LESS", None),
    (course, "SETTLED", None),
    (support, "MIN_GAIN", None),
    (support, "BLENDED", None),
    (support, "SMALL_SHARE", None),
    (support, "NOISY_SHAPES", 0),
    (support, "NOISY_SHAPES", 1),
    (support, "SINGLE_SHAPE", None),
    (follow_up, "MIN_SEEN", None),
    (noise_rate, "Z", None),
)


def constant(module: Any, name: str, part: int | None) -> float:
    value = getattr(module, name)
    return float(value if part is None else value[part])


def set_constant(module: Any, name: str, part: int | None, value: float) -> None:
    old = getattr(module, name)
    if part is not None:
        new = (value, old[1]) if part == 0 else (old[0], value)
    else:
        new = max(1, round(value)) if isinstance(old, int) else value
    for user in (module, rules):  # rules.py imports one by name
        if hasattr(user, name):
            setattr(user, name, new)


class Figures:
    """What the default rule reaches on some logs."""

    def __init__(self, logs: list[tuple[Any, np.ndarray, float]]) -> None:
        shares, kept, held = [], [], []
        for status, clean, best in logs:
            selection = mild_ext.select_clean(status)
            if clean.all():
                kept.append(selection.num_kept / selection.num_samples)
                continue
            shares.append(evaluate_selection(selection.mask.numpy(), clean).macro_f1 / best)
            rate = selection.noise_rate
            held.append(rate is not None and rate.low <= 1 - clean.mean() <= rate.high)
        self.shares = np.array(shares)
        self.kept = np.array(kept or [np.nan])
        self.held = np.mean(held)

    def __str__(self) -> str:
        return (
            f"{self.shares.mean():.4f} | {self.shares.min():.3f} | {(self.shares < 0.97).sum()} | "
            f"{self.kept.mean():.3f} | {self.held:.0%}"
        )


def sensitivity(paths: list[Path], draws: int = 20, by: float = 0.2) -> None:
    """Each constant moved by a fifth, whole numbers by one at least; then all of them at random.

    At random none moves by more than a fifth, so a whole number below 5 stays.
    """
    logs = []
    for path in paths:
        log = read_learning_log(path)
        best = best_threshold((~log.memorized).sum(axis=1), log.clean)[1]
        logs.append((log.status(), log.clean, best))
    start = [constant(*where) for where in CONSTANTS]
    print(
        f"{len(logs)} logs: share of the best threshold | least | below 0.97 | kept without noise | rate held"
    )
    usual = Figures(logs)
    print(f"| as it is | | {usual} |", flush=True)
    for where, value in zip(CONSTANTS, start, strict=True):
        whole = isinstance(getattr(where[0], where[1]), int)
        for sign in (-1, 1):
            moved = value + sign * max(by * value, 1.0) if whole else value * (1 + sign * by)
            set_constant(*where, moved)
            shown = f"{round(moved) if whole else moved:g}"
            print(f"| `{where[1]}` {value:g} | {shown} | {Figures(logs)} |", flush=True)
        set_constant(*where, value)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        for where, value in zip(CONSTANTS, start, strict=True):
            move = value * rng.uniform(-by, by)
            whole = isinstance(getattr(where[0], where[1]), int)
            set_constant(*where, value + (np.trunc(move) if whole else move))
        found.append(Figures(logs))
    for where, value in zip(CONSTANTS, start, strict=True):
        set_constant(*where, value)
    means = np.array([f.shares.mean() for f in found])
    print(
        f"all at random within {by:.0%}, {draws} draws: mean {means.mean():.4f} ({means.min():.4f} to "
        f"{means.max():.4f}), furthest from as it is {np.abs(means - usual.shares.mean()).max():.4f}; below 0.97: "
        f"{min((f.shares < 0.97).sum() for f in found)} to {max((f.shares < 0.97).sum() for f in found)}; "
        f"kept {np.mean([f.kept.mean() for f in found]):.3f}"
    )


def show(rows: list[dict[str, Any]]) -> None:
    numbers = {name: f"({number})" for number, name in enumerate(METHODS, 1)}
    print(f"{'macro-F1 on log':26s} noise  best   " + "".join(f"{n:>7s}" for n in numbers.values()))
    for log in dict.fromkeys(row["log"] for row in rows):
        own = {row["method"]: row for row in rows if row["log"] == log}
        any_row = next(iter(own.values()))
        cells = [f"{own[m]['macro_f1']:7.3f}" if m in own else 7 * " " for m in METHODS]
        print(f"{log:26s} {any_row['noise']:5.2f} {any_row['best']:5.3f}  ", "".join(cells))
    noisy = [row for row in rows if row["noise"] > 0]
    print("\nMeans over the logs with noise (over a method's own logs where it lacks some):")
    print(
        f"{'method':35s}  logs  macro-F1  of best  < 0.97  precision  recall  F1     AUROC      ms"
    )
    for name in METHODS:
        own = [row for row in noisy if row["method"] == name]
        if not own:
            continue
        ratio = np.array([row["macro_f1"] / row["best"] for row in own])
        keys = ("macro_f1", "precision", "recall", "f1", "auroc")
        mean = {key: np.mean([row[key] for row in own]) for key in keys}
        print(
            f"{numbers[name]:>4s} {name:30s} {len(own):5d}  {mean['macro_f1']:8.3f}  {ratio.mean():7.3f}  "
            f"{(ratio < 0.97).sum():6d}  {mean['precision']:9.3f}  {mean['recall']:6.3f}  "
            f"{mean['f1']:.3f}  {mean['auroc']:.3f}  "
            f"{1e3 * np.median([row['seconds'] for row in own]):6.1f}"
        )
    if any(row["noise"] == 0 for row in rows):
        print("\nShare kept of the logs without noise: mean (least)")
        for name in METHODS:
            own = [row["kept"] for row in rows if row["method"] == name and row["noise"] == 0]
            if own:
                print(f"{name:30s} {np.mean(own):.3f} ({min(own):.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", nargs="+", type=Path, help="learning logs (npz)")
    parser.add_argument("--windows", action="store_true", help="try windows of epochs instead")
    parser.add_argument(
        "--seen",
        type=lambda text: [float(share) for share in text.split(",")],
        metavar="S",
        help="share of the epochs in which each sample is seen; as in 0.2,1: its own in between",
    )
    parser.add_argument(
        "--leave", action="store_true", help="with --seen: in the first epochs, not in random ones"
    )
    parser.add_argument(
        "--planted", action="store_true", help="recordings with planted labels: the measured rule"
    )
    parser.add_argument(
        "--sensitivity",
        action="store_true",
        help="move every constant of the default rule by 20 %%",
    )
    parser.add_argument("--csv", type=Path, help="also write every figure here")
    arguments = parser.parse_args()
    if arguments.planted:
        import planted_quality

        if arguments.sensitivity:
            sys.exit(
                "with planted labels: python benchmarks/planted_constants.py RECORDING.npz ..."
            )
        planted_quality.report(arguments.logs, {name: METHODS[name] for name in WITHOUT_TRUTH})
        return
    if arguments.windows:
        windows(arguments.logs)
        return
    if arguments.sensitivity:
        sensitivity(arguments.logs)
        return
    if arguments.seen is not None:
        partly_seen(arguments.logs, arguments.seen, arguments.leave)
        return
    rows = compare(arguments.logs)
    show(rows)
    noise_rates(arguments.logs)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
