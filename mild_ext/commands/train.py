"""``mild-ext train``: a whole run in a folder, from data to models, tables and figures."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mild_ext import processes
from mild_ext.commands import console
from mild_ext.data.noise import LabelNoise
from mild_ext.data.sets import LabeledData
from mild_ext.report.tensorboard import TensorBoardLog
from mild_ext.training.context import Record, RunContext
from mild_ext.training.experiment import (
    Outcome,
    RunSettings,
    Split,
    choose_settings,
    compare_models,
    find_wrong_labels,
    go_on_unlabeled,
    pick_device,
    pick_threads,
    prepare_data,
    size_by_data,
    split_validation,
)
from mild_ext.training.loop import predict
from mild_ext.training.run_folder import CONFIG, RunFolder
from mild_ext.training.run_rounds import Round
from mild_ext.training.summary import summarize, validation_accuracy

Prepared = tuple[LabeledData, LabelNoise | None]


def main(options: argparse.Namespace) -> int:
    """Run the subcommand; with torchrun, as one of its processes."""
    with processes.launched_by_torchrun():
        folder = RunFolder(options.out)
        prepared = None
        if options.resume:
            folder.prepare(resume=True, overwrite=False)
            settings = folder.read_settings()
            _refuse_other_settings(options)
        else:
            settings = _settings(options)
            # Everything that can be wrong with the data is found before the folder is touched.
            prepared = prepare_data(settings)
            settings = size_by_data(settings, prepared[0])
            if settings.threads < 1:
                settings = replace(settings, threads=pick_threads(prepared[0], settings.recipe))
            folder.prepare(resume=False, overwrite=options.overwrite)
        run(
            settings,
            folder,
            prepared,
            checkpoint_seconds=options.checkpoint_seconds,
            quiet=options.quiet or not folder.writes,
            tensorboard=options.tensorboard and folder.writes,
            report=options.report and folder.writes,
        )
    return 0


def _settings(options: argparse.Namespace) -> RunSettings:
    settings = choose_settings(
        options.data,
        options.recipe,
        options.overrides,
        test_fraction=options.test_fraction,
        device=options.device,
        threads=options.threads,
    )
    settings = replace(
        settings,
        noise=options.noise or settings.noise,
        seed=options.seed or 0,
        compare=not options.no_compare,
        learning_logs=options.learning_logs,
    )
    if settings.learning_logs:
        processes.require_one_process("--learning-logs is recorded")
    return settings


def _refuse_other_settings(options: argparse.Namespace) -> None:
    """A resumed run takes its settings from its folder; say so where some are given."""
    names = ("data", "noise", "seed", "recipe")
    given = [name for name in names if getattr(options, name) is not None]
    given += ["learning-logs"] if options.learning_logs else []
    if given or options.overrides:
        listed = ", ".join(f"--{n}" for n in [*given, *options.overrides]).replace("_", "-")
        raise ValueError(
            f"--resume takes the settings from {options.out}/{CONFIG}; leave out {listed}"
        )


def run(
    settings: RunSettings,
    folder: RunFolder,
    prepared: Prepared | None = None,
    *,
    checkpoint_seconds: float = 30.0,
    quiet: bool = False,
    tensorboard: bool = False,
    report: bool = False,
) -> dict[str, Any]:
    """Do the run; returns the summary that is also written to ``summary.json``.

    Args:
        settings: what to do.
        folder: the run's folder, prepared.
        prepared: what `prepare_data` gives for these settings, where it has been called already.
        checkpoint_seconds: least time between two checkpoints inside a training.
        quiet: print nothing.
        tensorboard: log to ``tensorboard`` in the folder as well.
        report: write ``report.html`` at the end.
    """
    started = time.monotonic()

    def say(text: str) -> None:
        if not quiet:
            print(text, flush=True)

    if report:
        from mild_ext.report.page import require_packages, write_report

        require_packages()  # not to find out at the end
    context = RunContext(
        seed=settings.seed,
        device=pick_device(settings.device),
        folder=folder.checkpoints,
        checkpoint_seconds=checkpoint_seconds,
        fingerprint=settings.fingerprint(),
        progress=not quiet,
    )
    torch.set_num_threads(settings.threads)
    data, noise = prepare_data(settings) if prepared is None else prepared
    say(console.describe(data, noise, settings, context.device))
    folder.write_config(settings, data, noise, context.device)
    split = split_validation(data, settings)
    with _records(folder, tensorboard) as listen:
        table = console.RoundsTable(say, data)

        def on_record(record: Record) -> None:
            listen(record)
            table(record)

        context = replace(context, on_record=on_record)
        done = _train(data, settings, folder, context, split.train_ids, say)
    summary, logits = _write_outcome(done, data, noise, settings, folder, context, split)
    summary["seconds"] = round(time.monotonic() - started, 1)
    folder.write_summary(summary)
    say(console.models_table(summary))
    if report:
        write_report(folder.path)
    say(f"Wrote {folder.path}/ in {summary['seconds']:.1f} s: {folder.contents()}")
    if noise is None:  # somebody's real labels: what to do with the result
        say(console.next_steps(folder.path, done.result, data, split.train_ids, logits))
    return summary


@contextlib.contextmanager
def _records(folder: RunFolder, tensorboard: bool) -> Iterator[Callable[[Record], None]]:
    """Where the records of the run go: ``history.jsonl``, and TensorBoard where asked for."""
    with contextlib.ExitStack() as open_logs:
        log = None
        if tensorboard:
            log = open_logs.enter_context(TensorBoardLog(folder.path / "tensorboard"))
        history = open_logs.enter_context(folder.history())

        def listen(record: Record) -> None:
            history(record)
            if log is not None:
                log(record)

        yield listen


def _train(
    data: LabeledData,
    settings: RunSettings,
    folder: RunFolder,
    context: RunContext,
    train_ids: Tensor | None,
    say: Callable[[str], None],
) -> Outcome:
    """All trainings of the run, one after the other."""
    result = find_wrong_labels(
        data,
        settings.recipe,
        context,
        train_ids=train_ids,
        learning_logs=settings.learning_logs,
        on_round=lambda done: _keep_round(folder, done, say),
    )
    say(f"Stopped: {result.stop_reason}.")
    say(console.measured_noise(result))
    folder.save_result(result)
    semi = None
    if settings.recipe.ssl != "none":
        semi = go_on_unlabeled(data, settings.recipe, result, context, train_ids=train_ids)
    models = compare_models(data, settings, result, context, semi=semi, train_ids=train_ids)
    return Outcome(result, semi, models)


def _write_outcome(
    done: Outcome,
    data: LabeledData,
    noise: LabelNoise | None,
    settings: RunSettings,
    folder: RunFolder,
    context: RunContext,
    split: Split,
) -> tuple[dict[str, Any], Tensor]:
    """Write the model and the selection; returns the summary, and the model's logits ``[N, K]``."""
    folder.save_model(done.model)
    logits, _ = predict(
        done.model,
        data.plain or data.train,
        device=context.device,
        workers=settings.recipe.workers,
    )
    predicted = logits.argmax(1)
    folder.write_selection(done.result, data, predicted, train_ids=split.train_ids)
    validation = validation_accuracy(
        done.model, predicted, data, settings, context, validation_ids=split.validation_ids
    )
    summary = summarize(
        data, noise, settings, done, validation=validation, train_ids=split.train_ids
    )
    return summary, logits


def _keep_round(folder: RunFolder, done: Round, say: Callable[[str], None]) -> None:
    folder.save_round(done)
    try:
        folder.draw_round(done)
    except ImportError as error:
        if done.number == 0:
            say(f"(no figures: {error})")
