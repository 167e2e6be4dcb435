"""``mild-ext train``: `mild_ext.commands.find`, and then a model without the labels found to be wrong."""

from __future__ import annotations

import argparse
import time
from typing import Any

from torch import Tensor, nn

from mild_ext import processes
from mild_ext.commands import console
from mild_ext.commands.find import (
    Found,
    Prepared,
    display,
    find,
    prepare,
    require_page,
    write_page,
)
from mild_ext.training.context import RunContext
from mild_ext.training.experiment import Outcome, go_on_unlabeled
from mild_ext.training.loop import predict
from mild_ext.training.run_models import compare_models
from mild_ext.training.summary import summarize, validation_accuracy
from mild_ext.training.suspects import SUSPECTS


def main(options: argparse.Namespace) -> int:
    """Run the subcommand; with torchrun, as one of its processes."""
    with processes.launched_by_torchrun():
        if options.report:
            require_page()  # not to find out at the end
        with prepare(options, "train") as run:
            started = time.monotonic()
            with display(run, options) as (context, say):
                found = find(run, context, say)
                if run.settings.recipe.method == "mild-rounds":
                    say(f"Stopped: {found.result.stop_reason}.")
                done = _train(run, found, context)
                summary, _ = _write_outcome(run, found, done, context)
            summary["seconds"] = round(time.monotonic() - started, 1)
            run.folder.write_summary(summary)
            if run.folder.writes:
                _print_outcome(run, found, summary, options)
    return 0


def _train(run: Prepared, found: Found, context: RunContext) -> Outcome:
    """What comes after the rounds: the stage without labels, and the models to compare with."""
    recipe, result, train_ids = run.settings.recipe, found.result, found.split.train_ids
    semi = None
    if recipe.ssl != "none":
        semi = go_on_unlabeled(run.data, recipe, result, context, train_ids=train_ids)
    models = compare_models(run.data, run.settings, result, context, semi=semi, train_ids=train_ids)
    return Outcome(result, semi, models)


def _write_outcome(
    run: Prepared, found: Found, done: Outcome, context: RunContext
) -> tuple[dict[str, Any], Tensor]:
    """Write the model and the selection; returns the summary, and the model's logits ``[N, K]``."""
    data, settings, split = run.data, run.settings, found.split
    run.folder.save_model(
        done.model if run.backbone is None else nn.Sequential(run.backbone, done.model)
    )
    logits, _ = predict(
        done.model,
        data.plain or data.train,
        device=context.device,
        workers=settings.recipe.workers,
    )
    predicted = logits.argmax(1)
    run.folder.write_selection(done.result, data, predicted, train_ids=split.train_ids)
    validation = validation_accuracy(
        done.model, predicted, data, settings, context, validation_ids=split.validation_ids
    )
    summary = summarize(
        data, run.noise, settings, done, validation=validation, train_ids=split.train_ids
    )
    return summary, logits


def _print_outcome(
    run: Prepared, found: Found, summary: dict[str, Any], options: argparse.Namespace
) -> None:
    def say(text: str) -> None:
        if not options.quiet:
            print(text)

    if not options.no_report:
        write_page(run, say)
    verdict = console.verdict_of(found.result, len(found.suspects))
    print(console.verdict_lines(verdict, run.folder.path / SUSPECTS))
    say(console.what_was_learned(found.result))
    print(console.models_table(summary))
    say(console.most_suspicious(found.suspects, verdict))
    print(console.after_training(run.folder, summary["seconds"], verdict, options.quiet))
    if run.data.test is None and run.noise is None:
        say("  Add --test-fraction 0.2 to see test accuracy (by the labels as they are).")
