"""Data sets as the training loop wants them: stable sample ids, labels apart from inputs.

A sample's id is its position in the data set and stays the same from the first round to the last.
Labels are kept in one int64 tensor apart from the inputs, so that label noise, or a correction of
labels, never needs a copy of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mild_ext.data.indexed import IndexedDataset
from mild_ext.data.labels import check_labels
from mild_ext.data.random_state import isolated_random_state
from mild_ext.files import as_text


class ArrayDataset(Dataset[tuple[Tensor, Tensor]]):
    """Inputs and labels that lie in memory; batches are gathered with one index operation.

    Args:
        inputs: ``[N, ...]``, any dtype. Images are ``[N, channels, height, width]``.
        labels: ``[N]``, as `mild_ext.data.check_labels` takes them; an int64 tensor is not copied.

    Attributes:
        labels: int64 ``[N]``, classes ``0 .. K-1``.
        class_names: the text of each class number, where the labels were text, else None.

    Raises:
        TypeError, ValueError: ``labels`` are no labels, or ``inputs`` and ``labels`` differ in length.
    """

    def __init__(self, inputs: Tensor, labels: Any) -> None:
        checked = check_labels(labels)
        if inputs.ndim < 1 or len(inputs) != len(checked):
            raise ValueError(
                f"inputs [N, ...] and labels [N] must agree in N, got {tuple(inputs.shape)} "
                f"and {len(checked)} labels"
            )
        plain = isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.ndim == 1
        self.inputs = inputs
        self.labels: Tensor = labels if plain else checked.values.to(inputs.device)
        self.class_names = checked.class_names

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.labels[index]

    def gather(self, index: Tensor) -> Tensor:
        """Inputs ``[B, ...]`` of the samples ``index`` (int64 ``[B]``), on the inputs' device."""
        return self.inputs[index]


class Part(Dataset[tuple[Any, Tensor]]):
    """Some samples of a map-style data set, with labels of their own.

    Args:
        dataset: map-style data set whose items start with the input.
        ids: int64 ``[n]`` positions in it.
        labels: int64 ``[n]``.
    """

    def __init__(self, dataset: Dataset[Any], ids: Tensor, labels: Tensor) -> None:
        if ids.shape != labels.shape:
            raise ValueError(
                f"ids and labels must have one length, got {len(ids)} and {len(labels)}"
            )
        self.dataset, self.ids, self.labels = dataset, ids, labels

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        return self.dataset[int(self.ids[index])][0], self.labels[index]


def stratified_holdout(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Choose ``fraction`` of every class at random.

    Args:
        labels: int64 ``[N]``.
        fraction: in [0, 1); each class gives ``round(fraction * its size)`` samples, but never all.
        seed: seed of the choice.

    Returns:
        bool ``[N]``, True for the chosen samples.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction must be in [0, 1), got {fraction}")
    generator = np.random.default_rng(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        count = min(round(fraction * len(members)), len(members) - 1)
        chosen[members[torch.from_numpy(generator.permutation(len(members))[:count])]] = True
    return chosen


@dataclass
class LabeledData:
    """A data set with everything a run needs to know about it.

    Attributes:
        name: short name, for reports.
        train: map-style data set of ``(input, label)``; its own labels are not used.
        labels: int64 ``[N]``, the given labels: what training sees.
        class_names: one name per class.
        kind: ``"image"`` (inputs ``[C, H, W]``) or ``"vector"`` (inputs of any other shape).
        input_shape: shape of one input.
        mean, std: per-channel (image) or per-feature (vector) statistics of the training inputs,
            in their own unit, used to standardize inputs inside the model; None where an input is
            no single tensor.
        true_labels: int64 ``[N]`` where they are known, else None.
        test: data set of ``(input, label)`` with correct labels, or None.
        more_tests: further test sets by name, e.g. ImageNet's validation images for WebVision.
        validation: data set of ``(input, label)`` that came with the data for choosing settings.
        plain: the training samples without random augmentation, where ``train`` augments while it
            reads; None where it does not.
        sample_names: where each training sample came from (a file, as a rule), or None.
        texts: what each training sample says, to be shown to people: a text, or a row of a table; or None.
        root: the folder that ``sample_names`` are relative to, where classes are folders of files.
        table: the table the samples are rows of: its ``path``, and the names of the ``label`` and ``id`` columns (None:
            ``sample_names`` are numbers of rows); or None.
        arrays: the ``.npz`` file that the samples are rows of; or None.
        encoding: how files, texts or rows of a table became inputs, in plain values, for
            `mild_ext.data.readers.encoding.encode_samples`; or None.
        superclasses: superclass of each class, for label noise inside superclasses, or None.
        messages: what the user should know about how the data was read.
        recipe: name of the preset that suits this data set.
        noise_map: class map of the usual asymmetric noise (``noise_map[k]`` is the wrong label
            given to class k), or None for "next class".
        picture_shape: ``[C, H, W]`` of a sample as a picture, where the model gets it as a vector;
            None where the input's own shape says it.
    """

    name: str
    train: Dataset[Any]
    labels: Tensor
    class_names: Sequence[str]
    kind: Literal["image", "vector"]
    input_shape: tuple[int, ...]
    mean: Tensor | None
    std: Tensor | None
    true_labels: Tensor | None = None
    test: Dataset[Any] | None = None
    more_tests: dict[str, Dataset[Any]] = field(default_factory=dict)
    validation: Dataset[Any] | None = None
    plain: Dataset[Any] | None = None
    sample_names: Sequence[str] | None = None
    texts: Sequence[str] | None = None
    root: str | None = None
    table: dict[str, str | None] | None = None
    arrays: str | None = None
    encoding: dict[str, Any] | None = None
    superclasses: Sequence[int] | None = None
    messages: list[str] = field(default_factory=list)
    recipe: str = "default"
    noise_map: Sequence[int] | None = None
    picture_shape: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        self.name = as_text(self.name)
        self.class_names = [as_text(str(name)) for name in self.class_names]
        count = len(self.train)  # type: ignore[arg-type]
        classes = len(self.class_names)
        self.labels = check_labels(self.labels, count=count, num_classes=classes).values
        if self.true_labels is not None:
            self.true_labels = check_labels(
                self.true_labels, name="true labels", count=count, num_classes=classes
            ).values

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def shown_kind(self) -> str:
        """What people are shown of a sample: an ``image``, a ``text``, or nothing but a ``vector``."""
        if self.kind == "image" or self.picture_shape is not None:
            return "image"
        return "vector" if self.texts is None else "text"

    def __len__(self) -> int:
        return len(self.labels)


def statistics_of(inputs: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of inputs ``[N, ...]``: per channel or per feature, float32.

    A constant feature gets standard deviation 1, so that standardizing it gives zero.
    """
    values = inputs
    if inputs.dtype == torch.uint8 and len(inputs) > 10_000:
        values = inputs[:: len(inputs) // 10_000]  # a tenth of a gray level is accurate enough
    values = values.to(torch.float64)
    dims = (0, 2, 3) if kind == "image" else (0,)
    mean = values.mean(dims)
    std = (values - mean.view(1, -1, 1, 1) if kind == "image" else values - mean).square()
    std = std.mean(dims).sqrt()
    if kind == "vector":
        # Features with next to no spread (a pixel that is set in one image) must not blow up.
        std = std.clamp(min=0.1 * float(std.mean()))
    std = torch.where(std > 0, std, torch.ones_like(std))
    return mean.to(torch.float32), std.to(torch.float32)


def some_inputs(dataset: Dataset[Any], count: int = 512) -> Tensor:
    """Inputs to take statistics of: all where they lie in memory, else of samples spread evenly.

    Random augmentation inside the data set is seeded, so the result is always the same.
    """
    if isinstance(dataset, ArrayDataset):
        return dataset.inputs
    indexed = IndexedDataset(dataset)
    positions = torch.linspace(0, len(indexed) - 1, min(count, len(indexed))).long().unique()
    with isolated_random_state():
        return torch.stack([torch.as_tensor(indexed[(int(k), 0)][1]) for k in positions])


def array_data(
    name: str,
    x_train: np.ndarray[Any, Any] | Tensor,
    y_train: Tensor,
    class_names: Sequence[str],
    *,
    x_test: np.ndarray[Any, Any] | Tensor | None = None,
    y_test: Tensor | None = None,
    true_labels: Tensor | None = None,
    recipe: str = "default",
    noise_map: Sequence[int] | None = None,
) -> LabeledData:
    """Build `LabeledData` from arrays; four dimensions mean images ``[N, C, H, W]``."""
    inputs = torch.as_tensor(x_train)
    if inputs.dtype != torch.uint8:
        inputs = inputs.to(torch.float32)
    kind: Literal["image", "vector"] = "image" if inputs.ndim == 4 else "vector"
    mean, std = statistics_of(inputs, kind)
    test = None
    if x_test is not None and y_test is not None:
        test = ArrayDataset(torch.as_tensor(x_test).to(inputs.dtype), y_test)
    return LabeledData(
        name=name,
        train=ArrayDataset(inputs, y_train),
        labels=y_train,
        class_names=list(class_names),
        kind=kind,
        input_shape=tuple(inputs.shape[1:]),
        mean=mean,
        std=std,
        true_labels=true_labels,
        test=test,
        recipe=recipe,
        noise_map=noise_map,
    )
