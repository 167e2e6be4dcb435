"""The iterative procedure: train, fit the mixture, drop what looks wrong, and go on.

Hu et al., "MILD: Modeling the Instance Learning Dynamics for Learning with Noisy Labels",
IJCAI 2023, Algorithm 1. What a selection does, and why the rounds end, is `mild_ext.rounds`; here is
the loop that trains, records, reports and checkpoints.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mild_ext import processes
from mild_ext.data.dataset_labels import labels_of
from mild_ext.data.labels import check_labels
from mild_ext.data.random_state import isolated_random_state, seed_everything
from mild_ext.files import remove_partial, writing
from mild_ext.reading import reading
from mild_ext.recording.learning_log import LearningLog, LogRecorder
from mild_ext.recording.status import LearningStatus
from mild_ext.rounds import RoundOutcome, Rounds
from mild_ext.sealed import read_tensors, write_tensors
from mild_ext.selection import PlantedLabels, Selection, select_clean
from mild_ext.selection.noise_rate import Estimate, NoiseRate
from mild_ext.selection.quality import evaluate_selection
from mild_ext.selection.table import Table, samples_table
from mild_ext.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    resuming,
    save_checkpoint,
)
from mild_ext.training.context import Record, RunContext
from mild_ext.training.loop import (
    CrossEntropy,
    accuracy,
    derive_seed,
    fit,
    predict,
)
from mild_ext.training.recipe import DEFAULT_PLANT, Recipe
from mild_ext.training.scouting import Scout, scout

ModelFactory = Callable[[], nn.Module]

_FORMAT = "mild_ext-rounds-3"
#: Of earlier versions, without a checksum.
_UNSEALED = ("mild_ext-rounds-2",)
_TENSORS = (
    *("labels", "kept", "round_dropped", "misclassified", "seen", "clean_probability"),
    *("suspicion", "suggested_label", "suggestion_confidence"),
)
_DYNAMICS = "dynamics."


@dataclass
class RoundsResult:
    """Outcome of `run_rounds`. Sample ids are positions in the data set.

    Attributes:
        labels: int64 ``[N]``, the given labels.
        kept: bool ``[N]``, the refined subset. Samples outside ``train_ids`` are False.
        round_dropped: int64 ``[N]``, the round that dropped the sample, -1 where none did.
        misclassified: int32 ``[N]``, misclassified epochs in the last round that watched the
            sample; with ``seen`` the evidence its fate was decided on.
        seen: int32 ``[N]``, epochs in which that round saw the sample.
        clean_probability: float32 ``[N]`` in [0, 1], probability that the label is right, from the
            same round.
        suspicion: float32 ``[N]``, from the same round; higher = more likely wrong.
        suggested_label: int64 ``[N]``, the class the network voted for instead of the given label; -1 where
            there is none, or nothing was planted.
        suggestion_confidence: float32 ``[N]`` in [0, 1], that it is the true one if the given one is wrong.
        rounds: one record per round.
        stop_reason: why there were no more rounds.
        dynamics: training dynamics by name, float32 ``[N]``, from the last round that watched the sample under its
            given label, NaN where none did; empty unless the recipe's ``record`` is "all".
        history: one record per epoch, all rounds and the final training.
        model: the final model, in evaluation mode; None after `load`, or with ``final_epochs=0``
            when the model of the last round is wanted elsewhere.
    """

    labels: Tensor
    kept: Tensor
    round_dropped: Tensor
    misclassified: Tensor
    seen: Tensor
    clean_probability: Tensor
    suspicion: Tensor
    suggested_label: Tensor
    suggestion_confidence: Tensor
    rounds: list[Record]
    stop_reason: str
    dynamics: dict[str, Tensor] = field(default_factory=dict)
    history: list[Record] = field(default_factory=list)
    model: nn.Module | None = None

    @property
    def metric(self) -> Tensor:
        """MILD metric int32 ``[N]``, misclassified minus memorized epochs; lower = cleaner."""
        return 2 * self.misclassified - self.seen

    @property
    def noise_rate(self) -> NoiseRate | None:
        """Share of wrong labels as planted ones measured it in the first round that did; None where none did."""
        for record in self.rounds:
            found = record.get("noise_rate")
            if found is not None and found["measured"]:
                return NoiseRate.from_record(found)
        return None

    def table(self, **columns: Any) -> Table:
        """One row per sample, from the last round that watched it; see `mild_ext.selection.table`."""
        return samples_table(
            dropped=self.round_dropped >= 0,  # samples that took no part were not dropped
            clean_probability=self.clean_probability,
            times={"misclassified": self.misclassified, "seen": self.seen},
            round_dropped=self.round_dropped,
            **{"given_labels": self.labels, "dynamics": self.dynamics, **columns},
        )

    def save(self, path: str | Path) -> None:
        """Write all but the model as safetensors, the round records as JSON in its header."""
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        tensors |= {_DYNAMICS + name: values for name, values in self.dynamics.items()}
        header = {
            "format": _FORMAT,
            "rounds": json.dumps(self.rounds),
            "stop_reason": self.stop_reason,
        }
        write_tensors(path, tensors, header)

    @classmethod
    def load(cls, path: str | Path) -> RoundsResult:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, no saved result, or one of an earlier version.
        """
        content = read_tensors(path, (_FORMAT,), "result of the rounds", unsealed=_UNSEALED)
        with reading(path):
            tensors: dict[str, Any] = {name: content.tensor(name) for name in _TENSORS}
            dynamics = {
                name.removeprefix(_DYNAMICS): values
                for name, values in content.tensors.items()
                if name.startswith(_DYNAMICS)
            }
            lengths = {tuple(values.shape) for values in [*tensors.values(), *dynamics.values()]}
            if len(lengths) > 1:
                raise ValueError(f"its columns have different shapes: {sorted(lengths)}")
            return cls(
                **tensors,
                rounds=json.loads(content["rounds"]),
                stop_reason=content["stop_reason"],
                dynamics=dynamics,
            )


@dataclass(frozen=True)
class Round:
    """One finished round, as handed to ``on_round``.

    ``log`` is there where ``learning_logs`` asks for it, ``planted`` where labels were planted in the round:
    its status is of those. ``scouts`` are the trainings beside it that the selection was made from as well.
    """

    number: int
    status: LearningStatus
    selection: Selection
    kept: Tensor
    record: Record
    log: LearningLog | None = None
    planted: PlantedLabels | None = None
    scouts: tuple[Scout, ...] = ()


def fresh_model(factory: ModelFactory, seed: int) -> nn.Module:
    """A model whose initial weights follow from ``seed``; the global random state is left alone."""
    with isolated_random_state():
        seed_everything(derive_seed(seed, "initial weights"))
        return factory()


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
            for with several processes; or the recipe's ``plant`` is not the default, and cannot be met.
        TrainingDiverged: the loss became NaN or infinite.
        CheckpointError: a checkpoint in ``folder`` is damaged or of another run.
    """
    if learning_logs:
        processes.require_one_process("learning_logs is recorded")
    labels = labels_of(dataset) if labels is None else check_labels(labels).values
    count = len(labels)
    if count != len(dataset):  # type: ignore[arg-type]
        raise ValueError(f"labels must have length {len(dataset)}, got {count}")  # type: ignore[arg-type]
    model = fresh_model(model_factory, seed).to(device)
    if (recipe.plants or recipe.record != "auto") and num_classes is None:
        num_classes = _count_classes(model, dataset, device)
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
        plant=recipe.plant if recipe.plants else 0.0,
        plant_seed=seed,
        num_classes=num_classes,
        plant_required=recipe.plant != DEFAULT_PLANT,
        record=None if recipe.record == "auto" else recipe.record,
    )
    everyone = rounds.taking_part
    processes.require_same(
        {
            "labels": labels.numpy().tobytes(),
            "train_ids": everyone.numpy().tobytes(),
            "settings": json.dumps([recipe.to_dict() | {"workers": 0}, seed]).encode(),
        }
    )
    folder = None if folder is None else Path(folder)
    if folder is not None:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        if processes.rank() == 0:
            remove_partial(folder)
    fingerprint = _fingerprint(recipe, seed, labels, everyone)
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
        record = _record(outcome, selection, status) | {"scouts": 1 + len(scouts)}
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
        model = train("final", rounds.kept.nonzero().flatten(), recipe.final_epochs, labels)
    assert rounds.stop_reason is not None
    return RoundsResult(
        labels=labels,
        **{name: getattr(rounds, name) for name in _TENSORS if name != "labels"},
        rounds=records,
        stop_reason=rounds.stop_reason,
        dynamics=rounds.dynamics,
        history=history,
        model=model.eval(),
    )


def _record(outcome: RoundOutcome, selection: Selection, status: LearningStatus) -> Record:
    """What the history says of a round."""
    return {
        "type": "round",
        "round": outcome.round,
        "epochs": outcome.epochs,
        "trained_on": int(outcome.learned.sum()),
        "kept": int(outcome.kept.sum()),
        "removed": outcome.removed,
        "supported": bool(selection.supported),
        "reason": selection.reason,
        "threshold": float(selection.threshold),
        "mixture": _mixture_parameters(selection),
        "histogram": _sparse(status.histogram()),
        "planted": 0 if outcome.planted is None else len(outcome.planted),
        "planting_note": outcome.planting_note,
        "noise_rate": None if selection.noise_rate is None else selection.noise_rate.record(),
        "doubt": selection.doubt,
        "learned": selection.learned,
        "estimated_recall": _estimate(selection.estimated_recall),
        "estimated_precision": _estimate(selection.estimated_precision),
    }


def _count_classes(model: nn.Module, dataset: Dataset[Any], device: torch.device | str) -> int:
    """Columns of the logits, by one sample in evaluation mode; nothing is changed by it."""
    with isolated_random_state():
        logits, _ = predict(model, dataset, ids=torch.zeros(1, dtype=torch.int64), device=device)
    return int(logits.shape[1])


def _estimate(estimate: Estimate | None) -> dict[str, float] | None:
    return None if estimate is None else asdict(estimate)


def _mixture_parameters(selection: Selection) -> dict[str, list[float]] | None:
    mixture = selection.mixture
    if mixture is None or not hasattr(mixture, "weights_"):
        return None
    return {
        name: [float(value) for value in getattr(mixture, f"{name}_")]
        for name in ("weights", "shapes", "scales")
    }


def _sparse(histogram: Tensor) -> list[list[int]]:
    """The non-zero cells of a histogram ``[P+1, P+1]`` as ``[misclassified, seen, count]``."""
    cells = histogram.nonzero()
    return [[*cell, int(histogram[tuple(cell)])] for cell in cells.tolist()]


def _fingerprint(recipe: Recipe, seed: int, labels: Tensor, everyone: Tensor) -> str:
    """Identifies a run: what its result depends on."""
    settings = {k: v for k, v in recipe.to_dict().items() if not k.startswith("ssl")}
    del settings["workers"]
    digest = hashlib.sha256(json.dumps([settings, seed], sort_keys=True).encode())
    digest.update(labels.numpy().tobytes())
    digest.update(everyone.numpy().tobytes())
    return digest.hexdigest()
