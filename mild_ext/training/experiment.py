"""``mild-ext train``: a whole run in a folder, from data to models, tables and figures.

A run is five trainings at most: the rounds with their final model, the semi-supervised stage where
it is asked for, and, where there is a test split, plain cross-entropy on everything and (where the
true labels are known) the bound of training on correct labels only. Each keeps its own checkpoint,
so a killed run goes on where it was.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import mild_ext
from mild_ext import processes
from mild_ext.data.noise import LabelNoise, corrupt_labels, small_inputs
from mild_ext.data.readers.sources import load_data
from mild_ext.data.sets import LabeledData, stratified_holdout
from mild_ext.files import write_atomically, write_text
from mild_ext.recording.learning_log import write_learning_log
from mild_ext.report.tensorboard import TensorBoardLog
from mild_ext.selection.plot import save_figure
from mild_ext.training.loop import Record, accuracy, derive_seed, fit, predict
from mild_ext.training.models import build_model
from mild_ext.training.recipe import PRESET_NOISE, PRESETS, Recipe, preset, read_settings
from mild_ext.training.run_rounds import (
    Round,
    RoundsResult,
    fresh_model,
    run_rounds,
    selection_quality,
)

if TYPE_CHECKING:
    from mild_ext.training.ssl import SemiSupervisedResult

CONFIG = "config.json"
SSL_NAMES = {"fixmatch": "FixMatch", "mixmatch": "MixMatch"}


@dataclass(frozen=True)
class RunSettings:
    """What defines a run; saved in ``config.json`` and read back to resume it."""

    data: str
    noise: str
    seed: int
    test_fraction: float
    compare: bool
    device: str
    threads: int
    recipe_name: str
    recipe: Recipe
    learning_logs: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {
            "recipe": self.recipe.to_dict()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunSettings:
        recipe = Recipe().override(values["recipe"])
        return cls(**(values | {"recipe": recipe}))


def train_command(
    settings: RunSettings,
    out: Path,
    *,
    checkpoint_seconds: float = 30.0,
    quiet: bool = False,
    prepared: tuple[LabeledData, LabelNoise | None] | None = None,
    tensorboard: bool = False,
    report: bool = False,
) -> dict[str, Any]:
    """Do the run; returns the summary that is also written to ``summary.json``.

    Args:
        settings: what to do.
        out: the run's folder.
        checkpoint_seconds: least time between two checkpoints inside a training.
        quiet: print nothing.
        prepared: what `prepare_data` gives for these settings, where it has been called already.
        tensorboard: log to ``out/tensorboard`` as well.
        report: write ``report.html`` at the end.
    """
    started = time.monotonic()

    def say(text: str) -> None:
        if not quiet:
            print(text, flush=True)

    if report:
        from mild_ext.report.page import require_packages, write_report

        require_packages()  # not to find out at the end
    device = pick_device(settings.device)
    torch.set_num_threads(settings.threads)
    data, noise = prepare_data(settings) if prepared is None else prepared
    train_ids, validation_ids = _split_validation(data, settings)
    say(_describe(data, noise, settings, device))
    _write_config(out, settings, data, noise, device)
    with contextlib.ExitStack() as open_logs:
        log = None
        if tensorboard:
            log = open_logs.enter_context(TensorBoardLog(out / "tensorboard"))
        history = open_logs.enter_context(_History(out / "history.jsonl", log))
        table = _RoundsTable(say, data)

        def on_record(record: Record) -> None:
            history(record)
            table(record)

        result = run_rounds(
            data.train,
            lambda: make_model(data, settings.recipe),
            settings.recipe,
            labels=data.labels,
            true_labels=data.true_labels,
            test=data.test,
            train_ids=train_ids,
            seed=settings.seed,
            device=device,
            folder=out / "checkpoints",
            checkpoint_seconds=checkpoint_seconds,
            learning_logs=settings.learning_logs,
            on_round=lambda done: _save_round(out, done, say),
            on_record=on_record,
            progress=not quiet,
        )
        say(f"Stopped: {result.stop_reason}.")
        result.save(out / "result.safetensors")
        semi = None
        if settings.recipe.ssl != "none":
            semi = _semi_supervised(
                data, settings, result, train_ids, device, out, checkpoint_seconds, history,
                not quiet,
            )  # fmt: skip
        models = _compare(
            data, settings, result, train_ids, device, out, checkpoint_seconds, history, not quiet
        )
    final = result.model if semi is None else semi.model
    assert final is not None
    save_model(final, out / "model.safetensors")
    workers = settings.recipe.workers
    logits, _ = predict(final, data.plain or data.train, device=device, workers=workers)
    predicted = logits.argmax(1)
    write_selection(out / "selection.csv", result, data, train_ids, predicted)
    summary = _summary(data, noise, settings, result, models, train_ids)
    if validation_ids is not None:
        right = predicted[validation_ids] == data.labels[validation_ids]
        summary["validation_accuracy"] = float(right.double().mean())
    elif data.validation is not None:
        summary["validation_accuracy"] = accuracy(
            final, data.validation, device=device, workers=workers
        )
    if semi is not None:
        _add_semi_supervised(summary, semi, data, settings, device)
    if data.test is not None:
        warning = behind_plain(summary["models"], len(data.test))  # type: ignore[arg-type]
        if warning is not None:
            summary["warning"] = warning
    summary["seconds"] = round(time.monotonic() - started, 1)
    write_text(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    say(_comparison_table(summary))
    if report:
        write_report(out)
    written = "selection.csv, model.safetensors, summary.json"
    for name in ("metric.png", "logs/", "report.html"):
        if (out / name).exists():
            written += f", {name}"
    say(f"Wrote {out}/ in {summary['seconds']:.1f} s: {written}")
    if noise is None:  # somebody's real labels: what to do with the result
        say(_next_steps(out, result, data, train_ids, logits))
    return summary


# ---------------------------------------------------------------------------------- preparation


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where torch can use it, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RuntimeError(f"device {name} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def prepare_data(settings: RunSettings) -> tuple[LabeledData, LabelNoise | None]:
    """Load the data and put the label noise in."""
    data = load_data(settings.data, test_fraction=settings.test_fraction, seed=0)
    if settings.noise == "none":
        return data, None
    if data.true_labels is not None and not torch.equal(data.true_labels, data.labels):
        raise ValueError(
            f"{data.name} has wrong labels of its own (its given and true labels differ); "
            "leave out --noise"
        )
    by_instance = settings.noise.startswith("instance")
    noise = corrupt_labels(
        data.labels,
        settings.noise,
        data.num_classes,
        seed=derive_seed(settings.seed, "label noise"),
        class_map=data.noise_map,
        superclasses=data.superclasses,
        inputs=small_inputs(data.plain or data.train) if by_instance else None,
    )
    data.true_labels, data.labels = data.labels, noise.labels
    return data, noise


def pick_threads(data: LabeledData, recipe: Recipe) -> int:
    """Threads torch should use: one where a step is too small to be worth sharing out."""
    parameters = sum(p.numel() for p in make_model(data, recipe).parameters())
    small = data.kind == "vector" and parameters * recipe.batch_size < 100_000_000
    return 1 if small else torch.get_num_threads()


def make_model(data: LabeledData, recipe: Recipe) -> nn.Module:
    """The recipe's model for this data, with the inputs' standardization as its first layer."""
    return build_model(
        recipe.model,
        data.input_shape,
        data.num_classes,
        width=recipe.width,
        mean=data.mean,
        std=data.std,
        pretrained=recipe.pretrained,
    )


def prepare_folder(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Make the run's folder, or say why it cannot be used."""
    is_run = (out / CONFIG).is_file()
    if resume:
        if not is_run:
            raise ValueError(f"there is no run to resume in {out} (no {CONFIG})")
        return
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out must name a folder")
    # A kill while the first file was being written leaves nothing worth protecting.
    if out.is_dir() and any(path.suffix != ".partial" for path in out.iterdir()):
        if not overwrite:
            hint = "--resume to go on with it, --overwrite to start again, or " if is_run else ""
            raise ValueError(f"{out} is not empty: use {hint}another --out")
        if not is_run:
            raise ValueError(f"{out} holds no run (no {CONFIG}), so --overwrite will not delete it")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)


def read_config(out: Path) -> RunSettings:
    """The settings of the run in a folder."""
    path = out / CONFIG
    try:
        return RunSettings.from_dict(json.loads(path.read_text(encoding="utf-8"))["settings"])
    except FileNotFoundError as error:
        raise ValueError(f"there is no run in {out} (no {CONFIG})") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the config of a run: {error}") from error


def _split_validation(
    data: LabeledData, settings: RunSettings
) -> tuple[Tensor | None, Tensor | None]:
    if settings.recipe.validation == 0:
        return None, None
    held = stratified_holdout(
        data.labels, settings.recipe.validation, derive_seed(settings.seed, "validation")
    )
    if not held.any():  # every class is too small to give a sample
        return None, None
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def _write_config(
    out: Path,
    settings: RunSettings,
    data: LabeledData,
    noise: LabelNoise | None,
    device: torch.device,
) -> None:
    config: dict[str, Any] = {
        "settings": settings.to_dict(),
        "data": {
            "name": data.name,
            "samples": len(data),
            "classes": list(data.class_names),
            "input_shape": list(data.input_shape),
            "messages": data.messages,
        },
        "noise": None,
        "versions": {
            "mild_ext": mild_ext.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
        },
        "device": str(device),
    }
    if noise is not None:
        config["noise"] = {
            "spec": noise.spec,
            "seed": noise.seed,
            "rate": noise.rate,
            "class_rates": [None if rate != rate else rate for rate in noise.class_rates],
        }
    write_text(out / CONFIG, json.dumps(config, indent=2) + "\n")
    # What was trained on, whatever happens to the files it was read from; --noise labels: reads it.
    write_atomically(out / "given_labels.npy", lambda to: _save_npy(data.labels, to))


def _save_npy(labels: Tensor, path: Path) -> None:
    with open(path, "wb") as file:  # np.save would add its own suffix to the name
        np.save(file, labels.numpy(), allow_pickle=False)


# -------------------------------------------------------------------------------------- training


def _compare(
    data: LabeledData,
    settings: RunSettings,
    result: RoundsResult,
    train_ids: Tensor | None,
    device: torch.device,
    out: Path,
    checkpoint_seconds: float,
    history: _History,
    progress: bool,
) -> list[dict[str, Any]]:
    """Test accuracy of the models: same recipe, same initial weights, same number of epochs."""
    if data.test is None:
        return []
    recipe = settings.recipe
    everyone = torch.arange(len(data)) if train_ids is None else train_ids

    def tested(model: nn.Module | None) -> dict[str, Any]:
        """Accuracy on the test set, and on further ones where there are some."""
        options: dict[str, Any] = {"device": device, "workers": recipe.workers}
        row: dict[str, Any] = {"test_accuracy": None}
        if model is not None and data.test is not None:
            row["test_accuracy"] = accuracy(model, data.test, **options)
            for name, dataset in data.more_tests.items():
                row[f"accuracy on {name}"] = accuracy(model, dataset, **options)
        return row

    mild = {"model": "MILD (kept samples)", "samples": int(result.kept.sum())}
    rows: list[dict[str, Any]] = [mild | tested(result.model)]
    subsets = {"plain cross-entropy (all samples)": everyone}
    if data.true_labels is not None:
        right = data.labels[everyone] == data.true_labels[everyone]
        subsets["correct labels only (bound)"] = everyone[right]
    if not settings.compare or not recipe.final_epochs:
        subsets = {}
    for name, ids in subsets.items():
        row: dict[str, Any] = {"model": name, "samples": len(ids), "test_accuracy": None}
        rows.append(row)
        if len(ids) == 0:
            continue
        model = fresh_model(lambda: make_model(data, recipe), settings.seed)
        trained = fit(
            model,
            data.train,
            data.labels,
            recipe,
            epochs=recipe.final_epochs,
            stage=name.partition(" (")[0],
            seed=settings.seed,
            ids=ids,
            device=device,
            checkpoint=out / "checkpoints" / f"{name.partition(' ')[0]}.safetensors",
            checkpoint_seconds=checkpoint_seconds,
            fingerprint=json.dumps(settings.to_dict()),
            on_epoch=history,
            progress=progress,
        )
        row |= tested(trained.averaged or model)
    # From worst to best as one expects them: plain, MILD, bound.
    return [rows[1], rows[0], *rows[2:]] if len(rows) > 1 else rows


def ssl_start_model(
    data: LabeledData, recipe: Recipe, result: RoundsResult, seed: int
) -> nn.Module:
    """What the semi-supervised stage starts from: MILD's final weights, or fresh ones (``ssl_start``)."""
    model = fresh_model(lambda: make_model(data, recipe), seed)
    if recipe.ssl_start == "warm" and result.model is not None:
        model.load_state_dict(result.model.state_dict())
    return model


def _semi_supervised(
    data: LabeledData,
    settings: RunSettings,
    result: RoundsResult,
    train_ids: Tensor | None,
    device: torch.device,
    out: Path,
    checkpoint_seconds: float,
    history: _History,
    progress: bool,
) -> SemiSupervisedResult:
    """The stage after the final training: the dropped samples go on teaching without their labels."""
    from mild_ext.training.ssl import train_semi_supervised

    recipe = settings.recipe
    model = ssl_start_model(data, recipe, result, settings.seed)
    return train_semi_supervised(
        data.train,
        data.labels,
        result.kept,
        model,
        recipe,
        num_classes=data.num_classes,
        ids=train_ids,
        true_labels=data.true_labels,
        seed=settings.seed,
        device=device,
        checkpoint=out / "checkpoints" / "ssl.safetensors",
        checkpoint_seconds=checkpoint_seconds,
        fingerprint=json.dumps(settings.to_dict()),
        on_epoch=history,
        progress=progress,
    )


def _add_semi_supervised(
    summary: dict[str, Any],
    semi: SemiSupervisedResult,
    data: LabeledData,
    settings: RunSettings,
    device: torch.device,
) -> None:
    """Add the stage's pseudo-labels, and its model to the table, after MILD's."""
    recipe = settings.recipe
    last = semi.history[-1]
    keys = ("pseudo_rate", "pseudo_accuracy", "pseudo_classes")
    summary["ssl"] = {"method": recipe.ssl} | {key: last[key] for key in keys}
    if data.test is None:
        return
    names = [row["model"] for row in summary["models"]]
    row = {
        "model": f"MILD + {SSL_NAMES[recipe.ssl]} (dropped ones unlabeled)",
        "samples": last["samples"],
        "epochs": len(semi.history),
        "test_accuracy": accuracy(semi.model, data.test, device=device, workers=recipe.workers),
    }
    summary["models"].insert(names.index("MILD (kept samples)") + 1, row)


def save_model(model: nn.Module, path: Path) -> None:
    """Save a model's ``state_dict`` as safetensors."""
    tensors = {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in model.state_dict().items()
    }
    write_atomically(path, lambda temporary: save_file(tensors, temporary))


# --------------------------------------------------------------------------------------- outputs


class _History:
    """``history.jsonl``: one record a line, written as it happens; a resumed run writes it anew."""

    def __init__(self, path: Path, also: Callable[[Record], None] | None = None) -> None:
        self.path = path
        self.also = also

    def __enter__(self) -> _History:
        path = self.path if processes.rank() == 0 else os.devnull
        self.file = open(path, "w", encoding="utf-8")
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def __call__(self, record: Record) -> None:
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        if self.also is not None:
            self.also(record)


def _save_round(out: Path, done: Round, say: Callable[[str], None]) -> None:
    """Save a round's learning status, its log, and the histogram it was decided on, as a picture."""
    if processes.rank() > 0:
        return
    for folder in ("status", "figures"):
        (out / folder).mkdir(exist_ok=True)
    name = f"round-{done.number:02d}"
    write_atomically(out / "status" / f"{name}.safetensors", done.status.save)
    if done.log is not None:
        (out / "logs").mkdir(exist_ok=True)
        write_learning_log(out / "logs" / f"{name}.npz", done.log)
    try:
        save_figure(done.selection.plot(), out / "figures" / f"{name}.png")
    except ImportError as error:
        if done.number == 0:
            say(f"(no figures: {error})")
        return
    if done.number == 0:  # the round that sees all of the noise
        shutil.copyfile(out / "figures" / f"{name}.png", out / "metric.png")


def write_selection(
    path: Path,
    result: RoundsResult,
    data: LabeledData,
    train_ids: Tensor | None,
    predicted: Tensor,
) -> None:
    """``selection.csv``: one line per sample used for training."""
    header = ["id", "given_label", "misclassified", "seen", "metric", "clean_probability", "kept"]
    header += ["round_dropped", "predicted_label"]
    columns = [
        result.labels,
        result.misclassified,
        result.seen,
        result.metric,
        result.clean_probability,
        result.kept.int(),
        result.round_dropped,
        predicted,
    ]
    if data.true_labels is not None:
        header.append("true_label")
        columns.append(data.true_labels)
    if data.sample_names is not None:
        header.append("name")
    ids = range(len(data)) if train_ids is None else train_ids.tolist()
    lists = [column.tolist() for column in columns]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for i in ids:
        row = [column[i] for column in lists]
        row[4] = f"{row[4]:.6g}"
        if row[6] < 0:
            row[6] = ""  # never dropped
        if data.sample_names is not None:
            row.append(data.sample_names[i])
        writer.writerow([i, *row])
    write_text(path, text.getvalue())


def _summary(
    data: LabeledData,
    noise: LabelNoise | None,
    settings: RunSettings,
    result: RoundsResult,
    models: list[dict[str, Any]],
    train_ids: Tensor | None,
) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "data": data.name,
        "noise": settings.noise,
        "noise_rate": None if noise is None else noise.rate,
        "seed": settings.seed,
        "rounds": len(result.rounds),
        "round_epochs": sum(r["epochs"] for r in result.rounds),
        "final_epochs": settings.recipe.final_epochs,
        "stop_reason": result.stop_reason,
        "samples": len(data) if train_ids is None else len(train_ids),
        "kept": int(result.kept.sum()),
        "models": models,
    }
    if data.true_labels is not None:
        wrong = data.labels != data.true_labels
        if train_ids is not None:
            wrong, kept = wrong[train_ids], result.kept[train_ids]
        else:
            kept = result.kept
        summary |= selection_quality(kept, wrong)
    accuracies = [row["test_accuracy"] for row in models]
    if len(accuracies) == 3 and None not in accuracies and accuracies[2] > accuracies[0]:
        plain, mild, bound = accuracies
        summary["gap_closed"] = (mild - plain) / (bound - plain)
    return summary


def behind_plain(models: list[dict[str, Any]], num_test: int) -> str | None:
    """A warning where MILD's models do worse on the test set than plain training, beyond chance."""
    plain, best = 0.0, 0.0
    for row in models:
        if row["test_accuracy"] is not None:
            if row["model"].startswith("plain"):
                plain = row["test_accuracy"]
            elif row["model"].startswith("MILD"):
                best = max(best, row["test_accuracy"])
    chance = 2 * math.sqrt((plain * (1 - plain) + best * (1 - best)) / num_test)
    if not best or plain - best <= chance:
        return None
    return (
        f"MILD is behind plain cross-entropy ({best:.1%} against {plain:.1%}), so much of what was "
        "dropped is probably right but hard. Watch for more epochs (first_epochs), until the model fits "
        "most samples; see the known limits in docs/selection.md"
    )


def _describe(
    data: LabeledData, noise: LabelNoise | None, settings: RunSettings, device: torch.device
) -> str:
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
    return text


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


class _RoundsTable:
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
        line += [_percent(record.get(key)).rjust(max(7, len(name))) for name, key in self.rates]
        self.say("  ".join(line))


def _comparison_table(summary: dict[str, Any]) -> str:
    models = summary["models"]
    if not models:
        return "\nThere is no test split, so no test accuracy (see --test-fraction).\n"
    width = max(len(row["model"]) for row in models)
    lines = ["", f"{'model'.ljust(width)}  samples  epochs  test accuracy"]
    lines += [
        f"{row['model'].ljust(width)}  {row['samples']:7d}  "
        f"{row.get('epochs', summary['final_epochs']):6d}  "
        f"{_percent(row['test_accuracy']).rjust(13)}"
        for row in models
    ]
    for name in [key for key in models[0] if key.startswith("accuracy on ")]:
        listed = ", ".join(f"{row['model']} {_percent(row.get(name))}" for row in models)
        lines.append(f"{name}: {listed}")
    if summary.get("gap_closed", 0) > 0:
        lines.append(f"MILD closes {summary['gap_closed']:.0%} of the gap to correct labels only.")
    if "warning" in summary:
        lines.append(f"Warning: {summary['warning']}.")
    return "\n".join(lines) + "\n"


def _next_steps(
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
    # Many share one probability, those that were never learned; the final model, which was trained
    # without them, tells them apart.
    predicted = logits.argmax(1)
    agreement = logits.softmax(1).gather(1, result.labels[:, None])[:, 0]
    order = sorted(
        dropped.tolist(),
        key=lambda i: (float(result.clean_probability[i]), float(agreement[i])),
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
        f"  check the samples with kept=0 in {out / 'selection.csv'} (sort by clean_probability),",
        "  correct or delete those that are wrong, and run again with another --out;",
        f"  the model in {out / 'model.safetensors'} was trained without them.",
        (f"  {page} is" if page.exists() else f"  mild-ext report {out} makes")
        + " a page of the rounds, the classes and these samples' pictures.",
    ]
    if data.test is None:
        lines.append("  Add --test-fraction 0.2 to see test accuracy (by the labels as they are).")
    return "\n".join(lines)


def settings_from_options(options: Any) -> RunSettings:
    """The settings a command line asks for: preset, then file, then options."""
    if options.data is None:
        raise ValueError("--data is needed, e.g. --data digits or --data npz:FILE")
    recipe_name = options.recipe or default_recipe(options.data)
    base, loaded = recipe_name, dict[str, Any]()
    if Path(recipe_name).suffix:
        loaded = read_settings(Path(recipe_name))
        base = loaded.pop("recipe", "default")
    return RunSettings(
        data=options.data,
        noise=PRESET_NOISE.get(base, "none"),
        seed=0,
        test_fraction=options.test_fraction,
        compare=True,
        device=options.device,
        threads=options.threads,
        recipe_name=recipe_name,
        recipe=preset(base).override(loaded | options.overrides),
    )


def default_recipe(data: str) -> str:
    """The preset that suits a data set, by its specification."""
    name = data.partition(":")[0]
    return name if name in PRESETS else "default"


def main_train(options: Any) -> int:
    """Entry point of the command line; with torchrun, of each of its processes."""
    with processes.launched_by_torchrun():
        return _main_train(options)


def _main_train(options: Any) -> int:
    out = Path(options.out)
    prepared = None
    if options.resume:
        prepare_folder(out, resume=True, overwrite=False)
        settings = read_config(out)
        given = [
            name
            for name in ("data", "noise", "seed", "recipe")
            if getattr(options, name) is not None
        ]
        given += ["learning-logs"] if options.learning_logs else []
        if given or options.overrides:
            names = ", ".join(f"--{n}" for n in [*given, *options.overrides]).replace("_", "-")
            raise ValueError(f"--resume takes the settings from {out}/{CONFIG}; leave out {names}")
    else:
        settings = settings_from_options(options)
        settings = replace(
            settings,
            noise=options.noise or settings.noise,
            seed=options.seed or 0,
            compare=not options.no_compare,
            learning_logs=options.learning_logs,
        )
        if settings.learning_logs:
            processes.require_one_process("--learning-logs is recorded")
        # Everything that can be wrong with the data is found before the folder is touched.
        prepared = prepare_data(settings)
        if settings.threads < 1:
            settings = replace(settings, threads=pick_threads(prepared[0], settings.recipe))
        if processes.rank() == 0:
            prepare_folder(out, resume=False, overwrite=options.overwrite)
    processes.barrier()
    train_command(
        settings,
        out,
        checkpoint_seconds=options.checkpoint_seconds,
        quiet=options.quiet or processes.rank() > 0,
        prepared=prepared,
        tensorboard=options.tensorboard and processes.rank() == 0,
        report=options.report and processes.rank() == 0,
    )
    return 0
