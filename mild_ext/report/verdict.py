"""A run's verdict in at most three lines: how many labels are wrong, how many the list holds, what to do.

For people who have never heard of the method: counts of labels, and nothing they could not act on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

#: Beyond this width an interval of a share says nothing that could be acted on.
_OPEN = 0.7
#: Where so many labels may be wrong, "no clear evidence" means that too little was learned, not that all is well.
_MOST = 0.25
#: How the reason of such a round begins.
_CANNOT_TELL = "it cannot be told which labels are wrong: "


@dataclass(frozen=True)
class Verdict:
    """What a run comes to.

    Attributes:
        kind: ``"found"``, ``"none"`` (no evidence of wrong labels), ``"unknown"`` (the run cannot tell) or
            ``"guess"`` (nothing was planted, so the share is estimated, not measured).
        lines: one to three sentences.
    """

    kind: Literal["found", "none", "unknown", "guess"]
    lines: list[str]


def judging_round(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The record of the round that speaks for the run: the first that measured the noise, else the first."""
    return next((r for r in rounds if (r.get("noise_rate") or {}).get("measured")), rounds[0])


def verdict(
    rounds: list[dict[str, Any]],
    *,
    num_samples: int,
    num_dropped: int,
    noise_rate: dict[str, Any] | None = None,
) -> Verdict:
    """The verdict of a run.

    Args:
        rounds: the records of its rounds, at least one.
        num_samples: labels that were judged.
        num_dropped: labels taken to be wrong.
        noise_rate: share of wrong labels, ``rate``, ``low`` and ``high``; None is that of `judging_round`.
    """
    judged = judging_round(rounds)
    rate = noise_rate or judged.get("noise_rate")
    if rate is None:
        return _unknown(judged)
    if not judged.get("planted"):
        return _guess(rate, judged, num_samples, num_dropped)
    if rate["low"] == 0:
        return _none(rate, judged, num_samples, num_dropped)
    return _found(rate, judged, num_samples, num_dropped)


def _found(rate: dict[str, Any], judged: dict[str, Any], samples: int, dropped: int) -> Verdict:
    low, high = (_count(rate[key], samples) for key in ("low", "high"))
    lines = [
        f"About {_count(rate['rate'], samples)} of the {samples:,} labels are probably wrong "
        f"({rate['rate']:.0%}; between {low} and {high})."
    ]
    plain = rate.get("plainly_wrong")
    overlap = False
    if plain is not None and plain["high"] < rate["rate"]:
        overlap = True
        lines[0] += (
            f" About {_count(plain['value'], samples)} are plainly wrong; the others the network contradicts "
            "where it is sure: people mix up these classes, or they overlap and the labels are right."
        )
    lines.append(_what_the_list_holds(judged, dropped) if dropped else "None of them is flagged.")
    doubt = judged.get("doubt")
    if doubt:
        lines.append(f"Be careful: {doubt}. Decide by what you see, not by the suggestion.")
    elif rate["high"] - rate["low"] >= _OPEN:
        lines.append(
            "That is too wide a range to go by. Look at the list from the top, and stop where most labels turn out to "
            "be right; more networks (--scouts) or a longer training (--first-epochs) narrow it."
        )
    elif overlap or rate["high"] - rate["low"] > rate["rate"]:
        lines.append(
            "Trust the order of the list more than its length: go from the top, and stop where most "
            "labels turn out to be right."
        )
    else:
        lines.append("You can trust the list: go through it from the top and mark each label.")
    return Verdict("found", lines)


def _what_the_list_holds(judged: dict[str, Any], dropped: int) -> str:
    text = f"The list below flags {dropped:,} labels"
    precision, recall = judged.get("estimated_precision"), judged.get("estimated_recall")
    if precision is not None and precision["high"] - precision["low"] < _OPEN:
        low, high = (_count(precision[key], dropped) for key in ("low", "high"))
        text += f"; about {_count(precision['value'], dropped)} of them should really be wrong ({low} to {high})"
    else:
        text += "; how many of them are really wrong is open"
    if recall is not None:
        text += (
            f". It should hold about {recall['value']:.0%} of the labels that are wrong at random, and less of those "
            "that come from mixing up two classes"
        )
    return text + "."


def _none(rate: dict[str, Any], judged: dict[str, Any], samples: int, dropped: int) -> Verdict:
    likely, most = _count(rate["rate"], samples), _count(rate["high"], samples)
    doubt = judged.get("doubt")
    if doubt or rate["high"] > _MOST:
        why = (
            doubt
            or "too few labels were made wrong on purpose, or the network has learned too little"
        )
        flagged = (
            f" {dropped:,} labels are flagged; which of them are right is open." if dropped else ""
        )
        return Verdict(
            "unknown",
            [
                f"This run is too little to tell: perhaps {likely}, and at most {most} of the {samples:,} labels are "
                f"wrong, perhaps none.{flagged}",
                f"Why: {why}.",
                "Run it again that way. Until then look at the first dozen of the list, and believe what you see.",
            ],
        )
    guess = "probably none is" if likely == "0" else f"perhaps {likely}, and"
    lines = [
        f"There is no clear evidence of wrong labels: {guess} {'wrong, ' if likely == '0' else ''}"
        f"at most {most} of the {samples:,}{'' if likely == '0' else ' are wrong'}."
    ]
    if dropped:
        lines.append(f"{dropped:,} labels are flagged all the same; many of these may be right.")
    lines.append(
        "You can use the labels as they are. To be sure, look at the first dozen below: if these are right, "
        "there is little to find."
    )
    return Verdict("none", lines)


def _unknown(judged: dict[str, Any]) -> Verdict:
    reason = judged.get("doubt") or judged["reason"].removeprefix(_CANNOT_TELL)
    again = "Run it again that way." if judged.get("planted") else "Train longer, or on more data."
    return Verdict(
        "unknown",
        [
            "This run cannot tell which labels are wrong, so none is flagged.",
            f"Why: {reason}.",
            f"{again} Until then, believe neither that the labels are right nor that they are wrong.",
        ],
    )


def _guess(rate: dict[str, Any], judged: dict[str, Any], samples: int, dropped: int) -> Verdict:
    note = judged.get("planting_note") or "no labels were made wrong on purpose to measure it"
    return Verdict(
        "guess",
        [
            f"Perhaps {_count(rate['rate'], samples)} of the {samples:,} labels are wrong. This is a guess: {note}.",
            f"The list below flags {dropped:,} labels. Hard samples with right labels may be among them.",
            "Look at the first dozen, and go on only if most of their labels are wrong.",
        ],
    )


def _count(share: float, of: int) -> str:
    return f"{round(share * of):,}"
