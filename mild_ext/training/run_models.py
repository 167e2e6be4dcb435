"""The models of a run side by side: what each cost, its accuracy, and whether it is ahead of plain training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mild_ext.data.sets import LabeledData
from mild_ext.training.chance import paired_difference, share_interval
from mild_ext.training.context import Record, RunContext
from mild_ext.training.experiment import Row, RunSettings, train_method
from mild_ext.training.loop import accuracy, predict
from mild_ext.training.methods import METHODS, Method
from mild_ext.training.recipe import Recipe
from mild_ext.training.run_result import RoundsResult
from mild_ext.training.ssl import METHODS as SSL_METHODS
from mild_ext.training.ssl import SemiSupervisedResult

#: Which test samples a model is right about, bool [N]; in its row until all are compared.
RIGHT = "right"


def compare_models(
    data: LabeledData,
    settings: RunSettings,
    result: RoundsResult,
    context: RunContext,
    *,
    semi: SemiSupervisedResult | None = None,
    train_ids: Tensor | None = None,
) -> list[Row]:
    """Accuracy on the test split of MILD's models, and of others of the same recipe, start and number of steps.

    Returns:
        One row a model, from worst to best as one expects them: plain, MILD, with the semi-supervised
        stage, bound. None without a test split.
    """
    if data.test is None:
        return []
    recipe = settings.recipe
    mild = METHODS[recipe.method]
    # Rounds are compared by their final trainings alone.
    own = [r for r in result.history if r["type"] == "epoch" and not _is_round(r)]
    samples = int(result.kept.sum()) if mild.key == "mild-rounds" else own[-1]["samples"]
    rows = [_row(mild, mild.run_title, samples, own, result.model, data, recipe, context)]
    if semi is not None:
        method = METHODS["mild-ssl"]
        title = method.run_title.format(ssl=SSL_METHODS[recipe.ssl].title)
        used = semi.history[-1]["samples"]
        rows.append(_row(method, title, used, semi.history, semi.model, data, recipe, context))
    if settings.compare and recipe.final_epochs:
        epochs = recipe.final_epochs + (recipe.first_epochs if mild.key == "mild" else 0)
        others = ["plain", *(["clean"] if data.true_labels is not None else [])]
        for method in (METHODS[key] for key in others):
            trained = train_method(
                method,
                data,
                recipe,
                context,
                epochs=epochs,
                stage=method.stage,
                checkpoint=f"{method.key}.safetensors",
                train_ids=train_ids,
            )
            history, model = trained.history, trained.model
            row = _row(
                method, method.run_title, len(trained.ids), history, model, data, recipe, context
            )
            rows.insert(0 if method.key == "plain" else len(rows), row)
        _against_plain(rows)
    for row in rows:
        row.pop(RIGHT, None)
    return rows


def _is_round(record: Record) -> bool:
    return str(record["stage"]).startswith("round ")


def _row(
    method: Method,
    title: str,
    samples: int,
    history: Sequence[Record],
    model: nn.Module | None,
    data: LabeledData,
    recipe: Recipe,
    context: RunContext,
) -> Row:
    """A model's line: what it cost, and its accuracy on the test set, and on further ones where there are some."""
    row: Row = {"method": method.key, "model": title, "samples": samples} | cost(history)
    row["test_accuracy"] = None
    if model is not None and data.test is not None:
        options: dict[str, Any] = {"device": context.device, "workers": recipe.workers}
        logits, labels = predict(model, data.test, **options)
        right = logits.argmax(1) == labels
        row[RIGHT] = right
        row["test_accuracy"] = float(right.double().mean())
        row["test_interval"] = share_interval(int(right.sum()), len(right))
        for name, dataset in data.more_tests.items():
            row[f"accuracy on {name}"] = accuracy(model, dataset, **options)
    return row


def cost(history: Sequence[Record]) -> Row:
    """Epochs, optimizer steps and seconds of the records of epochs; steps None where an old record has none."""
    steps = [record.get("steps") for record in history]
    return {
        "epochs": len(history),
        "steps": None if None in steps else sum(steps),
        "seconds": round(sum(record["seconds"] for record in history), 2),
    }


def _against_plain(rows: list[Row]) -> None:
    """How much better than plain training each model is, on the same test samples."""
    plain = rows[0].get(RIGHT)
    for row in rows[1:]:
        if plain is not None and RIGHT in row:
            row["against_plain"] = paired_difference(row[RIGHT], plain)
