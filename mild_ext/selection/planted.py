"""Planted labels: a few labels made wrong on purpose, so that the noise can be measured.

How wrong labels are learned in a run is not known beforehand. A few percent of the samples are given
a label of another class before training; how these are learned is a sample of how wrong labels are
learned, and the label that was withheld from each of them is one the network has never seen.
Precedents: the threshold samples of Pleiss et al., *Identifying Mislabeled Data using the Area Under
the Margin Ranking*, NeurIPS 2020, and the re-injected corruption of DynaCor, CVPR 2024.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, SupportsFloat

import torch
from torch import Tensor

from mild_ext.data.labels import check_labels
from mild_ext.reading import reading
from mild_ext.sealed import read_tensors, write_tensors

#: Fewest samples to plant where a tenth of the data set allows it. Of 100, the most united two fifths
#: measure a share of a half with a standard error of 0.08, one of a tenth with 0.05.
MIN_PLANTED = 100
#: Largest share of a data set, and of every class, that is ever planted.
MAX_SHARE = 0.1

_FORMAT = "mild_ext.PlantedLabels/2"
#: Of earlier versions, without a checksum.
_UNSEALED = ("mild_ext.PlantedLabels/1",)
_FIELDS = ("labels", "index", "withheld")


@dataclass(frozen=True)
class PlantedLabels:
    """Labels to train on, some of which were made wrong on purpose.

    Attributes:
        labels: int64 ``[N]``, the labels to train on, planted ones included.
        index: int64 ``[n]``, the planted samples' ids, positions in ``labels``; each once.
        withheld: int64 ``[n]``, the given labels of these samples, in the order of ``index``.
        class_names: the text of each class number, where labels were planted among text; else None.

    Raises:
        TypeError: a field is no integer tensor.
        ValueError: the fields do not fit together: ids that are out of range or occur twice, or a planted
            label that is the one withheld.

    Examples:
        >>> import torch
        >>> planted = PlantedLabels(torch.tensor([0, 1, 0]), torch.tensor([2]), torch.tensor([1]))
        >>> planted.given.tolist(), planted.mask.tolist()
        ([0, 1, 1], [False, False, True])
    """

    labels: Tensor
    index: Tensor
    withheld: Tensor
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in _FIELDS:
            value = getattr(self, name)
            if (
                not isinstance(value, Tensor)
                or value.is_floating_point()
                or value.dtype == torch.bool
            ):
                kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(f"{name} must be an int64 tensor, got {kind}")
            if value.ndim != 1:
                raise ValueError(f"{name} must have one dimension, got shape {list(value.shape)}")
            object.__setattr__(self, name, value.to("cpu", torch.int64))
        if len(self.index) != len(self.withheld):
            raise ValueError(
                f"index and withheld must have one entry for each planted sample, got {len(self.index)} "
                f"and {len(self.withheld)}"
            )
        if len(self.index) == 0:
            return
        if int(self.index.min()) < 0 or int(self.index.max()) >= len(self.labels):
            raise ValueError(
                f"index must lie in [0, {len(self.labels)}), got {int(self.index.min())} to "
                f"{int(self.index.max())}"
            )
        if len(self.index.unique()) != len(self.index):
            raise ValueError("index names a sample twice; each can be planted once")
        same = int((self.labels[self.index] == self.withheld).sum())
        if same:
            raise ValueError(
                f"a planted label must differ from the one withheld, but {same} of {len(self.index)} do "
                "not; labels are those to train on, withheld those that were given"
            )

    def __len__(self) -> int:
        """Number of planted samples, n."""
        return len(self.index)

    @property
    def num_samples(self) -> int:
        """Size of the data set, N."""
        return len(self.labels)

    @property
    def given(self) -> Tensor:
        """int64 ``[N]``, the given labels: those to train on, with the withheld ones put back."""
        return self.labels.scatter(0, self.index, self.withheld)

    @property
    def mask(self) -> Tensor:
        """bool ``[N]``, True where the label is planted."""
        return torch.zeros(self.num_samples, dtype=torch.bool).index_fill_(0, self.index, True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, complete or not at all."""
        tensors = {name: getattr(self, name).contiguous() for name in _FIELDS}
        header = {"format": _FORMAT}
        if self.class_names is not None:
            header["class_names"] = json.dumps(self.class_names)
        write_tensors(path, tensors, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PlantedLabels:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or holds no planted labels.
        """
        content = read_tensors(path, (_FORMAT,), "file of planted labels", unsealed=_UNSEALED)
        with reading(path):
            names = content.header.get("class_names")
            return cls(
                **{name: content.tensor(name) for name in _FIELDS},
                class_names=None if names is None else tuple(map(str, json.loads(names))),
            )


def plant_labels(
    labels: Any,
    share: float = 0.05,
    *,
    num_classes: int | None = None,
    seed: int = 0,
    transition: Tensor | None = None,
    repeat: int = 0,
) -> PlantedLabels:
    """Give a few samples a wrong label on purpose.

    The samples are drawn from every class in proportion to its size, and of no class more than a
    tenth. Train on ``.labels``, and hand the result to `select_clean` as ``planted``: it knows the given labels
    too. The model of that training has learned labels that are wrong, so train the one to keep anew.

    Args:
        labels: ``[N]``, the given labels, as `mild_ext.data.check_labels` takes them; text is numbered.
        share: of the samples to plant, in (0, 0.1]; at least 100 samples, or a tenth of the data set where that
            is less: fewer measure a noise rate too coarsely to act on.
        num_classes: K; by default one more than the largest label.
        seed: of the draw; the same seed gives the same planted labels.
        transition: ``[K, K]``, how often a label of class ``i`` (row) is wrongly given as class ``j``;
            only the proportions within a row count, its diagonal does not. By default every other class
            is as likely. A row without any such label falls back to that. With the matrix of the real errors
            the recall of systematic errors is estimated better, but fewer are found; with a wrong one, the
            noise is measured wrongly.
        repeat: how often labels were planted with the same seed before, for other trainings: other samples are
            drawn each time, until all of a class have been.

    Returns:
        PlantedLabels.

    Raises:
        TypeError: labels that are no class numbers.
        ValueError: labels are missing, a share outside (0, 0.1], fewer than two classes, a label or a transition
            matrix that does not fit ``num_classes``, or classes so small that none can spare a sample.

    Examples:
        >>> import torch
        >>> planted = plant_labels(torch.arange(2000) % 10)
        >>> len(planted), bool((planted.given == torch.arange(2000) % 10).all())
        (100, True)
    """
    checked = check_labels(labels, num_classes=num_classes)
    labels, names = checked.values, checked.class_names
    if isinstance(share, str | bool) or not isinstance(share, SupportsFloat):
        raise TypeError(f"share must be a number, got {share!r}")
    if not 0.0 < share <= MAX_SHARE:
        raise ValueError(f"share must lie in (0, {MAX_SHARE:g}], got {share!r}")
    known = 0 if names is None else len(names)
    classes = max(known, int(labels.max()) + 1) if num_classes is None else num_classes
    if classes < 2:
        raise ValueError(
            "planting needs at least two classes: a wrong label is one of another class"
        )
    if repeat < 0:
        raise ValueError(f"repeat must not be negative, got {repeat}")
    weights = _transition_weights(transition, classes)
    generator = torch.Generator().manual_seed(seed)
    index = _draw_samples(labels, share, classes, generator, repeat)
    withheld = labels[index]
    planted = labels.clone()
    for _ in range(repeat + 1):
        drawn = torch.multinomial(weights[withheld], 1, generator=generator)[:, 0]
    planted[index] = drawn
    return PlantedLabels(planted, index, withheld, names)


def _draw_samples(
    labels: Tensor, share: float, classes: int, generator: torch.Generator, repeat: int
) -> Tensor:
    """Ids of the samples to plant, ascending: of every class in proportion, of none above a tenth.

    Each repeat takes the next of a random order of the class, and begins anew at its end.
    """
    sizes = torch.bincount(labels, minlength=classes)
    most = (sizes * MAX_SHARE).long()
    wanted = min(max(MIN_PLANTED, round(share * len(labels))), int(most.sum()))
    if wanted == 0:
        raise ValueError(
            f"no class can spare a sample to plant: the largest of {classes} has {int(sizes.max())} "
            "samples, of which at most a tenth are planted; train without planted labels"
        )
    exact = sizes.double() * wanted / len(labels)
    numbers = torch.minimum(exact.long(), most)
    # What rounding down left over goes where most is missing, and where there is room.
    for k in (numbers - exact).argsort(stable=True).repeat(classes).tolist():
        if int(numbers.sum()) == wanted:
            break
        numbers[k] += int(numbers[k] < most[k])
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]  # by class, in random order within each
    starts = sizes.cumsum(0) - sizes
    rank = torch.arange(len(labels)) - starts.repeat_interleave(sizes)
    wanted_of, size = numbers.repeat_interleave(sizes), sizes.repeat_interleave(sizes)
    return order[(rank - repeat * wanted_of) % size < wanted_of].sort().values


def _transition_weights(transition: Tensor | None, classes: int) -> Tensor:
    """float64 [K, K], by which a wrong label is drawn for each class; no weight on the class itself."""
    uniform = 1.0 - torch.eye(classes, dtype=torch.float64)
    if transition is None:
        return uniform
    weights = torch.as_tensor(transition).to("cpu", torch.float64)
    if tuple(weights.shape) != (classes, classes):
        raise ValueError(
            f"transition must have shape [{classes}, {classes}], got {list(weights.shape)}"
        )
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise ValueError("transition must hold shares or counts, finite and not negative")
    weights = weights * uniform
    empty = weights.sum(dim=1, keepdim=True) == 0
    return torch.where(empty, uniform, weights)
