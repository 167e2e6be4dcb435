"""Fuzz targets: containers of labels, data sets with their attributes, learning logs, label files. See fuzz_run.py."""

from __future__ import annotations

import contextlib
import io
import tempfile
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from hypothesis import strategies as st
from torch.utils.data import Dataset

from mild_ext.cli import main as mild_ext
from mild_ext.data import IndexedDataset, labels_of
from mild_ext.data.label_column import MAX_CLASSES
from mild_ext.data.labels import check_labels
from mild_ext.data.missing import MISSING_TEXTS
from mild_ext.recording import LearningStatus
from mild_ext.recording.learning_log import LearningLog, read_learning_log

REFUSALS = (TypeError, ValueError)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 6),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.sampled_from([pd.NA, pd.NaT, np.float32("nan"), np.int8(2), torch.tensor(1), object(), 1j]),
    st.sampled_from(sorted(MISSING_TEXTS)),
)
LISTS = st.one_of(
    st.lists(st.one_of(SCALARS, st.lists(SCALARS, max_size=2)), max_size=6),
    st.lists(st.integers(-2, 4), min_size=1, max_size=6),
    st.lists(st.floats(), min_size=1, max_size=6),
    st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=1, max_size=6),
    st.lists(st.text(max_size=2), min_size=1, max_size=6),
    st.lists(st.lists(st.integers(0, 1), min_size=2, max_size=2), min_size=1, max_size=4),
)
CONTAINERS = {
    "list": list,
    "tuple": tuple,
    "numpy": np.array,
    "column": lambda x: np.array(x)[:, None],
    "matrix": lambda x: np.array(x)[:, None].view(np.matrix),
    "float16": lambda x: np.array(x, np.float16),
    "uint8": lambda x: np.array(x, np.uint8),
    "object": lambda x: np.array(x, dtype=object),
    "series": pd.Series,
    "category": lambda x: pd.Series(x, dtype="category"),
    "nullable": lambda x: pd.Series(x, dtype="Int64"),
    "tensor": torch.tensor,
    "bfloat16": lambda x: torch.tensor(x, dtype=torch.bfloat16),
    "masked": lambda x: np.ma.array(x, mask=[k % 3 == 1 for k in range(len(x))]),
    "arrow": pa.array,
    "arrow8": lambda x: pa.array(x, pa.uint8()),
    "scalars": lambda x: list(np.array(x, np.int64).astype(np.uint8)),
}


def container(items, kind):
    """The items in a container, or None where there is no such container of these."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return CONTAINERS[kind](items)
    except Exception:
        return None


def plain(entry):
    """An entry of a container as a Python value; None where it stands for no label."""
    if isinstance(entry, pa.Scalar):
        entry = entry.as_py()
    while isinstance(entry, list | tuple | np.ndarray) and np.ndim(entry) and len(entry) == 1:
        entry = entry.item() if isinstance(entry, np.matrix) else entry[0]
    if isinstance(entry, np.ma.core.MaskedConstant):
        return None
    if isinstance(entry, torch.Tensor | np.ndarray | np.generic):
        entry = entry.item()
    if isinstance(entry, bytes):
        entry = entry.decode("utf-8", "backslashreplace")
    if entry is None or entry is pd.NA or entry is pd.NaT or entry != entry:
        return None
    if isinstance(entry, str):
        normal = unicodedata.normalize("NFKC", entry)
        seen = "".join(c for c in normal if c == " " or unicodedata.category(c)[0] not in "CZ")
        words = {text.upper() for text in MISSING_TEXTS - {"None"}}
        return None if entry.strip() == "None" or seen.strip().upper() in words else entry
    return None if entry in (-1, -100, -(2**63)) else entry


@st.composite
def any_labels(draw):
    return draw(LISTS), draw(st.sampled_from(sorted(CONTAINERS))), draw(st.booleans())


def labels(case):
    """What comes out is what went in, entry by entry."""
    items, kind, drop = case
    given_labels = container(items, kind)
    if given_labels is None:
        return
    try:
        found = check_labels(given_labels, missing="drop" if drop else "refuse")
    except REFUSALS:
        return
    assert len(found) == len(items)
    assert found.values.dtype == torch.int64
    assert torch.equal(found.missing, found.values < 0)
    assert drop or not found.missing.any()
    assert int(found.values.max()) < MAX_CLASSES
    for entry, value in zip(list(given_labels), found.values.tolist(), strict=True):
        entry = plain(entry)
        if value < 0:
            assert entry is None or (isinstance(entry, str) and float(entry) in (-1, -100))
        elif isinstance(entry, str) and found.class_names is not None:
            assert found.class_names[value] == entry
        else:
            assert float(entry) == value


class Items(Dataset):
    """Items as drawn, and perhaps an attribute that says something else."""

    def __init__(self, items, attribute, name):
        self.items = items
        if attribute is not None:
            setattr(self, name, attribute)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@st.composite
def any_dataset(draw):
    values = draw(LISTS)
    wrap = draw(st.sampled_from(["pair", "list", "mapping", "triple", "bare", "attribute"]))
    other = draw(st.one_of(st.none(), st.just(values), LISTS))
    return (
        values,
        wrap,
        other,
        draw(st.sampled_from(sorted(CONTAINERS))),
        draw(st.sampled_from(["labels", "targets"])),
    )


def datasets(case):
    """The labels of a data set are those of its items, whatever its attributes say."""
    values, wrap, other, kind, name = case
    make = {
        "pair": lambda k, y: (k + 0.5, y),
        "list": lambda k, y: [k + 0.5, y],
        "mapping": lambda k, y: {"x": k + 0.5, "label": y},
        "triple": lambda k, y: (k, k + 0.5, y),
        "bare": lambda k, y: y,
        "attribute": lambda k, y: (torch.zeros(2), y),
    }[wrap]
    attribute = None if other is None else container(other, kind)
    dataset = Items([make(k, y) for k, y in enumerate(values)], attribute, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = labels_of(dataset)
        except REFUSALS:
            return
        indexed = IndexedDataset(dataset, found)
    expected = [indexed.label_of(item) for item in dataset.items]
    assert len(found) == len(values)
    assert not (found < 0).any()
    own = check_labels(expected)
    assert torch.equal(own.values, found)
    for k in range(len(values)):
        try:
            index, inputs, label = indexed[k]
        except REFUSALS:
            assert wrap == "triple"  # which says to say what is what
            continue
        assert (index, int(label)) == (k, int(found[k]))
        assert wrap in ("attribute", "mapping", "triple", "bare") or inputs == k + 0.5


@st.composite
def any_log(draw):
    count, epochs = 4, 6
    fields = {
        "memorized": np.random.default_rng(0).random((count, epochs)) < 0.5,
        "given_label": np.arange(count) % 2,
    }
    values = st.sampled_from(
        [
            np.arange(count),
            np.arange(count) - 1,
            np.array([0, 0, 1, 2**62]),
            np.array([0, 1, 2, 2**64 - 1], np.uint64),
            np.array([0.0, 0.7, 1, 2]),
            np.array([0, np.nan, 1, 1]),
            np.array(list("abcd")),
            np.zeros(count, int),
            np.zeros((count, epochs), np.uint8),
            np.full((count, epochs), -3),
            np.full((count, epochs), 2.0),
            np.array(7),
        ]
    )
    for name in draw(
        st.lists(st.sampled_from([*LearningLog.__dataclass_fields__, "num_epochs"]), max_size=2)
    ):
        fields[name] = draw(values)
    return fields, epochs


def logs(case):
    """A learning log that is read can be: labels are classes, ids are of one sample each."""
    fields, epochs = case
    arrays = {"num_epochs": np.int64(epochs)} | fields
    if arrays["memorized"].dtype == bool:
        arrays["memorized"] = np.packbits(arrays["memorized"], axis=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.npz"
        np.savez(path, **arrays)
        try:
            log = read_learning_log(path)
        except REFUSALS:
            return
    assert log.given_label.dtype == np.int64
    for values in (log.given_label, log.true_label, log.ids):
        assert values is None or (values >= 0).all()
    assert np.array_equal(log.given_label, fields["given_label"])
    assert log.ids is None or len(set(log.ids.tolist())) == len(log.memorized)
    assert log.predicted is None or log.predicted.min() >= -1
    log.status()


@st.composite
def any_label_file(draw):
    return (
        draw(LISTS),
        draw(st.sampled_from(["numpy", "object", "uint8", "column"])),
        draw(st.booleans()),
    )


def commands(case):
    """``mild-ext select --labels FILE`` ends with 0, or with 1 and one line."""
    items, kind, drop = case
    array = container(items, kind)
    if array is None or not isinstance(array, np.ndarray):
        return
    with tempfile.TemporaryDirectory() as folder:
        status = LearningStatus(max(1, len(items)), 4)
        for _ in range(4):
            count = status.num_samples
            status.update(torch.arange(count), torch.randn(count, 2), torch.zeros(count).long())
            status.advance()
        status.save(Path(folder) / "s.safetensors")
        np.save(Path(folder) / "y.npy", array)
        line = [
            f"{folder}/s.safetensors",
            "--labels",
            f"{folder}/y.npy",
            "--out",
            f"{folder}/t.csv",
        ]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = mild_ext(["select", *line, *(["--missing", "drop"] if drop else [])])
        if code:
            assert err.getvalue().startswith("mild-ext: error: ")
            assert err.getvalue().count("\n") == 1
            return
        words = [plain(entry) for entry in array]
        absent = [word is None or word in ("-1", "-100") for word in words]
        assert drop or not any(absent)
        rows = (Path(folder) / "t.csv").read_text(encoding="utf-8").splitlines()[1:]
        assert [int(row.split(",")[0]) for row in rows] == [
            k for k, a in enumerate(absent) if not a
        ]
