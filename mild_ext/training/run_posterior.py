"""A single training on posterior targets, which finds the wrong labels on its way.

For the first epochs it learns the given labels, a few of them planted, and records. Then the wrong labels are
found as at the end of a round (`mild_ext.rounds`), and without a new start the same training goes on with the
targets of `PosteriorTargets`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mild_ext import processes
from mild_ext.data.sets import labels_of
from mild_ext.recording.learning_log import LogRecorder
from mild_ext.recording.status import LearningStatus
from mild_ext.rounds import Rounds
from mild_ext.selection import select_clean
from mild_ext.selection.quality import evaluate_selection
from mild_ext.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from mild_ext.training.context import Record, RunContext
from mild_ext.training.loop import accuracy, fit
from mild_ext.training.posterior_targets import PosteriorTargets
from mild_ext.training.recipe import DEFAULT_PLANT, Recipe
from mild_ext.training.run_result import (
    TENSORS,
    ModelFactory,
    Round,
    RoundsResult,
    count_classes,
    fresh_model,
    round_record,
    run_fingerprint,
)

#: Name of the training in a run's history.
STAGE = "MILD"


class PosteriorLoss:
    """The objective of `mild_ext.training.fit` that learns `PosteriorTargets`.

    Args:
        targets: of the status that the training records into.
        label_smoothing: share of the targets spread over all classes.
        on_begin: called when they have begun, at the end of an epoch; not again after a resume.
    """

    def __init__(
        self,
        targets: PosteriorTargets,
        label_smoothing: float = 0.0,
        on_begin: Callable[[], None] | None = None,
    ) -> None:
        self.targets, self.label_smoothing, self.on_begin = targets, label_smoothing, on_begin

    def start_epoch(self, epoch: int, epochs: int, generator: torch.Generator) -> None:
        pass

    def __call__(
        self, model: nn.Module, index: Tensor, inputs: Any, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = model(inputs)
        return self.targets.loss(index, logits, label_smoothing=self.label_smoothing), logits

    def end_epoch(self) -> None:
        before = self.targets.rate
        self.targets.refresh()
        if before is None and self.targets.rate is not None and self.on_begin is not None:
            self.on_begin()

    def state_dict(self) -> dict[str, Any]:
        return self.targets.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.targets.load_state_dict(state)


def run_posterior(
    dataset: Dataset[Any],
    model_factory: ModelFactory,
    recipe: Recipe,
    *,
    labels: Tensor | None = None,
    true_labels: Tensor | None = None,
    test: Dataset[Any] | None = None,
    train_ids: Tensor | None = None,
    num_classes: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    folder: str | Path | None = None,
    checkpoint_seconds: float = 30.0,
    learning_logs: bool = False,
    on_round: Callable[[Round], None] | None = None,
    on_record: Callable[[Record], None] | None = None,
    progress: bool = False,
) -> RoundsResult:
    """Train a model on labels of which some are wrong, and find these on the way.

    One training of the recipe's ``first_epochs`` and ``final_epochs`` together, with one schedule. Where the noise
    cannot be told from none, what follows the first epochs is ordinary training.

    Args:
        Those of `mild_ext.run_rounds`. There is one round, the first epochs; the test set is looked at after
        it, for the report.

    Returns:
        RoundsResult; ``kept`` are the samples whose label is more likely right than wrong, as the first epochs
        tell. Whether the model learned their labels alone is in no one's hands: it learned the targets.

    Raises:
        As `mild_ext.run_rounds`.
    """
    if learning_logs:
        processes.require_one_process("learning_logs is recorded")
    labels = labels_of(dataset) if labels is None else labels.cpu()
    count = len(labels)
    if count != len(dataset):  # type: ignore[arg-type]
        raise ValueError(f"labels must have length {len(dataset)}, got {count}")  # type: ignore[arg-type]
    model = fresh_model(model_factory, seed).to(device)
    if num_classes is None:
        num_classes = count_classes(model, dataset, device)
    epochs = recipe.first_epochs + recipe.final_epochs
    select = partial(select_clean, rule=recipe.rule, level=recipe.level, per_class=recipe.per_class)
    rounds = Rounds(
        count,
        [epochs],
        train_ids=train_ids,
        labels=labels,
        select=select,
        plant=recipe.plant if recipe.plants else 0.0,
        plant_seed=seed,
        num_classes=num_classes,
        plant_required=recipe.plant != DEFAULT_PLANT,
    )
    planted, watched = rounds.planted, rounds.watched.nonzero().flatten()
    folder = None if folder is None else Path(folder)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    fingerprint = run_fingerprint(recipe, seed, labels, rounds.taking_part)
    found_file = None if folder is None else folder / "rounds.safetensors"
    found = _load(found_file, fingerprint)
    status = LearningStatus(count, epochs, num_classes=num_classes, device=device)
    targets = PosteriorTargets(
        status,
        planted=planted,
        labels=labels if planted is None else None,
        begin=recipe.first_epochs,
        select=select,
    )
    recorder = LogRecorder(count, epochs, device) if learning_logs else None

    def on_begin() -> None:
        """End the round: what is known of the labels now is what the run has found."""
        selection = targets.selection
        assert selection is not None
        outcome = rounds.end_round(status, selection, early=True)
        record = round_record(outcome, selection, status)
        if true_labels is not None:
            right = (labels == true_labels)[rounds.taking_part]
            record |= evaluate_selection(outcome.kept[rounds.taking_part], right).record()
        if test is not None:
            record["test_accuracy"] = accuracy(model, test, device=device, workers=recipe.workers)
        found.update(state=rounds.state_dict(), rounds=[record], fingerprint=fingerprint)
        if on_round is not None:
            log = None
            if recorder is not None:
                without = None if planted is None else planted.mask
                log = recorder.log(
                    status, labels, true_labels, without=without, epochs=status.epoch
                )
            on_round(Round(0, status, selection, outcome.kept, record, log, planted))
        if found_file is not None:
            save_checkpoint(found_file, found)

    history: list[Record] = []

    def note(record: Record) -> None:
        """Pass on the records of the epochs, and the round's after its last one, in a resumed training too."""
        last = record["type"] == "epoch" and record["epoch"] + 1 == recipe.first_epochs
        for item in (record, *(found["rounds"] if last else [])):
            history.append(item)
            if on_record is not None:
                on_record(item)

    trained = fit(
        model,
        dataset,
        labels if planted is None else planted.labels,
        recipe,
        RunContext(seed, device, folder, checkpoint_seconds, fingerprint, note, progress),
        epochs=epochs,
        stage=STAGE,
        ids=watched,
        status=status,
        recorder=recorder,
        objective=PosteriorLoss(targets, recipe.label_smoothing, on_begin),
    )
    if not rounds.finished:  # a training that was resumed after the round
        rounds.load_state_dict(found["state"])
    assert rounds.stop_reason is not None
    return RoundsResult(
        labels=labels,
        **{name: getattr(rounds, name) for name in TENSORS if name != "labels"},
        rounds=found["rounds"],
        stop_reason=rounds.stop_reason,
        history=history,
        model=(trained.averaged or model).eval(),
    )


def _load(path: Path | None, fingerprint: str) -> dict[str, Any]:
    """What an interrupted run has found; empty where it had not come so far."""
    if path is None or not path.exists():
        return {}
    state = load_checkpoint(path)
    if state["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{path.parent} holds checkpoints of a run with other settings or data; use another folder"
        )
    return state
