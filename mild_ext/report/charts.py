"""The report's charts, as PNG in data addresses. matplotlib is imported where it is used."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mild_ext.recording.status import LearningStatus
from mild_ext.report.run_data import Sample
from mild_ext.selection.planted import PlantedLabels

# Okabe and Ito's palette, told apart with every kind of color vision; lines differ in marker too.
_BLUE, _ORANGE, _GREEN, _PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"

#: Rows of the learning-status picture; beyond this, neighbours in the order are averaged.
LARGEST_HEIGHT = 800


def data_address(png: bytes) -> str:
    """A PNG as an address that an ``img`` element can show without fetching anything."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _address(figure: Any) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return data_address(file.getvalue())


def rounds_figure(rounds: list[dict[str, Any]]) -> str | None:
    """Precision, recall and test accuracy over rounds; None where there is no curve to draw."""
    curves = [
        ("precision", "precision of the kept set", _BLUE, "o-"),
        ("recall", "recall of the right labels", _ORANGE, "s--"),
        ("noise_removed", "noise removed", _PURPLE, "^:"),
        ("test_accuracy", "test accuracy", _GREEN, "D-."),
    ]
    known = [c for c in curves if any(r.get(c[0]) is not None for r in rounds)]
    if not known or len(rounds) < 2:
        return None
    figure = _figure(7, 3.6)
    axes = figure.subplots()
    numbers = [r["round"] for r in rounds]
    for key, label, color, style in known:
        values = [np.nan if r.get(key) is None else 100 * r[key] for r in rounds]
        axes.plot(numbers, values, style, color=color, label=label, markersize=5)
    _finish(axes, "round", "%", numbers)
    return _address(figure)


def pseudo_label_figure(records: list[dict[str, Any]]) -> str:
    """Share and accuracy of the pseudo-labels over the epochs of the semi-supervised stage."""
    figure = _figure(7, 3.2)
    axes = figure.subplots()
    curves = [
        ("pseudo_rate", "dropped samples with a pseudo-label", _BLUE, "-"),
        ("pseudo_accuracy", "pseudo-labels that are right", _ORANGE, "--"),
    ]
    epochs = [r["epoch"] for r in records]
    for key, label, color, style in curves:
        values = [np.nan if r[key] is None else 100 * r[key] for r in records]
        if not np.isnan(values).all():
            axes.plot(epochs, values, style, color=color, label=label)
    _finish(axes, "epoch", "%", None)
    return _address(figure)


def planted_figure(run: Path, number: int, samples: list[Sample]) -> dict[str, Any] | None:
    """Two histograms of the misclassified epochs of a round: all other samples, and the planted ones.

    Where more networks were trained for the first round, each with other labels planted, the planted ones of
    all are drawn.

    Args:
        run: the run's folder.
        number: of the round.
        samples: of ``selection.csv``, for which of them were dropped.

    Returns:
        ``source`` (data address), ``planted`` (how many were), ``networks`` (how many were trained), and ``left_out``
        and ``left_out_flagged`` (samples that the upper bars leave out, and the flagged ones of these: they were
        planted); None where the round saved no status, or nothing was planted in it.
    """
    found = _planted_counts(run, f"round-{number:02d}")
    if found is None:
        return None
    epochs, counts, is_planted = found
    left_out = is_planted & (counts >= 0)
    ordinary, wrong = np.where(is_planted, -1, counts), counts[left_out]
    networks = 1
    for path in sorted((run / "planted").glob("scout-*.safetensors")) if number == 0 else ():
        more = _planted_counts(run, path.stem)
        if more is not None and more[0] == epochs:
            wrong = np.concatenate([wrong, more[1][more[2] & (more[1] >= 0)]])
            networks += 1
    dropped = np.zeros(len(ordinary), dtype=bool)
    dropped[[s.id for s in samples if not s.kept]] = True
    bins = np.arange(epochs + 2) - 0.5
    figure = _figure(7, 4.5)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    others = [ordinary[(ordinary >= 0) & part] for part in (~dropped, dropped)]
    above.hist(
        others,
        bins=bins,
        stacked=True,
        color=[_BLUE, _ORANGE],
        rwidth=0.85,
        label=[f"your labels: kept ({len(others[0]):,})", f"flagged ({len(others[1]):,})"],
    )
    label = f"labels made wrong on purpose ({len(wrong):,})"
    below.hist(
        wrong, bins=bins, color=_PURPLE, rwidth=0.85, hatch="///", edgecolor="white", label=label
    )
    below.set_xlabel(f"epochs in which the network disagreed with the label, of {epochs}")
    for axes in (above, below):
        # The ends hold most samples; a root keeps what lies between them visible.
        axes.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0.0)), np.square))
        axes.set_ylim(0, 1.7 * max(1.0, axes.get_ylim()[1]))
        axes.set_ylabel("samples (root scale)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9, loc="upper center", ncols=2)
    return {
        "source": _address(figure),
        "planted": len(wrong),
        "networks": networks,
        "left_out": int(left_out.sum()),
        "left_out_flagged": int((dropped & left_out).sum()),
    }


def _planted_counts(run: Path, name: str) -> tuple[int, NDArray[Any], NDArray[Any]] | None:
    """Epochs, the misclassified ones of each sample, [N], -1 where it was never seen, and which were planted, [N]."""
    status_file, planted_file = (
        run / folder / f"{name}.safetensors" for folder in ("status", "planted")
    )
    if not status_file.is_file() or not planted_file.is_file():
        return None
    status, planted = LearningStatus.load(status_file), PlantedLabels.load(planted_file)
    times = status.compute()
    counts, seen = times.misclassified.cpu().numpy(), times.seen.cpu().numpy() > 0
    is_planted = planted.mask.numpy()
    return status.epoch, np.where(seen, counts, -1), is_planted


def _finish(axes: Any, xlabel: str, ylabel: str, ticks: list[int] | None) -> None:
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if ticks is not None and len(ticks) <= 15:
        axes.set_xticks(ticks)
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(
            frameon=False, fontsize=9, loc="upper center", ncols=2, bbox_to_anchor=(0.5, 1.2)
        )


# --------------------------------------------------------------------- the learning-status picture


def status_figure(run: Path, samples: list[Sample]) -> dict[str, Any] | None:
    """The learning status of every sample (down) in every epoch of every round (across).

    After Figure 1 of Hu et al., IJCAI 2023, for the whole data set. Samples are sorted by the first
    round's metric, lowest (cleanest) on top. Where there are more than `LARGEST_HEIGHT`, each row
    is the mean of neighbours in that order.

    Returns:
        ``source`` (data address), ``rows``, ``per_row`` (samples in a row), ``samples``, ``strips``
        (what is shown beside it); None where the run saved no status.
    """
    paths = sorted((run / "status").glob("round-*.safetensors"))
    matrix = _status_matrix(paths) if paths else None
    if matrix is None:
        return None
    strips = _strips(samples, matrix.order)
    return {
        "source": _address(_draw_status(matrix, strips)),
        "rows": len(matrix.starts),
        "per_row": -(-len(matrix.order) // len(matrix.starts)),
        "samples": len(matrix.order),
        "strips": [name for name, _ in strips],
    }


class _StatusMatrix(NamedTuple):
    """Shares of memorized samples, a row for neighbours in the order and a column an epoch.

    ``order``: ids, cleanest first; ``starts``: where in it each row begins; ``edges``: where among
    the columns each round begins, and the end.
    """

    memorized: NDArray[np.float64]
    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    edges: list[int]


def _status_matrix(paths: list[Path]) -> _StatusMatrix | None:
    """The rounds' status side by side; None where no sample was seen in the first."""
    first = LearningStatus.load(paths[0])
    times = first.compute()
    ids = np.flatnonzero((times.seen > 0).numpy())
    if not len(ids):
        return None
    # Ties in the metric are common; among them the earlier memorized comes first.
    order = ids[np.lexsort((times.first_memorized.numpy()[ids], times.metric.numpy()[ids]))]
    height = min(len(order), LARGEST_HEIGHT)
    starts = np.linspace(0, len(order), height, endpoint=False).astype(np.int64)
    columns, edges = [], [0]
    for path in paths:
        status = first if path == paths[0] else LearningStatus.load(path)
        columns += [_row_means(status, t, order, starts) for t in range(status.epoch)]
        edges.append(len(columns))
    return _StatusMatrix(np.stack(columns, 1), order, starts, edges)


def _strips(samples: list[Sample], order: NDArray[np.int64]) -> list[tuple[str, NDArray[Any]]]:
    """What is known of each sample in the order: whether it was dropped, and whether rightly so."""
    by_id = {s.id: s for s in samples}
    if not all(int(i) in by_id for i in order):
        return []
    listed = [by_id[int(i)] for i in order]
    strips = [("dropped", np.array([not s.kept for s in listed], dtype=float))]
    if listed[0].true_label is not None:
        wrong = np.array([s.true_label != s.given_label for s in listed], dtype=float)
        strips.append(("wrong", wrong))
    return strips


def _draw_status(matrix: _StatusMatrix, strips: list[tuple[str, NDArray[Any]]]) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    memorized, order, starts, edges = matrix
    figure = _figure(8, 6.4)
    grid = figure.subplots(1, 1 + len(strips), width_ratios=[24, *[1] * len(strips)], squeeze=False)
    axes = grid[0, 0]
    colors = LinearSegmentedColormap.from_list("status", [_ORANGE, "#F5F0E8", _BLUE])
    axes.set_facecolor("0.75")  # shows where nobody was seen
    options: dict[str, Any] = dict(aspect="auto", interpolation="nearest", vmin=0, vmax=1)
    image = axes.imshow(
        np.ma.masked_invalid(memorized),
        cmap=colors,
        extent=(0, memorized.shape[1], len(order), 0),
        **options,
    )
    for edge in edges[1:-1]:
        axes.axvline(edge, color="black", lw=1)
    axes.set_xlabel("epoch" if len(edges) == 2 else "epoch (a line between rounds)")
    axes.set_ylabel("samples, by the first round's metric (cleanest on top)")
    bar = figure.colorbar(image, ax=list(grid[0]), location="top", fraction=0.04, aspect=40)
    bar.set_ticks([0, 1], labels=["misclassified", "memorized"])
    if np.isnan(memorized).any():
        bar.set_label("gray: not seen")
    for axis, (name, values) in zip(grid[0, 1:], strips, strict=True):
        means = np.add.reduceat(values, starts) / np.diff(np.append(starts, len(order)))
        axis.imshow(means[:, None], cmap="Greys", **options)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_xlabel(name, rotation=90)
    return figure


def _row_means(
    status: Any, epoch: int, order: NDArray[np.int64], starts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Share of memorized samples in each row, among those seen in the epoch; NaN where none was."""
    words = status.words[:, epoch // 64].cpu().numpy()[order]
    seen, wrong = ((words[:, plane] >> (epoch % 64)) & 1 for plane in (0, 1))
    memorized = np.add.reduceat((seen & ~wrong & 1).astype(np.float64), starts)
    visited = np.add.reduceat(seen.astype(np.float64), starts)
    means = np.full(len(starts), np.nan)
    np.divide(memorized, visited, out=means, where=visited > 0)
    return means
