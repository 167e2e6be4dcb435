"""Scouting: networks trained from fresh weights, each with other labels planted, until the noise is known well enough.

One run measures the noise by its planted labels, of which a small data set has few, and its verdict on a sample is
that of one network. Each scout plants labels in other samples, and what all of them saw is pooled
(`mild_ext.select_clean` with a list of statuses): an interval as of so many more planted labels, and a verdict on
which several networks agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mild_ext.data.dataset_labels import labels_of
from mild_ext.data.random_state import isolated_random_state, seed_everything
from mild_ext.recording.status import LearningStatus
from mild_ext.rounds.planting import USEFUL_PLANTED, RoundPlanting
from mild_ext.selection import PlantedLabels, Selection, select_clean
from mild_ext.training.context import Record, RunContext
from mild_ext.training.loop import derive_seed, fit
from mild_ext.training.recipe import Recipe

#: The noise rate is known well enough where its interval is no wider.
NARROW = 0.05


class Scout(NamedTuple):
    """A finished training on planted labels: its status, and what was planted in it."""

    status: LearningStatus
    planted: PlantedLabels


@dataclass(frozen=True)
class Scouting:
    """What the scouts found.

    Attributes:
        selection: pooled over all scouts.
        scouts: of each, the status and what was planted; empty where nothing could be planted.
        stopped: why there were no more scouts, in words.
        history: a record an epoch.
    """

    selection: Selection
    scouts: tuple[Scout, ...]
    stopped: str
    history: tuple[Record, ...] = ()

    @property
    def learned(self) -> float | None:
        """Of the labels that are not plainly wrong, the share the networks learned; None if nothing was planted."""
        return self.selection.learned


def scout(
    dataset: Dataset[Any],
    model_factory: Callable[[], nn.Module],
    recipe: Recipe,
    context: RunContext | None = None,
    *,
    num_classes: int,
    labels: Tensor | None = None,
    train_ids: Tensor | None = None,
    first: Scout | None = None,
) -> Scouting:
    """Train scouts of ``recipe.first_epochs`` each, at most ``recipe.scouts``, until the interval is narrow.

    Args:
        dataset: map-style data set of ``(input, label)``.
        model_factory: called without arguments; returns a fresh model that gives ``[B, K]`` logits.
        recipe: ``scouts``, ``first_epochs``, ``plant``, ``level``, and how to train.
        context: seed, device, checkpoints, who hears of each epoch.
        num_classes: columns of the logits, K.
        labels: int64 ``[N]`` given labels; None reads the data set's own.
        train_ids: int64 ids of the samples to use; None for all.
        first: a training on the recipe's planted labels that is done already (that of the first round); the
            scouts go on from it.

    Returns:
        Scouting. Where too few samples could be planted it is one training whose selection is estimated from
        counts, and its `Selection.reason` says so.

    Raises:
        ValueError: the recipe plants nothing, or its ``plant`` was chosen and cannot be met.
        TrainingDiverged: the loss became NaN or infinite.
    """
    if not recipe.plants:
        raise ValueError(
            "scouts need planted labels: set plant above 0, with rule='posterior' and per_class left to itself"
        )
    context = context or RunContext()
    labels = labels_of(dataset) if labels is None else labels.cpu()
    watched = torch.ones(len(labels), dtype=torch.bool)
    if train_ids is not None:
        watched = torch.zeros_like(watched).index_fill_(0, train_ids.cpu(), True)
    planting = RoundPlanting(
        len(labels),
        recipe.planted_share(),
        seed=context.seed,
        num_classes=num_classes,
        required=recipe.plant is not None,
        trainings=recipe.scouts,
    )
    scouts: list[Scout] = [] if first is None else [first]
    selection = None if first is None else _pooled(scouts, recipe)
    history: list[Record] = []
    while len(scouts) < recipe.scouts and not _is_narrow(selection):
        number = len(scouts)
        planting.begin(0, labels, watched, repeat=number)
        status = LearningStatus(
            len(labels), recipe.first_epochs, num_classes=num_classes, device=context.device
        )
        with isolated_random_state():
            seed_everything(derive_seed(context.seed, "initial weights of scout", number))
            model = model_factory()
        to_learn = planting.labels
        assert to_learn is not None
        done = fit(
            model,
            dataset,
            to_learn,
            recipe,
            context,
            epochs=recipe.first_epochs,
            stage=f"scout {number}",
            checkpoint=f"scout-{number}.safetensors",
            ids=watched.nonzero().flatten(),
            status=status,
            weight_decay=recipe.first_weight_decay,
        )
        history += done.history
        if planting.planted is None:
            selection = select_clean(status, level=recipe.level, labels=labels.to(status.device))
            return Scouting(selection, (), str(planting.note), tuple(history))
        scouts.append(Scout(status, planting.planted))
        selection = _pooled(scouts, recipe)
    assert selection is not None
    stopped = f"the recipe's {recipe.scouts} scouts are done"
    if _is_narrow(selection):
        stopped = f"the noise rate's interval is at most {NARROW:g} wide"
    return Scouting(selection, tuple(scouts), stopped, tuple(history))


def _pooled(scouts: Sequence[Scout], recipe: Recipe) -> Selection | None:
    """The selection of all of them; None while too few are planted to measure by, and more scouts to come."""
    if len(scouts) < recipe.scouts and sum(len(each.planted) for each in scouts) < USEFUL_PLANTED:
        return None
    statuses, planted = (list(part) for part in zip(*scouts, strict=True))
    return select_clean(statuses, level=recipe.level, planted=planted)


def _is_narrow(selection: Selection | None) -> bool:
    rate = None if selection is None else selection.noise_rate
    return rate is not None and rate.high - rate.low <= NARROW
