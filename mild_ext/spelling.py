"""What somebody may have meant who wrote a name that there is not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` for the known name most like the word, or nothing where none is.

    >>> did_you_mean("fidn", ["find", "fix"]), did_you_mean("x", ["find"])
    ('; did you mean find?', '')
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
