"""What ``mild-ext compare`` prints: the data and settings before, and the table of methods at the end."""

from __future__ import annotations

import statistics

import torch

from mild_ext.commands.console import percent
from mild_ext.data.sets import LabeledData
from mild_ext.training.comparison import ROUNDS, Condition
from mild_ext.training.comparison_summary import PLAIN, known, summarize_comparison
from mild_ext.training.experiment import Row, RunSettings
from mild_ext.training.loop import steps_per_epoch
from mild_ext.training.methods import METHODS


def describe_comparison(
    data: LabeledData,
    settings: RunSettings,
    conditions: list[Condition],
    device: torch.device | str,
    *,
    matched: bool,
) -> str:
    """The data, its noise and what all trainings have in common, before they begin.

    Args:
        data: without noise.
        settings, conditions, device: of the comparison.
        matched: whether all methods make as many steps as MILD's rounds.
    """
    assert data.test is not None
    recipe, tests = settings.recipe, len(data.test)  # type: ignore[arg-type]
    lines = [
        f"{data.name}: {len(data):,} samples, {data.num_classes} classes, {tests:,} test samples"
    ]
    lines += [f"note: {message}" for message in data.messages]
    for noise in dict.fromkeys(c.settings.noise for c in conditions):
        own = [c for c in conditions if c.settings.noise == noise]
        rates = [c.noise_rate for c in own if c.noise_rate is not None]
        if not rates:
            lines.append("Labels as they are given; how many of them are wrong is not known.")
            continue
        over = f" (mean over {len(rates)} seeds)" if len(rates) > 1 and noise != "none" else ""
        said = "Labels as they are given" if noise == "none" else f"Noise {noise}"
        lines.append(f"{said}: {statistics.mean(rates):.1%} of the labels are wrong{over}.")
    epochs = recipe.first_epochs + recipe.final_epochs
    steps = epochs * steps_per_epoch(len(data), recipe)
    budget = f"{epochs} epochs, {steps:,} optimizer steps"
    if matched:
        budget = f"as many optimizer steps as {ROUNDS} makes ({steps:,} at least)"
    lines += [
        f"Every method: model {recipe.model}, batches of {recipe.batch_size}, learning rate {recipe.lr:g}, {budget}.",
        f"Settings: {settings.recipe_name} (--help-all lists them), {device}, threads {settings.threads}.",
    ]
    return "\n".join(lines) + "\n"


def comparison_table(rows: list[Row], methods: list[str]) -> str:
    """Per method and noise: accuracy in percent, how far ahead of plain training, F1 of the kept; and the cost.

    Args:
        rows: of `mild_ext.training.comparison.compare`.
        methods: keys of `METHODS`, in the order of the table.
    """
    noises = list(dict.fromkeys(row["noise"] for row in rows))
    found = {(line["noise"], line["method"]): line for line in summarize_comparison(rows)}
    rates = {noise: found[noise, methods[0]]["noise_rate"] for noise in noises}
    shown = {noise: _title(noise, rates[noise]) for noise in noises}
    first = max(len("labels that are wrong"), *(len(METHODS[method].title) for method in methods))
    width = max(24, *(len(title) + 2 for title in shown.values()))

    def line(title: str, cells: list[str]) -> str:
        return title.ljust(first) + "".join(cell.rjust(width) for cell in cells)

    columns = "epochs".rjust(14) + "steps".rjust(16) + "seconds".rjust(10)
    lines = [line("", list(shown.values())) + columns]
    if any(rate is not None for rate in rates.values()):
        lines.append(line("labels that are wrong", [percent(rates[noise]) for noise in noises]))
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        costs = _span(own, "epochs").rjust(14) + _span(own, "steps").rjust(16)
        costs += _mean(own, "seconds").rjust(10)
        cells = [_accuracy(found[noise, method]) for noise in noises]
        lines.append(line(METHODS[method].title, cells) + costs)
    several = len({row["seed"] for row in rows}) > 1
    ahead = _AHEAD.format(
        plain=METHODS[PLAIN].title, seeds=" and seeds" if several else ", of 1 seed"
    )
    for title, cell, key in (
        (ahead, _ahead, "against_plain"),
        (_F1, _f1, "f1"),
    ):
        those = [m for m in methods if any(found[noise, m][key] is not None for noise in noises)]
        lines += ["", title] if those else []
        for method in those:
            cells = [cell(found[noise, method]) for noise in noises]
            lines.append(line(METHODS[method].title, cells))
    return "\n".join(lines)


_AHEAD = "Points ahead of {plain}, and the 95 % interval by the same test samples{seeds}; * beyond chance"
_F1 = "F1 of the kept samples in %: mean, ± its 95 % interval by the seeds"


def heading(rows: list[Row]) -> str:
    """What the first lines of the table are."""
    seeds = len({row["seed"] for row in rows})
    samples = [row["test_samples"] for row in rows if row.get("test_samples")]
    tests = f"{samples[0]:,} test samples" if samples else "the test samples"
    if seeds == 1:
        return f"Test accuracy in %: of 1 seed, ± its 95 % interval by {tests} alone"
    return f"Test accuracy in %: mean over {seeds} seeds, ± its 95 % interval by these and {tests}"


def _title(noise: str, rate: float | None) -> str:
    if noise != "none":
        return noise
    if rate is None:
        return "as given"
    return "none" if rate == 0 else f"its own, {rate:.1%}"


def _accuracy(found: Row) -> str:
    if found["test_accuracy"] is None:
        return "-"
    half = found["high"] - found["test_accuracy"]
    return f"{100 * found['test_accuracy']:.1f} ± {100 * half:.1f}"


def _ahead(found: Row) -> str:
    value, low, high = (
        found[name] for name in ("against_plain", "against_plain_low", "against_plain_high")
    )
    if value is None:
        return "-"
    mark = "*" if low > 0 or high < 0 else " "
    return f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}){mark}"


def _f1(found: Row) -> str:
    if found["f1"] is None:
        return "-"
    half = "" if found["f1_high"] is None else f" ± {100 * (found['f1_high'] - found['f1']):.1f}"
    return f"{100 * found['f1']:.1f}{half}"


def _span(rows: list[Row], key: str) -> str:
    values = known(rows, key)
    if not values:
        return "-"
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def _mean(rows: list[Row], key: str) -> str:
    values = known(rows, key)
    return f"{statistics.mean(values):.1f}" if values else "-"
