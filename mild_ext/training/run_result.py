"""What comes of finding the wrong labels of a data set and training a model in spite of them.

`run_rounds` and `run_posterior` both give a `RoundsResult`; here is that, and what the two share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
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
from mild_ext.recording.learning_log import LearningLog
from mild_ext.recording.status import LearningStatus
from mild_ext.rounds import RoundOutcome
from mild_ext.sealed import read_tensors, write_tensors
from mild_ext.selection import PlantedLabels, Selection
from mild_ext.selection.noise_rate import Estimate, NoiseRate
from mild_ext.selection.table import Table, samples_table
from mild_ext.training.context import Record
from mild_ext.training.loop import derive_seed, predict
from mild_ext.training.recipe import Recipe
from mild_ext.training.scouting import Scout

ModelFactory = Callable[[], nn.Module]

_FORMAT = "mild_ext-rounds-3"
#: Of earlier versions, without a checksum.
_UNSEALED = ("mild_ext-rounds-2",)
TENSORS = (
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
            suspicion=self.suspicion,
            suggested_labels=self.suggested_label,
            suggestion_confidence=self.suggestion_confidence,
            times={"misclassified": self.misclassified, "seen": self.seen},
            round_dropped=self.round_dropped,
            **{"given_labels": self.labels, "dynamics": self.dynamics, **columns},
        )

    def save(self, path: str | Path) -> None:
        """Write all but the model as safetensors, the round records as JSON in its header."""
        tensors = {name: getattr(self, name).contiguous() for name in TENSORS}
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
            tensors: dict[str, Any] = {name: content.tensor(name) for name in TENSORS}
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


def round_record(outcome: RoundOutcome, selection: Selection, status: LearningStatus) -> Record:
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


def count_classes(model: nn.Module, dataset: Dataset[Any], device: torch.device | str) -> int:
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


def given_labels(dataset: Dataset[Any], labels: Tensor | None) -> Tensor:
    """int64 ``[N]``, the labels to train on, one for each sample of the data set; None reads its own."""
    labels = labels_of(dataset) if labels is None else check_labels(labels).values
    count = len(dataset)  # type: ignore[arg-type]
    if len(labels) != count:
        raise ValueError(f"labels must have length {count}, got {len(labels)}")
    return labels


def begin_run(
    recipe: Recipe, seed: int, labels: Tensor, everyone: Tensor, folder: str | Path | None
) -> tuple[Path | None, str]:
    """Make sure that all ranks do the same, and make the folder of the checkpoints, swept of half-written files.

    Returns:
        The folder, and what identifies the run in its checkpoints.
    """
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
    return folder, run_fingerprint(recipe, seed, labels, everyone)


def run_fingerprint(recipe: Recipe, seed: int, labels: Tensor, everyone: Tensor) -> str:
    """Identifies a run: what its result depends on."""
    settings = {k: v for k, v in recipe.to_dict().items() if not k.startswith("ssl")}
    del settings["workers"]
    if recipe.method == "mild-rounds":
        del settings["method"]  # as before there was a choice, so that runs of then go on
    digest = hashlib.sha256(json.dumps([settings, seed], sort_keys=True).encode())
    digest.update(labels.numpy().tobytes())
    digest.update(everyone.numpy().tobytes())
    return digest.hexdigest()
