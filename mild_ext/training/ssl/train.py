"""Training on kept samples with their labels and on dropped ones without."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mild_ext.data.batches import Batches
from mild_ext.training.context import Record, RunContext
from mild_ext.training.loop import fit
from mild_ext.training.recipe import Recipe
from mild_ext.training.ssl.augment import weak_strong
from mild_ext.training.ssl.objectives import (
    METHODS,
    DistributionAlignment,
    FixMatch,
    PseudoLabels,
    SemiSupervised,
)


@dataclass
class SemiSupervisedResult:
    """Outcome of `train_semi_supervised`.

    Attributes:
        model: the trained model (its averaged weights, where the recipe asks for them), in
            evaluation mode.
        history: one record per epoch, with the pseudo-labels' share, accuracy and classes.
    """

    model: nn.Module
    history: list[Record] = field(default_factory=list)


def train_semi_supervised(
    dataset: Dataset[Any],
    labels: Tensor,
    mask: Tensor,
    model: nn.Module,
    recipe: Recipe,
    *,
    method: str | None = None,
    num_classes: int | None = None,
    ids: Tensor | None = None,
    true_labels: Tensor | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 30.0,
    fingerprint: str = "",
    on_epoch: Callable[[Record], None] | None = None,
    progress: bool = False,
) -> SemiSupervisedResult:
    """Train ``model`` in place with FixMatch or MixMatch; any mask will do, MILD's or another.

    An epoch passes once over all samples (unlabeled: as usual, the labeled ones are among them,
    without their labels); each step adds a batch of labeled ones. The label of a sample outside
    ``mask`` has no influence, save that with ``ssl_align="given"`` all labels together say how
    frequent each class is.

    Args:
        dataset: map-style data set of ``(input, label)``; only its inputs are used. Inputs are
            tensors: images ``[C, H, W]``, or floating-point features of any other shape.
        labels: int64 ``[N]``.
        mask: bool ``[N]``, True for the samples whose label is to be trusted.
        model: gives ``[B, K]`` logits; its weights are where the training starts.
        recipe: batch size, optimizer, learning rate, and the settings ``ssl_...``.
        method: ``fixmatch`` or ``mixmatch``; None is the recipe's ``ssl``.
        num_classes: K; None is the largest label plus one.
        ids: int64 ids of the samples to use; None for all.
        true_labels: int64 ``[N]``, for the report on pseudo-labels only.
        seed: everything random follows from it.
        device: where to train.
        checkpoint: file to resume from where it exists, and to save to.
        checkpoint_seconds: least time between two saves; 0 saves after every epoch.
        fingerprint: text that identifies the run; a checkpoint with another is refused.
        on_epoch: called with each epoch's record, including those of a resumed training.
        progress: show a progress bar on a terminal.

    Returns:
        SemiSupervisedResult. Its records hold, for the samples outside the mask, ``pseudo_rate``
        (share that got a pseudo-label in that epoch), ``pseudo_accuracy`` (None where the truth is
        not known), and ``pseudo_classes`` (share of each class among the pseudo-labels, ``[K]``).

    Raises:
        TypeError: inputs that cannot be augmented, or a mask that is not bool.
        ValueError: labels, mask and data set do not fit, or the mask keeps nothing.
        TrainingDiverged: the loss became NaN or infinite.
        CheckpointError: the checkpoint is damaged, or of another run.
    """
    context = RunContext(
        seed=seed,
        device=device,
        folder=None if checkpoint is None else Path(checkpoint).parent,
        checkpoint_seconds=checkpoint_seconds,
        fingerprint=fingerprint,
        on_record=on_epoch,
        progress=progress,
    )
    return train_stage(
        dataset,
        labels,
        mask,
        model,
        recipe,
        context,
        checkpoint="ssl.safetensors" if checkpoint is None else Path(checkpoint).name,
        method=method,
        num_classes=num_classes,
        ids=ids,
        true_labels=true_labels,
    )


def train_stage(
    dataset: Dataset[Any],
    labels: Tensor,
    mask: Tensor,
    model: nn.Module,
    recipe: Recipe,
    context: RunContext,
    *,
    checkpoint: str = "ssl.safetensors",
    method: str | None = None,
    num_classes: int | None = None,
    ids: Tensor | None = None,
    true_labels: Tensor | None = None,
) -> SemiSupervisedResult:
    """`train_semi_supervised` as a part of a run, whose context says seed, device and the like.

    Args:
        checkpoint: file in the context's folder to resume from and to save to.
    """
    method = recipe.ssl if method is None else method
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    labels, mask = labels.cpu(), mask.cpu()
    everyone, labeled_ids, num_classes = _check(dataset, labels, mask, ids, num_classes)
    labeled = Batches(
        dataset,
        labels,
        ids=labeled_ids,
        batch_size=recipe.batch_size,
        shuffle=True,
        device=context.device,
        workers=recipe.workers,
    )
    objective = _objective(
        METHODS[method],
        recipe,
        labeled,
        _look_at_inputs(dataset, everyone),
        PseudoLabels(~mask, num_classes, true_labels),
        _alignment(recipe, labels[everyone], labels[labeled_ids], num_classes),
    )

    def on_record(record: Record) -> None:
        # The loop hands out its own record, before it saves it: what is added here is kept, and is
        # there already in the records of a resumed training.
        if "pseudo_rate" not in record:
            record |= {"title": objective.title, "labeled": len(labeled_ids)}
            record |= objective.pseudo.report()
        context.note(record)

    trained = fit(
        model,
        dataset,
        torch.zeros_like(labels),
        recipe.override({"augment": "none", "batch_size": recipe.batch_size * recipe.ssl_ratio}),
        replace(context, on_record=on_record),
        epochs=recipe.ssl_epochs,
        stage=method,
        checkpoint=checkpoint,
        ids=everyone,
        objective=objective,
    )
    final = model if trained.averaged is None else trained.averaged
    return SemiSupervisedResult(final.eval(), trained.history)


def _alignment(
    recipe: Recipe, given: Tensor, kept: Tensor, num_classes: int
) -> DistributionAlignment | None:
    """The guard of the pseudo-labels' classes; warns of a class that no kept sample can teach."""
    counts = {
        "given": torch.bincount(given, minlength=num_classes),
        "kept": torch.bincount(kept, minlength=num_classes),
    }
    missing = ((counts["given"] > 0) & (counts["kept"] == 0)).nonzero().flatten().tolist()
    if missing:
        warnings.warn(
            f"the mask keeps no sample of class {', '.join(map(str, missing))}: nothing can teach "
            "the model this class; keep some of its samples (selecting per class does)",
            stacklevel=4,
        )
    if recipe.ssl_align == "none":
        return None
    # A class without labels cannot be asked for; the others share the whole.
    target = counts[recipe.ssl_align] * (counts["kept"] > 0)
    return DistributionAlignment(target / target.sum())


def _objective(
    method: type[SemiSupervised],
    recipe: Recipe,
    labeled: Batches,
    inputs: tuple[tuple[int, ...], tuple[float, float]],
    pseudo: PseudoLabels,
    align: DistributionAlignment | None,
) -> SemiSupervised:
    """The method with the recipe's settings; ``inputs``: their shape and range of values."""
    weak, strong = weak_strong(recipe.augment, *inputs)
    weight = method.default_weight if recipe.ssl_weight is None else recipe.ssl_weight
    objective = method(
        labeled, weak, strong, pseudo, weight=weight, ramp=recipe.ssl_ramp, align=align
    )
    if isinstance(objective, FixMatch):
        objective.confidence = recipe.ssl_confidence
    return objective


def _check(
    dataset: Dataset[Any],
    labels: Tensor,
    mask: Tensor,
    ids: Tensor | None,
    num_classes: int | None,
) -> tuple[Tensor, Tensor, int]:
    """Ids of all samples to use, of the labeled ones among them, and the number of classes."""
    count = len(dataset)  # type: ignore[arg-type]
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool, got {mask.dtype}")
    for name, value in (("labels", labels), ("mask", mask)):
        if value.shape != (count,):
            raise ValueError(f"{name} must have shape [{count}], got {list(value.shape)}")
    everyone = torch.arange(count) if ids is None else ids.cpu()
    labeled_ids = everyone[mask[everyone]]
    if len(labeled_ids) == 0:
        raise ValueError(
            "the mask keeps none of the samples: a semi-supervised training needs some labels"
        )
    largest = int(labels[labeled_ids].max()) + 1
    if num_classes is None:
        num_classes = int(labels[everyone].max()) + 1
    if largest > num_classes or int(labels[labeled_ids].min()) < 0:
        raise ValueError(f"labels must be in [0, {num_classes}), got some outside")
    return everyone, labeled_ids, num_classes


def _look_at_inputs(
    dataset: Dataset[Any], ids: Tensor
) -> tuple[tuple[int, ...], tuple[float, float]]:
    """Shape of one input, and the values of black and white where inputs are images."""
    sample = ids[torch.linspace(0, len(ids) - 1, min(len(ids), 256)).long()]
    inputs: Any = next(iter(Batches(dataset, ids=sample, batch_size=256).epoch()))[1]
    if not isinstance(inputs, Tensor) or inputs.dtype in (torch.int32, torch.int64, torch.bool):
        kind = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(
            "the semi-supervised stage augments its inputs, so they must be images or "
            f"floating-point features; got {kind}"
        )
    shape = tuple(inputs.shape[1:])
    if inputs.dtype == torch.uint8:
        return shape, (0.0, 255.0)
    low, high = float(inputs.min()), float(inputs.max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return shape, (low, high if high > low else low + 1.0)
