"""Inputs of the targets in fuzz_run.py that are tried first, in every run: each was, or is near, something found."""

from __future__ import annotations

from typing import Any

import numpy as np

_SIX = np.arange(18.0).reshape(6, 3)


def _images(*folders: str) -> list[tuple[list[str], str]]:
    return [(folder.split("/"), name) for folder in folders for name in ("1.png", "2.PNG")]


def _log(**fields: Any) -> tuple[dict[str, Any], int]:
    memorized = np.arange(24).reshape(4, 6) % 2 == 0
    return {"memorized": memorized, "given_label": np.arange(4) % 2} | fields, 6


CASES: dict[str, list[Any]] = {
    "labels": [
        ([1, 0, 2], "matrix", False),
        (["cat", "-1", "dog"], "list", True),
        (["1.0", "-1.0", "0.0"], "list", True),
        (["1", "1.0", "0."], "series", False),
        (["-1", "+1"], "numpy", False),
        ([0, 1, -1], "uint8", False),
        ([0, 1, 255], "uint8", True),
        ([2**64 - 1, 0], "list", False),
        ([0.7, float("nan")], "tensor", True),
        ([None, "a", "nan"], "category", True),
        ([[0, 1], [1, 0]], "arrow", False),
        (["cat", "-1", "dog"], "category", True),
        ([np.uint8(0), np.uint8(255)], "list", False),
        ([0, 255], "arrow8", False),
        ([256.0, 1.0], "bfloat16", False),
        ([np.ma.masked, 1], "list", True),
        (["cat", "\u200b", "NAN"], "object", True),
    ],
    "datasets": [
        ([0, 1, 1, 0], "pair", [1, 1, 1, 0], "list", "targets"),
        ([0, 1, 1, 0], "mapping", [0, 1, 1, 0], "column", "labels"),
        ([0, 1], "pair", ["cat", "dog"], "list", "labels"),
        ([0, 1, None], "attribute", [0, 1, 1], "tensor", "targets"),
        ([0, 1], "triple", None, "list", "targets"),
    ],
    "logs": [
        _log(given_label=np.array([0, np.nan, 1, 1])),
        _log(given_label=np.array([0, 1, 2, 2**64 - 1], np.uint64)),
        _log(ids=np.zeros(4, int)),
        _log(num_epochs=np.array(7)),
    ],
    "commands": [
        ([-1, 1e16, ""], "numpy", True),
        (["a", "", "b"], "numpy", True),
        (["a", "-1", "b"], "object", True),
        ([0, 1, -1], "uint8", False),
        ([0, 1, None], "object", True),
    ],
    "npz": [
        ({"x_train": _SIX, "y_train": np.array([0, 1, 255, 0, 1, 0], np.uint8)}, None, False, True),
        ({"x_train": _SIX, "y_train": np.arange(6) % 3 - 1}, None, False, True),
        ({"x_train": _SIX, "y_train": np.arange(6) % 2}, (0.9, 255), False, False),
    ],
    "tables": [
        ([("a", "cat"), ("b", "dog")] * 4, ",", 0.0, False),
        ([("a", "cat"), ('b "', "dog")] * 4, ",", 0.5, False),
        ([("a", "1.0"), ("b", "-1"), ("c", "2")] * 3, ";", None, True),
        ([("a", "-1"), ("b", "1")] * 4, "\t", None, False),
        ([("a\nb,cat\nc", "cat"), ("b", "dog")] * 4, ",", None, False),
        ([("", "cat")] * 5 + [(",;\n;", "cat"), *[("", "cat")] * 5], ",", 0.43, False),
    ],
    "folders": [
        (_images("test/cat", "test/dog", "val/cat", "val/dog"), ""),
        (_images("train/cat", "train/dog", "dog/cat"), ""),
        (_images("cat", "dog", "train"), ""),
        (_images("cat", "dog", ".git/cat"), ",memory=no"),
        (_images("nan", "cat", "dog"), ""),
        (_images("train/cat"), ""),
        ([(["cat"], "._1.png"), *_images("train/cat", "train/dog")], ""),
        ([(["cat"], "link.png"), *_images("train/cat", "train/dog")], ""),
        ([([], "link.png"), (["cat"], "n.txt"), *_images("train/cat", "train/dog")], ""),
        (_images("train/nan", "train/cat", "train/dog", "test/cat"), ""),
    ],
}
