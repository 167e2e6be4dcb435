"""Pictures of a selection. matplotlib is an extra (``plot``), imported where it is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mild_ext.mixture.follow_up import common_horizon, seen_unequally

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mild_ext.selection.select import Selection

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
    num_epochs = len(selection.histogram) - 1
    common = common_horizon(selection.histogram)
    counts = common.counts(selection.histogram)
    scale = common.horizon / num_epochs
    metric = 2 * np.arange(len(counts)) - common.horizon
    ax.bar(metric, counts, width=1.84, color="0.82", label=f"samples ({counts.sum():,.0f})")

    mixture = selection.mixture
    if mixture is not None and selection.supported:
        shares = mixture.weights_[:, None] * mixture.outcome_probabilities(common.horizon)
        expected = counts.sum() * shares
        names = ("clean", "noisy")
        for j, (color, style) in enumerate(((_CLEAN, "--"), (_NOISY, ":"))):
            label = (
                f"{names[j]}: {mixture.weights_[j]:.0%}, shape {mixture.shapes_[j]:.2g}, "
                f"scale {mixture.scales_[j]:.3g} epochs"
            )
            ax.plot(metric, expected[j], style, color=color, lw=1.8, label=label)
        ax.plot(metric, expected.sum(axis=0), color=_MIXTURE, lw=1.2, label="mixture")
        _draw_posterior(ax, selection, scale)
    if selection.supported:
        # Between the last kept and the next.
        cut = scale * (2 * selection.threshold - num_epochs + 1)
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
    unit = "epochs"
    if seen_unequally(selection.histogram):
        unit = f"as if seen in {common.horizon} epochs"
    ax.set_xlabel(f"memorization \N{MINUS SIGN} forgetting ({unit}; lower = cleaner)")
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


def _draw_posterior(ax: Axes, selection: Selection, scale: float) -> None:
    """P(clean) for samples seen in every epoch, on an axis of its own."""
    epochs = len(selection.histogram) - 1
    m = np.arange(epochs + 1)
    right = ax.twinx()
    right.plot(
        scale * (2 * m - epochs), selection.posterior, "-", color=_POSTERIOR, lw=1, alpha=0.8
    )
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
