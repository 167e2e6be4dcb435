"""The constants of the measured selection: moved, chosen without a domain, and ingredients left out.

    python benchmarks/planted_constants.py RECORDING.npz [RECORDING.npz ...]
    python benchmarks/planted_constants.py --leave-one-domain-out RECORDING.npz [RECORDING.npz ...]

The first moves every constant by a fifth, one at a time and all together, and leaves ingredients out. The
second chooses each constant on all domains but one, and says what the choice is worth on that one.
Recordings are as planted_recordings.py describes them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from planted_quality import UNKNOWN, judged, mean
from planted_recordings import Recording, read

import mild_ext
from mild_ext.selection import measure_noise as measure
from mild_ext.selection import select_planted, suspicion
from mild_ext.selection.quality import evaluate_selection

#: Every constant of the rule that is no grid, and the module it stands in.
CONSTANTS = (
    *((measure, name) for name in ("UNITED", "REMEMBERED", "FAR_TAIL", "NEAR_TAIL", "LEAST_POWER")),
    *((measure, name) for name in ("HARD_TAIL", "MEMORY_ERROR", "MISTAKES", "MOST_CHURN")),
    *((measure, name) for name in ("LEAST_VOTES", "LEAST_EPOCHS")),
    *((suspicion, name) for name in ("PAIR_WEIGHT", "CLASS_WEIGHT")),
    *((suspicion, name) for name in ("CLEARLY", "MOSTLY_MEMORIZED", "FITTED")),
)
#: Those that neither move the rate nor the mask: an interval, and words.
SILENT = ("HARD_TAIL", "FITTED")
#: What a constant is multiplied by to choose it.
FACTORS = (0.7, 1.4)
#: More than this share of the best threshold counts as this in the choice of a constant.
MOST_SHARE = 1.05


@contextmanager
def replaced(changes: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Other values of names in modules, for as long as it lasts."""
    old = [(module, name, getattr(module, name)) for module, name, _ in changes]
    try:
        for module, name, value in changes:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in old:
            setattr(module, name, value)


def moved(name: str, value: float, factor: float) -> Any:
    """A constant moved: whole numbers stay whole, and move by one at least; shares stay below one."""
    if isinstance(value, int):
        step = round(value * factor) - value
        return value + (step or (1 if factor > 1 else -1 if factor < 1 else 0))
    return min(value * factor, 0.95) if name.endswith("TAIL") else value * factor


class Known:
    """Recordings that are judged again and again: what does not depend on a constant is read once.

    That is the evidence, and the mixture that is fitted for the picture of a selection.
    """

    def __init__(self, recordings: list[Recording]) -> None:
        self.recordings = recordings
        self.statuses = [recording.status() for recording in recordings]
        self._evidence: dict[int, Any] = {}
        self._mixture: Any = None

    def each(
        self, changes: list[tuple[Any, str, Any]]
    ) -> Iterator[tuple[Recording, mild_ext.LearningStatus]]:
        """Every recording and its status, while the changes hold."""
        make, fit = select_planted.PlantedEvidence, select_planted.fit_with_support

        def evidence(statuses: Any, planted: Any, recorded: int) -> Any:
            key = id(statuses[0])
            if key not in self._evidence:
                self._evidence[key] = make(statuses, planted, recorded)
            return self._evidence[key]

        def mixture(times: Any) -> Any:
            self._mixture = self._mixture or fit(times)
            return self._mixture

        fixed = [
            (select_planted, "PlantedEvidence", evidence),
            (select_planted, "fit_with_support", mixture),
        ]
        with replaced([*changes, *fixed]):
            yield from zip(self.recordings, self.statuses, strict=True)


class Trials:
    """The rule with something changed, on recordings that are read once."""

    def __init__(self, paths: list[Path]) -> None:
        self.known = Known([read(path) for path in paths])
        print(
            f"{len(paths)} recordings\n| what | value | of the best threshold | least | below 0.97 | kept where "
            "nothing is wrong | least | error of the rate | its interval holds | average precision |\n"
            "| --- | --- |" + " ---: |" * 8
        )

    def show(self, what: str, value: str, changes: list[tuple[Any, str, Any]]) -> np.ndarray:
        rows = [judged(recording, status) for recording, status in self.known.each(changes)]
        shares = np.array([row["share"] for row in rows if row["share"] is not None])
        kept = np.array([row["kept"] for row in rows if row["kept"] is not None])
        kept = kept if len(kept) else np.array([np.nan])
        error = np.mean([abs(row["rate"] - row["truth"]) for row in rows])
        held, ap = np.mean([row["held"] for row in rows]), mean([row["ap"] for row in rows])
        print(
            f"| {what} | {value} | {shares.mean():.3f} | {shares.min():.3f} | {(shares < 0.97).sum()} | "
            f"{kept.mean():.3f} | {kept.min():.3f} | {error:.3f} | {held:.0%} | {ap:.3f} |",
            flush=True,
        )
        return np.array([shares.mean(), shares.min(), kept.mean(), kept.min(), error, held, ap])


def sensitivity(paths: list[Path], draws: int = 20, by: float = 0.2) -> None:
    """Each constant moved by a fifth, all of them together at random, and ingredients left out."""
    trials = Trials(paths)
    for what, changes in without().items():
        usual = trials.show(what, "", changes)
        if what == "the rule":
            start = usual
    for module, name in CONSTANTS:
        value = getattr(module, name)
        for factor in (1 - by, 1 + by):
            new = moved(name, value, factor)
            trials.show(f"`{name}` {value:g}", f"{new:g}", [(module, name, new)])
    rng, found = np.random.default_rng(0), []
    for k in range(draws):
        changes = [
            (module, name, moved(name, getattr(module, name), rng.uniform(1 - by, 1 + by)))
            for module, name in CONSTANTS
        ]
        found.append(trials.show("all together", f"draw {k + 1}", changes))
    names = ("of the best", "least", "kept", "least", "error", "held", "average precision")
    for name, column, value in zip(names, np.array(found).T, start, strict=True):
        print(
            f"{draws} draws, {name}: {column.min():.3f} to {column.max():.3f}, furthest from as it is "
            f"{np.abs(column - value).max():.4f}"
        )


def without() -> dict[str, list[tuple[Any, str, Any]]]:
    """What each ingredient is replaced by where it is left out."""
    window = measure.choose_count_window

    def whole_votes(evidence: Any) -> tuple[int, float]:
        votes = evidence.planted_majority().winner
        return evidence.recorded, float((votes != evidence.planted_labels).mean())

    def whole_counts(evidence: Any) -> tuple[slice, torch.Tensor]:
        whole = slice(0, evidence.recorded)
        return whole, evidence.misclassified_share(whole)

    def far_tail(evidence: Any) -> tuple[float, float]:
        return measure._tail_rate(evidence, evidence.shortfall, measure.FAR_TAIL)

    one_sided = measure._one_sided
    return {
        "the rule": [(measure, "choose_count_window", window)],
        "nothing held out: only labels trained on": [(measure, "MEMORY_ERROR", 1e-4)],
        "only what was held out": [(measure, "MEMORY_ERROR", 10.0)],
        "no plainly wrong part": [(measure, "_plainly_wrong", lambda evidence: (0.0, 0.02))],
        "plainly wrong by the far tail alone": [(measure, "_plainly_wrong", far_tail)],
        "right labels' tail free": [(measure, "LEAST_POWER", 1.02)],
        "no own mistakes of the network": [(measure, "MISTAKES", 0.0)],
        "one-sided confusions not in the rate": [
            (measure, "_one_sided", lambda joint: (one_sided(joint)[0], 0.0))
        ],
        "one-sided confusions not in the suspicion": [(suspicion, "PAIR_WEIGHT", 0.0)],
        "hard classes not in the suspicion": [(suspicion, "CLASS_WEIGHT", 0.0)],
        "no shortfall in the suspicion": [(suspicion, "SHORTFALL_LIMIT", np.inf)],
        "votes of all epochs": [(measure, "_vote_window", whole_votes)],
        "counts of all epochs": [(measure, "choose_count_window", whole_counts)],
    }


# ------------------------------------------------------------------------------ one domain left out


def short_figures(recording: Recording, status: mild_ext.LearningStatus) -> tuple[float, float]:
    """Share of the best threshold or, where nothing is wrong, share kept; and the error of the rate."""
    selection = mild_ext.select_clean(status, planted=recording.planted)
    kept, clean = selection.mask.numpy()[recording.others], recording.clean
    error = abs((selection.noise_rate or UNKNOWN).rate - (1 - clean.mean()))
    if clean.all():
        return float(kept.mean()), float(error)
    return evaluate_selection(kept, clean).macro_f1 / recording.best, float(error)


def jittered(known: Known, draws: int, by: float = 0.2) -> np.ndarray:
    """Share of the best threshold or kept, [1 + draws, recordings]; the first row is the rule as it is.

    All constants are moved at random by at most ``by`` of their value, so that whole numbers below 5 stay.
    """
    rng, rows = np.random.default_rng(0), []
    for draw in range(draws + 1):
        changes = []
        for module, name in CONSTANTS:
            value = getattr(module, name)
            new = value * rng.uniform(1 - by, 1 + by)
            if isinstance(value, int):
                new = value + int(new - value)
            elif name.endswith("TAIL"):
                new = min(new, 0.95)
            changes.append((module, name, new if draw else value))
        rows.append([short_figures(*one)[0] for one in known.each(changes)])
    return np.array(rows)


def leave_one_domain_out(paths: list[Path]) -> None:
    """Each constant chosen on all domains but one, the others as they are, and scored on that one.

    The choice has the highest mean over domains of share of the best threshold (at most `MOST_SHARE`) plus share
    kept where nothing is wrong less the error of the rate. Human labels and hard noise take no part.
    """
    recordings = [read(path) for path in paths]
    recordings = [
        one for one in recordings if one.domain != "human" and not one.noise.startswith("hard")
    ]
    known = Known(recordings)
    domain = np.array([one.domain for one in recordings])
    clean = np.array([bool(one.clean.all()) for one in recordings])
    names = list(dict.fromkeys(domain.tolist()))

    def scores(changes: list[tuple[Any, str, Any]]) -> dict[str, tuple[float, ...]]:
        found = np.array([short_figures(*one) for one in known.each(changes)])
        share = np.minimum(found[:, 0], MOST_SHARE)
        result = {}
        for name in names:
            mine = domain == name
            parts = (share[mine & ~clean], share[mine & clean], found[mine, 1])
            result[name] = tuple(float(part.mean()) for part in parts)
        return result

    def objective(score: tuple[float, ...]) -> float:
        return score[0] + score[1] - score[2]

    usual = scores([])
    print(
        f"{len(recordings)} recordings. Value chosen without each domain, and by how much it is then better there than "
        f"the value of the rule\n| constant | {' | '.join(names)} |\n| --- |"
        + " --- |"
        * len(names)
    )
    together: dict[str, list[tuple[Any, str, Any]]] = {name: [] for name in names}
    for module, constant in CONSTANTS:
        if constant in SILENT:
            continue
        value = getattr(module, constant)
        values = {value: usual}
        for factor in FACTORS:
            new = moved(constant, value, factor)
            if new not in values:
                values[new] = scores([(module, constant, new)])
        cells = []
        for name in names:
            rest = [other for other in names if other != name]
            means = {
                new: np.mean([objective(s[other]) for other in rest]) for new, s in values.items()
            }
            best = max(means, key=lambda new: (round(means[new], 5), new == value))
            together[name].append((module, constant, best))
            gain = objective(values[best][name]) - objective(usual[name])
            cells.append(f"{best:g} ({gain:+.3f})")
        print(f"| `{constant}` {value:g} | {' | '.join(cells)} |", flush=True)
    for what, how in (
        ("the rule", lambda name: usual[name]),
        ("all chosen without it", lambda name: scores(together[name])[name]),
    ):
        cells = [f"{a:.3f}; {b:.3f}; {c:.3f}" for a, b, c in map(how, names)]
        print(f"| {what}: of the best; kept; error | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument(
        "--leave-one-domain-out", action="store_true", help="choose each constant without a domain"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.leave_one_domain_out:
        leave_one_domain_out(arguments.recordings)
    else:
        sensitivity(arguments.recordings)


if __name__ == "__main__":
    main()
