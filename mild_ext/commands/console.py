"""What the commands print: a run's data and rounds, its table of models, what to do next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mild_ext.data.noise import LabelNoise
from mild_ext.data.sets import LabeledData
from mild_ext.report.verdict import Verdict, judging_round, verdict
from mild_ext.training.context import Record
from mild_ext.training.experiment import RunSettings
from mild_ext.training.recipe import Recipe
from mild_ext.training.run_folder import RunFolder
from mild_ext.training.run_result import RoundsResult
from mild_ext.training.sizing import describe_sizes, sized
from mild_ext.training.suspects import SUSPECTS, Suspect


def percent(value: float | None) -> str:
    """A share in percent, ``-`` where there is none."""
    return "-" if value is None else f"{value:.1%}"


def describe(
    data: LabeledData, noise: LabelNoise | None, settings: RunSettings, device: torch.device | str
) -> str:
    """The data, its noise and the recipe, before the rounds begin."""
    recipe = settings.recipe
    text = f"{data.name}: {len(data):,} samples, {data.num_classes} classes"
    if data.test is not None:
        text += f", {len(data.test):,} test samples"  # type: ignore[arg-type]
    if noise is not None:
        text += f"; noise {noise.spec}, {noise.rate:.1%} of the labels are wrong"
        rates = [rate for rate in noise.class_rates if rate == rate]
        text += f" ({min(rates):.0%} to {max(rates):.0%} by class)"
    for message in data.messages:
        text += f"\nnote: {message}"
    lines = [text, *_plan(settings)]
    chosen = settings.chosen or ()
    longer = [name for name in ("first_epochs", "batch_size", "stride") if name in chosen]
    if settings.chosen is not None and recipe.method == "mild-rounds":
        lines.append(f"Sizes, by the data where not given: {describe_sizes(recipe)}.")
        usual = sized(
            recipe, kind=data.kind, num_samples=len(data), input_shape=data.input_shape
        ).scouts
        if recipe.scouts < usual and "scouts" not in chosen and longer:
            given = ", ".join(f"--{name.replace('_', '-')}" for name in longer)
            lines.append(
                f"note: {_networks(recipe.scouts)} instead of {usual}, because of {given}; --scouts {usual} trains "
                "them all, which measures better and takes longer"
            )
    lines.append(
        f"Settings: {settings.recipe_name} (--help-all lists them), seed {settings.seed}, {device}."
    )
    return "\n".join(lines) + "\n"


def _plan(settings: RunSettings) -> list[str]:
    """What will be trained, and how wrong labels are found by it."""
    recipe = settings.recipe
    yardstick = "A few labels are made wrong on purpose: how these are learned shows which of yours are wrong."
    lines = [yardstick] if recipe.plants else []
    if recipe.method == "mild":
        epochs = recipe.first_epochs + recipe.final_epochs
        return [*lines, f"One training of {epochs} epochs finds the wrong labels and goes on."]
    if recipe.rounds > 1 or recipe.final_epochs:
        lines.append(
            f"Up to {recipe.rounds} rounds ({recipe.first_epochs} epochs, then {recipe.round_epochs} each): each "
            "learns, and drops the labels it takes to be wrong. Then a final model, "
            f"{recipe.final_epochs} epochs."
        )
    elif settings.chosen is None:
        upto = "Up to " if recipe.scouts > 1 else ""
        lines.append(f"{upto}{_networks(recipe.scouts)} of {recipe.first_epochs} epochs.")
    return lines


def _networks(count: int) -> str:
    return "1 network" if count == 1 else f"{count} networks"


def what_stayed(folder: Path, files: list[str], kind: str) -> str:
    """The note on files that ``--overwrite`` left in a folder, as they are not of a run, or comparison."""
    listed = ", ".join(files[:5]) + (", ..." if len(files) > 5 else "")
    return f"note: {len(files)} files in {folder} are not of a {kind} and stay: {listed}"


class RoundsTable:
    """Prints one line per round as the rounds finish; of a single one where it is known how good its choice was."""

    def __init__(self, say: Callable[[str], None], data: LabeledData, recipe: Recipe) -> None:
        self.say = say
        self.watches_all = recipe.reselect == "all"
        self.single = recipe.rounds == 1 or recipe.method == "mild"
        self.columns = [("round", 5), ("epochs", 6), ("trained on", 10), ("kept", 8)]
        if self.single:
            del self.columns[0]
        self.rates: list[tuple[str, str]] = []
        if data.true_labels is not None:
            self.rates = [
                ("noise removed", "noise_removed"),
                ("precision", "precision"),
                ("recall", "recall"),
                ("F1", "f1"),
            ]
        self.judged = [key for _, key in self.rates]
        if data.test is not None:
            self.rates.append(("test accuracy", "test_accuracy"))
        titles = [name.rjust(width) for name, width in self.columns]
        self.header = "  ".join(titles + [name.rjust(7) for name, _ in self.rates])
        self.all = 0

    def __call__(self, record: Record) -> None:
        if record["type"] != "round" or (self.single and not self.rates):
            return
        if record["round"] == 0:
            self.all = record["trained_on"]
            if self.judged:
                self.say("Held against the true labels (precision, recall and F1 of the kept):")
            elif not self.single:
                self.say("Rounds, counted from 0:")
            self.say(self.header)
        cells = [record[name.replace(" ", "_")] for name, _ in self.columns]
        line = [str(c).rjust(width) for c, (_, width) in zip(cells, self.columns, strict=True)]
        # Where nothing was dropped, nothing was chosen that could be good or bad.
        chosen = record["kept"] < self.all
        line += [
            percent(record.get(key) if chosen or key not in self.judged else None).rjust(
                max(7, len(name))
            )
            for name, key in self.rates
        ]
        self.say("  ".join(line))
        if self.watches_all and record["kept"] > record["trained_on"]:
            self.say(
                "       (more kept than trained on: dropped samples are still watched, and "
                f"{record['kept'] - record['trained_on']} more came back than were dropped)"
            )


# ------------------------------------------------------------------------------------- the verdict


def verdict_of(result: RoundsResult, samples: int) -> Verdict:
    """How many labels are wrong, what the list holds of them, and whether to trust it: the report's own words.

    Args:
        result: of the rounds.
        samples: number of samples that took part.
    """
    return verdict(
        result.rounds, num_samples=samples, num_dropped=int((result.round_dropped >= 0).sum())
    )


def verdict_lines(found: Verdict, path: Path) -> str:
    """The verdict as it is printed; ``path``: of the list."""
    return "\n".join(["", *(line.replace("The list below", f"{path}") for line in found.lines)])


def what_was_learned(result: RoundsResult) -> str:
    """How much of the labels the network fits, on which all else rests; empty where that was not measured."""
    learned = judging_round(result.rounds).get("learned")
    if learned is None:
        return ""
    if learned > 0.995:
        return "Learned: all labels that are not plainly wrong."
    return (
        f"Learned: {learned:.0%} of the labels that are not plainly wrong. Others may be contradicted by mistake; a "
        "longer training (--first-epochs) or a larger network (--width) learns more."
    )


def most_suspicious(suspects: list[Suspect], found: Verdict, count: int = 10) -> str:
    """The first lines of the list; where it cannot be told what is wrong, without a word on how sure they are."""
    told = found.kind != "unknown"
    rows = [("", "given", "suggested")]
    for s in suspects[:count]:
        sure = (
            f" ({s.suggestion_confidence:.0%})"
            if told and s.suggestion_confidence is not None
            else ""
        )
        name = s.id if s.line is None else f"line {s.line}"
        rows.append((name, s.given_label, (s.suggested_label or "-") + sure))
    widths = [max(len(row[k]) for row in rows) for k in range(2)]
    heading = (
        "The most suspicious:" if told else "The first of the list, whose order means little here:"
    )
    lines = ["", heading]
    lines += [f"  {row[0].ljust(widths[0])}  {row[1].ljust(widths[1])}  {row[2]}" for row in rows]
    return "\n".join(lines)


def after_finding(folder: RunFolder, seconds: float, found: Verdict, quiet: bool) -> str:
    """Where the list is, and what to do with it: suggestions are followed only where there is evidence."""
    suspects, page = folder.path / SUSPECTS, folder.path / "report.html"
    if quiet:
        return f"{suspects}"
    lines = ["", f"Wrote {suspects} in {seconds:.0f} s. Next:"]
    if page.exists():
        lines.append(
            f"  open {page}: look through the samples, mark them, download corrections.csv;"
        )
        lines.append(
            f"  mild-ext fix {folder.path} --corrections corrections.csv --out FIXED   applies that."
        )
    else:
        lines.append(f"  mild-ext report {folder.path}   makes a page to look through the samples;")
    if found.kind == "found":
        lines.append(
            f"  mild-ext fix {folder.path} --auto --out FIXED   follows the suggestions that are sure enough."
        )
    return "\n".join(lines)


def after_training(folder: RunFolder, seconds: float, found: Verdict, quiet: bool) -> str:
    """What a finished training left, and what to do with it."""
    if quiet:
        return f"{folder.path / SUSPECTS}"
    return (
        after_finding(folder, seconds, found, quiet)
        + f"\n  mild_ext.load_model({str(folder.path)!r})   in Python: the model."
        + f"\nIn {folder.path}/: {folder.contents()}"
    )


def models_table(summary: dict[str, Any]) -> str:
    """The models of a run and their test accuracy, and what that says."""
    models = summary["models"]
    if not models:
        return "\nThere is no test split, so no test accuracy (see --test-fraction).\n"
    width = max(len(row["model"]) for row in models)
    lines = ["", f"{'model'.ljust(width)}  samples  epochs   steps  seconds  test accuracy (95 %)"]
    for row in models:
        interval = row.get("test_interval")
        shown = "" if interval is None else f" ({interval[0]:.1%} to {interval[1]:.1%})"
        lines.append(
            f"{row['model'].ljust(width)}  {row['samples']:7d}  {row['epochs']:6d}  {row['steps'] or '-':>6}"
            f"  {row['seconds']:7.1f}  {percent(row['test_accuracy']).rjust(6)}{shown}"
        )
    for name in [key for key in models[0] if key.startswith("accuracy on ")]:
        listed = ", ".join(f"{row['model']} {percent(row.get(name))}" for row in models)
        lines.append(f"{name}: {listed}")
    if summary.get("gap_closed", 0) > 0:
        lines.append(f"MILD closes {summary['gap_closed']:.0%} of the gap to correct labels only.")
    if "against_plain" in summary:
        lines.append(f"{summary['against_plain']}.")
    return "\n".join(lines)
