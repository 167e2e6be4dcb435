"""The iterative procedure: train, fit the mixture, drop what looks wrong, and go on.

Hu et al., "MILD: Modeling the Instance Learning Dynamics for Learning with Noisy Labels",
IJCAI 2023, Algorithm 1. What a selection does, and why the rounds end, is `mild_ext.rounds`; here is
the loop that trains, records, reports and checkpoints.
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
from mild_ext.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    resuming,
    save_checkpoint,
)
from mild_ext.training.context import Record, RunContext
from mild_ext.training.loop import CrossEntropy, accuracy, derive_seed, fit, steps_per_epoch
from mild_ext.training.recipe import Recipe
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
from mild_ext.training.scouting import Scout, scout

__all__ = ["Round", "RoundsResult", "fresh_model", "run_rounds"]


def run_rounds(
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
    """Find the wrong labels of a data set and train a model without them.

    Args:
        dataset: map-style data set of ``(input, label)``; a sample's id is its position.
        model_factory: called without arguments; returns a fresh model that gives ``[B, K]`` logits.
        recipe: epochs, rounds, optimizer, selection rule.
        labels: int64 ``[N]`` given labels; None reads the data set's own.
        true_labels: int64 ``[N]``; used for reporting only, never for training or selection.
        test: data set with correct labels, evaluated after each round for the report.
        train_ids: int64 ids of the samples to use; None for all.
        num_classes: columns of the model's logits, K, for planted labels and ``record``; None asks the model, with
            one sample, in evaluation mode.
        seed: everything random follows from it.
        device: where to train and record.
        folder: where to keep checkpoints; where some of this run exist, it goes on from them.
        checkpoint_seconds: least time between two checkpoints inside a round (at an epoch's end);
            0 saves after every epoch. The end of a round is always saved.
        learning_logs: record loss and margin of every sample and epoch as well, and give ``on_round``
            the round's `LearningLog`. In one process only.
        on_round: called after each round, before it is checkpointed.
        on_record: called with every epoch's and round's record, replayed ones included.
        progress: show a progress bar on a terminal.

    Returns:
        RoundsResult; its ``kept`` is never empty.

    Raises:
        ValueError: labels and data set do not fit, there are no samples, or learning logs are asked
            for with several processes; or the recipe's ``plant`` was chosen, and cannot be met.
        TrainingDiverged: the loss became NaN or infinite.
        CheckpointError: a checkpoint in ``folder`` is damaged or of another run.
    """
    if learning_logs:
        processes.require_one_process("learning_logs is recorded")
    labels = given_labels(dataset, labels)
    count = len(labels)
    model = fresh_model(model_factory, seed).to(device)
    if (recipe.plants or recipe.record != "auto") and num_classes is None:
        num_classes = count_classes(model, dataset, device)
    rounds = Rounds(
        count,
        [recipe.first_epochs] + [recipe.round_epochs] * (recipe.rounds - 1),
        train_ids=train_ids,
        labels=labels,
        reselect=recipe.reselect,
        min_removed=recipe.min_removed,
        select=partial(
            select_clean,
            rule=recipe.rule,
            level=recipe.level,
            per_class=recipe.per_class,
        ),
        plant=recipe.planted_share(),
        plant_seed=seed,
        num_classes=num_classes,
        plant_required=recipe.plant is not None,
        # Further rounds have one training each: all of them are measured, or none.
        plant_trainings=recipe.scouts if recipe.rounds == 1 else 1,
        record=None if recipe.record == "auto" else recipe.record,
    )
    everyone = rounds.taking_part
    folder, fingerprint = begin_run(recipe, seed, labels, everyone, folder)
    context = RunContext(
        seed,
        device,
        folder,
        checkpoint_seconds,
        fingerprint,
        on_record=on_record,
        progress=progress,
    )

    records: list[Record] = []
    history: list[Record] = []
    if folder is not None and (folder / "rounds.safetensors").exists():
        state = load_checkpoint(folder / "rounds.safetensors")
        with resuming(folder / "rounds.safetensors"):
            if state["fingerprint"] != fingerprint:
                raise CheckpointError(
                    f"{folder} holds checkpoints of a run with other settings or data; "
                    "use another folder"
                )
            try:
                rounds.load_state_dict(state.get("state", {}))
            except ValueError as error:
                raise CheckpointError(
                    f"{folder} holds checkpoints this version cannot go on from ({error}); "
                    "use another folder"
                ) from error
            model.load_state_dict(state["model"])
            records, history = state["rounds"], state["history"]
        for record in history:
            if on_record is not None:
                on_record(record)

    def train(stage: str, ids: Tensor, epochs: int, to_learn: Tensor, **options: Any) -> nn.Module:
        """Train ``model``; returns the model to evaluate: itself, or its averaged copy."""
        result = fit(
            model,
            dataset,
            to_learn,
            recipe,
            context,
            epochs=epochs,
            stage=stage,
            ids=ids,
            **options,
        )
        history.extend(result.history)
        return model if result.averaged is None else result.averaged

    while not rounds.finished:
        number, epochs = rounds.round, rounds.num_epochs
        if number > 0 and recipe.round_start == "scratch":
            fresh = fresh_model(model_factory, derive_seed(seed, "round", number))
            model.load_state_dict(fresh.state_dict())
        status = rounds.new_status(device)
        recorder = LogRecorder(count, epochs, device) if learning_logs else None
        evaluated = train(
            f"round {number}",
            rounds.watched.nonzero().flatten(),
            epochs,
            labels if rounds.planted is None else rounds.planted.labels,
            status=status,
            recorder=recorder,
            objective=CrossEntropy(
                recipe.label_smoothing,
                rounds.learned.to(device) if recipe.reselect == "all" else None,
            ),
            weight_decay=recipe.first_weight_decay if number == 0 else None,
        )
        scouts: tuple[Scout, ...] = ()
        if number == 0 and rounds.planted is not None and recipe.scouts > 1:
            scouting = scout(
                dataset,
                model_factory,
                recipe,
                context,
                num_classes=num_classes or 0,
                labels=labels,
                train_ids=train_ids,
                first=Scout(status, rounds.planted),
            )
            scouts = scouting.scouts[1:]
            history.extend(scouting.history)
        selection = rounds.select(status, scouts)
        outcome = rounds.end_round(status, selection)
        record = round_record(outcome, selection, status) | {"scouts": 1 + len(scouts)}
        if true_labels is not None:
            right = (labels == true_labels)[everyone]
            record |= evaluate_selection(outcome.kept[everyone], right).record()
        if test is not None:
            record["test_accuracy"] = accuracy(
                evaluated, test, device=device, workers=recipe.workers
            )
        records.append(record)
        history.append(record)
        if on_record is not None:
            on_record(record)
        if on_round is not None:
            planted, log = outcome.planted, None
            if recorder is not None:
                without = None if planted is None else planted.mask
                log = recorder.log(status, labels, true_labels, without=without)
            kept = outcome.kept
            on_round(Round(number, status, selection, kept, record, log, planted, scouts))
        if folder is not None:
            save_checkpoint(
                folder / "rounds.safetensors",
                {
                    "fingerprint": fingerprint,
                    "state": rounds.state_dict(),
                    "rounds": records,
                    "history": history,
                    "model": dict(model.state_dict()),
                },
            )

    if recipe.final_epochs:
        if recipe.final == "scratch":
            model = fresh_model(model_factory, seed)
        kept = rounds.kept.nonzero().flatten()
        # As many steps as on all samples, with which it is compared: fewer samples, more epochs.
        passes = steps_per_epoch(len(everyone.nonzero()), recipe) / steps_per_epoch(
            len(kept), recipe
        )
        model = train("final", kept, round(recipe.final_epochs * passes), labels)
    assert rounds.stop_reason is not None
    return RoundsResult(
        labels=labels,
        **{name: getattr(rounds, name) for name in TENSORS if name != "labels"},
        rounds=records,
        stop_reason=rounds.stop_reason,
        dynamics=rounds.dynamics,
        history=history,
        model=model.eval(),
    )
