"""From new samples to a model's inputs, in the way a run's reader made those it learned from.

A reader leaves what it takes in `LabeledData.encoding`, in plain values, and a run keeps it beside its model:

    pictures   channels and size that image files are brought to
    words      the words that texts are told apart by, and their weights (TF-IDF)
    encoder    the name of a Hugging Face encoder, and what its vectors are standardized by
    columns    of a table: means, deviations, the values of categories
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mild_ext.data.readers.images import ImageFormat, decode, read_all
from mild_ext.data.readers.table import encode_rows
from mild_ext.data.readers.text import apply_texts

#: What each kind of encoding holds beside its kind, and of which type.
_HOLDS: dict[str, dict[str, type]] = {
    "pictures": {"channels": int, "height": int, "width": int, "margin": float},
    "words": {"columns": list, "words": list, "weights": list},
    "encoder": {"columns": list, "encoder": str, "mean": list, "deviation": list},
    "columns": {"columns": list},
}
#: What a column of a table holds beside its name, by its kind.
_OF_COLUMNS: dict[str, dict[str, Any]] = {
    "number": {"mean": float, "deviation": float, "median": float, "missing": bool},
    "category": {"values": list},
}
#: What a sample of each kind is, in words.
TAKES = {
    "pictures": "an image file (a path, an open binary file or a Pillow image)",
    "words": "a text, or a mapping from column to cell",
    "encoder": "a text, or a mapping from column to cell",
    "columns": "a mapping from column to cell",
}


def encode_samples(samples: Sequence[Any], encoding: Mapping[str, Any]) -> Tensor:
    """Inputs ``[B, ...]`` of samples, as those of training were made.

    Args:
        samples: B paths of images, texts, or rows of a table (mappings from column to cell), as `TAKES` says.
        encoding: `LabeledData.encoding`, as `check_encoding` wants it.

    Returns:
        uint8 ``[B, C, H, W]`` of pictures, else float32 ``[B, features]``.

    Raises:
        TypeError: one sample in place of several, or samples of another kind.
        ValueError: none, an image that cannot be read, or a column that is missing.
        ImportError: a package that the kind of data needs is missing.
    """
    kind = encoding["kind"]
    samples = as_list(samples, TAKES[kind])
    if kind == "pictures":
        return _pictures(samples, encoding)
    texts = [sample for sample in samples if isinstance(sample, str)]
    if texts and kind != "columns":
        if len(texts) < len(samples):
            raise TypeError("samples must be all texts, or all mappings from column to cell")
        return apply_texts([text.strip() for text in texts], encoding)
    other = next((sample for sample in samples if not isinstance(sample, Mapping)), None)
    if other is not None:
        raise TypeError(f"each sample must be {TAKES[kind]}; got a {_kind_of(other)}")
    return encode_rows(samples, encoding)


def as_list(samples: Any, each: str) -> list[Any]:
    """Several samples, of which ``each`` says what one is.

    Raises:
        TypeError: one in place of several.
        ValueError: none.
    """
    if isinstance(samples, str | bytes | os.PathLike | Mapping):
        raise TypeError(f"samples must be a list, each {each}; got a {_kind_of(samples)}")
    if not (found := list(samples)):
        raise ValueError("samples must hold at least one")
    return found


def _pictures(samples: list[Any], encoding: Mapping[str, Any]) -> Tensor:
    wanted = ImageFormat(**{name: encoding[name] for name in _HOLDS["pictures"]})
    wrong = next((s for s in samples if isinstance(s, Mapping | Tensor | np.ndarray)), None)
    if wrong is not None:
        raise TypeError(f"each sample must be {TAKES['pictures']}; got a {_kind_of(wrong)}")
    paths = [os.path.expanduser(s) if isinstance(s, str | os.PathLike) else s for s in samples]
    names = [str(sample) for sample in samples]
    images, failures, _ = read_all(
        lambda source: decode(source, wanted), paths, names, "reading images"
    )
    if failures:
        raise ValueError(
            f"{len(failures)} of {len(samples)} images cannot be read, the first: {failures[0]}"
        )
    return torch.from_numpy(np.stack(images))


def _kind_of(value: Any) -> str:
    return type(value).__name__


def check_encoding(encoding: Any, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """An encoding that was read from a file, if it is one, and of such inputs.

    Raises:
        ValueError: it is not.
    """
    kind = encoding.get("kind") if isinstance(encoding, dict) else None
    if kind not in _HOLDS:
        raise ValueError(f"there is no encoding of the kind {kind!r}")
    for name, type_ in _HOLDS[kind].items():
        value = encoding.get(name)
        if type(value) is not type_ or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{name} must be of type {type_.__name__}, got {value!r:.50}")
    size: tuple[int, ...] = input_shape
    if kind == "pictures":
        size = tuple(encoding[name] for name in ("channels", "height", "width"))
        if encoding["margin"] < 1:
            raise ValueError(f"margin must be at least 1, got {encoding['margin']}")
    elif kind == "words":
        size = (len(encoding["words"]),)
        if len(encoding["weights"]) != len(encoding["words"]):
            raise ValueError("it must hold a weight for each word")
    elif kind == "encoder":
        size = (len(encoding["mean"]),)
        if len(encoding["deviation"]) != len(encoding["mean"]):
            raise ValueError("it must hold a mean and a deviation for each feature")
    else:
        for column in encoding["columns"]:
            if type(column) is not dict or not isinstance(column.get("name"), str):
                raise ValueError("each of its columns must have a name")
            needed = _OF_COLUMNS.get(column.get("kind", ""), {"a known kind": str})
            for name, types in needed.items():
                if not isinstance(column.get(name), types):
                    raise ValueError(f"column {column['name']}: {name} is missing, or is none")
        size = input_shape  # which inputs are made of them is seen when they are used
    if size != input_shape:
        raise ValueError(f"it makes inputs of {list(size)}, the model takes {list(input_shape)}")
    found: dict[str, Any] = encoding
    return found
