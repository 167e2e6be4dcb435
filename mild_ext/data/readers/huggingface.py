"""A Hugging Face `datasets` data set of images, of texts, or of vectors such as text embeddings."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mild_ext.data.labels import CheckedLabels, Missing, check_labels, number_alike
from mild_ext.data.map_style import read_column
from mild_ext.data.readers.folder import MEMORY_LIMIT, choose_format
from mild_ext.data.readers.images import (
    ImageHeader,
    StreamedImages,
    decode,
    read_all,
    read_header,
    report_unreadable,
    require_pillow,
)
from mild_ext.data.readers.skipped import left_out_unlabeled, parse_missing
from mild_ext.data.readers.table import JOIN, joined
from mild_ext.data.readers.text import apply_texts, read_texts
from mild_ext.data.sets import ArrayDataset, LabeledData, array_data, some_inputs, statistics_of

_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target")
_INPUT_NAMES = ("image", "img", "embedding", "embeddings", "vector", "features")
_TEST_SPLITS = ("test", "validation", "valid", "val")


#: Of so many images at most, size and kind are looked at before training.
LOOKED_AT = 100_000


class _Encoded:
    """A column of images as files or bytes: nothing is decoded until it is wanted, in the size that is wanted."""

    def __init__(self, table: Any, column: str) -> None:
        from datasets import Image

        self.column = column
        self.table = table.select_columns([column]).cast_column(column, Image(decode=False))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Any:
        """What `decode` and `read_header` open.

        Raises:
            ValueError: there is no image in this row.
        """
        entry = self.table[index][self.column]
        if entry is None or (entry.get("bytes") is None and not entry.get("path")):
            raise ValueError("no image")
        return entry["path"] if entry.get("bytes") is None else io.BytesIO(entry["bytes"])


def load_hf(
    name: str,
    *,
    input: str | None = None,
    text: str | None = None,
    encoder: str | None = None,
    label: str | None = None,
    true: str | None = None,
    train: str = "train",
    test: str | None = None,
    config: str | None = None,
    size: int | None = None,
    side: int | None = None,
    gray: bool | None = None,
    memory: bool | None = None,
    missing: str = "refuse",
) -> LabeledData:
    """A data set saved with ``save_to_disk``, a folder or file that `datasets` reads, or one of the hub.

    Args:
        name: folder written by ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk``, or what
            ``datasets.load_dataset`` takes (a name on the hub needs a network or its cache).
        input: column of the inputs: images, or vectors of one length. None: the only column of
            images, or else the only one of number sequences.
        text: column of texts to read in their place, several as ``title+body``: by the words in them, or by
            ``encoder``, as in a table (`mild_ext.data.readers.table.load_table`).
        encoder: name or folder of a Hugging Face encoder to read the texts with.
        label: column of the given labels. None: the only class-label column, or ``label``.
        true: column of the true labels, where they are known.
        train: split to train on.
        test: split to test on. None: ``test``, or else ``validation``, where there is one.
        config: configuration of a data set that has several.
        size, side, gray, memory: for images, as with ``folder:``.
        missing: ``drop`` leaves out training samples without a label, which are refused otherwise.

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
    tables = {"train": table} | ({} if test is None else {"test": splits[test]})
    kind: Literal["image", "vector", "text"] = "text"
    if text is None:
        if encoder is not None:
            raise ValueError("encoder= reads texts: name their column, ,text=COLUMN")
        input, kind = _choose_input(table, input, label)
        inputs_in = [input]
    else:
        if input is not None:
            raise ValueError("input= and text= are for one kind of data each: give one of them")
        inputs_in = [text] if text in table.features else text.split(JOIN)
    columns = {"train": [label, *([true] if true else [])], "test": [true or label]}
    for column in (*inputs_in, label, *([true] if true else [])):
        for part, part_table in tables.items():
            if part == "train" or column in (*inputs_in, columns["test"][0]):
                _require(part_table, column)
    labels, class_names = _read_labels(tables, columns, parse_missing(missing))
    rows = labels["train"][label].labeled
    messages = []
    if len(rows) < len(table):
        messages.append(left_out_unlabeled(len(table) - len(rows), len(table)))
        tables["train"] = table.select(rows.numpy())
    given = labels["train"][label].values[rows]
    truth = labels["train"][true].values[rows] if true else None
    tested = None if test is None else labels["test"][columns["test"][0]].values
    if kind == "image":
        found = _image_data(tables, inputs_in[0], given, tested, (size, side), gray, memory)
        kept = found.pop("kept")
        messages += found.pop("messages")
        return LabeledData(
            name=Path(name).name,
            labels=given[kept],
            class_names=class_names,
            true_labels=None if truth is None else truth[kept],
            sample_names=[f"row {k}" for k in rows[kept].tolist()],
            messages=messages,
            **found,
        )
    texts, encoding = None, None
    if kind == "text":
        said = {part: _texts(t, inputs_in) for part, t in tables.items()}
        texts = said["train"]
        vectors, encoding, more = read_texts(texts, inputs_in, encoder)
        messages += more
        inputs: dict[str, Any] = {"train": vectors}
        if test is not None:
            inputs["test"] = apply_texts(said["test"], encoding)
    else:
        inputs = {part: _vectors(t, inputs_in[0]) for part, t in tables.items()}
    data = array_data(
        Path(name).name,
        inputs["train"],
        given,
        class_names,
        x_test=inputs.get("test"),
        y_test=tested,
        true_labels=truth,
    )
    if (
        encoding is not None
    ):  # on one scale already: the model's first layer leaves them as they are
        features = data.input_shape[0]
        data.mean, data.std = torch.zeros(features), torch.ones(features)
    data.texts, data.encoding = texts, encoding
    data.sample_names = [f"row {k}" for k in rows.tolist()]
    data.messages += messages
    return data


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
                f"of numbers; of texts, give ,text={column}"
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
        "sequences, or ,text=COLUMN with one of texts; there are "
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
    rows = table.select_columns([column]).with_format("numpy")[:][column]
    values = np.asarray(rows)
    if values.dtype.kind not in "iuf" or values.ndim < 2:
        raise ValueError(f"the vectors in column {column!r} must have one length")
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"column {column!r} holds NaN or infinity")
    return values


def _texts(table: Any, columns: list[str]) -> list[str]:
    """The text of each row: the columns of that name, one after the other."""
    cells = {column: read_column(table, column) for column in columns}
    return [joined({c: cells[c][k] for c in columns}, columns) for k in range(len(table))]


def _read_labels(
    tables: dict[str, Any], columns: dict[str, list[str]], missing: Missing
) -> tuple[dict[str, dict[str, CheckedLabels]], list[str]]:
    """Labels per split and column, numbered alike, and the class names; nothing else is read of the tables."""
    given = columns["train"][0]
    names = getattr(tables["train"].features[given], "names", None)
    found: dict[str, CheckedLabels] = {}
    for part, table in tables.items():
        for column in columns[part]:
            drop = part == "train" and column == given
            own = getattr(table.features[column], "names", None)
            found[f"{part}:{column}"] = check_labels(
                read_column(table, column),
                name=f"labels in column {column!r} of the split {part}",
                class_names=names or None,
                missing=missing if drop else "refuse",
                remedy=(
                    "leave these samples out with ,missing=drop after --data"
                    if part == "train"
                    else "choose another split with ,test=SPLIT"
                ),
            )
            if own and names and list(own) != list(names):
                raise ValueError(
                    f"column {column!r} of the split {part} numbers its classes in another way than column {given!r} "
                    f"of the training split: {', '.join(own[:5])}, ... and {', '.join(names[:5])}, ..."
                )
    if names:
        class_names = [str(name) for name in names]
    else:
        found, class_names = number_alike(found, compact=True)
    return {
        part: {column: found[f"{part}:{column}"] for column in columns[part]} for part in tables
    }, class_names


def _image_data(
    tables: dict[str, Any],
    column: str,
    labels: Tensor,
    test_labels: Tensor | None,
    sizes: tuple[int | None, int | None],
    gray: bool | None,
    memory: bool | None,
) -> dict[str, Any]:
    """Fields of `LabeledData`, and under ``kept`` the positions of the images that can be read."""
    require_pillow()
    encoded = {part: _Encoded(table, column) for part, table in tables.items()}
    by_part = {"train": labels, "test": test_labels}
    messages: list[str] = []
    headers: list[Any] = []
    kept: dict[str, list[int]] = {}
    for part, images in encoded.items():
        total = len(images)
        # Of very many, some: reading the bytes of all would take as long as an epoch.
        some = np.unique(np.linspace(0, total - 1, min(total, LOOKED_AT)).astype(int)).tolist()

        def look(k: int, images: _Encoded = images) -> ImageHeader:
            return read_header(images[k])

        found, failures, worked = read_all(
            look, some, [f"row {k}" for k in some], "looking at images"
        )
        messages += report_unreadable(failures, len(some), f"the split {part}")
        bad = set(some) - {some[k] for k in worked}
        kept[part] = [k for k in range(total) if k not in bad]
        if part == "train":
            headers = [found[k] for k in worked]
    wanted, remarks = choose_format(headers, sizes[0], gray, sizes[1])
    messages += remarks
    if memory is None:
        memory = len(kept["train"]) * int(np.prod(wanted.shape)) <= MEMORY_LIMIT
    parts: dict[str, Dataset[Any]] = {}
    for part, images in encoded.items():
        own = by_part[part]
        assert own is not None
        if not memory:
            rows_kept = torch.tensor(kept[part])
            parts[part] = StreamedImages(_Rows(images, kept[part]), own[rows_kept], wanted)
            continue
        pixels = np.empty((len(kept[part]), *wanted.shape), np.uint8)

        def read(k: int, images: Any = images, pixels: Any = pixels, part: str = part) -> bool:
            pixels[k] = decode(images[kept[part][k]], wanted)
            return True

        names = [f"row {k}" for k in kept[part]]
        _, failures, worked = read_all(read, range(len(names)), names, "reading images")
        messages += report_unreadable(failures, len(images), f"the split {part}")
        kept[part] = [kept[part][k] for k in worked]
        chosen = torch.from_numpy(pixels)
        if len(worked) < len(pixels):
            chosen = chosen[torch.tensor(worked)]
        parts[part] = ArrayDataset(chosen, own[torch.tensor(kept[part])])
    mean, std = statistics_of(some_inputs(parts["train"]), "image")
    return {
        "train": parts["train"],
        "kind": "image",
        "input_shape": wanted.shape,
        "encoding": wanted.encoding(),
        "mean": mean,
        "std": std,
        "test": parts.get("test"),
        "messages": messages,
        "kept": torch.tensor(kept["train"]),
    }


class _Rows:
    """Some rows of a column of images, with names for them."""

    def __init__(self, images: _Encoded, rows: list[int]) -> None:
        self.images, self.rows = images, np.asarray(rows)

    def __getitem__(self, index: int) -> Any:
        return self.images[int(self.rows[index])]

    def name(self, index: int) -> str:
        """How the row is called in a message."""
        return f"row {self.rows[index]}"
