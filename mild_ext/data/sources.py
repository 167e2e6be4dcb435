"""``--data``: from a specification such as ``digits`` or ``npz:FILE`` to `LabeledData`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mild_ext.data.datasets import LabeledData, array_data, stratified_holdout

_Array = np.ndarray[Any, Any]


def load_data(spec: str, *, test_fraction: float = 0.0, seed: int = 0) -> LabeledData:
    """Load a data set by its specification.

    Args:
        spec: ``digits``, or ``npz:FILE``.
        test_fraction: share of every class to set aside as a test split where the data set has
            none; in [0, 1).
        seed: seed of that split.

    Raises:
        ValueError: an unknown specification, or a file that does not hold what it should.
        ImportError: the data set needs an optional package.
    """
    name, _, argument = spec.partition(":")
    if name not in SOURCES:
        raise ValueError(f"data must be one of {', '.join(SOURCE_FORMS)}; got {spec!r}")
    if bool(argument) != (":" in SOURCE_FORMS_BY_NAME[name]):
        raise ValueError(f"data must have the form {SOURCE_FORMS_BY_NAME[name]}; got {spec!r}")
    data = SOURCES[name](argument)
    if test_fraction > 0:
        data = _split_test(data, test_fraction, seed)
    return data


def _split_test(data: LabeledData, fraction: float, seed: int) -> LabeledData:
    from mild_ext.data.datasets import ArrayDataset

    if data.test is not None:
        raise ValueError(f"{data.name} has a test split of its own; leave out --test-fraction")
    if not isinstance(data.train, ArrayDataset):
        raise ValueError("--test-fraction works for data in memory; make a test folder instead")
    truth = data.labels if data.true_labels is None else data.true_labels
    test = stratified_holdout(truth, fraction, seed)
    inputs = data.train.inputs
    return array_data(
        data.name,
        inputs[~test],
        data.labels[~test],
        data.class_names,
        x_test=inputs[test],
        y_test=truth[test],
        true_labels=None if data.true_labels is None else data.true_labels[~test],
        recipe=data.recipe,
        noise_map=data.noise_map,
    )


def load_digits(argument: str = "") -> LabeledData:
    """Scikit-learn's 1,797 handwritten digits (8 x 8, 16 grey levels), a quarter kept for testing.

    The split is the same whatever the run's seed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise ImportError(
            "the digits data set ships with scikit-learn: pip install 'mild_ext[digits]'"
        ) from error
    images, labels = load(return_X_y=True)
    y = torch.from_numpy(labels.astype(np.int64))
    test = stratified_holdout(y, 0.25, seed=0)
    x = torch.from_numpy(images.astype(np.float32) / 16)
    data = array_data(
        "digits",
        x[~test],
        y[~test],
        [str(k) for k in range(10)],
        x_test=x[test],
        y_test=y[test],
        true_labels=y[~test],
        recipe="digits",
    )
    data.notes["image_shape"] = [1, 8, 8]  # what a sample looks like; models get vectors
    return data


def load_npz(argument: str) -> LabeledData:
    """A user's own arrays.

    Arrays in the file: ``x_train`` and ``y_train``; optionally ``y_true`` (true labels of the
    training samples, where ``y_train`` is noisy), ``x_test`` with ``y_test`` (correct labels), and
    ``class_names``. Inputs are vectors ``[N, features]``, or images ``[N, height, width]``,
    ``[N, height, width, channels]`` or ``[N, channels, height, width]`` with 1, 3 or 4 channels.
    Labels are integers or text; classes are numbered in sorted order unless they are ``0 .. K-1``
    already.
    """
    path = Path(argument)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, AttributeError) as error:
        raise ValueError(f"{path} is not a readable .npz of plain arrays: {error}") from error
    for key in ("x_train", "y_train"):
        if key not in arrays:
            raise ValueError(
                f"{path} must hold the arrays x_train and y_train (optional: y_true, x_test, "
                f"y_test, class_names); it holds {', '.join(sorted(arrays)) or 'nothing'}"
            )
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise ValueError(f"{path} must hold both x_test and y_test, or neither")
    x = _checked_inputs(arrays["x_train"], "x_train")
    raw = {key: arrays[key] for key in ("y_train", "y_true", "y_test") if key in arrays}
    labels, names = _number_classes(raw, arrays.get("class_names"))
    sizes = {"y_train": len(x), "y_true": len(x)}
    x_test = None
    if "x_test" in arrays:
        x_test = _checked_inputs(arrays["x_test"], "x_test")
        sizes["y_test"] = len(x_test)
        if x_test.shape[1:] != x.shape[1:]:
            raise ValueError(
                f"x_test and x_train must have inputs of one shape, got {x_test.shape[1:]} and "
                f"{x.shape[1:]}"
            )
    for key, tensor in labels.items():
        if len(tensor) != sizes[key]:
            raise ValueError(f"{key} must have {sizes[key]} entries, got {len(tensor)}")
    return array_data(
        path.stem,
        x,
        labels["y_train"],
        names,
        x_test=x_test,
        y_test=labels.get("y_test"),
        true_labels=labels.get("y_true"),
    )


def _checked_inputs(values: _Array, name: str) -> _Array:
    """Vectors ``[N, ...]`` or images ``[N, C, H, W]``; uint8 stays, everything else is float32."""
    if values.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold numbers, got dtype {values.dtype}")
    if values.ndim < 2 or len(values) == 0:
        raise ValueError(f"{name} must be [N, ...] with at least one sample, got {values.shape}")
    if values.dtype != np.uint8:
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values).reshape(len(values), -1).all(1)).sum())
            raise ValueError(f"{name} must be finite; {bad} samples hold NaN or infinity")
    if values.ndim == 3:
        values = values[:, None]
    elif values.ndim == 4 and values.shape[-1] in (1, 3, 4):
        values = np.ascontiguousarray(values.transpose(0, 3, 1, 2))
    return values


def _number_classes(
    raw: dict[str, _Array], class_names: _Array | None
) -> tuple[dict[str, Tensor], list[str]]:
    """Number the classes 0 .. K-1 over all label arrays together."""
    for key, values in raw.items():
        if values.ndim != 1:
            raise ValueError(f"{key} must be one-dimensional, got shape {values.shape}")
        if values.dtype.kind not in "iuUS":
            raise TypeError(f"{key} must hold integers or text, got dtype {values.dtype}")
    classes, codes = np.unique(np.concatenate(list(raw.values())), return_inverse=True)
    names = [str(c) for c in classes]
    if classes.dtype.kind in "iu" and classes[0] >= 0 and class_names is not None:
        if classes[-1] >= len(class_names):
            raise ValueError(
                f"class_names has {len(class_names)} entries, but label {classes[-1]} occurs"
            )
        names, codes = [str(c) for c in class_names], np.concatenate(list(raw.values()))
    elif class_names is not None and len(class_names) == len(classes):
        names = [str(c) for c in class_names]
    elif class_names is not None:
        raise ValueError(f"class_names must have {len(classes)} entries, got {len(class_names)}")
    codes = np.asarray(codes, dtype=np.int64)
    parts = np.split(codes, np.cumsum([len(v) for v in raw.values()])[:-1])
    return {key: torch.from_numpy(part) for key, part in zip(raw, parts, strict=True)}, names


SOURCES: dict[str, Callable[[str], LabeledData]] = {"digits": load_digits, "npz": load_npz}
SOURCE_FORMS_BY_NAME = {"digits": "digits", "npz": "npz:FILE"}
SOURCE_FORMS = tuple(SOURCE_FORMS_BY_NAME.values())
