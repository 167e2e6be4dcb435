"""Labels in every container and dtype: taken, or refused with what they are and what to do."""

from __future__ import annotations

import enum
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from mild_ext.data.labels import MAX_CLASSES, check_labels, named_as, number_alike


class Pet(str, enum.Enum):
    CAT = "cat"
    DOG = "dog"


MASKED = np.ma.array([1, 7, 0], mask=[False, True, False])


@pytest.mark.parametrize(
    "labels",
    [
        [1, 0, 2],
        (1, 0, 2),
        [1.0, 0, 2],
        [np.int8(1), np.uint64(0), 2],
        [torch.tensor(1), torch.tensor([0]), 2],
        [[1], [0], [2]],
        ["1", "0", "2"],
        np.array([1, 0, 2], np.uint8),
        np.array([1, 0, 2], np.uint64),
        np.array([1, 0, 2], np.float16),
        np.array([[1], [0], [2]]),
        np.array([1, 0, 2], object),
        np.array([[1], [0], [2]]).view(np.matrix),  # what scikit-learn's and SciPy's todense() give
        ["1.0", "0.0", "2.0"],  # integers that had gaps, as pandas writes them
        np.array(["1", "0", "2"]),
        torch.tensor([1, 0, 2], dtype=torch.int16),
        torch.tensor([1, 0, 2], dtype=torch.bfloat16),
        [torch.tensor(k, dtype=torch.bfloat16) for k in (1, 0, 2)],
        [torch.tensor(float(k), requires_grad=True) for k in (1, 0, 2)],
        torch.tensor([[1], [0], [2]]),
        torch.tensor([1.0, 0.0, 2.0], requires_grad=True),
        pd.Series([1, 0, 2], index=[9, 8, 7]),
        pd.Series([1, 0, 2], dtype="Int64"),
        pd.Categorical([1, 0, 2]),
        pd.DataFrame({"y": [1, 0, 2]}),
        pd.Index([1, 0, 2]),
        pa.array([1, 0, 2]),
        pa.chunked_array([[1, 0], [2]]),
    ],
    ids=lambda labels: type(labels).__name__,
)
def test_whole_numbers_stay_the_numbers_they_are(labels):
    found = check_labels(labels, count=3)
    assert found.values.dtype == torch.int64
    assert found.values.tolist() == [1, 0, 2]
    assert found.class_names is None


@pytest.mark.parametrize(
    ("labels", "values", "names"),
    [
        (["dog", "cat", "dog"], [1, 0, 1], ("cat", "dog")),
        ([b"dog", b"cat"], [1, 0], ("cat", "dog")),
        (np.array(["b", "a"]), [1, 0], ("a", "b")),
        (np.array([b"b", b"a"]), [1, 0], ("a", "b")),
        (pd.Series(["b", "a"], dtype="string"), [1, 0], ("a", "b")),
        (pd.Categorical(["b", "a"], categories=["b", "x", "a"]), [0, 2], ("b", "x", "a")),
        (pa.array(["b", "a"]), [1, 0], ("a", "b")),
        (np.array([True, False]), [1, 0], ("False", "True")),
        (torch.tensor([True, False]), [1, 0], ("False", "True")),
        (["10", "9", "2x"], [0, 2, 1], ("10", "2x", "9")),
        (["none", "some"], [0, 1], ("none", "some")),
        ([Pet.DOG, Pet.CAT], [1, 0], ("cat", "dog")),
        (["-1", "+1"], [1, 0], ("+1", "-1")),  # numbers throughout: no gap among names
    ],
)
def test_text_is_numbered_and_the_names_are_kept(labels, values, names):
    found = check_labels(labels)
    assert found.values.tolist() == values
    assert found.class_names == names


@pytest.mark.parametrize(
    "labels",
    [
        [1, None, 0],
        [1, float("nan"), 0],
        [1, -1, 0],
        [1, -100, 0],
        ["b", "", "a"],
        ["b", "  ", "a"],
        ["b", "nan", "a"],
        ["b", "NaN", "a"],
        ["1", "N/A", "0"],
        ["b", None, "a"],
        ["b", "-1", "a"],
        ["b", "-1.0", "a"],
        ["1.0", "-1.0", "0.0"],
        [b"b", b"", b"a"],
        np.array([1, np.nan, 0]),
        np.array([1, -1, 0], np.int8),
        np.array([1, np.nan, 0]).astype(object),
        np.array([1, np.iinfo(np.int64).min, 0]),  # NaN that was cast
        torch.tensor([1, -1, 0]),
        torch.tensor([1, float("nan"), 0]),
        pd.Series([1, None, 0]),
        pd.Series([1, None, 0], dtype="Int64"),
        pd.Series(["b", None, "a"]),
        pd.Series(["b", None, "a"], dtype="category"),
        pd.Series(["b", pd.NA, "a"], dtype="string"),
        pd.Series(["b", "", "a"], dtype="category"),
        pa.array([1, None, 0]),
        MASKED,
        np.ma.array(["b", "x", "a"], mask=[0, 1, 0]),
        [1, np.ma.masked, 0],
        np.array([1, np.ma.masked, 0], dtype=object),
        pd.Categorical(["b", "-1", "a"], categories=["a", "b", "-1"]),
        pd.Categorical(["1", "-1", "0"]),
        *(["b", text, "a"] for text in ("NAN", "Nan", "Null", "n/A", "<na>", "#n/a", "NAT")),
        *(["b", text, "a"] for text in ("None ", "\u00a0", "\u200b", "\ufeff", "\0", "\uff2eA")),
        *(["b", text, "a"] for text in ("\uff0d1", "\u22121", "-100.0", " -1 ")),
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", repr(value)),
)
def test_missing_labels_are_refused_with_count_and_row_or_dropped(labels):
    with pytest.raises(ValueError, match=r"are missing for 1 of 3 samples \(row 1"):
        check_labels(labels)
    found = check_labels(labels, missing="drop")
    assert found.values.tolist() == [1, -1, 0]
    assert found.missing.tolist() == [False, True, False]
    assert found.labeled.tolist() == [0, 2]
    assert check_labels(labels, optional=[False, True, False]).values[1] == -1


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.eye(3), TypeError, r"one-hot labels; use labels.argmax\(1\)"),
        ([np.array([1, 0]), np.array([0, 1])], TypeError, "one-hot"),
        (torch.tensor([[0.2, 0.8], [0.5, 0.5]]), TypeError, "soft labels"),
        (np.array([[1, 1, 0], [0, 0, 1]]), TypeError, r"multi-label data.*labels\[:, k\]"),
        ([[1, 2], [3]], TypeError, "more than one label per sample"),
        (np.array([[3, 4], [5, 6]]), TypeError, r"several labels for a sample; choose one"),
        (torch.zeros(2, 4, 4, dtype=torch.int64), TypeError, "a label for each pixel or token"),
        (torch.tensor([0.2, 0.9]), TypeError, "probabilities of one class, or soft labels"),
        (np.array([0.5, 31.2]), TypeError, "the values of a regression"),
        (np.array([[0.5], [31.2]]), TypeError, "the values of a regression"),
        (np.array([1.0, np.inf]), TypeError, "fractions"),
        (np.array([1j]), TypeError, "complex128"),
        (np.array(["2020-01-01"], "M8[D]"), TypeError, "datetime64"),
        ([object()], TypeError, "object .row 0."),
        (["a", 1], TypeError, "mix text and numbers .'a' in row 0, 1 in row 1."),
        ("cats", TypeError, "got str; make it a list"),
        ({0: 1}, TypeError, "got dict"),
        ({1, 2}, TypeError, "got set"),
        (iter([1]), TypeError, "iterator"),
        (7, TypeError, "got int"),
        (torch.eye(2).to_sparse(), TypeError, "dense"),
        (torch.zeros(2, device="meta"), TypeError, "meta"),
        (torch.tensor(3), ValueError, "single value"),
        ([], ValueError, "got none"),
        (np.array([[0, 2, 1]]), ValueError, r"use labels\[0\]"),
        ([-1, 1, 1], ValueError, "number the two classes 0 and 1"),
        ([-7, 1], ValueError, r"got -7 \(row 0\)"),
        ([MAX_CLASSES, 0], ValueError, "ids, perhaps"),
        ([2**64 - 1, 0], ValueError, "got 18446744073709551615"),
        (np.array([2**64 - 1, 0], np.uint64), ValueError, "got 18446744073709551615"),
        (np.array([1, -1, 0]).astype(np.uint8), ValueError, "255 is what -1, no label, becomes"),
        (list(np.array([1, -1, 0]).astype(np.uint8)), ValueError, "255 is what -1"),
        (list(torch.tensor([1, -1]).to(torch.uint8)), ValueError, "255 is what -1"),
        ([np.uint8(255), None, 0], ValueError, "255 is what -1"),
        (pa.array([1, 255, 0], pa.uint8()), ValueError, "255 is what -1"),
        (pa.chunked_array([[1, None], [255]], pa.uint8()), ValueError, "255 is what -1"),
        (pd.Series([1, None, 255], dtype="UInt8"), ValueError, "255 is what -1"),
        (torch.tensor([1, -1, 0]).to(torch.uint16), ValueError, "65535 is what -1"),
        (pd.MultiIndex.from_tuples([(1, 2), (3, 4)]), TypeError, "index of 2 levels; choose one"),
        (np.array([[0, 1, 0]]), ValueError, r"use labels\[0\] if each column is a sample"),
        ([1e300, 0.0], ValueError, r"got 1e\+300"),
        (list, TypeError, "got type; make it a list"),
        (bytearray(b"\0\1"), TypeError, "got bytearray"),
        (pd.Series([0, 1]).groupby([0, 1]), TypeError, "one label for each sample"),
        (np.array([np.array([0]), np.array([1, 2])], dtype=object), TypeError, "several for some"),
        # What 257, 2049 and 17 become, as which they are counted no more.
        (torch.tensor([256.0, 1.0], dtype=torch.bfloat16), ValueError, "from 256 on exactly"),
        (torch.tensor([2048.0, 1.0], dtype=torch.half), ValueError, "from 2048 on exactly"),
        (np.array([2048.0, 1.0], np.float16), ValueError, "from 2048 on exactly"),
        ([None, None], ValueError, "missing for 2 of 2"),
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", repr(value)),
)
def test_what_is_no_label_is_named_and_refused(labels, error, message):
    with pytest.raises(error, match=message):
        check_labels(labels)


@pytest.mark.parametrize(
    "labels",
    [
        [[0, 1], [1, 0]],
        pd.DataFrame({"a": [0, 1], "b": [1, 0]}),
        torch.eye(2),
        np.array([[0.2, 0.8], [0.6, 0.4]]),
        [[1, 1], [0, 1]],
        pd.DataFrame({"a": [3, 1], "b": [1, 4]}),
        [[0, 2, 1]],
        ["-1", "1"],
        [-1.0, 1.0],
        torch.tensor([-1, 1]),
        pd.Series([0.1, 0.9]),
    ],
    ids=repr,
)
def test_a_hint_can_be_typed_as_it_stands(labels):
    with pytest.raises((TypeError, ValueError)) as raised:
        check_labels(labels)
    array = r"(numpy\.asarray\(labels(, float)?\)|labels)"
    follows = r"( > 0(\.5)?\) \* 1|\.argmax\(1\)|\[0\]|\[:, k\])"
    hint = re.search(rf"\(?{array}{follows}", str(raised.value))
    followed = eval(hint[0], {"numpy": np, "labels": labels, "k": 1})
    assert len(check_labels(followed)) == np.shape(labels)["[0]" in hint[0]]


def test_a_hint_is_code_whatever_the_labels_are_called():
    for labels in (np.eye(3), np.array([[1, 1], [0, 1]]), np.array([[3, 4], [5, 6]]), [[0, 1, 2]]):
        with pytest.raises(
            (TypeError, ValueError), match=r"labels\)?(\.argmax\(1\)|\[:, k\]|\[0\])"
        ) as raised:
            check_labels(labels, name="labels in column 'y' of t.csv")
        assert "t.csv.argmax" not in str(raised.value)
        assert "t.csv[" not in str(raised.value)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_no_labels(layout):
    labels = torch.nested.nested_tensor([torch.tensor([1]), torch.tensor([0, 1])], layout=layout)
    with pytest.raises(TypeError, match="one label for each sample, got a nested tensor"):
        check_labels(labels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.int8])
def test_what_is_masked_is_no_class_whatever_the_numbers_are_kept_in(dtype):
    masked = np.ma.array(np.array([0, 5, 1], dtype), mask=[0, 1, 0])
    found = check_labels(masked, missing="drop")
    assert found.values.tolist() == [0, -1, 1]
    column = pa.array([0, None, 1], pa.from_numpy_dtype(dtype))
    assert check_labels(column, missing="drop").values.tolist() == [0, -1, 1]


def test_counts_and_classes_that_are_known_are_looked_at():
    with pytest.raises(ValueError, match=r"each of the 3 samples, got shape \[2\]"):
        check_labels([0, 1], count=3)
    with pytest.raises(ValueError, match=r"in \[0, 2\), the number of classes, got 0 to 2"):
        check_labels([0, 2], num_classes=2)
    assert check_labels(["b", "c"], class_names=["a", "b", "c"]).values.tolist() == [1, 2]
    with pytest.raises(
        ValueError, match=r"name the class 'd' \(row 0\), which is none of the known"
    ):
        check_labels(["d"], class_names=["a", "b", "c"])
    with pytest.raises(ValueError, match="hold no label at all"):
        check_labels([None], missing="drop")
    with pytest.raises(ValueError, match="missing must be 'refuse' or 'drop'"):
        check_labels([0], missing="ignore")


def test_columns_of_one_meaning_are_numbered_alike():
    columns = {"y": check_labels(["b", "a"]), "t": check_labels(["c", None], missing="drop")}
    numbered, names = number_alike(columns)
    assert names == ["a", "b", "c"]
    assert [x.values.tolist() for x in numbered.values()] == [[1, 0], [2, -1]]
    compact, names = number_alike({"y": check_labels([7, 3])}, compact=True)
    assert (compact["y"].values.tolist(), names) == ([1, 0], ["3", "7"])
    with pytest.raises(TypeError, match="t must name the classes as y does"):
        number_alike({"y": check_labels([0]), "t": check_labels(["a"])})
    assert named_as(columns["y"], ["b", "x", "a"]).values.tolist() == [0, 2]


def test_members_of_an_enumeration_and_fields_of_a_structure_are_told_how_to_be_labels():
    colour = enum.Enum("colour", ["RED", "BLUE"])
    with pytest.raises(TypeError, match=r"got colour \(row 0\); use \[x\.name for x in labels\]"):
        check_labels([colour.RED, colour.BLUE])
    pairs = np.array([(1, 2.0), (0, 3.0)], dtype=[("kind", "i4"), ("weight", "f4")])
    with pytest.raises(TypeError, match=r"choose one of its fields, e\.g\. labels\['kind'\]"):
        check_labels(pairs)
    assert check_labels(pairs["kind"]).values.tolist() == [1, 0]


def test_minus_one_among_numbers_of_any_spelling_is_no_class():
    """But where +1 is spelled out, the sign is meant."""
    found = check_labels(["-1", "1e3", "2e3", "1e3"], missing="drop")
    assert found.values.tolist() == [-1, 0, 1, 0]
    assert found.class_names == ("1e3", "2e3")
    assert check_labels(["-1", "+1", "+1"]).class_names == ("+1", "-1")
