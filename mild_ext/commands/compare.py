"""``mild-ext compare``: the table a paper has, on the user's own data."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from mild_ext.commands import console
from mild_ext.commands.comparison_shown import comparison_table, describe_comparison, heading
from mild_ext.commands.progress import Progress, Stage, comparison_work, semi_supervised_work
from mild_ext.data.checksums import data_checksums
from mild_ext.files import write_text
from mild_ext.training.comparison import (
    ROUNDS,
    compare,
    in_order,
    make_conditions,
    remaining,
    require_rounds,
)
from mild_ext.training.comparison_folder import (
    RESULTS,
    SUMMARY,
    TABLE,
    ComparisonFolder,
    read_results,
    require_file_names,
)
from mild_ext.training.comparison_summary import (
    results_text,
    summarize_comparison,
    summary_text,
)
from mild_ext.training.context import Record, RunContext
from mild_ext.training.experiment import (
    Row,
    RunSettings,
    choose_settings,
    pick_device,
    pick_threads,
    read_data,
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
    if len(set(noises)) < len(noises):
        raise ValueError(f"--noise must name each noise once, got {' '.join(noises)}")
    if settings.recipe.frozen:
        raise ValueError(
            f"mild-ext compare trains whole networks, and {settings.recipe.model} is frozen: give "
            "--pretrained none, or timm for its own weights"
        )
    require_file_names(noises)
    data = read_data(settings)
    settings = size_by_data(settings, data)
    if settings.threads < 1:
        settings = replace(settings, threads=pick_threads(data, settings.recipe))
    torch.set_num_threads(settings.threads)
    if data.test is None:
        raise ValueError("a comparison needs a test split; see --test-fraction")
    # Everything that can be wrong with data and noise is found before the folder is touched.
    conditions = make_conditions(settings, data, noises, seeds)
    if any(condition.noise_rate is None for condition in conditions):
        blind = [key for key in methods if not METHODS[key].needs_true_labels]
        if blind != methods and options.methods is not None:
            left_out = ", ".join(key for key in methods if key not in blind)
            raise ValueError(f"the true labels are not known: leave out the method {left_out}")
        methods = blind
    checksums = data_checksums(data, workers=settings.recipe.workers)
    device = pick_device(settings.device)
    folder = ComparisonFolder(out)
    try:
        labels = {condition.key: condition.labels_checksum for condition in conditions}
        folder.prepare(settings, checksums, labels, overwrite=options.overwrite)
        if folder.stayed:
            print(console.what_stayed(out, folder.stayed, "comparison"), flush=True)
        done = read_results(out / RESULTS)
        matched = require_rounds(done, conditions, methods)
        if not options.quiet:
            text = describe_comparison(data, settings, conditions, device, matched=matched)
            print(text, flush=True)
        for condition in conditions:
            folder.write_labels(*condition.key, condition.data.labels)
        todo = remaining(conditions, methods, done)
        shown = _Shown(settings, len(data), methods, todo, matched=matched, quiet=options.quiet)
        with shown.progress.going_on():
            rows = compare(
                conditions,
                methods,
                out,
                RunContext(
                    device=device,
                    checkpoint_seconds=options.checkpoint_seconds,
                    on_record=shown.on_record,
                ),
                checksums=checksums,
                on_start=shown.on_start,
                on_row=shown.on_row,
                on_again=shown.on_again,
            )
        write_text(out / "results.csv", results_text(rows))
        write_text(out / SUMMARY, summary_text(summarize_comparison(rows)))
        table = f"{heading(rows)}\n{comparison_table(rows, methods)}"
        write_text(out / TABLE, table + "\n")
    finally:
        folder.release()
    print(f"\n{table}")
    return 0


def _methods(text: str | None) -> list[str]:
    methods = list(METHODS) if text is None else text.split(",")
    unknown = sorted(set(methods) - set(METHODS))
    if unknown:
        raise ValueError(f"unknown method {', '.join(unknown)}; known: {', '.join(METHODS)}")
    if len(set(methods)) < len(methods):
        raise ValueError(f"--methods must name each method once, got {text!r}")
    return methods


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(seed) for seed in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--seeds must be numbers like 0,1,2; got {text!r}") from error
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds must name each seed once, got {text!r}")
    return seeds


class _Shown:
    """The progress of a comparison: a training after the other, whatever each is made of."""

    def __init__(
        self,
        settings: RunSettings,
        samples: int,
        methods: list[str],
        todo: list[Row],
        *,
        matched: bool,
        quiet: bool,
    ) -> None:
        self.recipe, self.samples, self.methods = settings.recipe, samples, in_order(methods)
        self.matched = matched
        self.stage = ""
        stages = [Stage(_name(row), _name(row), self._work(row)) for row in todo]
        self.progress = Progress(stages, quiet=quiet)

    def _work(self, row: Row) -> float:
        return comparison_work(self.recipe, self.samples, row["method"], matched=self.matched)

    def on_start(self, row: Row) -> None:
        self.stage = _name(row)

    def on_record(self, record: Record) -> None:
        """Of whatever training: it is one of those that the whole is made of."""
        self.progress({**record, "stage": self.stage})

    def on_again(self, row: Row, steps: int) -> None:
        """A row that does not fit is not shown beside others without a word."""
        self.progress.say(
            f"{_noise(row)}  seed {row['seed']}  {METHODS[row['method']].title}: trained again, with {steps:,} "
            f"optimizer steps instead of {row['asked_steps']:,}, as many as {ROUNDS}"
        )

    def on_row(self, row: Row) -> None:
        title, score = METHODS[row["method"]].title, console.percent(row["test_accuracy"])
        self.progress.say(f"{_noise(row)}  seed {row['seed']}  {title}: {score}")
        if row["method"] != ROUNDS:
            return
        for key in self.methods[self.methods.index(ROUNDS) + 1 :]:  # as many steps
            name = _name(row | {"method": key})
            more = semi_supervised_work(self.recipe, self.samples, key)
            if name in self.progress.places:
                self.progress.expect(name, row["epochs"] * self.samples + more)


def _noise(row: Row) -> str:
    return "labels as given" if row["noise"] == "none" else str(row["noise"])


def _name(row: Row) -> str:
    return f"{_noise(row)}, seed {row['seed']}, {METHODS[row['method']].title}"
