"""``mild-ext compare``: the table a paper has, on the user's own data.

Every method trains on the same data, noise, seeds and recipe, and for as many epochs as MILD spends
in all: its rounds and its final training together. Accuracy is that of the last epoch.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mild_ext.data.sets import LabeledData
from mild_ext.files import write_text
from mild_ext.training.experiment import (
    RunSettings,
    make_model,
    pick_device,
    pick_threads,
    prepare_data,
    ssl_start_model,
)
from mild_ext.training.loop import Objective, accuracy, fit
from mild_ext.training.methods import EarlyLearningRegularization, SmallLoss
from mild_ext.training.run_rounds import RoundsResult, fresh_model, run_rounds, selection_quality

METHODS = ("plain", "small-loss", "elr", "mild", "mild-ssl", "clean")
NAMES = {
    "plain": "plain cross-entropy",
    "small-loss": "small loss (Gaussian mixture)",
    "elr": "ELR",
    "mild": "MILD",
    "mild-ssl": "MILD + semi-supervised",
    "clean": "correct labels only (bound)",
}
RESULTS = "results.json"

Row = dict[str, Any]


def compare(
    settings: RunSettings,
    noises: list[str],
    seeds: list[int],
    methods: list[str],
    out: Path,
    *,
    checkpoint_seconds: float = 30.0,
    say: Callable[[str], None] = lambda text: None,
    progress: bool = False,
) -> list[Row]:
    """Train every method at every noise and seed; finished trainings in ``out`` are not repeated.

    Returns:
        One row per noise, seed and method: ``test_accuracy`` in [0, 1], ``epochs``, and the quality
        of the kept set for the methods that have one.
    """
    path = out / RESULTS
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    done = {(row["noise"], row["seed"], row["method"]) for row in rows}
    ordered = ["mild", *[m for m in methods if m != "mild"]]  # the others need its number of epochs
    for noise in noises:
        for seed in seeds:
            run = replace(settings, noise=noise, seed=seed)
            data, _ = prepare_data(run)
            budget = 0
            for method in ordered:
                if (noise, seed, method) not in done:
                    folder = (
                        out
                        / "checkpoints"
                        / f"{noise}-{seed}-{method}".replace(":", "-").replace("/", "-")
                    )
                    row = _train(method, data, run, folder, budget, checkpoint_seconds, progress)
                    rows.append({"noise": noise, "seed": seed, "method": method} | row)
                    write_text(path, json.dumps({"rows": rows}, indent=2) + "\n")
                    score = row["test_accuracy"]
                    say(
                        f"{noise}  seed {seed}  {NAMES[method]}: "
                        + ("-" if score is None else f"{score:.1%}")
                    )
                if method == "mild":
                    budget = next(
                        row["epochs"]
                        for row in rows
                        if (row["noise"], row["seed"], row["method"]) == (noise, seed, "mild")
                    )
    return [
        row
        for row in rows
        if row["noise"] in noises and row["seed"] in seeds and row["method"] in methods
    ]


def _train(
    method: str,
    data: LabeledData,
    run: RunSettings,
    folder: Path,
    budget: int,
    checkpoint_seconds: float,
    progress: bool,
) -> Row:
    device = pick_device(run.device)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = run.recipe
    wrong = None if data.true_labels is None else data.labels != data.true_labels
    kept: Tensor | None = None
    if method in ("mild", "mild-ssl"):
        folder = folder.with_name(folder.name.removesuffix("-ssl"))  # the same rounds
        folder.mkdir(parents=True, exist_ok=True)
        result: RoundsResult = run_rounds(
            data.train,
            lambda: make_model(data, recipe),
            recipe,
            labels=data.labels,
            seed=run.seed,
            device=device,
            folder=folder,
            checkpoint_seconds=checkpoint_seconds,
            progress=progress,
        )
        assert result.model is not None
        model, kept = result.model, result.kept
        budget = sum(record["type"] == "epoch" for record in result.history)
        if method == "mild-ssl":
            model = _semi_supervised(data, run, result, folder, checkpoint_seconds, progress)
            budget += recipe.ssl_epochs
    else:
        ids = torch.arange(len(data))
        objective: Objective | None = None
        if method == "clean":
            assert wrong is not None
            ids = ids[~wrong]
        elif method == "small-loss":
            objective = SmallLoss(len(data))
        elif method == "elr":
            objective = EarlyLearningRegularization(len(data))
        if len(ids) == 0:
            return {"test_accuracy": None, "epochs": budget}
        model = fresh_model(lambda: make_model(data, recipe), run.seed)
        trained = fit(
            model,
            data.train,
            data.labels,
            recipe,
            epochs=budget,
            stage=method,
            seed=run.seed,
            ids=ids,
            objective=objective,
            device=device,
            checkpoint=folder / "training.safetensors",
            checkpoint_seconds=checkpoint_seconds,
            fingerprint=json.dumps(run.to_dict()),
            progress=progress,
        )
        model = trained.averaged or model
        if isinstance(objective, SmallLoss):
            kept = objective.kept.cpu()
    assert data.test is not None
    row: Row = {
        "test_accuracy": accuracy(model, data.test, device=device, workers=recipe.workers),
        "epochs": budget,
    }
    if kept is not None and wrong is not None:
        row |= selection_quality(kept, wrong)
    return row


def _semi_supervised(
    data: LabeledData,
    run: RunSettings,
    result: RoundsResult,
    folder: Path,
    checkpoint_seconds: float,
    progress: bool,
) -> nn.Module:
    """The stage on top of MILD, with the recipe's method, or MixMatch where it names none."""
    from mild_ext.training.ssl import train_semi_supervised

    recipe = run.recipe
    model = ssl_start_model(data, recipe, result, run.seed)
    return train_semi_supervised(
        data.train,
        data.labels,
        result.kept,
        model,
        recipe,
        method="mixmatch" if recipe.ssl == "none" else recipe.ssl,
        num_classes=data.num_classes,
        true_labels=data.true_labels,
        seed=run.seed,
        device=pick_device(run.device),
        checkpoint=folder / "ssl.safetensors",
        checkpoint_seconds=checkpoint_seconds,
        fingerprint=json.dumps(run.to_dict()),
        progress=progress,
    ).model


def table(rows: list[Row], methods: list[str]) -> str:
    """Test accuracy, mean and standard deviation over seeds in percent; one column per noise."""
    noises = list(dict.fromkeys(row["noise"] for row in rows))
    width = max(len(NAMES[method]) for method in methods)
    lines = ["".ljust(width) + "".join(noise.rjust(20) for noise in noises)]
    for method in methods:
        cells = [_cell(rows, method, noise, "test_accuracy") for noise in noises]
        lines.append(NAMES[method].ljust(width) + "".join(cell.rjust(20) for cell in cells))
    selecting = [m for m in methods if any(r["method"] == m and "f1" in r for r in rows)]
    if selecting:
        lines += ["", "F1 of the kept samples"]
    for method in selecting:
        cells = [_cell(rows, method, noise, "f1") for noise in noises]
        lines.append(NAMES[method].ljust(width) + "".join(cell.rjust(20) for cell in cells))
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


def main_compare(options: Any) -> int:
    """Entry point of the command line."""
    from mild_ext.training.experiment import settings_from_options

    out = Path(options.out)
    methods = list(METHODS) if options.methods is None else options.methods.split(",")
    unknown = sorted(set(methods) - set(METHODS))
    if unknown:
        raise ValueError(f"unknown method {', '.join(unknown)}; known: {', '.join(METHODS)}")
    try:
        seeds = [int(text) for text in options.seeds.split(",")]
    except ValueError as error:
        raise ValueError(f"--seeds must be numbers like 0,1,2; got {options.seeds!r}") from error
    settings = settings_from_options(options)
    noises = options.noise or [settings.noise]
    data, _ = prepare_data(replace(settings, noise=noises[0]))
    if settings.threads < 1:
        settings = replace(settings, threads=pick_threads(data, settings.recipe))
    torch.set_num_threads(settings.threads)
    if data.test is None:
        raise ValueError("a comparison needs a test split; see --test-fraction")
    if data.true_labels is None and "clean" in methods:
        if options.methods is not None:
            raise ValueError("the true labels are not known: leave out the method clean")
        methods.remove("clean")
    out.mkdir(parents=True, exist_ok=True)
    config = json.dumps(settings.to_dict(), indent=2) + "\n"
    path = out / "config.json"
    if path.exists() and path.read_text(encoding="utf-8") != config:
        raise ValueError(f"{out} holds a comparison with other settings; use another --out")
    if not path.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty and holds no comparison; use another --out")
    write_text(path, config)
    rows = compare(
        settings,
        noises,
        seeds,
        methods,
        out,
        checkpoint_seconds=options.checkpoint_seconds,
        say=lambda text: None if options.quiet else print(text, flush=True),
        progress=not options.quiet,
    )
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "results.csv", text.getvalue())
    report = table(rows, methods)
    write_text(out / "table.txt", report + "\n")
    print(f"\nTest accuracy in %, mean ± standard deviation over {len(seeds)} seeds\n{report}")
    return 0
