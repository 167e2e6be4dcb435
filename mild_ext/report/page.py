"""One HTML page about a run, from the files in its folder: first what to look at, then how it was found.

Style, script, figures and the first pictures are in the page itself, and nothing is fetched; pictures it has
no room for lie in a folder beside it. A run that is still going, or was killed, gives the page of what it has
finished.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from mild_ext.data.sets import LabeledData
from mild_ext.files import write_text
from mild_ext.reading import UnreadableFile, reading
from mild_ext.report import charts
from mild_ext.report.by_class import class_noise, confusion_matrix, flows
from mild_ext.report.review import as_script_data, listed_samples, review_data
from mild_ext.report.run_data import (
    Sample,
    Suspect,
    read_config,
    read_history,
    read_selection,
    read_summary,
    read_suspects,
)
from mild_ext.report.shown import Shown, show_samples
from mild_ext.report.verdict import judging_round, verdict
from mild_ext.training.suspects import SUSPECTS

#: Classes, and flows from one class to another, shown in the open; the rest folds away.
_SHOWN_CLASSES = 30
_SHOWN_FLOWS = 8
#: Largest figure of a run that is put into the page, in bytes; those drawn have about 100 kB.
LARGEST_PICTURE = 1 << 24
#: Rounds whose picture is in the page; with more it would grow too large to be mailed.
_SHOWN_ROUNDS = 8


def write_report(
    run: str | Path,
    out: str | Path | None = None,
    *,
    suspicious: int | None = None,
    thumbnails: bool = True,
    data: str | None = None,
    loaded: LabeledData | None = None,
) -> Path:
    """Write the page about a run.

    Args:
        run: folder that ``mild-ext find`` or ``mild-ext train`` wrote.
        out: file to write; None is ``report.html`` in the folder. Pictures that the page has no room for go
            into ``NAME_pictures`` beside it, NAME the file's name without suffix.
        suspicious: how many samples to list, the most suspicious first; None for up to 2,000.
        thumbnails: show pictures, texts or values, which needs the run's data.
        data: the run's data, as ``--data`` has it: where it has moved, or where loading it runs code
            (``module:factory``, ``hf:NAME``), for which the folder's word is never taken. None: as the folder says.
        loaded: these data, where they have been read already.

    Returns:
        The path written.

    Raises:
        ValueError: the folder holds no run, or one that has not finished a round.
        ImportError: Jinja2 or matplotlib is missing.
    """
    require_packages()
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    run = Path(run)
    target = run / "report.html" if out is None else Path(out)
    environment = Environment(
        loader=PackageLoader("mild_ext.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:,}"
    style, script = (Path(__file__).parent / "templates" / n for n in ("style.css", "review.js"))
    code = script.read_text(encoding="utf-8")
    # Whatever the files of a folder hold: what cannot be shown is one line, and no surprise.
    with reading(run, "its files are damaged, or not those of a run"):
        facts = gather(
            run,
            suspicious=suspicious,
            thumbnails=thumbnails,
            data=data,
            loaded=loaded,
            folder=target.with_name(f"{target.stem}_pictures"),
        )
        page = environment.get_template("report.html.j2").render(
            facts,
            # None of these three holds text of the user's that is not escaped.
            style=Markup(style.read_text(encoding="utf-8")),
            script=Markup(code),
            review_json=Markup(as_script_data(facts["review"])),
            script_hash=_hash(code),
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, page)
    return target


def _hash(script: str) -> str:
    """Of the one script that the page lets run, as a Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def require_packages() -> None:
    """Raise ImportError, with the remedy, where the report's packages are missing."""
    for package in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"the report needs {package}: pip install 'mild_ext[report]'")


def percent(value: float | None) -> str:
    """A share as text; an en dash where there is none."""
    return "–" if value is None else f"{value:.1%}"


def gather(
    run: Path,
    *,
    suspicious: int | None = None,
    thumbnails: bool = True,
    data: str | None = None,
    loaded: LabeledData | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Everything the page shows, read from the run's folder.

    Args:
        run, suspicious, thumbnails, data, loaded: as for `write_report`.
        folder: where pictures go that the page has no room for; None is ``report_pictures`` in the run's.
    """
    config = read_config(run)
    history = read_history(run)
    rounds = [record for record in history if record["type"] == "round"]
    if not rounds:
        raise UnreadableFile(
            f"the run in {run} has not finished its first round; report on it later"
        )
    summary = read_summary(run)
    classes = [str(name) for name in config["data"]["classes"]]
    samples = read_selection(run)
    suspects = read_suspects(run, samples, classes)
    listed = listed_samples(suspects, suspicious)
    notes: list[str] = []
    if summary is None:
        notes.append("The run is not finished: this page shows what it has finished so far.")
    shown = Shown([None] * len(listed), [None] * len(listed))
    if thumbnails:
        shown = show_samples(config, listed, folder or run / "report_pictures", data, loaded)
        notes += [shown.note] if shown.note else []
    flagged = sum(s.dropped for s in suspects)
    settings = config["settings"]
    return {
        "title": f"{config['data']['name']}: which labels are wrong?",
        "verdict": verdict(
            rounds,
            num_samples=len(suspects) or config["data"]["samples"],
            num_dropped=flagged if suspects else rounds[-1]["removed"],
            noise_rate=_noise_rate(summary),
        ),
        "several": settings["recipe"].get("rounds", 1) > 1
        and settings["recipe"].get("method") != "mild",
        "config": config,
        "config_text": json.dumps(config, indent=2),
        "settings": settings,
        "summary": summary,
        "notes": notes,
        "classes": classes,
        "suspects": suspects,
        "listed": listed,
        "flagged": flagged,
        "any_text": any(shown.texts),
        "list_file": SUSPECTS if (run / SUSPECTS).is_file() else "selection.csv",
        "review": review_data(run, config, classes, suspects, listed, shown),
        **_facts_of_rounds(run, rounds, samples),
        "status_figure": charts.status_figure(run, samples),
        # Where no round told two groups apart, there is no estimate: the probability of 1 says nothing.
        **_facts_of_samples(
            samples,
            suspects,
            len(classes),
            estimated=any(record["supported"] for record in rounds),
        ),
        **_facts_of_semi_supervised([r for r in history if "pseudo_rate" in r]),
    }


def _noise_rate(summary: dict[str, Any] | None) -> dict[str, Any] | None:
    """The measured share of wrong labels, as the summary names it; what was added is a number there."""
    if summary is None:
        return None
    for key in ("noise_rate", "measured_noise"):
        if isinstance(found := summary.get(key), dict):
            return found
    return None


def _facts_of_rounds(
    run: Path, rounds: list[dict[str, Any]], samples: list[Sample]
) -> dict[str, Any]:
    judged = judging_round(rounds)
    return {
        "learned": judged.get("learned"),
        "rounds": [_without_quality(r, of=rounds[0]["trained_on"]) for r in rounds],
        "planted_figure": charts.planted_figure(run, judged["round"], samples),
        "quality_known": "precision" in rounds[0],
        "test_known": "test_accuracy" in rounds[0],
        "quality_figure": charts.rounds_figure(rounds),
        "mixture_figures": _mixture_figures(run, rounds[:_SHOWN_ROUNDS]),
    }


def _without_quality(record: dict[str, Any], *, of: int) -> dict[str, Any]:
    """A round's record, without the quality of its choice where it dropped none ``of`` the samples."""
    if record["kept"] < of:
        return record
    return record | {
        key: None for key in ("precision", "recall", "f1", "noise_removed") if key in record
    }


def _facts_of_samples(
    samples: list[Sample], suspects: list[Suspect], num_classes: int, *, estimated: bool
) -> dict[str, Any]:
    suggested = any(s.suggested_label is not None for s in suspects)
    return {
        "samples": samples,
        "dropped": sum(not s.kept for s in samples),
        "truth_known": any(s.true_label is not None for s in samples),
        "estimated": estimated,
        "per_class": class_noise(samples, num_classes, estimated=estimated),
        "shown_classes": _SHOWN_CLASSES,
        "matrix": confusion_matrix(suspects),
        "flow_source": "suggested" if suggested else "predicted",
        "flows": flows(samples, suggested=suggested)[:_SHOWN_FLOWS],
    }


def _facts_of_semi_supervised(records: list[dict[str, Any]]) -> dict[str, Any]:
    """From the stage's records, one per epoch; none where there was no such stage."""
    return {
        "semi": records,
        # Runs of earlier versions did not note the method's title.
        "ssl_name": records[0].get("title", records[0]["stage"]) if records else "",
        "semi_figure": charts.pseudo_label_figure(records) if records else None,
    }


def _mixture_figures(run: Path, rounds: list[dict[str, Any]]) -> list[str | None]:
    """The pictures that the run drew of each round's mixture, as data addresses."""
    figures = []
    for record in rounds:
        path = run / "figures" / f"round-{record['round']:02d}.png"
        figures.append(_picture(path) if path.is_file() else None)
    return figures


def _picture(path: Path) -> str | None:
    """A PNG of the run as a data address; a link elsewhere, or anything else, has no place in the page."""
    if path.is_symlink() or path.stat().st_size > LARGEST_PICTURE:
        return None
    content = path.read_bytes()
    return charts.data_address(content) if content.startswith(b"\x89PNG\r\n\x1a\n") else None
