"""Label noise: seeded, named by its convention, with the rate that really came out.

A specification is text, ``KIND:RATE``:

========================  ======================================================================
``none``                  labels stay as they are
``symmetric:R``           with probability R a new label drawn from *all* K classes, so a share
                          of only R (1 - 1/K) ends up wrong (the convention of MILD, of
                          DivideMix and of most papers)
``symmetric-other:R``     with probability R a new label drawn from the *other* K - 1 classes
``asymmetric:R``          with probability R the class's look-alike: the data set's own map
                          (CIFAR-10: truck -> automobile, bird -> airplane, deer -> horse,
                          cat <-> dog; CIFAR-100: next class in the block of five), next class
                          where the data set has none
``superclass:R``          with probability R the next class of the same superclass, for data sets that
                          have some (CIFAR-100's 20 true ones)
``next:R``                with probability R the next class, the last one becoming the first
``matrix:FILE``           a label of class i becomes j with probability T[i, j]; T is a ``.npy``
                          or a text file of K rows, or, in Python, an array in place of the text
``instance:R``            instance-dependent (Xia et al., 2020, Algorithm 2): hard samples are
                          mislabeled more often, towards classes that resemble them. A sample's rate
                          is drawn around R with deviation 0.1, cut off at 0 and 1, so for R near 0 or
                          1 the mean is a little further inside
``labels:FILE``           labels read from a ``.npy`` or a text file with one integer per sample; a run
                          writes its own to ``given_labels.npy``
``cifar-n:SET:FILE``      human labels of CIFAR-N; FILE is ``CIFAR-10_human.pt`` with SET ``aggre``,
                          ``worst``, ``rand1``, ``rand2`` or ``rand3``, or ``CIFAR-100_human.pt`` with
                          SET ``noisy``
========================  ======================================================================
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from mild_ext.data.labels import check_labels
from mild_ext.data.sets import ArrayDataset
from mild_ext.reading import read_array, read_text, reading
from mild_ext.spelling import did_you_mean

_Array = np.ndarray[Any, Any]

KINDS = (
    "none",
    "symmetric",
    "symmetric-other",
    "asymmetric",
    "superclass",
    "next",
    "matrix",
    "instance",
    "labels",
    "cifar-n",
)


@dataclass(frozen=True)
class LabelNoise:
    """Noisy labels and what is true of them.

    Attributes:
        labels: int64 ``[N]``, the noisy labels.
        spec: the specification they were made from.
        seed: the seed, or None where nothing was drawn.
        rate: share of labels that are wrong, in [0, 1].
        class_rates: the same per true class, float64 ``[K]``; NaN for an empty class.
    """

    labels: Tensor
    spec: str
    seed: int | None
    rate: float
    class_rates: list[float]


def corrupt_labels(
    labels: Tensor,
    spec: str | _Array | Tensor,
    num_classes: int,
    *,
    seed: int = 0,
    class_map: Sequence[int] | None = None,
    superclasses: Sequence[int] | None = None,
    inputs: Tensor | None = None,
) -> LabelNoise:
    """Replace some labels by wrong ones.

    Args:
        labels: ``[N]``, the true labels, as `mild_ext.data.check_labels` takes them.
        spec: ``KIND:RATE``, see the module's table; RATE is a probability in [0, 1]. Or a matrix of one's own, an
            array or tensor of floats ``[K, K]``: a label of class i becomes j with probability ``spec[i, j]``,
            and every row sums to 1.
        num_classes: K.
        seed: the same seed gives the same labels.
        class_map: wrong label for each class, for ``asymmetric``; None: the next class.
        superclasses: superclass of each class, for ``superclass``.
        inputs: ``[N, ...]``, needed by ``instance`` only.

    Returns:
        LabelNoise.

    Raises:
        TypeError: ``spec`` is neither text nor a matrix.
        ValueError: an unknown kind, a rate outside [0, 1], or a file or matrix that does not fit.

    >>> import torch
    >>> noise = corrupt_labels(torch.arange(10).repeat(10_000), "symmetric:0.5", 10, seed=0)
    >>> round(noise.rate, 2)  # half the labels were redrawn, a tenth of them hit the true class
    0.45
    """
    matrix: _Array | None = None
    if not isinstance(spec, str):
        matrix, spec = _given_matrix(spec, num_classes), "matrix"
        kind, argument = spec, "given"
    else:
        kind, _, argument = spec.partition(":")
    if kind not in KINDS or (kind != "none") != bool(argument):
        raise ValueError(
            f"noise must be KIND:RATE with KIND one of {', '.join(KINDS)} (e.g. symmetric:0.5), "
            f"or none; got {spec!r}{'' if kind in KINDS else did_you_mean(kind, KINDS)}"
        )
    true = check_labels(labels, num_classes=num_classes).values.numpy()
    generator = np.random.default_rng(seed)
    drawn = True
    if kind == "none":
        noisy, drawn = true.copy(), False
    elif kind == "labels":
        noisy, drawn = _read_labels(Path(argument), len(true), num_classes), False
    elif kind == "cifar-n":
        from mild_ext.data.human_labels import read_human_labels

        variant, _, file = argument.partition(":")
        noisy, drawn = read_human_labels(Path(file), variant, true), False
    elif kind == "matrix":
        if matrix is None:
            matrix = _check_matrix(_read_array(Path(argument)), argument, num_classes)
        noisy = _by_matrix(true, matrix, generator)
    else:
        rate = _parse_rate(argument, spec)
        if kind == "instance":
            if inputs is None:
                raise ValueError("instance-dependent noise needs the inputs")
            noisy = _instance_dependent(true, inputs, rate, num_classes, generator)
        else:
            hit = generator.random(len(true)) < rate
            if kind == "symmetric":
                new = generator.integers(0, num_classes, len(true))
            elif kind == "symmetric-other":
                shift = generator.integers(1, max(2, num_classes), len(true))
                new = (true + shift) % num_classes
            else:
                new = _wrong_class(kind, num_classes, class_map, superclasses)[true]
            noisy = np.where(hit, new, true)
    wrong = noisy != true
    return LabelNoise(
        labels=torch.from_numpy(noisy.astype(np.int64)),
        spec=spec,
        seed=seed if drawn else None,
        rate=float(wrong.mean()) if len(wrong) else 0.0,
        class_rates=[
            float(wrong[true == k].mean()) if (true == k).any() else float("nan")
            for k in range(num_classes)
        ],
    )


def _wrong_class(
    kind: str,
    num_classes: int,
    class_map: Sequence[int] | None,
    superclasses: Sequence[int] | None,
) -> _Array:
    """The class that each class is mistaken for, int64 ``[K]``."""
    if kind == "asymmetric" and class_map is not None:
        return np.asarray(class_map)
    following = (np.arange(num_classes) + 1) % num_classes
    if kind == "superclass":
        if superclasses is None:
            raise ValueError("this data set has no superclasses; use asymmetric:R or next:R")
        groups = np.asarray(superclasses)
        for group in np.unique(groups):
            members = np.flatnonzero(groups == group)
            following[members] = np.roll(members, -1)
    return following


def _parse_rate(argument: str, spec: str) -> float:
    try:
        rate = float(argument)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 1:
        raise ValueError(f"the noise rate must be a number in [0, 1], got {spec!r}")
    return rate


def _read_array(path: Path) -> _Array:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.suffix == ".npy":
        return read_array(path)
    text = read_text(path)
    with reading(path):
        separator = "," if "," in text.partition("\n")[0] else None
        loaded: _Array = np.loadtxt(io.StringIO(text), delimiter=separator)
        return loaded


def _read_labels(path: Path, count: int, num_classes: int) -> _Array:
    labels = check_labels(
        _read_array(path), name=f"the labels in {path}", count=count, num_classes=num_classes
    )
    return np.asarray(labels.values.numpy())


def _given_matrix(spec: Any, num_classes: int) -> _Array:
    """A matrix that was handed over in place of text."""
    if isinstance(spec, Tensor):
        spec = spec.detach().cpu()
        spec = (spec.double() if spec.dtype.is_floating_point else spec).numpy()
    if not isinstance(spec, np.ndarray) or spec.dtype.kind not in "fiu":
        raise TypeError(
            "noise must be text like 'symmetric:0.5', or an array or tensor [K, K] of probabilities, got "
            f"{type(spec).__name__}" + (f" of {spec.dtype}" if isinstance(spec, np.ndarray) else "")
        )
    return _check_matrix(spec, "the matrix", num_classes)


def _check_matrix(values: _Array, name: str, num_classes: int) -> _Array:
    """float64 ``[K, K]``, its rows normalized; ``name``: of the file or argument."""
    matrix = np.asarray(values, np.float64)
    if matrix.shape != (num_classes, num_classes):
        raise ValueError(
            f"{name} must hold {num_classes} x {num_classes} numbers, got {matrix.shape}"
        )
    if not np.isfinite(matrix).all() or (matrix < 0).any():
        raise ValueError(f"{name} must hold probabilities; some are negative or not finite")
    sums = matrix.sum(1)
    if not np.allclose(sums, 1, atol=1e-3):
        row = int(np.abs(sums - 1).argmax())
        raise ValueError(f"every row of {name} must sum to 1; row {row} sums to {sums[row]:.4g}")
    normalized: _Array = matrix / sums[:, None]
    return normalized


def _by_matrix(true: _Array, matrix: _Array, generator: np.random.Generator) -> _Array:
    """Draw each label from its row by inverting the cumulative distribution."""
    cumulative = np.cumsum(matrix, axis=1)
    cumulative[:, -1] = 1.0
    draw = generator.random(len(true))
    noisy: _Array = (draw[:, None] >= cumulative[true]).sum(1)
    return noisy


def _instance_dependent(
    true: _Array,
    inputs: Tensor,
    rate: float,
    num_classes: int,
    generator: np.random.Generator,
) -> _Array:
    """Xia et al., "Part-dependent Label Noise", NeurIPS 2020, Algorithm 2.

    Each sample's flip rate is drawn from a normal of mean ``rate`` and deviation 0.1, truncated to
    [0, 1]; where it goes follows a softmax over random linear scores of its own input, one
    projection per true class.
    """
    noisy: _Array = true.copy()
    if num_classes < 2 or rate == 0:
        return noisy
    flat = inputs.reshape(len(inputs), -1)
    mean, deviation = _moments(flat)
    flip = generator.normal(rate, 0.1, len(true))
    while (outside := (flip < 0) | (flip > 1)).any():
        flip[outside] = generator.normal(rate, 0.1, int(outside.sum()))
    for label in range(num_classes):
        members = np.flatnonzero(true == label)
        projection = generator.standard_normal((flat.shape[1], num_classes)).astype(np.float32)
        if not len(members):
            continue
        features = (flat[torch.from_numpy(members)].to(torch.float32) - mean) / deviation
        scores = features.cpu().numpy() @ projection
        scores[:, label] = -np.inf
        scores = np.exp(scores - scores.max(1, keepdims=True))
        probability = flip[members, None] * scores / scores.sum(1, keepdims=True)
        probability[:, label] = 1 - flip[members]
        cumulative = probability.cumsum(1)
        draw = generator.random(len(members)) * cumulative[:, -1]
        noisy[members] = np.minimum((draw[:, None] >= cumulative).sum(1), num_classes - 1)
    return noisy


def _moments(flat: Tensor) -> tuple[Tensor, float]:
    """Mean of each feature of ``[N, D]``, and the deviation over all of them together."""
    total = torch.zeros(flat.shape[1], dtype=torch.float64)
    squares = 0.0
    for piece in flat.split(4096):  # a float copy of all of CIFAR would take 600 MB
        values = piece.to(torch.float64)
        total += values.sum(0)
        squares += float(values.square().sum())
    mean = total / len(flat)
    variance = squares / flat.numel() - float(mean.square().mean())
    return mean.to(torch.float32), max(variance, 0.0) ** 0.5 or 1.0


def small_inputs(dataset: Dataset[Any], side: int = 16) -> Tensor:
    """The inputs of a data set, for `corrupt_labels`; images on disk are averaged down to ``side``.

    Args:
        dataset: map-style data set of ``(input, label)``, without random augmentation; where it
            does not lie in memory, every sample is read once.
        side: largest height and width of the averaged images.

    Returns:
        ``[N, ...]``.
    """
    if isinstance(dataset, ArrayDataset):
        return dataset.inputs
    rows = []
    for k in range(len(dataset)):  # type: ignore[arg-type]
        row = torch.as_tensor(dataset[k][0])
        if row.ndim == 3:
            size = (min(side, row.shape[1]), min(side, row.shape[2]))
            row = F.adaptive_avg_pool2d(row.to(torch.float32), size).to(row.dtype)
        rows.append(row)
    return torch.stack(rows)
