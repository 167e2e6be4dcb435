"""What a run comes to: the content of ``summary.json``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mild_ext.data.noise import LabelNoise
from mild_ext.data.sets import LabeledData
from mild_ext.selection.quality import evaluate_selection
from mild_ext.training.context import RunContext
from mild_ext.training.experiment import Outcome, Row, RunSettings
from mild_ext.training.loop import accuracy
from mild_ext.training.methods import METHODS
from mild_ext.training.run_result import RoundsResult


def summarize(
    data: LabeledData,
    noise: LabelNoise | None,
    settings: RunSettings,
    done: Outcome,
    *,
    validation: float | None = None,
    train_ids: Tensor | None = None,
) -> dict[str, Any]:
    """The run in numbers; shares are in [0, 1], and None where undefined.

    Args:
        data, noise, settings: of the run.
        done: what its trainings came to.
        validation: see `validation_accuracy`.
        train_ids: int64 ids of the samples that were used; None for all.
    """
    result, models = done.result, done.models
    ids = torch.arange(len(data)) if train_ids is None else train_ids
    summary: dict[str, Any] = {
        "data": data.name,
        "noise": settings.noise,
        "true_noise_rate": None if noise is None else noise.rate,
        "seed": settings.seed,
        "rounds": len(result.rounds),
        "round_epochs": sum(r["epochs"] for r in result.rounds),
        "final_epochs": settings.recipe.final_epochs,
        "stop_reason": result.stop_reason,
        "samples": len(ids),
        "kept": int(result.kept.sum()),
        **measured(result),
        "models": models,
    }
    if data.true_labels is not None:
        right = data.labels == data.true_labels
        summary |= evaluate_selection(result.kept[ids], right[ids]).record()
    gap = gap_closed(models)
    if gap is not None:
        summary["gap_closed"] = gap
    if validation is not None:
        summary["validation_accuracy"] = validation
    if done.semi is not None:
        last = done.semi.history[-1]
        keys = ("title", "pseudo_rate", "pseudo_accuracy", "pseudo_classes")
        summary["ssl"] = {"method": settings.recipe.ssl} | {key: last[key] for key in keys}
    verdict = against_plain(models)
    if verdict is not None:
        summary["against_plain"] = verdict
    return summary


def summarize_finding(
    data: LabeledData, noise: LabelNoise | None, settings: RunSettings, result: RoundsResult
) -> dict[str, Any]:
    """The same of a run that only looks for wrong labels; all samples take part."""
    summary = {
        "data": data.name,
        "noise": settings.noise,
        "true_noise_rate": None if noise is None else noise.rate,
        "seed": settings.seed,
        "rounds": len(result.rounds),
        "round_epochs": sum(r["epochs"] for r in result.rounds),
        "final_epochs": 0,
        "stop_reason": result.stop_reason,
        "samples": len(data),
        "kept": int(result.kept.sum()),
        **measured(result),
        "models": [],
    }
    if data.true_labels is not None:
        summary |= evaluate_selection(result.kept, data.labels == data.true_labels).record()
    return summary


def measured(result: RoundsResult) -> dict[str, Any]:
    """What the first round's planted labels measured: the noise (rate, low, high), and how far to trust the list."""
    first, rate = result.rounds[0], result.noise_rate
    return {
        "noise_rate": None
        if rate is None
        else {"rate": rate.rate, "low": rate.low, "high": rate.high},
        "measured_noise": None if rate is None else rate.record(),
        "dropped": int((result.round_dropped >= 0).sum()),
        "planted": first["planted"],
        "estimated_recall": first["estimated_recall"],
        "estimated_precision": first["estimated_precision"],
        "doubt": first["doubt"] or first["planting_note"],
    }


def validation_accuracy(
    model: nn.Module,
    predicted: Tensor,
    data: LabeledData,
    settings: RunSettings,
    context: RunContext,
    *,
    validation_ids: Tensor | None,
) -> float | None:
    """Accuracy on what was held out, by its given labels; None where nothing was.

    Args:
        model: the final model.
        predicted: int64 ``[N]``, its labels for the training data.
        data, settings, context: of the run.
        validation_ids: ids held out of the training data; None looks for a validation split.
    """
    if validation_ids is not None:
        right = predicted[validation_ids] == data.labels[validation_ids]
        return float(right.double().mean())
    if data.validation is not None:
        workers = settings.recipe.workers
        return accuracy(model, data.validation, device=context.device, workers=workers)
    return None


def _mild(models: list[Row]) -> Row | None:
    """MILD's own row: not that of the semi-supervised stage."""
    own = [row for row in models if METHODS[row["method"]].finds and row["method"] != "mild-ssl"]
    return own[0] if own else None


def gap_closed(models: list[Row]) -> float | None:
    """Share of the gap in test accuracy from plain training to the bound that MILD closes.

    None where one of the three is missing, or there is no gap.
    """
    mild = _mild(models)
    accuracies = {row["method"]: row["test_accuracy"] for row in models}
    plain, bound = (accuracies.get(key) for key in ("plain", "clean"))
    if plain is None or mild is None or mild["test_accuracy"] is None or bound is None:
        return None
    share: float | None = None
    if bound > plain:
        share = (mild["test_accuracy"] - plain) / (bound - plain)
    return share


def against_plain(models: list[Row]) -> str | None:
    """Whether MILD's model is better or worse than plain training beyond chance, in words; None if not compared."""
    mild = _mild(models)
    found = None if mild is None else mild.get("against_plain")
    if found is None:
        return None
    value, low, high = (100 * found[key] for key in ("difference", "low", "high"))
    beyond = low > 0 or high < 0
    side = "ahead of" if value > 0 else "behind"
    text = (
        f"MILD is {abs(value):.1f} points {side} plain cross-entropy of as many steps"
        if value
        else "MILD is level with plain cross-entropy of as many steps"
    )
    return f"{text} (95 % interval {low:+.1f} to {high:+.1f} by the test samples): " + (
        "beyond chance" if beyond else "no difference beyond chance"
    )
