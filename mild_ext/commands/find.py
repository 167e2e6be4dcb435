"""``mild-ext find``: which labels are wrong, and which they should be; no final model.

The labels are planted, a network is trained and watched once, and the list is written. ``mild-ext train``
begins in the same way and goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from mild_ext import processes
from mild_ext.commands import console
from mild_ext.commands.progress import Progress, planned_stages
from mild_ext.data.noise import LabelNoise
from mild_ext.data.sets import LabeledData
from mild_ext.report.tensorboard import TensorBoardLog
from mild_ext.training.backbone import Backbone
from mild_ext.training.context import Record, RunContext
from mild_ext.training.experiment import (
    RunSettings,
    Split,
    choose_settings,
    find_wrong_labels,
    identity,
    pick_device,
    pick_threads,
    prepare_data,
    size_by_data,
    split_validation,
)
from mild_ext.training.features import backbone_for, with_features
from mild_ext.training.run_folder import CONFIG, RunFolder
from mild_ext.training.run_result import Round, RoundsResult
from mild_ext.training.summary import summarize_finding
from mild_ext.training.suspects import SUSPECTS, Suspect, lines_in_file, rank_suspects, sample_ids

#: What a run for the list alone does not do: further rounds, a final model, held-out samples.
FIND_ONLY = {
    "method": "mild-rounds",
    "rounds": 1,
    "final_epochs": 0,
    "validation": 0.0,
    "ssl": "none",
}


@dataclass(frozen=True)
class Prepared:
    """A run that can begin: all that can be wrong with its settings and data has been found."""

    settings: RunSettings
    folder: RunFolder
    data: LabeledData
    noise: LabelNoise | None
    resumed: bool = False
    #: The data as they were read, where ``data`` are features of a frozen network.
    pictures: LabeledData | None = None
    backbone: Backbone | None = None

    @property
    def source(self) -> LabeledData:
        """The data as they were read."""
        return self.pictures or self.data


@dataclass(frozen=True)
class Found:
    """What the rounds of a run came to."""

    result: RoundsResult
    suspects: list[Suspect]
    split: Split


def main(options: argparse.Namespace) -> int:
    """Run the subcommand; with torchrun, as one of its processes."""
    with processes.launched_by_torchrun(), prepare(options, "find", FIND_ONLY) as run:
        started = time.monotonic()
        with display(run, options) as (context, say):
            found = find(run, context, say)
        run.folder.write_selection(found.result, run.data, None)
        summary = summarize_finding(run.data, run.noise, run.settings, found.result)
        summary["seconds"] = round(time.monotonic() - started, 1)
        run.folder.write_summary(summary)
        if run.folder.writes:
            if not options.no_report:
                write_page(run, say)
            verdict = console.verdict_of(found.result, len(found.suspects))
            print(console.verdict_lines(verdict, run.folder.path / SUSPECTS))
            if not options.quiet:
                print(console.what_was_learned(found.result))
                print(console.most_suspicious(found.suspects, verdict))
            print(console.after_finding(run.folder, summary["seconds"], verdict, options.quiet))
    return 0


@contextlib.contextmanager
def prepare(
    options: argparse.Namespace, command: str, fixed: dict[str, Any] | None = None
) -> Iterator[Prepared]:
    """Settle what to do, read the data, and make the folder or go on in it; it is ours alone as long as this lasts.

    Args:
        options: of the command line.
        command: the subcommand, noted in the folder: another one does not go on with its run.
        fixed: settings of the recipe that the command decides.

    Raises:
        ValueError, TypeError, ImportError: settings, data or folder cannot be used; nothing was made.
    """
    folder = RunFolder(options.out)
    try:
        if options.resume:
            folder.prepare(resume=True, overwrite=False)
            folder.require_command(command)
            settings = folder.read_settings()
            _refuse_other_settings(options, settings)
            data, noise = prepare_data(settings)
            backbone = backbone_for(data, settings.recipe) if settings.recipe.frozen else None
        else:
            settings = _settings(options, fixed or {})
            # Everything that can be wrong with the data is found before the folder is touched.
            data, noise = prepare_data(settings)
            backbone = backbone_for(data, settings.recipe) if settings.recipe.frozen else None
            if backbone is None:
                settings = _sized(settings, data)
            folder.prepare(resume=False, overwrite=options.overwrite)
            if folder.stayed:
                print(console.what_stayed(folder.path, folder.stayed, "run"), flush=True)
        pictures = None
        if backbone is not None:
            pictures, data = data, _features(data, backbone, settings, folder, options.quiet)
            if not options.resume:
                settings = _sized(settings, data)
        processes.require_same(identity(pictures or data, settings))
        yield Prepared(settings, folder, data, noise, options.resume, pictures, backbone)
    finally:
        folder.release()


def _sized(settings: RunSettings, data: LabeledData) -> RunSettings:
    settings = size_by_data(settings, data)
    if settings.threads < 1:
        settings = replace(settings, threads=pick_threads(data, settings.recipe))
    return settings


def _features(
    data: LabeledData, backbone: Backbone, settings: RunSettings, folder: RunFolder, quiet: bool
) -> LabeledData:
    """What is learned from in place of images, kept in the run's folder."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    return with_features(
        data,
        backbone,
        settings.recipe.model,
        folder=folder.path,
        device=pick_device(settings.device),
        workers=settings.recipe.workers,
        say=_silent if quiet or not folder.writes else functools.partial(print, flush=True),
        show=not quiet and folder.writes,
    )


def _silent(text: str) -> None:
    """Say nothing."""


def _settings(options: argparse.Namespace, fixed: dict[str, Any]) -> RunSettings:
    settings = choose_settings(
        options.data,
        options.recipe,
        options.overrides | fixed,
        test_fraction=options.test_fraction,
        device=options.device,
        threads=options.threads,
    )
    settings = replace(
        settings,
        noise=options.noise or settings.noise,
        seed=options.seed or 0,
        compare=not fixed and not options.no_compare,
        learning_logs=options.learning_logs,
    )
    if settings.learning_logs:
        processes.require_one_process("--learning-logs is recorded")
    return settings


def _refuse_other_settings(options: argparse.Namespace, settings: RunSettings) -> None:
    """A resumed run takes its settings from its folder; say so where others are given.

    What would run code is taken from the command line alone: there it must be given again, and the same.
    """
    same = {"data": settings.data, "model": settings.recipe.model}
    given = {"data": options.data} if options.data is not None else {}
    given |= {"model": options.overrides["model"]} if "model" in options.overrides else {}
    for name, value in settings.code().items():
        if name not in given:
            raise ValueError(
                f"the run in {options.out} uses {name} {value}, which runs code; a folder is not trusted to say "
                f"which: if you know it, give it again: --resume --{name} {shlex.quote(value)}"
            )
    for name, value in given.items():
        if value != same[name]:
            raise ValueError(
                f"the run in {options.out} has --{name} {same[name]}, not {value}; leave out --{name}"
            )
    others = [n for n in ("noise", "seed", "recipe") if getattr(options, n) is not None]
    others += ["learning-logs"] if options.learning_logs else []
    others += [name for name in options.overrides if name not in same]
    if others:
        listed = ", ".join(f"--{n}" for n in others).replace("_", "-")
        raise ValueError(
            f"--resume takes the settings from {options.out}/{CONFIG}; leave out {listed}"
        )


@contextlib.contextmanager
def display(
    run: Prepared, options: argparse.Namespace
) -> Iterator[tuple[RunContext, Callable[[str], None]]]:
    """The context of the run's trainings, whose records go to the display and the logs."""
    settings, data = run.settings, run.data
    if settings.threads:
        torch.set_num_threads(settings.threads)
    quiet = options.quiet or not run.folder.writes
    progress = Progress(
        planned_stages(
            settings,
            len(data),
            tested=data.test is not None,
            truth=data.true_labels is not None,
        ),
        quiet=quiet,
    )
    context = RunContext(
        seed=settings.seed,
        device=pick_device(settings.device),
        folder=run.folder.checkpoints,
        checkpoint_seconds=options.checkpoint_seconds,
        fingerprint=settings.fingerprint(),
    )
    if run.resumed and run.folder.finished:
        progress.say(
            f"The run in {run.folder.path} is finished: nothing is trained, its files are written again."
        )
    progress.say(console.describe(data, run.noise, settings, context.device))
    run.folder.write_config(
        settings, run.source, run.noise, context.device, command=options.command
    )
    code = "".join(f" --{name} {shlex.quote(value)}" for name, value in settings.code().items())
    options.go_on = (
        f"mild-ext {options.command} --resume --out {shlex.quote(str(options.out))}{code}"
    )
    with _records(run.folder, options.tensorboard and run.folder.writes) as listen:
        table = console.RoundsTable(progress.say, data, settings.recipe)

        def on_record(record: Record) -> None:
            listen(record)
            table(record)
            progress(record)

        with progress.going_on():
            yield replace(context, on_record=on_record), progress.say


def find(run: Prepared, context: RunContext, say: Callable[[str], None]) -> Found:
    """The rounds, and the list of suspects in the folder."""
    split = split_validation(run.data, run.settings)
    result = find_wrong_labels(
        run.data,
        run.settings.recipe,
        context,
        train_ids=split.train_ids,
        learning_logs=run.settings.learning_logs,
        on_round=lambda done: _keep_round(run.folder, done, say),
    )
    run.folder.save_result(result)
    suspects = rank_suspects(
        result,
        sample_ids(run.data),
        run.data.class_names,
        train_ids=split.train_ids,
        lines=lines_in_file(run.data),
    )
    run.folder.write_suspects(suspects)
    return Found(result, suspects, split)


def require_page() -> None:
    """Raise ImportError where a package of the report is missing."""
    from mild_ext.report.page import require_packages

    require_packages()


def write_page(run: Prepared, say: Callable[[str], None]) -> None:
    """``report.html``, where its packages are there; else say what to install."""
    from mild_ext.report.page import write_report

    try:
        write_report(run.folder.path, data=run.settings.data, loaded=run.source)
    except ImportError as error:
        say(f"(no report.html: {error})")


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


def _keep_round(folder: RunFolder, done: Round, say: Callable[[str], None]) -> None:
    folder.save_round(done)
    try:
        folder.draw_round(done)
    except ImportError as error:
        if done.number == 0:
            say(f"(no figures: {error})")
