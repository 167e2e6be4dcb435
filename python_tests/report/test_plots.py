"""Figures show what the selection says."""

import numpy as np
import pytest
import torch

from mild_ext import LearningStatus, select_clean

pytest.importorskip("matplotlib")

from mild_ext.report.plots import plot_selection, save_selection_plot


def status_of(misclassified, epochs):
    """A status in which sample i is misclassified in its first ``misclassified[i]`` epochs."""
    misclassified = torch.as_tensor(misclassified)
    status = LearningStatus(len(misclassified), epochs)
    labels = torch.zeros(len(misclassified), dtype=torch.int64)
    for epoch in range(epochs):
        wrong = (misclassified > epoch).float()
        status.update(torch.arange(len(labels)), torch.stack([1 - wrong, wrong], 1), labels)
        status.advance()
    return status


def test_bars_are_the_histogram_and_the_line_the_threshold():
    generator = np.random.default_rng(0)
    clean, noisy = generator.integers(0, 5, 300), generator.integers(12, 21, 200)
    selection = select_clean(status_of(np.concatenate([clean, noisy]), 20))
    assert selection.supported
    axes = plot_selection(selection)
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == selection.histogram[:, 20].tolist()
    labels = {line.get_label(): line for line in axes.get_lines()}
    assert set(labels) == {"clean component", "noisy component", "mixture", "kept to the left"}
    assert labels["kept to the left"].get_xdata()[0] == 2 * selection.threshold - 19
    # The mixture's expected counts add up to the samples.
    assert labels["mixture"].get_ydata().sum() == pytest.approx(500, rel=1e-6)
    assert f"{selection.num_kept} of 500" in axes.get_title()


def test_unsupported_selection_says_so_and_has_no_threshold():
    axes = plot_selection(select_clean(status_of([0] * 30, 5)))
    assert "not supported" in axes.get_title()
    assert "kept to the left" not in {line.get_label() for line in axes.get_lines()}


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_saving(tmp_path, suffix):
    path = tmp_path / f"plot.{suffix}"
    save_selection_plot(select_clean(status_of([0] * 30 + [4] * 20, 5)), path)
    assert path.stat().st_size > 1000
