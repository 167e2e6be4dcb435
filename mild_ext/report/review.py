"""What the review list of the page needs: the samples in it, as data for its script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mild_ext.report.run_data import Suspect, run_key
from mild_ext.report.shown import Shown

#: Samples in the list unless more are asked for: the most suspicious ones.
MOST_LISTED = 2000


def listed_samples(suspects: list[Suspect], count: int | None) -> list[Suspect]:
    """The first samples of the list: ``count``, or by default `MOST_LISTED`."""
    return suspects[: MOST_LISTED if count is None else max(0, count)]


def review_data(
    run: Path,
    config: dict[str, Any],
    classes: list[str],
    suspects: list[Suspect],
    listed: list[Suspect],
    shown: Shown,
) -> dict[str, Any]:
    """What the script reads: a row per sample, labels by number, -1 where there is none."""
    return {
        "key": run_key(run, config),
        "classes": classes,
        "total": len(suspects),
        "flagged": sum(s.dropped for s in suspects),
        "truth": any(s.true_label is not None for s in listed),
        # The largest suspicion, so that a bar can be drawn of each.
        "most": max((s.suspicion for s in suspects), default=0.0),
        "rows": [
            [
                s.id,
                s.given_label,
                _number(s.suggested_label),
                None
                if s.suggestion_confidence is None or s.suggested_label is None
                else round(s.suggestion_confidence, 4),
                round(s.suspicion, 4),
                int(s.dropped),
                picture,
                text,
                _number(s.true_label),
            ]
            for s, picture, text in zip(listed, shown.pictures, shown.texts, strict=True)
        ],
    }


def as_script_data(value: Any) -> str:
    """JSON that can stand inside a ``script`` element: no text in it can end the element or open a comment.

    >>> as_script_data(["</script>", "a & b"])
    '["\\\\u003c/script\\\\u003e","a \\\\u0026 b"]'
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _number(label: int | None) -> int:
    return -1 if label is None else label
