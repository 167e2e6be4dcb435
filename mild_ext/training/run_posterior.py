"""A single training on posterior targets, which finds the wrong labels on its way.

At first it learns the given labels, a few of them planted, and records. Once wrong labels begin to be memorized, and by
the middle of the training at the latest, they are found as at the end of a round (`mild_ext.rounds`). Without a new
start the same training goes on with the targets, or where little was memorized the weights, of `PosteriorTargets`.
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
from mild_ext.recording.learning_log import LogRecorder
from mild_ext.rounds import Rounds
from mild_ext.selection import select_clean
from mild_ext.selection.quality import evaluate_selection
from mild_ext.training.context import Record, RunContext
from mild_ext.training.loop import accuracy, fit
from mild_ext.training.methods import METHODS
from mild_ext.training.posterior_targets import PosteriorTargets
from mild_ext.training.recipe import TRAINING_PLANT, Recipe
from mild_ext.training.run_result import (
    TENSORS,
    ModelFactory,
    Round,
    RoundsResult,
    begin_run,
    count_classes,
    fresh_model,
    given_labels,
    round_record,
)

#: Name of the training in a run's history.
STAGE = METHODS["mild"].stage


class PosteriorLoss:
    """The objective of `mild_ext.training.fit` that learns `PosteriorTargets`.

    Args:
        targets: of the status that the training records into.
        label_smoothing: share of the targets spread over all classes.
        on_begin: called when they have begun, at the end of an epoch; not again after a resume.

    Attributes:
        found: what ``on_begin`` returned, kept with the state; empty before.
    """

    def __init__(
        self,
        targets: PosteriorTargets,
        label_smoothing: float = 0.0,
        on_begin: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self.targets, self.label_smoothing, self.on_begin = targets, label_smoothing, on_begin
        self.found: dict[str, Any] = {}

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
            self.found = self.on_begin()

    def state_dict(self) -> dict[str, Any]:
        return {"targets": self.targets.state_dict(), "found": self.found}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.targets.load_state_dict(state["targets"])
        self.found = state["found"]


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
    cannot be told from none, it is ordinary training from there on.

    Args:
        Those of `mild_ext.run_rounds`. There is one round: the epochs before the targets begin; the test set is
        looked at after it, for the report.

    Returns:
        RoundsResult; ``kept`` are the samples whose label is more likely right than wrong, as that round tells.

    Raises:
        As `mild_ext.run_rounds`.
    """
    if learning_logs:
        processes.require_one_process("learning_logs is recorded")
    labels = given_labels(dataset, labels)
    count = len(labels)
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
        plant=recipe.planted_share(TRAINING_PLANT),
        plant_seed=seed,
        num_classes=num_classes,
        plant_required=recipe.plant is not None,
        record="all" if recipe.record == "all" else "classes",
    )
    planted, watched = rounds.planted, rounds.watched.nonzero().flatten()
    folder, fingerprint = begin_run(recipe, seed, labels, rounds.taking_part, folder)
    status = rounds.new_status(device)
    targets = PosteriorTargets(
        status,
        planted=planted,
        labels=labels if planted is None else None,
        select=select,
    )
    recorder = LogRecorder(count, epochs, device) if learning_logs else None

    def on_begin() -> dict[str, Any]:
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
        if on_round is not None:
            log = None
            if recorder is not None:
                without = None if planted is None else planted.mask
                log = recorder.log(
                    status, labels, true_labels, without=without, epochs=status.epoch
                )
            on_round(Round(0, status, selection, outcome.kept, record, log, planted))
        return {"state": rounds.state_dict(), "record": record}

    objective = PosteriorLoss(targets, recipe.label_smoothing, on_begin)
    history: list[Record] = []

    def note(record: Record) -> None:
        """Pass on the records of the epochs, and the round's after its last one, in a resumed training too."""
        last = record["type"] == "epoch" and record["epoch"] + 1 == targets.began
        for item in [record, objective.found["record"]] if last else [record]:
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
        objective=objective,
    )
    if not rounds.finished:  # a training that was resumed after the round
        rounds.load_state_dict(objective.found["state"])
    assert rounds.stop_reason is not None
    return RoundsResult(
        labels=labels,
        **{name: getattr(rounds, name) for name in TENSORS if name != "labels"},
        rounds=[objective.found["record"]],
        stop_reason=rounds.stop_reason,
        dynamics=rounds.dynamics,
        history=history,
        model=(trained.averaged or model).eval(),
    )
