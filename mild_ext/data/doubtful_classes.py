"""Classes that may be none, or one class twice: said with the data, for only their owner can know."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mild_ext.data.missing import folded
from mild_ext.files import as_text

#: Names that often mean that nobody knows: taken for classes, but not without a word.
_NO_NAMES = frozenset(
    {
        *("?", "??", "-", "--", ".", "..", "/", "*", "none", "na", "nil", "undefined", "unknown"),
        *("unlabeled", "unlabelled", "unassigned", "missing", "todo", "tbd"),
    }
)
#: So many classes are named.
_SHOWN = 3


def doubts(names: Sequence[str], counts: Sequence[int]) -> list[str]:
    """What should be looked at before the labels of these classes are believed.

    Args:
        names: of the classes.
        counts: training samples of each.

    Examples:
        >>> for line in doubts(["Cat", "cat", "?", "owl"], [40, 7, 3, 1]): print(line)
        classes called 'Cat' and 'cat' differ in their spelling alone; where they are one, write them one way
        a class is called '?' (3 samples); where that means that a sample has no label, empty it
        only one sample is labeled 'owl'; is that a class?
    """
    lines = []
    alike: dict[str, list[str]] = {}
    for name, count in zip(names, counts, strict=True):
        if count:
            alike.setdefault(_sound(name), []).append(name)
    pairs = [same for same in alike.values() if len(same) > 1]
    if pairs:
        shown = ", ".join(" and ".join(map(_quoted, same[:2])) for same in pairs[:_SHOWN])
        more = f" (and {len(pairs) - _SHOWN} more)" if len(pairs) > _SHOWN else ""
        lines.append(
            f"classes called {shown}{more} differ in their spelling alone; where they are one, write them one way"
        )
    lines += [
        f"a class is called {_quoted(name)} ({count} samples); where that means that a sample has no label, empty it"
        for name, count in zip(names, counts, strict=True)
        if count and folded(name) in _NO_NAMES
    ]
    single = [name for name, count in zip(names, counts, strict=True) if count == 1]
    if single and len(names) > 2:
        if len(single) == 1:
            lines.append(f"only one sample is labeled {_quoted(single[0])}; is that a class?")
        else:
            shown = ", ".join(map(_quoted, single[:_SHOWN]))
            lines.append(
                f"{len(single)} classes have one sample each ({shown}{', ...' if len(single) > _SHOWN else ''}); are "
                "these classes?"
            )
    return lines


def _sound(name: str) -> str:
    """What two spellings of one name have in common."""
    text = re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", folded(name))  # a sign is no hyphen
    try:
        return repr(float(text))  # 01 and 1
    except ValueError:
        return text


def _quoted(name: str) -> str:
    return f"'{as_text(name)}'"
