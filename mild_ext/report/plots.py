"""Pictures of a selection. matplotlib is an extra (``plot``), imported where it is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mild_ext.selection import Selection

# Okabe and Ito's palette, told apart with every kind of colour vision; components also differ in line style.
_CLEAN, _NOISY, _MIXTURE, _POSTERIOR = "#0072B2", "#D55E00", "#000000", "#009E73"


def plot_selection(selection: Selection, ax: Axes | None = None) -> Axes:
    """The MILD metric's histogram with the fitted mixture, the threshold and the posterior.

    After Figure 2 of Hu et al., IJCAI 2023. Lower metric = cleaner; the right edge holds the samples
    that were never memorized.

    Args:
        selection: what `mild_ext.select_clean` returned.
        ax: axes to draw into; None makes a figure of its own.

    Returns:
        The axes; ``plot_selection(selection).figure.savefig(path)`` saves the picture.

    Raises:
        ImportError: matplotlib is missing.
    """
    if ax is None:
        ax = _new_axes()
    histogram = selection.histogram
    metric, counts = counts_by_metric(histogram)
    # With all samples seen equally often the metric takes every other value.
    step = 2 if np.count_nonzero(histogram[:, 1:].sum(axis=0)) <= 1 else 1
    ax.bar(metric, counts, width=0.92 * step, color="0.82", label=f"samples ({counts.sum():,.0f})")

    mixture = selection.mixture
    if mixture is not None and selection.supported:
        expected = expected_by_metric(histogram, mixture)
        shown = counts_by_metric(np.ones_like(histogram) * (histogram.sum(axis=0) > 0))[1] > 0
        names = ("clean", "noisy")
        for j, (color, style) in enumerate(((_CLEAN, "--"), (_NOISY, ":"))):
            label = (
                f"{names[j]}: {mixture.weights_[j]:.0%}, shape {mixture.shapes_[j]:.2g}, "
                f"scale {mixture.scales_[j]:.3g} epochs"
            )
            ax.plot(metric[shown], expected[j][shown], style, color=color, lw=1.8, label=label)
        ax.plot(metric[shown], expected.sum(axis=0)[shown], color=_MIXTURE, lw=1.2, label="mixture")
        _draw_posterior(ax, selection, metric, step)
    if selection.supported:
        cut = (
            2 * selection.threshold - (len(histogram) - 1) + 1
        )  # between the last kept and the next
        ax.axvline(cut, color="0.25", lw=1)
        ax.annotate(
            "kept ",
            (cut, 0.98),
            xycoords=("data", "axes fraction"),
            va="top",
            ha="right",
            color="0.25",
        )
        title = f"kept {selection.num_kept:,} of {selection.num_samples:,} samples"
    else:
        title = f"kept everything: {_wrap(selection.reason)}"
    ax.set_title(title, fontsize=10)
    ax.set_xlabel("memorization \N{MINUS SIGN} forgetting (epochs; lower = cleaner)")
    ax.set_ylabel("samples (square-root scale)")
    # The two ends hold most samples; a root keeps the shelf between them visible.
    ax.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0.0)), np.square))
    ax.set_ylim(0, 1.08 * max(1.0, counts.max()))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return ax


def save_selection_plot(selection: Selection, path: str | Path) -> None:
    """Write `plot_selection` to a file; the suffix chooses the format (png, svg, pdf)."""
    figure: Any = plot_selection(selection).figure
    figure.savefig(path, dpi=150)


def counts_by_metric(histogram: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Sum a table [P + 1, P + 1] over (misclassified, seen) by metric = 2 misclassified - seen.

    Returns:
        metric int64 [2 P + 1], from -P to P, and the sums [2 P + 1]. Unseen samples are left out.
    """
    size = len(histogram)
    misclassified, seen = np.triu_indices(size)
    known = seen > 0
    misclassified, seen = misclassified[known], seen[known]
    cell = 2 * misclassified - seen + size - 1
    sums = np.bincount(cell, weights=histogram[misclassified, seen], minlength=2 * size - 1)
    return np.arange(-(size - 1), size), sums


def expected_by_metric(histogram: NDArray[Any], mixture: Any) -> NDArray[Any]:
    """Counts [2, 2 P + 1] that each component expects, given how often each sample was seen."""
    size = len(histogram)
    event, censored = (np.exp(table) for table in mixture.log_prob_tables(size - 1))
    per_seen = histogram.sum(axis=0)
    rows, columns = np.triu_indices(size, 1)
    expected = []
    for j in (0, 1):
        table = np.zeros((size, size))
        table[rows, columns] = event[j][rows]
        np.fill_diagonal(table, censored[j])
        expected.append(counts_by_metric(mixture.weights_[j] * table * per_seen)[1])
    return np.stack(expected)


def _draw_posterior(ax: Axes, selection: Selection, metric: NDArray[Any], step: int) -> None:
    """P(clean) for samples seen in every epoch, on an axis of its own."""
    epochs = len(selection.histogram) - 1
    m = np.arange(epochs + 1)
    right = ax.twinx()
    right.plot(2 * m - epochs, selection.posterior, "-", color=_POSTERIOR, lw=1, alpha=0.8)
    right.axhline(selection.level, color=_POSTERIOR, lw=0.6, ls=(0, (1, 3)))
    right.set_ylim(0, 1.04)
    right.set_ylabel("probability of a right label", color=_POSTERIOR)
    right.tick_params(axis="y", colors=_POSTERIOR)
    right.spines[["top", "left"]].set_visible(False)


def _new_axes() -> Axes:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'mild_ext[plot]'") from error
    # No pyplot: nothing global changes, nothing has to be closed, and no display is needed.
    figure = Figure(figsize=(7, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure.subplots()


def _wrap(text: str) -> str:
    import textwrap

    return textwrap.fill(text, 70)
