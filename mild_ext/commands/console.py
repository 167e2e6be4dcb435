"""What the commands print: a run's data and rounds, tables of models and methods, what to do next."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mild_ext.data.noise import LabelNoise
from mild_ext.data.sets import LabeledData
from mild_ext.training.context import Record
from mild_ext.training.experiment import Row, RunSettings
from mild_ext.training.methods import METHODS
from mild_ext.training.run_rounds import RoundsResult
from mild_ext.training.sizing import describe_sizes


def percent(value: float | None) -> str:
    """A share in percent, ``-`` where there is none."""
    return "-" if value is None else f"{value:.1%}"


def describe(
    data: LabeledData, noise: LabelNoise | None, settings: RunSettings, device: torch.device | str
) -> str:
    """The data, its noise and the recipe, before the rounds begin."""
    recipe = settings.recipe
    text = f"{data.name}: {len(data)} samples, {data.num_classes} classes"
    if data.test is not None:
        text += f", {len(data.test)} test samples"  # type: ignore[arg-type]
    if noise is not None:
        text += f"; noise {noise.spec}, {noise.rate:.1%} of the labels are wrong"
        rates = [rate for rate in noise.class_rates if rate == rate]
        text += f" ({min(rates):.0%} to {max(rates):.0%} by class)"
    for message in data.messages:
        text += f"\nnote: {message}"
    text += (
        f"\nrecipe {settings.recipe_name}: up to {recipe.rounds} rounds "
        f"({recipe.first_epochs} epochs, then {recipe.round_epochs} each), "
        f"final training {recipe.final_epochs} epochs; seed {settings.seed}, {device}\n"
    )
    if settings.chosen is not None:
        text += f"sized by the data: {describe_sizes(recipe)}\n"
    return text


class RoundsTable:
    """Prints one line per round as the rounds finish."""

    def __init__(self, say: Callable[[str], None], data: LabeledData) -> None:
        self.say = say
        self.columns = [("round", 5), ("epochs", 6), ("trained on", 10), ("kept", 8)]
        self.rates: list[tuple[str, str]] = []
        if data.true_labels is not None:
            self.rates = [
                ("noise removed", "noise_removed"),
                ("precision", "precision"),
                ("recall", "recall"),
                ("F1", "f1"),
            ]
        if data.test is not None:
            self.rates.append(("test accuracy", "test_accuracy"))
        titles = [name.rjust(width) for name, width in self.columns]
        self.header = "  ".join(titles + [name.rjust(7) for name, _ in self.rates])

    def __call__(self, record: Record) -> None:
        if record["type"] != "round":
            return
        if record["round"] == 0:
            self.say(self.header)
        cells = [record["round"], record["epochs"], record["trained_on"], record["kept"]]
        line = [str(c).rjust(width) for c, (_, width) in zip(cells, self.columns, strict=True)]
        line += [percent(record.get(key)).rjust(max(7, len(name))) for name, key in self.rates]
        self.say("  ".join(line))


def measured_noise(result: RoundsResult) -> str:
    """What the first round's planted labels measured, in a line or two; or why there were none."""
    first = result.rounds[0]
    if first["planted"]:
        return f"Measured with {first['planted']} planted labels: {first['reason']}."
    how = "estimated from counts alone, which cannot tell a hard label from a wrong one"
    return f"The noise is {how}: {first['planting_note'] or 'no labels were planted'}."


def models_table(summary: dict[str, Any]) -> str:
    """The models of a run and their test accuracy, and what that says."""
    models = summary["models"]
    if not models:
        return "\nThere is no test split, so no test accuracy (see --test-fraction).\n"
    width = max(len(row["model"]) for row in models)
    lines = ["", f"{'model'.ljust(width)}  samples  epochs  test accuracy"]
    lines += [
        f"{row['model'].ljust(width)}  {row['samples']:7d}  "
        f"{row.get('epochs', summary['final_epochs']):6d}  "
        f"{percent(row['test_accuracy']).rjust(13)}"
        for row in models
    ]
    for name in [key for key in models[0] if key.startswith("accuracy on ")]:
        listed = ", ".join(f"{row['model']} {percent(row.get(name))}" for row in models)
        lines.append(f"{name}: {listed}")
    if summary.get("gap_closed", 0) > 0:
        lines.append(f"MILD closes {summary['gap_closed']:.0%} of the gap to correct labels only.")
    if "warning" in summary:
        lines.append(f"Warning: {summary['warning']}.")
    return "\n".join(lines) + "\n"


def next_steps(
    out: Path,
    result: RoundsResult,
    data: LabeledData,
    train_ids: Tensor | None,
    logits: Tensor,
    count: int = 5,
) -> str:
    """What a person with labels of their own should look at now; ``logits`` are the final model's."""
    ids = torch.arange(len(data)) if train_ids is None else train_ids
    dropped = ids[~result.kept[ids]]
    if len(dropped) == 0:
        return f"\nNo label stands out: all {len(ids)} samples were kept ({result.stop_reason})."
    # What shares one probability, the final model, which was trained without them, tells apart.
    predicted = logits.argmax(1)
    agreement = logits.softmax(1).gather(1, result.labels[:, None])[:, 0]
    order = sorted(
        dropped.tolist(),
        key=lambda i: (
            float(result.clean_probability[i]),
            -float(result.suspicion[i]),
            float(agreement[i]),
        ),
    )
    names, page = data.class_names, out / "report.html"
    lines = ["", f"{len(dropped)} of {len(ids)} labels may be wrong. The most suspicious:"]
    for i in order[:count]:
        name = f"sample {i}" if data.sample_names is None else data.sample_names[i]
        given, seen_as = names[int(result.labels[i])], names[int(predicted[i])]
        guess = "the model agrees in the end" if given == seen_as else f"looks like {seen_as}"
        lines.append(f"  {name}: labeled {given}, {guess}")
    lines += [
        "",
        "Next:",
        f"  check the samples with kept=0 in {out / 'selection.csv'} (sort by suspicion),",
        "  correct or delete those that are wrong, and run again with another --out;",
        f"  the model in {out / 'model.safetensors'} was trained without them.",
        (f"  {page} is" if page.exists() else f"  mild-ext report {out} makes")
        + " a page of the rounds, the classes and these samples' pictures.",
    ]
    if data.test is None:
        lines.append("  Add --test-fraction 0.2 to see test accuracy (by the labels as they are).")
    return "\n".join(lines)


def methods_table(rows: list[Row], methods: list[str]) -> str:
    """Test accuracy, mean and standard deviation over seeds in percent; one column per noise."""
    noises = list(dict.fromkeys(row["noise"] for row in rows))
    width = max(len(METHODS[method].title) for method in methods)
    lines = ["".ljust(width) + "".join(noise.rjust(20) for noise in noises)]
    for method in methods:
        cells = [_cell(rows, method, noise, "test_accuracy") for noise in noises]
        lines.append(METHODS[method].title.ljust(width) + "".join(cell.rjust(20) for cell in cells))
    selecting = [m for m in methods if any(r["method"] == m and "f1" in r for r in rows)]
    if selecting:
        lines += ["", "F1 of the kept samples"]
    for method in selecting:
        cells = [_cell(rows, method, noise, "f1") for noise in noises]
        lines.append(METHODS[method].title.ljust(width) + "".join(cell.rjust(20) for cell in cells))
    return "\n".join(lines)


def _cell(rows: list[Row], method: str, noise: str, key: str) -> str:
    values = [
        100 * row[key]
        for row in rows
        if row["method"] == method and row["noise"] == noise and row.get(key) is not None
    ]
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"
