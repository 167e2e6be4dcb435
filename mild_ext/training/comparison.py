"""The training methods side by side: same data, noise, seeds and recipe.

Every method makes as many optimizer steps: those of the recipe's ``first_epochs`` and ``final_epochs`` over all
samples, or, where MILD's rounds are among the methods, of these and their final training together. The
semi-supervised stage comes on top. Accuracy is that of the last epoch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from mild_ext.data.checksums import labels_checksum
from mild_ext.data.sets import LabeledData
from mild_ext.files import writing
from mild_ext.sealed import write_sealed_json
from mild_ext.selection.quality import evaluate_selection
from mild_ext.training.comparison_folder import (
    RESULTS,
    RIGHT,
    file_name,
    pack_right,
    read_results,
)
from mild_ext.training.context import Record, RunContext
from mild_ext.training.experiment import (
    Row,
    RunSettings,
    add_noise,
    find_wrong_labels,
    go_on_unlabeled,
    train_method,
)
from mild_ext.training.loop import predict, steps_per_epoch
from mild_ext.training.methods import METHODS, Method
from mild_ext.training.run_models import cost

#: The method that others make as many steps as.
ROUNDS = "mild-rounds"


@dataclass(frozen=True)
class Condition:
    """A noise and a seed: what all methods are trained on alike.

    Attributes:
        settings: of the trainings.
        data: with the noise in its given labels.
        noise_rate: share of the given labels that are wrong, in [0, 1]; None where the true ones are not known.
        labels_checksum: of the given labels.
    """

    settings: RunSettings
    data: LabeledData
    noise_rate: float | None
    labels_checksum: str

    @property
    def key(self) -> tuple[str, int]:
        return self.settings.noise, self.settings.seed


def make_conditions(
    settings: RunSettings, data: LabeledData, noises: list[str], seeds: list[int]
) -> list[Condition]:
    """The conditions of a comparison, in order; ``data``: without noise.

    Raises:
        ValueError: a noise that does not fit the data.
    """
    conditions = []
    for noise in noises:
        for seed in seeds:
            run = replace(settings, noise=noise, seed=seed)
            noisy, _ = add_noise(data, run)
            rate = None
            if noisy.true_labels is not None:
                rate = float((noisy.labels != noisy.true_labels).double().mean())
            conditions.append(Condition(run, noisy, rate, labels_checksum(noisy.labels)))
    return conditions


def compare(
    conditions: list[Condition],
    methods: list[str],
    out: Path,
    context: RunContext,
    *,
    checksums: Mapping[str, str | None],
    on_start: Callable[[Row], None] = lambda row: None,
    on_row: Callable[[Row], None] = lambda row: None,
    on_again: Callable[[Row, int], None] = lambda row, steps: None,
) -> list[Row]:
    """Train every method under every condition; finished trainings in ``out`` are not repeated.

    Args:
        conditions: see `make_conditions`.
        methods: keys of `METHODS`.
        out: folder of the results, and of a folder of checkpoints for each training.
        context: device, time between checkpoints, and progress of all trainings; seed, folder and
            fingerprint are each training's own.
        checksums: of the data; their trainings' checkpoints are gone on from with no others.
        on_start: called with the noise, seed and method of each training before it.
        on_row: called with each row as its training is done.
        on_again: called with a row whose training did not make the steps it should make now, and these steps,
            before it is trained anew.

    Returns:
        One row per noise, seed and method: ``noise_rate`` of the given labels and their checksum, ``test_accuracy``
        in [0, 1], ``test_samples``, ``epochs``, ``steps``, those that were asked for (``asked_steps``, None for
        the methods that set them), ``seconds``, the quality of the kept set for the methods that have one, and which
        test samples the model is right about.

    Raises:
        ValueError: steps cannot be matched; see `require_rounds`.
    """
    path = out / RESULTS
    rows = read_results(path)
    matched = require_rounds(rows, conditions, methods)
    for condition in conditions:
        for key in in_order(methods):
            method, found = METHODS[key], _row_of(rows, condition, key)
            asked = _asked_steps(method, condition, rows, matched=matched)
            if found is not None:
                if found.get("asked_steps") == asked:
                    continue
                assert asked is not None
                on_again(found, asked)
                rows.remove(found)
            noise, seed = condition.key
            row: Row = {"noise": noise, "seed": seed, "method": key}
            on_start(row)
            row |= {
                "noise_rate": condition.noise_rate,
                "labels_checksum": condition.labels_checksum,
            }
            row |= {"asked_steps": asked}
            row |= _train(method, condition, asked, _context_of(condition, context, checksums), out)
            rows.append(row)
            write_sealed_json(path, {"rows": rows})
            on_row(row)
    found_rows = [_row_of(rows, condition, key) for condition in conditions for key in methods]
    return [row for row in found_rows if row is not None]


def _row_of(rows: list[Row], condition: Condition, key: str) -> Row | None:
    wanted = (*condition.key, key)
    return next((r for r in rows if (r["noise"], r["seed"], r["method"]) == wanted), None)


def require_rounds(rows: list[Row], conditions: list[Condition], methods: list[str]) -> bool:
    """Whether all methods make as many steps as MILD's rounds: these are among the methods, or were before.

    Raises:
        ValueError: they were under some of the conditions, and are not asked for under the others.
    """
    if ROUNDS in methods:
        return True
    without = [c.key for c in conditions if _row_of(rows, c, ROUNDS) is None]
    if without and len(without) < len(conditions):
        noise, seed = without[0]
        raise ValueError(
            f"this comparison gives every method as many steps as {ROUNDS}, which was not trained for noise {noise}, "
            f"seed {seed}: add {ROUNDS} to --methods, or use another --out"
        )
    return not without


def remaining(conditions: list[Condition], methods: list[str], rows: list[Row]) -> list[Row]:
    """The noise, seed and method of each training that is to be done, or done again, in order."""
    matched = require_rounds(rows, conditions, methods)
    found = []
    for condition in conditions:
        noise, seed = condition.key
        for key in in_order(methods):
            row = _row_of(rows, condition, key)
            asked = _asked_steps(METHODS[key], condition, rows, matched=matched)
            # How many steps the others make is known when the rounds have ended.
            open_yet = matched and _row_of(rows, condition, ROUNDS) is None
            if row is None or open_yet or row.get("asked_steps") != asked:
                found.append({"noise": noise, "seed": seed, "method": key})
    return found


def _asked_steps(
    method: Method, condition: Condition, rows: list[Row], *, matched: bool
) -> int | None:
    """Optimizer steps that a method shall make; None for the rounds, which make as many as they need."""
    if method.finds == ROUNDS:
        return None
    recipe = condition.settings.recipe
    each = steps_per_epoch(len(condition.data), recipe)
    epochs = recipe.first_epochs + recipe.final_epochs
    rounds = _row_of(rows, condition, ROUNDS) if matched else None
    if rounds is not None and rounds["steps"] is not None:
        epochs = round(rounds["steps"] / each)
    return epochs * each


def in_order(methods: list[str]) -> list[str]:
    """The methods as they are trained: rounds end when they find nothing more, and the others take as many steps."""
    return sorted(methods, key=lambda key: METHODS[key].finds != ROUNDS)


def _context_of(
    condition: Condition, context: RunContext, checksums: Mapping[str, str | None]
) -> RunContext:
    marks = [condition.settings.fingerprint(), condition.labels_checksum, dict(checksums)]
    return replace(context, seed=condition.settings.seed, fingerprint=json.dumps(marks))


def _train(
    method: Method, condition: Condition, asked: int | None, context: RunContext, out: Path
) -> Row:
    """What a row says of one training; ``asked``: the steps it shall make, None where it decides itself."""
    data, recipe = condition.data, condition.settings.recipe
    noise, seed = condition.key
    # The same rounds, whatever follows. Another number of steps is another training: its learning rates differ.
    name = f"{file_name(noise)}-{seed}-{method.finds or method.key}"
    folder = out / "checkpoints" / (name if asked is None else f"{name}-{asked}-steps")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    context = replace(context, folder=folder)
    epochs = recipe.first_epochs + recipe.final_epochs
    if asked is not None:
        epochs = asked // steps_per_epoch(len(data), recipe)
    model: nn.Module | None
    kept: Tensor | None
    if method.finds is not None:
        model, kept, history = _find(method, condition, context, epochs)
    else:
        trained = train_method(method, data, recipe, context, epochs=epochs, stage=method.key)
        model, kept, history = trained.model, trained.kept, list(trained.history)
    row: Row = {"test_accuracy": None} | cost(history)
    if model is None:
        return row
    assert data.test is not None
    logits, labels = predict(model, data.test, device=context.device, workers=recipe.workers)
    right = logits.argmax(1) == labels
    row |= {"test_accuracy": float(right.double().mean()), "test_samples": len(right)}
    if kept is not None and data.true_labels is not None:
        row |= evaluate_selection(kept, data.labels == data.true_labels).record()
    return row | {RIGHT: pack_right(right)}


def _find(
    method: Method, condition: Condition, context: RunContext, epochs: int
) -> tuple[nn.Module, Tensor, list[Record]]:
    """The model, the kept samples, and the records of all epochs; ``epochs``: in all, of a single training."""
    assert method.finds is not None
    data = condition.data
    recipe = condition.settings.recipe.override({"method": method.finds})
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
