"""The end of a round: what makes the selection, what is noted of every sample, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mild_ext.recording.status import LearningStatus
from mild_ext.selection import PlantedLabels, Selection

#: The label of a sample that was never in a batch, where labels are taken from the batches; also a
#: suggested label where there is none.
UNKNOWN = -1


class Select(Protocol):
    """From a round's status to a selection, as `select_clean` is; from a list of them where scouts were trained.

    Called with the given labels, int64 ``[N]`` on the status' device, -1 for samples whose label is
    not known; None where none is. Where labels are planted in the round, and only there, ``planted`` is
    given as well. Of the result, ``mask`` (bool ``[N]``), ``clean_probability`` (``[N]`` in [0, 1]),
    ``supported`` and ``reason`` are used, and, where it has them, ``suspicion``, ``suggested_label`` and
    ``suggestion_confidence``.
    """

    def __call__(
        self,
        status: LearningStatus | Sequence[LearningStatus],
        /,
        *,
        labels: Tensor | None,
        planted: PlantedLabels | Sequence[PlantedLabels] = ...,
    ) -> Selection: ...


@dataclass(frozen=True, eq=False)
class RoundOutcome:
    """What the end of a round did. Masks are bool ``[N]`` on the CPU, and stay as they are.

    Attributes:
        round: its number, from 0.
        epochs: how many it had.
        watched: the samples that were recorded in it.
        learned: the samples that were learned from in it: those kept before.
        kept: the samples to learn from now.
        refused: why the selection was not followed and nothing changed; None where it was.
        stop_reason: why this was the last round; None where it was not.
        planted: the labels planted in it; None where none were.
        planting_note: why none were, although that was asked for; None otherwise.
    """

    round: int
    epochs: int
    watched: Tensor
    learned: Tensor
    kept: Tensor
    refused: str | None
    stop_reason: str | None
    planted: PlantedLabels | None = None
    planting_note: str | None = None

    @property
    def removed(self) -> int:
        """Samples that are not learned from any more."""
        return int((self.learned & ~self.kept).sum())

    @property
    def changed(self) -> int:
        """Samples removed, and those that returned."""
        return int((self.learned ^ self.kept).sum())


def evidence(
    status: LearningStatus, selection: Selection, planted: PlantedLabels | None
) -> dict[str, Tensor]:
    """What a round saw of every sample, ``[N]`` each, against the given labels.

    Args:
        status: of the round, with all its epochs.
        selection: made from it.
        planted: the labels it was trained on, where some were planted.

    Returns:
        By the names of the attributes of `mild_ext.rounds.Rounds`.
    """
    times, probability = status.compute(), torch.as_tensor(selection.clean_probability)
    misclassified = times.misclassified
    if planted is not None:
        given, mask = (x.to(status.device) for x in (planted.given, planted.mask))
        misclassified = torch.where(mask, status.misclassified_for(given), misclassified)
    suspicion = getattr(selection, "suspicion", None)
    label = getattr(selection, "suggested_label", None)
    confidence = getattr(selection, "suggestion_confidence", None)
    count = status.num_samples
    return {
        "misclassified": misclassified,
        "seen": times.seen,
        "clean_probability": probability,
        "suspicion": 1 - probability if suspicion is None else suspicion,
        "suggested_label": torch.full((count,), UNKNOWN) if label is None else label,
        "suggestion_confidence": torch.zeros(count) if confidence is None else confidence,
    }


def who_takes_part(train_ids: Any, num_samples: int) -> Tensor:
    """``train_ids`` as bool ``[N]`` on the CPU.

    Args:
        train_ids: ids, or a mask bool ``[N]``, in a tensor, array or list; None for all.
        num_samples: N.

    Raises:
        TypeError: neither integers nor a mask.
        ValueError: a mask of another length, ids out of range, or none at all.
    """
    part = torch.zeros(num_samples, dtype=torch.bool)
    if train_ids is None:
        return ~part
    ids = torch.as_tensor(train_ids).cpu()
    if ids.numel() == 0 or (ids.dtype == torch.bool and not ids.any()):
        raise ValueError("there are no samples to train on; train_ids must name at least one")
    if ids.is_floating_point() or ids.is_complex():
        raise TypeError(
            f"train_ids must be ids (int64) or a mask (bool), got {ids.dtype}; use train_ids.long()"
        )
    if ids.dtype == torch.bool and tuple(ids.shape) != (num_samples,):
        raise ValueError(
            f"train_ids as a mask must have shape [{num_samples}], got {list(ids.shape)}"
        )
    if ids.dtype != torch.bool and not 0 <= int(ids.min()) <= int(ids.max()) < num_samples:
        raise ValueError(
            f"train_ids must lie in [0, {num_samples}), the positions in the data set, got {int(ids.min())} to "
            f"{int(ids.max())}"
        )
    part[ids if ids.dtype == torch.bool else ids.long()] = True
    return part


def checked_mask(selection: Selection, num_samples: int) -> Tensor:
    """The selection's mask on the CPU.

    Raises:
        TypeError, ValueError: it has no bool mask of that many samples.
    """
    mask = selection.mask
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        what = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"select must return a selection with a bool mask, got {what}")
    if tuple(mask.shape) != (num_samples,):
        raise ValueError(
            f"select must return a mask of shape [{num_samples}], got {list(mask.shape)}"
        )
    return mask.cpu()


def checked_values(values: Any, name: str, dtype: torch.dtype, count: int) -> Tensor:
    """A tensor of a kept state.

    Raises:
        ValueError: it is none of that dtype with an entry for each sample.
    """
    if not isinstance(values, Tensor) or values.dtype != dtype or tuple(values.shape) != (count,):
        raise ValueError(f"state is damaged: {name} must be {dtype} [{count}]")
    return values
