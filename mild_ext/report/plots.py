"""Figures. Matplotlib is imported where it is used; nothing here opens a window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mild_ext.selection import Selection


def plot_selection(selection: Selection, axes: Any = None) -> Any:
    """Histogram of the MILD metric with the fitted mixture and the threshold (the paper's Figure 2).

    Shown are the samples seen in every epoch of the window, which is nearly always all of them; the
    curves are the counts that the fitted components expect of them.

    Args:
        selection: what `select_clean` returned.
        axes: Matplotlib axes to draw into; None makes a figure of its own, without pyplot.

    Returns:
        The axes; ``axes.figure.savefig(path)`` saves them.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'mild_ext[plot]'") from error
    if axes is None:
        axes = Figure(figsize=(7, 4), layout="constrained").add_subplot()
    epochs = len(selection.histogram) - 1
    counts = np.asarray(selection.histogram)[:, epochs]
    metric = 2 * np.arange(epochs + 1) - epochs
    axes.bar(metric, counts, width=1.6, color="0.8", label="samples")
    mixture = selection.mixture
    if mixture is not None:
        event, censored = mixture.log_prob_tables(epochs)
        outcome = np.exp(np.concatenate([event, censored[:, -1:]], axis=1))
        expected = mixture.weights_[:, None] * outcome * counts.sum()
        axes.plot(metric, expected[0], color="tab:blue", marker=".", label="clean component")
        axes.plot(metric, expected[1], color="tab:red", marker=".", label="noisy component")
        axes.plot(metric, expected.sum(0), color="black", linewidth=1, label="mixture")
    if selection.supported:
        threshold = 2 * selection.threshold - epochs + 1  # between the last kept and first dropped
        axes.axvline(threshold, color="tab:green", linestyle="--", label="kept to the left")
    share = selection.num_kept / selection.num_samples
    verdict = "" if selection.supported else ", two components not supported"
    axes.set_title(
        f"{selection.num_kept:,} of {selection.num_samples:,} samples kept ({share:.0%}){verdict}"
    )
    axes.set_xlabel("MILD metric: misclassified minus memorized epochs (lower = cleaner)")
    axes.set_ylabel("samples")
    # The two ends hold most samples; a root keeps the shelf between them visible.
    axes.set_yscale("function", functions=(np.sqrt, np.square))
    axes.set_ylim(0, 1.1 * max(1, counts.max()))
    axes.legend()
    return axes


def save_selection_plot(selection: Selection, path: str | Path) -> None:
    """Write `plot_selection` to a file; the suffix chooses the format (png, svg, pdf)."""
    plot_selection(selection).figure.savefig(path, dpi=150)
