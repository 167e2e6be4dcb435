"""The training methods side by side: same data, noise, seeds and recipe.

Every method makes as many optimizer steps: those of the recipe's ``first_epochs`` and ``final_epochs`` over all
samples, or, where MILD's rounds are among the methods, of these and their final training together. The
semi-supervised stage comes on top. Accuracy is that of the last epoch.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from mild_ext.data.sets import LabeledData
from mild_ext.files import write_text
from mild_ext.selection.quality import evaluate_selection
from mild_ext.training.context import Record, RunContext
from mild_ext.training.experiment import (
    Row,
    RunSettings,
    cost,
    find_wrong_labels,
    go_on_unlabeled,
    prepare_data,
    train_method,
)
from mild_ext.training.loop import accuracy, steps_per_epoch
from mild_ext.training.methods import METHODS, Method

RESULTS = "results.json"


def compare(
    settings: RunSettings,
    noises: list[str],
    seeds: list[int],
    methods: list[str],
    out: Path,
    context: RunContext,
    *,
    on_row: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Train every method at every noise and seed; finished trainings in ``out`` are not repeated.

    Args:
        settings: of all trainings, save noise and seed.
        noises, seeds: the conditions.
        methods: keys of `METHODS`.
        out: folder of the results, and of a folder of checkpoints for each training.
        context: device, time between checkpoints, and progress of all trainings; seed, folder and
            fingerprint are each training's own.
        on_row: called with each row as its training is done.

    Returns:
        One row per noise, seed and method: ``test_accuracy`` in [0, 1], ``test_samples``, ``epochs``, ``steps``,
        ``seconds``, and the quality of the kept set for the methods that have one.
    """
    path = out / RESULTS
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    done = {(row["noise"], row["seed"], row["method"]): row for row in rows}
    # Rounds end when they find nothing more: the others take as many steps as they did.
    ordered = sorted(methods, key=lambda key: METHODS[key].finds != "mild-rounds")
    for noise, seed in itertools.product(noises, seeds):
        run = replace(settings, noise=noise, seed=seed)
        data, _ = prepare_data(run)
        for key in ordered:
            if (noise, seed, key) in done:
                continue
            method = METHODS[key]
            folder = out / "checkpoints" / _folder_name(run, method)
            folder.mkdir(parents=True, exist_ok=True)
            own = replace(context, seed=seed, folder=folder, fingerprint=run.fingerprint())
            steps = done.get((noise, seed, "mild-rounds"), {}).get("steps")
            row = {"noise": noise, "seed": seed, "method": key}
            row |= _train(method, data, run, own, steps)
            rows.append(row)
            done[noise, seed, key] = row
            write_text(path, json.dumps({"rows": rows}, indent=2) + "\n")
            on_row(row)
    asked = itertools.product(noises, seeds, methods)
    return [done[key] for key in asked]


def _folder_name(run: RunSettings, method: Method) -> str:
    key = method.finds or method.key  # the same rounds, whatever follows
    return f"{run.noise}-{run.seed}-{key}".replace(":", "-").replace("/", "-")


def _train(
    method: Method, data: LabeledData, run: RunSettings, context: RunContext, steps: int | None
) -> Row:
    """One training's row; ``steps``: those to be matched, None where the recipe alone says how many."""
    recipe = run.recipe
    epochs = recipe.first_epochs + recipe.final_epochs
    if steps is not None:
        epochs = round(steps / steps_per_epoch(len(data), recipe))
    model: nn.Module | None
    kept: Tensor | None
    if method.finds is not None:
        model, kept, history = _find(method, data, run, context, epochs)
    else:
        trained = train_method(method, data, recipe, context, epochs=epochs, stage=method.key)
        model, kept, history = trained.model, trained.kept, list(trained.history)
    row: Row = {"test_accuracy": None} | cost(history)
    if model is None:
        return row
    assert data.test is not None
    options = {"device": context.device, "workers": recipe.workers}
    row |= {
        "test_accuracy": accuracy(model, data.test, **options),
        "test_samples": len(data.test),  # type: ignore[arg-type]
    }
    if kept is not None and data.true_labels is not None:
        row |= evaluate_selection(kept, data.labels == data.true_labels).record()
    return row


def _find(
    method: Method, data: LabeledData, run: RunSettings, context: RunContext, epochs: int
) -> tuple[nn.Module, Tensor, list[Record]]:
    """The model, the kept samples, and the records of all epochs; ``epochs``: in all, of a single training."""
    assert method.finds is not None
    recipe = run.recipe.override({"method": method.finds})
    if method.finds == "mild":
        first = round(epochs * recipe.first_epochs / (recipe.first_epochs + recipe.final_epochs))
        recipe = recipe.override({"first_epochs": first, "final_epochs": epochs - first})
    result = find_wrong_labels(data, recipe, context, report=False)
    assert result.model is not None
    history = [record for record in result.history if record["type"] == "epoch"]
    if not method.semi_supervised:
        return result.model, result.kept, history
    # With the recipe's method, or MixMatch where it names none.
    ssl = "mixmatch" if recipe.ssl == "none" else recipe.ssl
    semi = go_on_unlabeled(data, recipe, result, context, method=ssl)
    return semi.model, result.kept, history + semi.history
