"""A Hugging Face `datasets` data set of images, or of vectors such as text embeddings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mild_ext.data.readers.folder import MEMORY_LIMIT, choose_format
from mild_ext.data.readers.images import (
    ImageFormat,
    ImageHeader,
    decode,
    read_all,
    report_unreadable,
    require_pillow,
)
from mild_ext.data.sets import ArrayDataset, LabeledData, array_data, some_inputs, statistics_of

_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target")
_INPUT_NAMES = ("image", "img", "embedding", "embeddings", "vector", "features")
_TEST_SPLITS = ("test", "validation", "valid", "val")


class _HubImages(Dataset[tuple[Tensor, int]]):
    """Images decoded when they are asked for."""

    def __init__(self, table: Any, column: str, labels: Tensor, wanted: ImageFormat) -> None:
        self.table, self.column, self.labels, self.wanted = table, column, labels, wanted

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = decode(self.table[index][self.column], self.wanted)
        return torch.from_numpy(pixels), int(self.labels[index])


def load_hf(
    name: str,
    *,
    input: str | None = None,
    label: str | None = None,
    true: str | None = None,
    train: str = "train",
    test: str | None = None,
    config: str | None = None,
    size: int | None = None,
    gray: bool | None = None,
    memory: bool | None = None,
) -> LabeledData:
    """A data set saved with ``save_to_disk``, a folder or file that `datasets` reads, or one of the hub.

    Args:
        name: folder written by ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk``, or what
            ``datasets.load_dataset`` takes (a name on the hub needs a network or its cache).
        input: column of the inputs: images, or vectors of one length. None: the only column of
            images, or else the only one of number sequences.
        label: column of the given labels. None: the only class-label column, or ``label``.
        true: column of the true labels, where they are known.
        train: split to train on.
        test: split to test on. None: ``test``, or else ``validation``, where there is one.
        config: configuration of a data set that has several.
        size, gray, memory: for images, as with ``folder:``.

    Raises:
        ValueError: there is no such data set, split or column, or it holds what cannot be used.
        ImportError: `datasets`, or Pillow for images, is not installed.
    """
    splits = _read_splits(name, config)
    if train not in splits:
        raise ValueError(f"{name} has no split {train!r}; it has {', '.join(splits)}")
    if test is None:
        test = next((s for s in _TEST_SPLITS if s in splits and s != train), None)
    elif test not in splits:
        raise ValueError(f"{name} has no split {test!r}; it has {', '.join(splits)}")
    table = splits[train]
    if len(table) == 0:
        raise ValueError(f"split {train} of {name} is empty")
    label = _choose_label(table, label)
    input, kind = _choose_input(table, input, label)
    tables = {"train": table} | ({} if test is None else {"test": splits[test]})
    columns = {"train": [label, *([true] if true else [])], "test": [true or label]}
    for column in {input, label, *([true] if true else [])}:
        for part, part_table in tables.items():
            if part == "train" or column in (input, columns["test"][0]):
                _require(part_table, column)
    labels, class_names = _read_labels(tables, columns)
    short_name = Path(name).name
    if kind == "vector":
        inputs = {part: _vectors(t, input) for part, t in tables.items()}
        return array_data(
            short_name,
            inputs["train"],
            labels["train"][label],
            class_names,
            x_test=inputs.get("test"),
            y_test=None if test is None else labels["test"][columns["test"][0]],
            true_labels=labels["train"][true] if true else None,
        )
    return _image_data(
        short_name, tables, input, labels, class_names, label, true, size, gray, memory
    )


def _read_splits(name: str, config: str | None) -> dict[str, Any]:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "Hugging Face data sets need the package datasets: pip install 'mild_ext[hf]'"
        ) from error
    saved = Path(name).expanduser()
    try:
        if (saved / "dataset_dict.json").is_file() or (saved / "state.json").is_file():
            loaded: Any = datasets.load_from_disk(os.fspath(saved))
        else:
            loaded = datasets.load_dataset(name, config)
    except (
        Exception
    ) as error:  # the hub, the network, the cache and the readers all raise their own
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"datasets cannot load {name}: {reason[0] if reason else type(error).__name__} "
            "(give a folder written by save_to_disk, or a name on the hub)"
        ) from error
    if isinstance(loaded, datasets.Dataset):
        return {"train": loaded}
    return dict(loaded)


def _require(table: Any, column: str) -> None:
    if column not in table.features:
        raise ValueError(f"there is no column {column!r}; there are {', '.join(table.features)}")


def _choose_label(table: Any, label: str | None) -> str:
    if label is not None:
        _require(table, label)
        return label
    named = [c for c, f in table.features.items() if type(f).__name__ == "ClassLabel"]
    if len(named) == 1:
        return str(named[0])
    for column in _LABEL_NAMES:
        if column in (named or table.features):
            return column
    raise ValueError(
        f"which column holds the labels? Add ,label=COLUMN with one of {', '.join(table.features)}"
    )


def _choose_input(
    table: Any, column: str | None, label: str
) -> tuple[str, Literal["image", "vector"]]:
    kinds: dict[str, Literal["image", "vector"]] = {}
    for name, feature in table.features.items():
        if type(feature).__name__ == "Image":
            kinds[name] = "image"
        elif name != label and _is_number_sequence(feature):
            kinds[name] = "vector"
    if column is not None:
        _require(table, column)
        if column not in kinds:
            raise ValueError(
                f"column {column!r} holds {table.features[column]}; inputs must be images or sequences "
                "of numbers (embed text first, e.g. with sentence-transformers)"
            )
        return column, kinds[column]
    for kind in ("image", "vector"):
        found = [name for name in kinds if kinds[name] == kind]
        preferred = [name for name in _INPUT_NAMES if name in found]
        if len(found) == 1 or preferred:
            chosen = found[0] if len(found) == 1 else preferred[0]
            return chosen, kinds[chosen]
    raise ValueError(
        "which column holds the inputs? Add ,input=COLUMN with a column of images or of number "
        f"sequences (embed text first, e.g. with sentence-transformers); there are "
        f"{', '.join(table.features)}"
    )


def _is_number_sequence(feature: Any) -> bool:
    """Whether each row is an array of numbers; `datasets` has had several ways to say so."""
    if type(feature).__name__ in ("Array2D", "Array3D", "Array4D"):
        return True
    inner = (
        feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
    )
    while inner is not None and not hasattr(inner, "dtype"):
        inner = inner[0] if isinstance(inner, list) and inner else getattr(inner, "feature", None)
    dtype = str(getattr(inner, "dtype", ""))
    return dtype.startswith(("float", "int", "uint"))


def _vectors(table: Any, column: str) -> np.ndarray[Any, Any]:
    rows = table.with_format("numpy")[:][column]
    values = np.asarray(rows)
    if values.dtype.kind not in "iuf" or values.ndim < 2:
        raise ValueError(f"the vectors in column {column!r} must have one length")
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"column {column!r} holds NaN or infinity")
    return values


def _read_labels(
    tables: dict[str, Any], columns: dict[str, list[str]]
) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Labels per split and column, numbered alike, and the class names."""
    raw = {
        (part, column): table.with_format("numpy")[:][column]
        for part, table in tables.items()
        for column in columns[part]
    }
    arrays = {key: np.asarray(values) for key, values in raw.items()}
    feature = tables["train"].features[columns["train"][0]]
    names = getattr(feature, "names", None)
    for (part, column), values in arrays.items():
        if values.ndim != 1 or values.dtype.kind not in "iuUSOb":
            raise ValueError(f"column {column!r} must hold one integer or text label per row")
        if names and values.dtype.kind in "iu" and (values.min() < 0 or values.max() >= len(names)):
            missing = int((values < 0).sum())
            raise ValueError(
                f"column {column!r} of the split {part} holds {missing} rows without a label (-1); "
                "choose another split with ,test=SPLIT or filter them out"
                if missing
                else f"column {column!r} holds the label {values.max()}, beyond {len(names)} classes"
            )
    if names is None:
        arrays = {
            key: values.astype(str) if values.dtype.kind == "O" else values
            for key, values in arrays.items()
        }
        classes, codes = np.unique(np.concatenate(list(arrays.values())), return_inverse=True)
        names = [str(c) for c in classes]
        pieces = np.split(codes, np.cumsum([len(v) for v in arrays.values()])[:-1])
        arrays = dict(zip(arrays, pieces, strict=True))
    result: dict[str, dict[str, Tensor]] = {part: {} for part in tables}
    for (part, column), values in arrays.items():
        result[part][column] = torch.from_numpy(values.astype(np.int64))
    return result, list(names)


def _image_data(
    name: str,
    tables: dict[str, Any],
    column: str,
    labels: dict[str, dict[str, Tensor]],
    class_names: list[str],
    label: str,
    true: str | None,
    size: int | None,
    gray: bool | None,
    memory: bool | None,
) -> LabeledData:
    require_pillow()
    Image = require_pillow()

    def header(k: int) -> ImageHeader:
        image = tables["train"][k][column]
        if not isinstance(image, Image.Image):
            raise ValueError("no image")
        gray = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
        return ImageHeader(image.height, image.width, gray)

    total = len(tables["train"])
    some = np.unique(np.linspace(0, total - 1, min(total, 1000)).astype(int)).tolist()
    headers, failures, worked = read_all(
        header, some, [f"row {k}" for k in some], "looking at images"
    )
    messages = report_unreadable(failures, len(some), name)
    wanted, remarks = choose_format([headers[k] for k in worked], size, gray)
    messages += remarks
    if memory is None:
        memory = total * int(np.prod(wanted.shape)) <= MEMORY_LIMIT
    test_column = true or label
    kept = {"train": list(range(total))}
    parts: dict[str, Dataset[Any]] = {}
    for part, table in tables.items():
        part_labels = labels[part][label if part == "train" else test_column]
        if not memory:
            parts[part] = _HubImages(table, column, part_labels, wanted)
            continue
        images = np.empty((len(table), *wanted.shape), np.uint8)

        def read(k: int, table: Any = table, images: Any = images) -> bool:
            images[k] = decode(table[k][column], wanted)
            return True

        rows = range(len(table))
        _, failures, kept[part] = read_all(read, rows, [f"row {k}" for k in rows], "reading images")
        messages += report_unreadable(failures, len(table), f"{name}, {part}")
        chosen = torch.tensor(kept[part])
        parts[part] = ArrayDataset(torch.from_numpy(images)[chosen], part_labels[chosen])
    mean, std = statistics_of(some_inputs(parts["train"]), "image")
    rows_kept = torch.tensor(kept["train"])
    return LabeledData(
        name=name,
        train=parts["train"],
        labels=labels["train"][label][rows_kept],
        class_names=class_names,
        kind="image",
        input_shape=wanted.shape,
        mean=mean,
        std=std,
        true_labels=labels["train"][true][rows_kept] if true else None,
        test=parts.get("test"),
        sample_names=[f"row {k}" for k in kept["train"]],
        messages=list(dict.fromkeys(messages)),
    )
