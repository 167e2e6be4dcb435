"""Yes and no as people write them: on the command line, in recipe files, in options of data."""

from __future__ import annotations

TRUE = ("true", "yes", "on", "1")
FALSE = ("false", "no", "off", "0")


def parse_bool(text: str) -> bool:
    """The boolean that a word stands for, in upper or lower case.

    >>> parse_bool("Yes"), parse_bool("off")
    (True, False)

    Raises:
        ValueError: the text is none of the words in `TRUE` and `FALSE`.
    """
    word = text.strip().lower()
    if word in TRUE:
        return True
    if word in FALSE:
        return False
    raise ValueError(f"expected true or false, got {text!r}")
