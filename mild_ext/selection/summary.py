"""What a measured selection says in words: how many labels are wrong, how sure that is, what to do next.

For people who meet it for the first time: short sentences, shares of labels, no name of a method.
"""

from __future__ import annotations

from mild_ext.selection.noise_rate import NoiseRate
from mild_ext.selection.suspicion import Verdicts

#: A smaller contradicted share is not worth a sentence.
_WORTH_SAYING = 0.0005
_CANNOT_TELL = "it cannot be told which labels are wrong"


def measured_reason(rate: NoiseRate, verdicts: Verdicts, emptied: list[int]) -> str:
    """The verdict in one paragraph; ``emptied``: classes that were kept lest nothing of them were left."""
    if not verdicts.actionable:
        return f"{_CANNOT_TELL}: {verdicts.doubt}"
    parts = [_how_many(rate)]
    if rate.low > 0:
        parts += [_plainly(rate), _contradicted(rate)]
        parts += [_found(verdicts)]
    if verdicts.doubt is not None:
        parts.append(_sentence(verdicts.doubt))
    if emptied:
        parts.append(
            f"Class {emptied[0]} would have been emptied, so it was kept"
            + (f"; so were {len(emptied) - 1} more" if len(emptied) > 1 else "")
        )
    return ". ".join(part for part in parts if part)


def measured_summary(
    rate: NoiseRate | None,
    verdicts: Verdicts,
    *,
    num_samples: int,
    num_kept: int,
    num_unseen: int,
    level: float,
    reason: str,
) -> list[str]:
    """The verdict first, line by line; then what was assumed, and what to do next."""
    planted = f"{verdicts.num_planted:,} labels that were made wrong on purpose"
    if verdicts.num_runs > 1:
        planted += f", in {verdicts.num_runs} trainings"
    if rate is None:
        return [
            f"{_sentence(_CANNOT_TELL)}. All {num_samples:,} samples are kept.",
            f"why: {verdicts.doubt}" if verdicts.doubt else f"why: {reason}",
            f"measured by {planted}",
            "next: do that, and ask again. Until then, believe neither that the labels are right nor that they are "
            "wrong.",
        ]
    dropped = num_samples - num_kept
    lines = [_sentence(_how_many(rate)) + "."]
    if rate.plainly_wrong is not None and rate.rate > 0:
        part = rate.plainly_wrong
        lines.append(
            f"plainly wrong: {_percent(part.value)} ({_percent(part.low)} to {_percent(part.high)}). They are "
            "learned like labels that were made wrong on purpose."
        )
        if (rate.contradicted or 0.0) > _WORTH_SAYING:
            lines.append(
                f"contradicted: {_percent(rate.contradicted or 0.0)}. The network is sure of another class: a "
                "systematic mix-up, an ambiguous sample, or its own mistake. One network cannot tell which."
            )
    if dropped:
        why = (
            "more likely wrong than right"
            if level == 0.5
            else f"right with a probability of at most {level:g}"
        )
        text = f"dropped: {dropped:,} of {num_samples:,} samples, each {why}."
        if (precise := verdicts.estimated_precision) is not None:
            text += (
                f" About {precise.value:.0%} of these labels are wrong ({precise.low:.0%} to {precise.high:.0%})."
                if precise.high - precise.low < 0.7
                else " How many of these labels are wrong is open."
            )
        lines.append(text)
    else:
        lines.append(f"dropped: none of {num_samples:,} samples.")
    if (found := verdicts.estimated_recall) is not None and dropped:
        lines.append(
            f"found: {found.value:.0%} of the wrong labels ({found.low:.0%} to {found.high:.0%}), if they are as "
            "random as the planted ones. Of classes that are mixed up, and of hard samples, fewer are found."
        )
    lines.append(
        f"learned: {verdicts.learned:.0%} of the labels that are not plainly wrong. What a network has not learned "
        "it may contradict by mistake."
    )
    if verdicts.doubt is not None:
        lines.append(f"careful: {verdicts.doubt}")
    if "emptied" in reason:
        lines.append(f"careful: {reason[reason.rindex('Class ') :]}")
    if num_unseen:
        lines.append(f"never seen: {num_unseen:,} samples, kept for lack of evidence")
    lines.append(
        f"measured by {planted}. Assumed: labels wrong at random are learned like these. Ranges are of 90% "
        "confidence."
    )
    return [*lines, f"next: {_next(rate, verdicts, dropped)}"]


def _how_many(rate: NoiseRate) -> str:
    if rate.low == 0.0:
        if rate.rate < _WORTH_SAYING:
            return f"no clear evidence of wrong labels: at most {_percent(rate.high)} are wrong"
        return (
            f"no clear evidence of wrong labels: perhaps {_percent(rate.rate)} are wrong, at most "
            f"{_percent(rate.high)}"
        )
    return (
        f"{_percent(rate.rate)} of the labels are probably wrong (between {_percent(rate.low)} and "
        f"{_percent(rate.high)})"
    )


def _plainly(rate: NoiseRate) -> str:
    assert rate.plainly_wrong is not None
    return f"{_percent(rate.plainly_wrong.value)} are plainly wrong: learned like labels made wrong on purpose"


def _contradicted(rate: NoiseRate) -> str:
    more = rate.contradicted or 0.0
    if more <= _WORTH_SAYING:
        return ""
    return (
        f"Of {_percent(more)} the network is sure that another class is right; it may be mistaken"
    )


def _found(verdicts: Verdicts) -> str:
    found = verdicts.estimated_recall
    if found is None:
        return ""
    return (
        f"Of labels as wrong as the planted ones {found.value:.0%} are dropped (between {found.low:.0%} and "
        f"{found.high:.0%})"
    )


def _next(rate: NoiseRate, verdicts: Verdicts, dropped: int) -> str:
    if verdicts.doubt is not None:
        return "do what is said there, and ask again"
    if rate.low == 0.0:
        return "train on all that is kept. Who wants to be sure looks at the most suspicious samples (suspicion)"
    if not dropped:
        return "look at the most suspicious samples (suspicion, suggested_label)"
    return (
        "look at some of the dropped samples, the most suspicious first (suspicion, suggested_label); then train "
        "on what is kept"
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _percent(share: float) -> str:
    return "0%" if share == 0 else f"{share:.1%}"
