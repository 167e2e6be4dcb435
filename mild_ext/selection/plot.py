"""The picture of a selection: counts, fitted mixture, threshold. matplotlib is an extra (``plot``)."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mild_ext.files import write_atomically
from mild_ext.mixture.follow_up import common_follow_up, seen_unequally
from mild_ext.mixture.weibull import WeibullMixture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, told apart with every kind of color vision; components also differ in line style.
_CLEAN, _NOISY, _MIXTURE, _POSTERIOR = "#0072B2", "#D55E00", "#000000", "#009E73"


def plot_counts(
    histogram: NDArray[np.int64],
    *,
    title: str = "",
    mixture: WeibullMixture | None = None,
    threshold: float | None = None,
    posterior: NDArray[np.float32] | None = None,
    level: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The MILD metric's histogram with the fitted mixture, the threshold and the posterior.

    After Figure 2 of Hu et al., IJCAI 2023. Lower metric = cleaner; the right edge holds the samples
    that were never memorized.

    Args:
        histogram: counts of (misclassified, seen), [P + 1, P + 1].
        title: text above; long ones are wrapped.
        mixture: drawn where given.
        threshold: largest misclassified count kept of a sample seen in all P epochs.
        posterior: probability of a right label by that count, [P + 1], with the ``level`` asked for.
        ax: axes to draw into; None makes a figure of its own.

    Returns:
        The axes; `save_figure` writes their figure.

    Raises:
        ImportError: matplotlib is missing.
    """
    if ax is None:
        ax = _new_axes()
    num_epochs = len(histogram) - 1
    common = common_follow_up(histogram)
    counts = common.counts(histogram)
    scale = common.num_epochs / num_epochs
    metric = 2 * np.arange(len(counts)) - common.num_epochs
    ax.bar(metric, counts, width=1.84, color="0.82", label=f"samples ({counts.sum():,.0f})")
    if mixture is not None:
        _draw_mixture(ax, mixture, counts, metric)
    if posterior is not None:
        _draw_posterior(ax, posterior, level, scale)
    if threshold is not None:
        # Between the last kept and the next.
        cut = scale * (2 * threshold - num_epochs + 1)
        ax.axvline(cut, color="0.25", lw=1)
        place: Any = {"xycoords": ("data", "axes fraction"), "va": "top", "ha": "right"}
        ax.annotate("kept ", (cut, 0.98), color="0.25", **place)
    ax.set_title(textwrap.fill(title, 70), fontsize=10)
    unit = "epochs"
    if seen_unequally(histogram):
        unit = f"as if seen in {common.num_epochs} epochs"
    ax.set_xlabel(f"memorization \N{MINUS SIGN} forgetting ({unit}; lower = cleaner)")
    ax.set_ylabel("samples (square-root scale)")
    # The two ends hold most samples; a root keeps the shelf between them visible.
    ax.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0.0)), np.square))
    ax.set_ylim(0, 1.08 * max(1.0, counts.max()))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return ax


def save_figure(ax: Axes, path: str | os.PathLike[str]) -> None:
    """Write the figure of some axes to a file; the suffix chooses the format (png, svg, pdf)."""
    figure: Any = ax.figure
    kind = Path(path).suffix.removeprefix(".") or "png"
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150, format=kind))


def _draw_mixture(
    ax: Axes, mixture: WeibullMixture, counts: NDArray[Any], metric: NDArray[Any]
) -> None:
    """The numbers of samples that each component, and both together, expect."""
    shares = mixture.weights_[:, None] * mixture.outcome_probabilities(len(counts) - 1)
    expected = counts.sum() * shares
    styles = (("clean", _CLEAN, "--"), ("noisy", _NOISY, ":"))
    for j, (name, color, style) in enumerate(styles):
        label = (
            f"{name}: {mixture.weights_[j]:.0%}, shape {mixture.shapes_[j]:.2g}, "
            f"scale {mixture.scales_[j]:.3g} epochs"
        )
        ax.plot(metric, expected[j], style, color=color, lw=1.8, label=label)
    ax.plot(metric, expected.sum(axis=0), color=_MIXTURE, lw=1.2, label="mixture")


def _draw_posterior(
    ax: Axes, posterior: NDArray[np.float32], level: float | None, scale: float
) -> None:
    """P(clean) for samples seen in every epoch, on an axis of its own."""
    epochs = len(posterior) - 1
    right = ax.twinx()
    metric = scale * (2 * np.arange(epochs + 1) - epochs)
    right.plot(metric, posterior, "-", color=_POSTERIOR, lw=1, alpha=0.8)
    if level is not None:
        right.axhline(level, color=_POSTERIOR, lw=0.6, ls=(0, (1, 3)))
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
