"""The training methods side by side: same data, noise, seeds and recipe.

Every method makes as many optimizer steps: those of the recipe's ``first_epochs`` and ``final_epochs`` over all
samples, or, where MILD's rounds are among the methods, of these and their final training together. The
semi-supervised stage comes on top. Accuracy is that of the last epoch.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from mild_ext.data.sets import LabeledData
from mild_ext.files import writing
from mild_ext.reading import reading
from mild_ext.sealed import read_sealed_json, write_sealed_json
from mild_ext.selection.quality import evaluate_selection
from mild_ext.training.context import Record, RunContext
from mild_ext.training.experiment import (
    Row,
    RunSettings,
    find_wrong_labels,
    go_on_unlabeled,
    prepare_data,
    train_method,
)
from mild_ext.training.loop import accuracy, steps_per_epoch
from mild_ext.training.methods import METHODS, Method
from mild_ext.training.owned_folder import OwnedFolder
from mild_ext.training.run_models import cost

CONFIG, RESULTS = "config.json", "results.json"

#: The files of a comparison: what ``overwrite`` may delete.
KNOWN = (
    *(CONFIG, RESULTS, "results.csv", "table.txt"),
    *(f"checkpoints/*/{name}.safetensors" for name in ("rounds", "training", "ssl")),
)


class ComparisonFolder:
    """The folder of a comparison; the rules are those of a run's (`mild_ext.training.run_folder`).

    Args:
        path: the folder; `prepare` makes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owned = OwnedFolder(path, "comparison", KNOWN)
        #: Files of somebody else's that ``overwrite`` left in the folder.
        self.stayed: list[str] = []

    def prepare(self, settings: RunSettings, *, overwrite: bool = False) -> None:
        """Make the folder and lock it, or go on in that of the same comparison.

        Args:
            settings: of all trainings, save noise and seed.
            overwrite: delete an earlier comparison in it, of whatever settings.

        Raises:
            ValueError: something else is in it, another comparison, or another process at work.
            CannotWrite: it cannot be made or written to.
        """
        out, path = self.path, self.path / CONFIG
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file; --out must name a folder")
        used = not self._owned.is_untouched
        if used and overwrite:
            self._owned.require_ours(CONFIG)
        elif used:
            self._require_same(settings)
        self._owned.claim()
        if used and overwrite:
            self.stayed = self._owned.clear()
        if not path.exists():
            write_sealed_json(path, settings.to_dict())

    def _require_same(self, settings: RunSettings) -> None:
        path = self.path / CONFIG
        if not path.is_file():
            raise ValueError(
                f"{self.path} is not empty and holds no comparison (no {CONFIG}); use another --out"
            )
        found = read_sealed_json(path, "comparison's config")
        if "settings" in found:
            raise ValueError(f"{self.path} holds a run, and no comparison; use another --out")
        if found != json.loads(json.dumps(settings.to_dict())):
            raise ValueError(
                f"{self.path} holds a comparison with other settings; use another --out, or --overwrite"
            )

    def release(self) -> None:
        """Let other processes use the folder."""
        self._owned.release()


def read_results(path: Path) -> list[Row]:
    """The rows of a comparison so far; none where there is no file yet.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.exists():
        return []
    content = read_sealed_json(path, "comparison's table of results")
    remedy = "delete it: finished trainings are then read from their checkpoints"
    with reading(path, remedy):
        rows: list[Row] = content["rows"]
        for row in rows:
            kinds = {"noise": str, "seed": int, "method": str, "epochs": int}
            for name, kind in kinds.items():
                if type(row[name]) is not kind:
                    raise ValueError(f"{name} must be {kind.__name__}, got {row[name]!r}")
            if row["method"] not in METHODS:
                raise ValueError(f"the method {row['method']!r} is not known")
            row["test_accuracy"]
    return rows


def compare(
    settings: RunSettings,
    noises: list[str],
    seeds: list[int],
    methods: list[str],
    out: Path,
    context: RunContext,
    *,
    on_start: Callable[[Row], None] = lambda row: None,
    on_row: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Train every method at every noise and seed; finished trainings in ``out`` are not repeated.

    Args:
        settings: of all trainings, save noise and seed.
        noises, seeds: the conditions.
        methods: keys of `METHODS`.
        out: folder of the results, and of a folder of checkpoints for each training.
        context: device, time between checkpoints, and progress of all trainings; seed, folder and
            fingerprint are each training's own.
        on_start: called with the noise, seed and method of each training before it.
        on_row: called with each row as its training is done.

    Returns:
        One row per noise, seed and method: ``test_accuracy`` in [0, 1], ``test_samples``, ``epochs``, ``steps``,
        ``seconds``, and the quality of the kept set for the methods that have one.
    """
    path = out / RESULTS
    rows = read_results(path)
    done = {(row["noise"], row["seed"], row["method"]): row for row in rows}
    ordered = in_order(methods)
    for noise, seed in itertools.product(noises, seeds):
        run = replace(settings, noise=noise, seed=seed)
        data, _ = prepare_data(run)
        for key in ordered:
            if (noise, seed, key) in done:
                continue
            method = METHODS[key]
            folder = out / "checkpoints" / _folder_name(run, method)
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            own = replace(context, seed=seed, folder=folder, fingerprint=run.fingerprint())
            steps = done.get((noise, seed, "mild-rounds"), {}).get("steps")
            row = {"noise": noise, "seed": seed, "method": key}
            on_start(row)
            row |= _train(method, data, run, own, steps)
            rows.append(row)
            done[noise, seed, key] = row
            write_sealed_json(path, {"rows": rows})
            on_row(row)
    asked = itertools.product(noises, seeds, methods)
    return [done[key] for key in asked]


def in_order(methods: list[str]) -> list[str]:
    """The methods as they are trained: rounds end when they find nothing more, and the others take as many steps."""
    return sorted(methods, key=lambda key: METHODS[key].finds != "mild-rounds")


def _folder_name(run: RunSettings, method: Method) -> str:
    key = method.finds or method.key  # the same rounds, whatever follows
    return f"{run.noise}-{run.seed}-{key}".replace(":", "-").replace("/", "-")


def _train(
    method: Method, data: LabeledData, run: RunSettings, context: RunContext, steps: int | None
) -> Row:
    """One training's row; ``steps``: those to be matched, None where the recipe alone says how many."""
    recipe = run.recipe
    epochs = recipe.first_epochs + recipe.final_epochs
    if steps is not None:
        epochs = round(steps / steps_per_epoch(len(data), recipe))
    model: nn.Module | None
    kept: Tensor | None
    if method.finds is not None:
        model, kept, history = _find(method, data, run, context, epochs)
    else:
        trained = train_method(method, data, recipe, context, epochs=epochs, stage=method.key)
        model, kept, history = trained.model, trained.kept, list(trained.history)
    row: Row = {"test_accuracy": None} | cost(history)
    if model is None:
        return row
    assert data.test is not None
    options = {"device": context.device, "workers": recipe.workers}
    row |= {
        "test_accuracy": accuracy(model, data.test, **options),
        "test_samples": len(data.test),  # type: ignore[arg-type]
    }
    if kept is not None and data.true_labels is not None:
        row |= evaluate_selection(kept, data.labels == data.true_labels).record()
    return row


def _find(
    method: Method, data: LabeledData, run: RunSettings, context: RunContext, epochs: int
) -> tuple[nn.Module, Tensor, list[Record]]:
    """The model, the kept samples, and the records of all epochs; ``epochs``: in all, of a single training."""
    assert method.finds is not None
    recipe = run.recipe.override({"method": method.finds})
    if method.finds == "mild":
        first = round(epochs * recipe.first_epochs / (recipe.first_epochs + recipe.final_epochs))
        recipe = recipe.override({"first_epochs": first, "final_epochs": epochs - first})
    result = find_wrong_labels(data, recipe, context, report=False)
    assert result.model is not None
    history = [record for record in result.history if record["type"] == "epoch"]
    if not method.semi_supervised:
        return result.model, result.kept, history
    # With the recipe's method, or MixMatch where it names none.
    ssl = "mixmatch" if recipe.ssl == "none" else recipe.ssl
    semi = go_on_unlabeled(data, recipe, result, context, method=ssl)
    return semi.model, result.kept, history + semi.history
