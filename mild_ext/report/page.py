"""One self-contained HTML page about a run, from the files in its folder.

Everything is inlined (style, figures, thumbnails), there is no script, and nothing is fetched. A run
that is still going, or was killed, gives the page of what it has finished.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

from mild_ext.files import write_text
from mild_ext.reading import reading
from mild_ext.report import charts
from mild_ext.report.run_data import (
    Sample,
    read_config,
    read_history,
    read_selection,
    read_summary,
)

#: Classes, and flows from one class to another, shown in the open; the rest folds away.
_SHOWN_CLASSES = 30
_SHOWN_FLOWS = 8
#: Largest figure of a run that is put into the page, in bytes; those drawn have about 100 kB.
LARGEST_PICTURE = 1 << 24


def write_report(
    run: str | Path,
    out: str | Path | None = None,
    *,
    suspicious: int = 48,
    thumbnails: bool = True,
    data: str | None = None,
) -> Path:
    """Write the page about a run.

    Args:
        run: folder that ``mild-ext train`` wrote.
        out: file to write; None is ``report.html`` in the folder.
        suspicious: how many of the most suspicious samples to show.
        thumbnails: show them as pictures, which needs the run's data to be where it was.
        data: the run's data, as ``--data`` has it: where it has moved, or where loading it runs code
            (``module:factory``, ``hf:NAME``), for which the folder's word is never taken. None: as the folder says.

    Returns:
        The path written.

    Raises:
        ValueError: the folder holds no run, or one that has not finished a round.
        ImportError: Jinja2 or matplotlib is missing.
    """
    require_packages()
    from jinja2 import Environment, PackageLoader, StrictUndefined

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
    # Whatever the files of a folder hold: what cannot be shown is one line, and no surprise.
    with reading(run, "its files are damaged, or not those of a run"):
        page = environment.get_template("report.html.j2").render(
            gather(run, suspicious=suspicious, thumbnails=thumbnails, data=data)
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, page)
    return target


def require_packages() -> None:
    """Raise ImportError, with the remedy, where the report's packages are missing."""
    for package in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"the report needs {package}: pip install 'mild_ext[report]'")


def percent(value: float | None) -> str:
    """A share as text; an en dash where there is none."""
    return "–" if value is None else f"{value:.1%}"


def gather(
    run: Path, *, suspicious: int = 48, thumbnails: bool = True, data: str | None = None
) -> dict[str, Any]:
    """Everything the page shows, read from the run's folder."""
    config = read_config(run)
    history = read_history(run)
    rounds = [record for record in history if record["type"] == "round"]
    if not rounds:
        raise ValueError(f"the run in {run} has not finished its first round; report on it later")
    summary = read_summary(run)
    classes = [str(name) for name in config["data"]["classes"]]
    samples = read_selection(run)
    notes: list[str] = []
    if summary is None:
        notes.append("The run is not finished: this page shows what it has finished so far.")
    shown = most_suspicious(samples)[:suspicious]
    pictures: dict[int, str] = {}
    if shown and thumbnails:
        pictures, note = _thumbnails(config, [s.id for s in shown], data)
        notes += [note] if note else []
    settings = config["settings"]
    # Where no round told two groups apart, there is no estimate: the probability of 1 says nothing.
    estimated = any(record["supported"] for record in rounds)
    return {
        "title": f"{config['data']['name']}: label noise report",
        "config": config,
        "config_text": json.dumps(config, indent=2),
        "settings": settings,
        "recipe": settings["recipe"],
        "summary": summary,
        "notes": notes,
        "classes": classes,
        "suspicious": shown,
        "pictures": pictures,
        **_facts_of_rounds(run, rounds),
        "status_figure": charts.status_figure(run, samples),
        **_facts_of_samples(
            samples,
            len(classes),
            estimated=estimated,
            measured=(summary or {}).get("measured_noise"),
        ),
        **_facts_of_semi_supervised([r for r in history if "pseudo_rate" in r]),
    }


def _facts_of_rounds(run: Path, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "rounds": rounds,
        "quality_known": "precision" in rounds[0],
        "test_known": "test_accuracy" in rounds[0],
        "quality_figure": charts.rounds_figure(rounds),
        "mixture_figures": _mixture_figures(run, rounds),
    }


def _facts_of_samples(
    samples: list[Sample],
    num_classes: int,
    *,
    estimated: bool,
    measured: dict[str, Any] | None,
) -> dict[str, Any]:
    return {
        "samples": samples,
        "dropped": sum(not s.kept for s in samples),
        "truth_known": any(s.true_label is not None for s in samples),
        "estimated": estimated,
        "measured": measured,
        "estimated_noise": measured["rate"]
        if measured
        else _mean([1 - s.clean_probability for s in samples])
        if estimated
        else None,
        "per_class": class_noise(samples, num_classes, estimated=estimated),
        "shown_classes": _SHOWN_CLASSES,
        "flows": flows(samples)[:_SHOWN_FLOWS],
    }


def _facts_of_semi_supervised(records: list[dict[str, Any]]) -> dict[str, Any]:
    """From the stage's records, one per epoch; none where there was no such stage."""
    return {
        "semi": records,
        # Runs of earlier versions did not note the method's title.
        "ssl_name": records[0].get("title", records[0]["stage"]) if records else "",
        "semi_figure": charts.pseudo_label_figure(records) if records else None,
    }


def most_suspicious(samples: list[Sample]) -> list[Sample]:
    """The dropped samples, least likely to be right first; all of them where nothing was dropped."""
    ranked = sorted(samples, key=lambda s: (s.clean_probability, -s.suspicion, -s.metric, s.id))
    # Where nothing was dropped, the ranking by metric still tells where to look first.
    return [s for s in ranked if not s.kept] or ranked


def class_noise(
    samples: list[Sample], num_classes: int, *, estimated: bool = True
) -> list[dict[str, Any]]:
    """Per given class: samples, share dropped, estimated noise, and the share really wrong if known.

    The estimate is the mean probability that the label is wrong, None with ``estimated=False``.
    Sorted by it, highest first.
    """
    by_class: list[list[Sample]] = [[] for _ in range(num_classes)]
    for s in samples:
        by_class[s.given_label].append(s)
    rows = []
    for k, members in enumerate(by_class):
        known = [s for s in members if s.true_label is not None]
        rows.append(
            {
                "label": k,
                "count": len(members),
                "dropped": _mean([float(not s.kept) for s in members]),
                "estimated": _mean([1 - s.clean_probability for s in members])
                if estimated
                else None,
                "wrong": _mean([float(s.true_label != k) for s in known]),
            }
        )
    return sorted(rows, key=lambda row: -(row["estimated"] or 0))


def flows(samples: list[Sample]) -> list[dict[str, Any]]:
    """Given label -> label the final model predicts, counted over dropped samples; largest first."""
    counts: dict[tuple[int, int], list[Sample]] = {}
    for s in samples:
        if not s.kept and s.predicted_label != s.given_label:
            counts.setdefault((s.given_label, s.predicted_label), []).append(s)
    rows = [
        {
            "given": given,
            "predicted": predicted,
            "count": len(members),
            "right": _mean([float(s.true_label == predicted) for s in members])
            if members[0].true_label is not None
            else None,
        }
        for (given, predicted), members in counts.items()
    ]
    return sorted(rows, key=lambda row: -row["count"])


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


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


# ------------------------------------------------------------------------------------- thumbnails


def _thumbnails(
    config: dict[str, Any], ids: list[int], trusted: str | None
) -> tuple[dict[int, str], str]:
    """Data addresses of the samples' pictures, or why there are none."""
    from mild_ext.data.readers.sources import load_data, runs_code

    settings = config["settings"]
    spec = settings["data"] if trusted is None else trusted
    if trusted is None and runs_code(spec):
        return {}, (
            f"No thumbnails: reading the data ({spec}) runs code, and a folder is not trusted to say which. "
            "If you know it, give it to mild-ext report as --data."
        )
    try:
        data = load_data(spec, test_fraction=settings["test_fraction"], seed=0)
        if len(data) != config["data"]["samples"]:
            raise ValueError(f"it has {len(data)} samples now")
        shape = data.picture_shape or data.input_shape
        if len(shape) != 3:
            return {}, ""  # vectors have no picture
        return {i: _thumbnail(data.train[i][0].reshape(*shape)) for i in ids}, ""
    except (ValueError, TypeError, ImportError, OSError, IndexError) as error:
        return {}, f"No thumbnails: the data cannot be read any more ({error})."


def _thumbnail(image: Any, largest: int = 112) -> str:
    """An image ``[C, H, W]`` as a PNG of moderate size."""
    import numpy as np
    import torch
    from matplotlib.image import imsave
    from torch.nn import functional as F

    values = image.detach().cpu().to(torch.float32)
    if image.dtype == torch.uint8:
        values = values / 255
    elif float(values.min()) < 0 or float(values.max()) > 1:
        span = float(values.max() - values.min())
        values = (values - values.min()) / (span or 1.0)
    if values.shape[0] not in (1, 3):
        values = values[:1]
    height, width = values.shape[1:]
    factor = min(1.0, largest / max(height, width))
    if factor < 1:
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        values = F.interpolate(values[None], size, mode="area")[0]
    pixels = (values.expand(3, -1, -1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    file = io.BytesIO()
    imsave(file, np.ascontiguousarray(pixels), format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
