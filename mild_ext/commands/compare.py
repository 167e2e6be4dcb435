"""``mild-ext compare``: the table a paper has, on the user's own data."""

from __future__ import annotations

import argparse
import csv
import io
from dataclasses import replace
from pathlib import Path

import torch

from mild_ext.commands import console
from mild_ext.files import write_text
from mild_ext.training.comparison import ComparisonFolder, compare
from mild_ext.training.context import RunContext
from mild_ext.training.experiment import (
    Row,
    choose_settings,
    pick_device,
    pick_threads,
    prepare_data,
    size_by_data,
)
from mild_ext.training.methods import METHODS


def main(options: argparse.Namespace) -> int:
    """Run the subcommand; see the parser in cli.py for the options."""
    out = Path(options.out)
    methods = _methods(options.methods)
    seeds = _seeds(options.seeds)
    settings = choose_settings(
        options.data,
        options.recipe,
        options.overrides,
        test_fraction=options.test_fraction,
        device=options.device,
        threads=options.threads,
    )
    noises = options.noise or [settings.noise]
    data, _ = prepare_data(replace(settings, noise=noises[0]))
    settings = size_by_data(settings, data)
    if settings.threads < 1:
        settings = replace(settings, threads=pick_threads(data, settings.recipe))
    torch.set_num_threads(settings.threads)
    if data.test is None:
        raise ValueError("a comparison needs a test split; see --test-fraction")
    if data.true_labels is None:
        blind = [key for key in methods if not METHODS[key].needs_true_labels]
        if blind != methods and options.methods is not None:
            left_out = ", ".join(key for key in methods if key not in blind)
            raise ValueError(f"the true labels are not known: leave out the method {left_out}")
        methods = blind
    folder = ComparisonFolder(out)
    try:
        folder.prepare(settings, overwrite=options.overwrite)
        if folder.stayed:
            print(console.what_stayed(out, folder.stayed, "comparison"), flush=True)
        rows = compare(
            settings,
            noises,
            seeds,
            methods,
            out,
            RunContext(
                device=pick_device(settings.device),
                checkpoint_seconds=options.checkpoint_seconds,
                progress=not options.quiet,
            ),
            on_row=lambda row: None if options.quiet else _print_row(row),
        )
        write_text(out / "results.csv", _csv(rows))
        table = console.methods_table(rows, methods)
        write_text(out / "table.txt", table + "\n")
    finally:
        folder.release()
    test = f"{len(data.test):,} test samples"  # type: ignore[arg-type]
    over = "1 seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
    print(
        f"\nTest accuracy in %: mean over {over}, and its 95 % interval by these and {test}\n{table}"
    )
    return 0


def _methods(text: str | None) -> list[str]:
    methods = list(METHODS) if text is None else text.split(",")
    unknown = sorted(set(methods) - set(METHODS))
    if unknown:
        raise ValueError(f"unknown method {', '.join(unknown)}; known: {', '.join(METHODS)}")
    return methods


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--seeds must be numbers like 0,1,2; got {text!r}") from error


def _print_row(row: Row) -> None:
    title, score = METHODS[row["method"]].title, console.percent(row["test_accuracy"])
    print(f"{row['noise']}  seed {row['seed']}  {title}: {score}", flush=True)


def _csv(rows: list[Row]) -> str:
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
