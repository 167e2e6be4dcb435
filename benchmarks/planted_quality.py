"""What planted labels are worth: the measured selection on recordings whose true labels are known.

`selection_quality.py --planted` runs this, on recordings as planted_recordings.py describes them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from planted_recordings import Recording, best_cut, read
from sklearn.metrics import average_precision_score

import mild_ext
from mild_ext.recording.learning_log import LearningLog
from mild_ext.selection.noise_rate import Estimate, NoiseRate
from mild_ext.selection.quality import evaluate_selection

#: A run that tells nothing is taken to say that nothing is wrong, with an interval that holds anything.
UNKNOWN = NoiseRate(0.0, 0.0, 1.0, plainly_wrong=Estimate(0.0, 0.0, 1.0))
Method = Callable[[LearningLog], "tuple[np.ndarray, np.ndarray] | None"]


# ---------------------------------------------------------------------------------- one recording


def judged(recording: Recording, status: mild_ext.LearningStatus | None = None) -> dict[str, Any]:
    """What the measured selection says of a recording, beside the truth."""
    selection = mild_ext.select_clean(status or recording.status(), planted=recording.planted)
    others, clean = recording.others, recording.clean
    kept, probability = selection.mask.numpy()[others], selection.clean_probability.numpy()[others]
    ranking = selection.suspicion.numpy()[others]
    rate = selection.noise_rate or UNKNOWN
    plain = rate.plainly_wrong
    assert plain is not None
    recall, precision = selection.estimated_recall, selection.estimated_precision
    row = scored(recording, kept, ranking)
    cut = np.sort(ranking)[::-1][min(round(rate.rate * len(ranking)), len(ranking) - 1)]
    row["by_rate"] = scored(recording, ranking <= cut, ranking)  # the share measured, from the top
    bins = np.minimum((probability * 10).astype(int), 9)
    row |= {
        "name": recording.name,
        "domain": recording.domain,
        "noise": recording.noise,
        "truth": 1 - clean.mean(),
        "rate": rate.rate,
        "held": rate.low - 1e-9 <= 1 - clean.mean() <= rate.high + 1e-9,
        "width": rate.high - rate.low,
        "plain": plain.value,
        "told": selection.supported,
        "recall": None if clean.all() or recall is None else ((~kept)[~clean].mean(), recall),
        "precision": None if precision is None else ((~clean)[~kept].mean(), precision),
        "brier": float(((probability - clean) ** 2).mean()),
        "bins": [np.bincount(bins, w, minlength=10) for w in (None, probability, clean)],
        "count_ap": None
        if clean.all()
        else average_precision_score(~clean, (~recording.memorized[others]).sum(axis=1)),
    }
    return row


def scored(recording: Recording, kept: np.ndarray, ranking: np.ndarray) -> dict[str, Any]:
    """Share of the best threshold or, where nothing is wrong, share kept; and what the ranking is worth."""
    clean = recording.clean
    if clean.all():
        return {"kept": float(kept.mean()), "share": None, "ap": None, "reachable": None}
    return {
        "kept": None,
        "share": evaluate_selection(kept, clean).macro_f1 / recording.best,
        "ap": average_precision_score(~clean, ranking),
        "reachable": best_cut(ranking, clean) / recording.best,
    }


def votes_as_probabilities(recording: Recording, stop: int) -> Method:
    """Confident learning (cleanlab's default filter) on the shares of the votes of the first epochs."""

    def method(_: LearningLog) -> tuple[np.ndarray, np.ndarray]:
        from cleanlab.filter import find_label_issues

        votes = np.full((len(recording.trained), recording.classes), 1e-3)
        for column in recording.arrays["predicted"].T[:stop]:
            votes[np.arange(len(votes)), column] += 1
        votes /= votes.sum(axis=1, keepdims=True)
        issues = find_label_issues(recording.trained, votes, n_jobs=1)
        return ~issues, votes[np.arange(len(votes)), recording.trained]

    return method


def compared(recording: Recording, methods: dict[str, Method]) -> dict[str, dict[str, Any]]:
    """What other methods reach on the recording; their scores are higher for right labels."""
    log, epochs = recording.log, recording.memorized.shape[1]
    if log is None:
        return {}
    methods = methods | {
        "confident learning, votes of all epochs": votes_as_probabilities(recording, epochs),
        "confident learning, votes of the first half": votes_as_probabilities(
            recording, epochs // 2
        ),
    }
    found = {}
    for name, method in methods.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = method(log)
        if result is not None:
            kept, score = (values[recording.others] for values in result)
            found[name] = scored(recording, kept, -score.astype(np.float64))
    return found


# ------------------------------------------------------------------------------------- all of them


def mean(values: Iterator[Any] | list[Any]) -> float:
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found else float("nan")


def line(label: str, rows: list[dict[str, Any]]) -> str:
    shares = np.array([row["share"] for row in rows if row["share"] is not None])
    kept = np.array([row["kept"] for row in rows if row["kept"] is not None])
    symmetric = [row for row in rows if row["noise"].startswith("sym")]
    pairs = [row["recall"] for row in symmetric if row["recall"] is not None]
    precise = [row["precision"] for row in symmetric if row["precision"] is not None]
    plain_clean = [row["plain"] for row in rows if row["noise"] == "none"]

    def text(values: Any, how: Callable[..., Any] = np.mean) -> str:
        return f"{how(values):.3f}" if len(values) else ""

    cells = [
        f"{len(rows)}",
        f"{text(shares)}",
        text(shares, np.min),
        f"{(shares < 0.97).sum()} of {len(shares)}",
        text(kept),
        text(kept, np.min),
        text([abs(row["rate"] - row["truth"]) for row in rows]),
        f"{np.mean([row['held'] for row in rows]):.0%}",
        text([abs(row["plain"] - row["truth"]) for row in symmetric]),
        text(plain_clean, np.max),
        text([abs(true - found.value) for true, found in pairs]),
        text([abs(true - found.value) for true, found in precise]),
        text([row["ap"] for row in rows if row["ap"] is not None]),
        text([row["count_ap"] for row in rows if row["ap"] is not None]),
        text([row["brier"] for row in rows]),
    ]
    return f"| {label} | " + " | ".join(cells) + " |"


HEAD = (
    "| recordings | number | of the best threshold | least | below 0.97 | kept where nothing is wrong | least | "
    "error of the rate | its interval holds | plainly wrong: error, symmetric | largest, nothing wrong | "
    "recall: error, symmetric | precision: error, symmetric | average precision | of the count | Brier |"
)


def report(paths: list[Path], methods: dict[str, Method]) -> None:
    """The tables: by domain, by kind of noise, calibration, and beside other methods."""
    rows, others = [], []
    for path in paths:
        recording = read(path)
        row = judged(recording)
        rows.append(row)
        others.append(compared(recording, methods))
        shown = row["share"] if row["share"] is not None else row["kept"]
        print(
            f"{row['name']:30s} {row['truth']:.3f}: rate {row['rate']:.3f}, "
            f"{'kept' if row['share'] is None else 'of the best'} {shown:.3f}",
            flush=True,
        )
    print(f"\n{HEAD}\n" + "| --- |" * 1 + " --- |" * 15)
    for domain in dict.fromkeys(row["domain"] for row in rows):
        print(line(domain, [row for row in rows if row["domain"] == domain]))
    kinds = dict.fromkeys(row["noise"].rstrip("0123456789") for row in rows)
    for kind in kinds:
        print(line(kind, [row for row in rows if row["noise"].rstrip("0123456789") == kind]))
    print(line("all", rows))
    print(line("all but hard", [row for row in rows if not row["noise"].startswith("hard")]))
    print(f"said to tell nothing: {sum(not row['told'] for row in rows)}")
    calibration(rows)
    side_by_side(rows, others)


def calibration(rows: list[dict[str, Any]]) -> None:
    number, probability, right = (sum(row["bins"][i] for row in rows) for i in range(3))
    print("\n| clean_probability | samples | mean | right |\n| --- | ---: | ---: | ---: |")
    for k in range(10):
        if number[k]:
            print(
                f"| {k / 10:.1f} to {(k + 1) / 10:.1f} | {int(number[k]):,} | {probability[k] / number[k]:.3f} | "
                f"{right[k] / number[k]:.3f} |"
            )
    for name in ("recall", "precision"):
        for kind in ("sym", ""):
            pairs = [
                row[name] for row in rows if row[name] is not None and row["noise"].startswith(kind)
            ]
            inside = [found.low - 1e-9 <= true <= found.high + 1e-9 for true, found in pairs]
            error = [abs(true - found.value) for true, found in pairs]
            print(
                f"estimated_{name}, {'symmetric' if kind else 'all'}: {len(pairs)} recordings, error "
                f"{np.mean(error):.3f}, interval holds {np.mean(inside):.0%}"
            )
    by_rate = [row["by_rate"] for row in rows]
    print(
        f"dropping the measured share instead of what is below 0.5: {mean([row['share'] for row in by_rate]):.3f} "
        f"of the best threshold, kept where nothing is wrong {mean([row['kept'] for row in by_rate]):.3f}"
    )
    print(f"interval of the rate: mean width {mean([row['width'] for row in rows]):.3f}")


def side_by_side(rows: list[dict[str, Any]], others: list[dict[str, dict[str, Any]]]) -> None:
    """This and other methods on the recordings that all of them read."""
    pairs = [(row, other) for row, other in zip(rows, others, strict=True) if other]
    if not pairs:
        return
    print(
        f"\n{len(pairs)} recordings with loss and margin. Wins: recordings where it is ahead of the measured selection "
        "by more than 0.005\n| method | of the best threshold | least | below 0.97 | with its best threshold | average "
        "precision | kept where nothing is wrong | least | wins |\n| --- |" + " ---: |" * 8
    )
    for name in ("planted labels", *pairs[0][1]):
        own = [row if name == "planted labels" else other.get(name) for row, other in pairs]
        known = [(mine, row) for mine, (row, _) in zip(own, pairs, strict=True) if mine is not None]
        shares = np.array([mine["share"] for mine, _ in known if mine["share"] is not None])
        kept = [mine["kept"] for mine, _ in known if mine["kept"] is not None]
        wins = [
            row["name"]
            for mine, row in known
            if mine["share"] is not None and mine["share"] > row["share"] + 0.005
        ]
        print(
            f"| {name} | {shares.mean():.3f} | {shares.min():.3f} | {(shares < 0.97).sum()} of {len(shares)} | "
            f"{mean([mine['reachable'] for mine, _ in known]):.3f} | {mean([mine['ap'] for mine, _ in known]):.3f} | "
            f"{mean(kept):.3f} | {min(kept, default=float('nan')):.3f} | {len(wins)} |"
        )
        if wins and name != "planted labels":
            print(f"<!-- ahead on: {', '.join(wins)} -->")
