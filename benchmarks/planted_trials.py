"""Planting in two settings that no recording covers: few samples, and labels planted by a matrix of errors.

    python benchmarks/planted_trials.py small [--only 150]
    python benchmarks/planted_trials.py transition [--only digits_nxt40]

*small*: digits, 150 to 490 samples; runs with other planted samples are pooled until 50 are planted, and the
selection without planted labels is of a run of its own. *transition*: a run planted evenly, then fresh weights
and other planted samples, drawn evenly, by the matrix that the first run found, or by its transpose; the first
two of these on what the first run keeps as well. Every line is one selection beside the truth.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from planted_quality import UNKNOWN, scored
from planted_recordings import Recording
from recorded_runs import Run, load, spoil, train
from torch import Tensor

import mild_ext

Planted = mild_ext.PlantedLabels
Row = dict[str, Any]
SIZES, NOISES, SEEDS = (150, 300, 490), ("clean", "sym20", "nxt20"), (910, 911, 912)
#: Pooled runs plant so many, in at most so many runs.
ENOUGH, MOST_RUNS = 50, 5
SETTINGS = (
    ("digits", "digits:41:1700", "mlp128"),
    ("mnist", "mnist:42:2500", "mlp256"),
    ("synth", "classes5:44:3000", "one256"),
)
KINDS = ("nxt40", "asy40", "pair20", "sym20", "clean")


def recorded(
    run: Run, x: Tensor, given: np.ndarray, true: np.ndarray, planted: Planted
) -> Recording:
    """One training run on planted labels."""
    _, arrays = train(run, x, planted.labels, run.epochs, torch.arange(len(true)))
    kept = {name: arrays[name] for name in ("predicted", "margin", "loss")}
    labels = {"given_label": given, "true_label": true, "trained_label": planted.labels.numpy()}
    more = {"planted": planted.index.numpy(), "num_classes": np.int64(true.max() + 1)}
    return Recording(run.name, kept | labels | more)


def row(of: Recording, selection: mild_ext.Selection, truth: float, who: np.ndarray) -> Row:
    """The figures of a selection among the samples ``who``, which are those that ``of`` was trained on as given."""
    rate = selection.noise_rate or UNKNOWN
    dropped = ~selection.mask.numpy()[who]
    result = scored(of, ~dropped, selection.suspicion.numpy()[who])
    recall, found = selection.estimated_recall, dropped[~of.clean].mean() if truth else None
    return result | {
        "error": abs(rate.rate - truth),
        "held": rate.low - 1e-9 <= truth <= rate.high + 1e-9,
        "recall": None if recall is None or found is None else abs(recall.value - found),
    }


def small(only: str) -> Iterator[tuple[str, Row]]:
    for size in SIZES:
        for noise in NOISES:
            for seed in SEEDS:
                run = Run("digits", noise, str(size), seed, 60, f"digits:{seed}:{size}", "mlp128")
                if only not in run.name:
                    continue
                x, true = load(run.source, run.model, None)
                given = spoil(true, run, x)
                labels, everyone = torch.from_numpy(given), np.ones(size, dtype=bool)
                none = Planted(labels, *torch.zeros(2, 0, dtype=torch.int64))
                alone = recorded(replace(run, seed=seed + 99), x, given, true, none)
                assert alone.log is not None
                truth = float((given != true).mean())
                selection = mild_ext.select_clean(alone.log.status(), labels=labels)
                yield f"{size} without", row(alone, selection, truth, everyone)
                statuses: list[mild_ext.LearningStatus] = []
                planted: list[Planted] = []
                while sum(map(len, planted)) < ENOUGH and len(planted) < MOST_RUNS:
                    repeat = len(planted)
                    own = mild_ext.plant_labels(
                        labels, 0.05, num_classes=10, seed=seed, repeat=repeat
                    )
                    again = replace(run, seed=seed + 10 * repeat)
                    statuses.append(recorded(again, x, given, true, own).status())
                    planted.append(own)
                selection = mild_ext.select_clean(statuses, planted=planted)
                yield f"{size} planted", row(alone, selection, truth, everyone)


def planted_run(
    run: Run, data: tuple[Tensor, np.ndarray, np.ndarray], matrix: Tensor | None, seed: int
) -> tuple[mild_ext.Selection, Row]:
    """A run on labels planted by a matrix (None: evenly) in ``data``: features, given and true labels."""
    x, given, true = data
    planted = mild_ext.plant_labels(
        torch.from_numpy(given), 0.06, num_classes=int(true.max()) + 1, seed=seed, transition=matrix
    )
    own = recorded(run, x, given, true, planted)
    selection = mild_ext.select_clean(own.status(), planted=planted)
    return selection, row(own, selection, float(1 - own.clean.mean()), own.others)


def transition(only: str) -> Iterator[tuple[str, Row]]:
    for source, samples, model in SETTINGS:
        for noise in KINDS:
            run = Run(source, noise, "trial", 900, 30, samples, model, folds=False)
            if only not in run.name:
                continue
            x, true = load(samples, model, None)
            data = x, spoil(true, run, x), true
            kind = "even" if noise in ("sym20", "clean") else "systematic"
            first, figures = planted_run(run, data, None, 900)
            yield f"{kind}, first", figures
            later, matrix, kept = replace(run, seed=950), first.transition, first.mask
            trials = [("evenly", None), ("by the matrix", matrix)]
            if matrix is not None:
                trials.append(("by a wrong matrix", matrix.T.contiguous()))
            for how, by in trials:
                yield f"{kind}, all: {how}", planted_run(later, data, by, 901)[1]
            if kept.double().mean() < 0.97:
                part = x[kept], *(values[kept.numpy()] for values in data[1:])
                for how, by in trials[:2]:
                    yield f"{kind}, kept: {how}", planted_run(later, part, by, 901)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("small", "transition"))
    parser.add_argument("--only", default="", help="runs whose name contains this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    groups: dict[str, list[Row]] = {}
    trials = small if arguments.what == "small" else transition
    for name, figures in trials(arguments.only):
        groups.setdefault(name, []).append(figures)
        print(
            name,
            {
                key: None if value is None else round(float(value), 3)
                for key, value in figures.items()
            },
            flush=True,
        )
    names = ("error", "held", "recall", "share", "kept", "ap")
    print(f"\n| | runs | {' | '.join(names)} | least |\n| --- |" + " ---: |" * (len(names) + 2))
    for group, rows in groups.items():
        known = {name: [r[name] for r in rows if r[name] is not None] for name in names}
        cells = [f"{np.mean(known[name]):.3f}" if known[name] else "" for name in names]
        least = f"{min(known['share']):.3f}" if known["share"] else ""
        print(f"| {group} | {len(rows)} | {' | '.join(cells)} | {least} |")


if __name__ == "__main__":
    main()
