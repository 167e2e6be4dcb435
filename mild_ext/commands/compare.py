"""``mild-ext compare``: the table a paper has, on the user's own data."""

from __future__ import annotations

import argparse
import csv
import io
import itertools
from dataclasses import replace
from pathlib import Path

import torch

from mild_ext.commands import console
from mild_ext.commands.progress import Progress, Stage, comparison_work, semi_supervised_work
from mild_ext.files import write_text
from mild_ext.training.comparison import (
    RESULTS,
    ComparisonFolder,
    compare,
    in_order,
    read_results,
)
from mild_ext.training.context import Record, RunContext
from mild_ext.training.experiment import (
    Row,
    RunSettings,
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
    if settings.recipe.frozen:
        raise ValueError(
            f"mild-ext compare trains whole networks, and {settings.recipe.model} is frozen: give "
            "--pretrained none, or timm for its own weights"
        )
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
        shown = _Shown(settings, len(data), noises, seeds, methods, out, quiet=options.quiet)
        with shown.progress.going_on():
            rows = compare(
                settings,
                noises,
                seeds,
                methods,
                out,
                RunContext(
                    device=pick_device(settings.device),
                    checkpoint_seconds=options.checkpoint_seconds,
                    on_record=shown.on_record,
                ),
                on_start=shown.on_start,
                on_row=shown.on_row,
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


class _Shown:
    """The progress of a comparison: a training after the other, whatever each is made of."""

    def __init__(
        self,
        settings: RunSettings,
        samples: int,
        noises: list[str],
        seeds: list[int],
        methods: list[str],
        out: Path,
        *,
        quiet: bool,
    ) -> None:
        self.recipe, self.samples, self.methods = settings.recipe, samples, in_order(methods)
        self.matched = "mild-rounds" in methods
        self.stage = ""
        done = {(row["noise"], row["seed"], row["method"]) for row in read_results(out / RESULTS)}
        rows: list[Row] = [
            {"noise": noise, "seed": seed, "method": key}
            for noise, seed, key in itertools.product(noises, seeds, self.methods)
            if (noise, seed, key) not in done
        ]
        stages = [Stage(_name(row), _name(row), self._work(row)) for row in rows]
        self.progress = Progress(stages, quiet=quiet)

    def _work(self, row: Row) -> float:
        return comparison_work(self.recipe, self.samples, row["method"], matched=self.matched)

    def on_start(self, row: Row) -> None:
        self.stage = _name(row)

    def on_record(self, record: Record) -> None:
        """Of whatever training: it is one of those that the whole is made of."""
        self.progress({**record, "stage": self.stage})

    def on_row(self, row: Row) -> None:
        title, score = METHODS[row["method"]].title, console.percent(row["test_accuracy"])
        self.progress.say(f"{row['noise']}  seed {row['seed']}  {title}: {score}")
        if row["method"] != "mild-rounds":
            return
        for key in self.methods[self.methods.index("mild-rounds") + 1 :]:  # as many steps
            name = _name(row | {"method": key})
            more = semi_supervised_work(self.recipe, self.samples, key)
            if name in self.progress.places:
                self.progress.expect(name, row["epochs"] * self.samples + more)


def _name(row: Row) -> str:
    return f"{row['noise']}, seed {row['seed']}, {METHODS[row['method']].title}"


def _csv(rows: list[Row]) -> str:
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
