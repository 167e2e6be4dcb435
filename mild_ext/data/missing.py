"""What stands for no label, in every spelling people and programs use: one place that every reader asks."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

import numpy as np

#: Integers that stand for no label: -1 is everybody's, -100 is torch's ``ignore_index``, and the last is
#: what NaN becomes where it is cast to an integer.
NO_LABEL = (-1, -100, -(1 << 63))
#: Texts that stand for no label: those that pandas reads as missing, in upper and lower case alike; "none", though,
#: is a word, and only Python's "None" is not.
MISSING_TEXTS = frozenset(
    {
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "1.#IND", "1.#QNAN"),
        *("<NA>", "N/A", "NA", "NULL", "NaN", "NaT", "None"),
    }
)
_FOLDED = frozenset(text.casefold() for text in MISSING_TEXTS) - {"none"}
_NEGATIVE = re.compile(r"-1(00)?(\.0*)?")


def is_missing(value: Any) -> bool:
    """Whether a value stands for no label: None, NaN, NaT, pandas' NA, masked, or one of `MISSING_TEXTS`.

    >>> [is_missing(value) for value in (None, float("nan"), " n/a", "NULL", "\\u200b", "cat", 0)]
    [True, True, True, True, True, False, False]
    """
    if value is None or value is np.ma.masked:
        return True
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return folded(value) in _FOLDED or value.strip() == "None"
    return type(value).__name__ in ("NAType", "NaTType")  # pandas' own marks


def bare(label: Any) -> Any:
    """A label as one that can be compared, whatever it is kept in; None where there is none."""
    value = label.tolist() if hasattr(label, "tolist") else label
    return None if is_missing(value) else value


def is_minus_one(text: str) -> bool:
    """Whether a text is -1 or -100, which stand for no label where other labels are words.

    >>> is_minus_one("-1"), is_minus_one("\\u2212100.0"), is_minus_one("-2")
    (True, True, False)
    """
    return _NEGATIVE.fullmatch(folded(text)) is not None


def folded(text: str) -> str:
    """A text without case, the blanks around it, and what cannot be seen; digits and signs as ASCII has them."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).replace("\u2212", "-")
    if not text.isprintable():
        text = "".join(c for c in text if c.isprintable() or c.isspace())
    return text.strip().casefold()
