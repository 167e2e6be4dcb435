"""Tables: a sample a row, its label in a column, its text, picture or other columns what is learned from.

::

    csv:reviews.csv,label=stars,text=title+body     text, by the words in it
    csv:photos.csv,label=species,image=file         pictures, by their paths (beside the table, or root=DIR)
    parquet:customers.parquet,label=segment,id=key  numbers and categories, of all other columns
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mild_ext.data.label_column import refuse_wrapped
from mild_ext.data.labels import check_labels
from mild_ext.data.missing import is_minus_one, is_missing
from mild_ext.data.readers.skipped import parse_missing
from mild_ext.data.readers.table_columns import apply_columns, encode_columns
from mild_ext.data.readers.table_file import TableFile, cell_text, read_table_file
from mild_ext.data.readers.text import apply_texts, read_texts
from mild_ext.data.sets import ArrayDataset, LabeledData
from mild_ext.reading import shown

#: Columns of a text are joined by this sign in the specification.
JOIN = "+"
#: Fewer samples of each class than this, on average: the column is no class.
LEAST_PER_CLASS = 2
_WHOLE = re.compile(r"-?[0-9]+(\.0*)?")


def load_table(
    path: str,
    *,
    label: str | None = None,
    text: str | None = None,
    image: str | None = None,
    id: str | None = None,
    columns: str | None = None,
    missing: str | None = None,
    encoder: str | None = None,
    root: str | None = None,
    size: int | None = None,
    side: int | None = None,
) -> LabeledData:
    """A table of samples.

    With ``text`` these columns' words are learned from, with ``image`` the pictures; else all other columns, numbers
    standardized and categories as one column per value, with missing values filled in and counted.

    Args:
        path: a CSV file in UTF-8 with a header, or a ``.parquet`` file.
        label: the column of the given labels: text or whole numbers.
        text: the column of the text; several as ``title+body``.
        image: the column of paths of pictures, relative to ``root``.
        id: a column that names each sample, with no value twice; None takes the path of the picture, or the number
            of the row, the first being 0.
        columns: the columns to learn from, as ``a+b+c``, where that is neither text nor pictures; None: all others.
        missing: ``drop`` leaves out rows without a label (empty, -1, or what `mild_ext.data.check_labels` takes
            for missing); ``refuse`` and None refuse them.
        encoder: name or folder of a Hugging Face encoder to read the text with, in place of its words.
        root: folder of the pictures; None is that of the table.
        size, side: of the pictures in pixels; see `mild_ext.data.readers.folder.load_folder`.

    Raises:
        ValueError: a column that is not there (the message names those that are), labels that are missing or no
            classes, ids that occur twice.
        ImportError: a package that the kind of data needs is missing.
    """
    source = Path(path).expanduser()
    table = read_table_file(source)
    if label is None:
        raise ValueError(
            f"name the column of the labels: ,label=COLUMN; {source} has {table.listed()}"
        )
    table.require(label, "label=", source)
    if text is not None and image is not None:
        raise ValueError("text= and image= are for one kind of data each: give one of them")
    if label in (image, *(text or "").split(JOIN)):
        raise ValueError(
            f"column {label} is the label: it cannot be what its own samples are learned from"
        )
    if missing is not None and parse_missing(missing) == "refuse":
        missing = None
    cells = label_texts([row[label] for row in table.rows], label)
    if table.schema is not None and str(table.schema.field(label).type).startswith("uint"):
        numbers = [row[label] for row in table.rows if row[label] is not None]
        refuse_wrapped(
            f"labels in column {label}", np.array(numbers, str(table.schema.field(label).type))
        )
    rows, messages = _labeled(cells, label, missing, source)
    labels, names = number_labels([cells[k] for k in rows], label)
    _require_no_rows_inside(table, label, set(names), source)
    ids = _ids(table, rows, id, source)
    facts: dict[str, Any] = {
        "name": source.stem,
        "class_names": names,
        "sample_names": ids,
        "messages": messages,
        "table": {"path": str(source.resolve()), "label": label, "id": id},
    }
    some = [table.rows[k] for k in rows]
    if image is not None:
        table.require(image, "image=", source)
        folder = source.parent if root is None else Path(root).expanduser()
        if id is None:
            facts["table"]["id"] = image
            facts["sample_names"] = _ids(table, rows, image, source)
        return _pictures(
            [cell_text(row[image]) for row in some], folder, labels, (size, side), facts
        )
    if text is not None:
        parts = _named(table, text, "text=", source)
        texts = [joined(row, parts) for row in some]
        inputs, encoding, more = read_texts(texts, parts, encoder)
        messages += more
        return _vectors(inputs, labels, facts, encoding, texts)
    used = _features(table, columns, [label, id], source)
    inputs, encoding, more = encode_columns(some, used, source)
    messages += more
    shown = [", ".join(f"{name}={cell_text(row[name])}" for name in used) for row in some]
    return _vectors(inputs, labels, facts, encoding, shown)


def encode_rows(rows: Sequence[Mapping[str, Any]], encoding: Mapping[str, Any]) -> Tensor:
    """Inputs of further rows, as `load_table` made those it read, float32 ``[N, features]``.

    Args:
        rows: cells by the columns' names; only those that were learned from are needed.
        encoding: ``LabeledData.encoding``.

    Raises:
        ValueError: a column that is missing.
    """
    names = (
        [column["name"] for column in encoding["columns"]]
        if encoding["kind"] == "columns"
        else encoding["columns"]
    )
    for k, row in enumerate(rows):
        absent = [name for name in names if name not in row]
        if absent:
            raise ValueError(f"row {k} has no column {absent[0]!r}; it has {', '.join(row)}")
    if encoding["kind"] == "columns":
        return apply_columns(rows, encoding)
    return apply_texts([joined(row, names) for row in rows], encoding)


def joined(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """The text of a row: its columns of that name, one after the other."""
    return " ".join(cell_text(row[name]) for name in names).strip()


# ------------------------------------------------------------------------------------- what is a sample


def label_texts(cells: Sequence[Any], column: str) -> list[str]:
    """Labels as text, one spelling for each class.

    Raises:
        TypeError: they are no labels: lists, dates, ... of a Parquet file.
    """
    if not all(isinstance(cell, str | bool | int | float | None) for cell in cells):
        found = check_labels(cells, name=f"labels in column {column}", missing="drop")
        names = found.class_names or range(int(found.values.max()) + 1)
        return ["" if k < 0 else str(names[k]) for k in found.values.tolist()]
    texts = [cell_text(cell) for cell in cells]
    if all(_WHOLE.fullmatch(text) or is_missing(text) for text in texts):  # 1 and 1.0 are one class
        texts = [text if is_missing(text) else text.partition(".")[0] for text in texts]
    return texts


def _labeled(
    cells: Sequence[str], label: str, missing: str | None, path: Path
) -> tuple[list[int], list[str]]:
    """The rows that have a label, and a message where others were left out."""
    two = set(cells) <= {"-1", "1"}  # the two classes of some fields
    without = [
        k for k, cell in enumerate(cells) if is_missing(cell) or (is_minus_one(cell) and not two)
    ]
    if without and missing is None:
        first = ", ".join(str(k) for k in without[:5])
        raise ValueError(
            f"{path}: {len(without)} of {len(cells)} rows have no label in column {label} (rows {first}"
            f"{', ...' if len(without) > 5 else ''}, the first row being 0: {cells[without[0]]!r}); fill them in, or "
            "leave them out with missing=drop; where that is the name of a class, call it something else"
        )
    gone = set(without)
    rows = [k for k in range(len(cells)) if k not in gone]
    if not rows:
        raise ValueError(f"{path} has no row with a label in column {label}")
    return rows, [f"{len(without)} rows without a label are left out"] if without else []


def _require_no_rows_inside(table: TableFile, label: str, names: set[str], path: Path) -> None:
    """Raise where rows of the table lie inside a cell of several lines: a stray quote has swallowed them."""
    if table.schema is not None:
        return  # Parquet has no quotes
    place = table.columns.index(label)
    for number, row in enumerate(table.rows):
        for cell in row.values():
            lines = cell.splitlines()[1:-1] if isinstance(cell, str) and "\n" in cell else []
            inside = list(csv.reader(lines, delimiter=table.delimiter))
            if inside and all(
                len(cells) == len(table.columns) and cells[place].strip() in names
                for cells in inside
            ):
                raise ValueError(
                    f"{path}: a cell of row {number} (the first being 0) holds lines that are rows of the table "
                    f"({shown(table.delimiter.join(inside[0]), 60)!r}): a quote opens it that is closed too late; "
                    "write that quote twice, or take it out"
                )


def number_labels(texts: Sequence[str], column: str) -> tuple[Tensor, list[str]]:
    """Class numbers int64 ``[N]`` and the classes' names, in order; whole numbers are ordered as such.

    Raises:
        ValueError: one class, or so many values that they are none.
    """
    counts = Counter(texts)
    whole = all(map(_WHOLE.fullmatch, counts))
    names = sorted(counts, key=int) if whole else sorted(counts)
    if len(names) < 2:
        raise ValueError(
            f"column {column} has the one value {names[0]!r}: there must be two classes"
        )
    if len(texts) < LEAST_PER_CLASS * len(names):
        raise ValueError(
            f"column {column} has {len(names)} different values in {len(texts)} rows, e.g. {names[0]!r}: that is no "
            "class label"
        )
    number = {name: k for k, name in enumerate(names)}
    return torch.tensor([number[t] for t in texts], dtype=torch.int64), names


def _ids(table: TableFile, rows: Sequence[int], column: str | None, path: Path) -> list[str]:
    if column is None:
        return [str(k) for k in rows]
    table.require(column, "id=", path)
    ids = [cell_text(table.rows[k][column]) for k in rows]
    name, count = Counter(ids).most_common(1)[0]
    if count > 1:
        raise ValueError(
            f"{path}: {name!r} occurs {count} times in column {column}; ids must be unique"
        )
    return ids


# ------------------------------------------------------------------------------------- what is learned from


def _named(table: TableFile, columns: str, option: str, path: Path) -> list[str]:
    """The columns of an option: one, or several joined by `JOIN`."""
    names = [columns] if columns in table.columns else columns.split(JOIN)
    for name in names:
        table.require(name, option, path)
    return names


def _features(
    table: TableFile, columns: str | None, others: Sequence[str | None], path: Path
) -> list[str]:
    if columns is None:
        used = [name for name in table.columns if name not in others]
    else:
        used = _named(table, columns, "columns=", path)
        for name in used:
            if name in others:
                raise ValueError(f"column {name} is the label or the id, not one to learn from")
    if not used:
        raise ValueError(f"{path} has no column to learn from; it has {table.listed()}")
    return used


def _vectors(
    inputs: Tensor,
    labels: Tensor,
    facts: dict[str, Any],
    encoding: dict[str, Any],
    texts: list[str],
) -> LabeledData:
    """Vectors that are on one scale already: the model's first layer leaves them as they are."""
    features = inputs.shape[1]
    return LabeledData(
        train=ArrayDataset(inputs, labels),
        labels=labels,
        kind="vector",
        input_shape=(features,),
        mean=torch.zeros(features),
        std=torch.ones(features),
        texts=texts,
        encoding=encoding,
        **facts,
    )


def _pictures(
    paths: list[str],
    folder: Path,
    labels: Tensor,
    sizes: tuple[int | None, int | None],
    facts: dict[str, Any],
) -> LabeledData:
    from mild_ext.data.readers.table_pictures import load_pictures

    files = load_pictures(folder, paths, labels, size=sizes[0], side=sizes[1])
    kept = files.positions
    facts["messages"] += files.messages
    facts["sample_names"] = [facts["sample_names"][k] for k in kept]
    return LabeledData(
        train=files.dataset,
        labels=labels[torch.tensor(kept)],
        kind="image",
        input_shape=files.wanted.shape,
        encoding=files.wanted.encoding(),
        mean=files.mean,
        std=files.std,
        **facts,
    )
