"""The picture of a selection shows what the selection says."""

import numpy as np
import pytest
import torch

from mild_ext import LearningStatus, TransitionTimes, select_clean

pytest.importorskip("matplotlib")
from mild_ext.selection.plot import save_figure


def times(misclassified, seen, epochs):
    misclassified = torch.as_tensor(misclassified, dtype=torch.int32)
    seen = torch.as_tensor(seen, dtype=torch.int32).expand(len(misclassified))
    zero = torch.zeros_like(misclassified)
    memorized = seen - misclassified
    metric = misclassified - memorized
    return TransitionTimes(misclassified, memorized, metric, zero, zero, zero, zero, seen, epochs)


@pytest.fixture
def separated():
    generator = np.random.default_rng(0)
    early = generator.binomial(20, 0.1, 600)
    late = generator.binomial(20, 0.9, 400)
    return select_clean(times(np.concatenate([early, late]), 20, 20))


def test_bars_add_up_to_the_samples_and_the_mixture_expects_as_many(separated):
    ax = separated.plot()
    bars = ax.containers[0]
    assert sum(bar.get_height() for bar in bars) == 1000
    assert [bar.get_center()[0] for bar in bars] == list(range(-20, 21, 2))
    mixture = ax.lines[2].get_ydata()  # after the two components
    assert sum(mixture) == pytest.approx(1000)


def test_samples_seen_in_different_numbers_of_epochs_are_drawn_on_one_scale():
    generator = np.random.default_rng(0)
    seen = np.repeat([8, 16], 500)
    late = np.arange(1000) % 5 < 2
    selection = select_clean(times(generator.binomial(seen, np.where(late, 0.9, 0.1)), seen, 20))
    assert selection.supported
    ax = selection.plot()
    bars = ax.containers[0]
    assert sum(bar.get_height() for bar in bars) == pytest.approx(1000)
    assert (bars[0].get_center()[0], bars[-1].get_center()[0]) == (-12, 12)
    assert "as if seen in 12 epochs" in ax.get_xlabel()
    assert -12 < ax.lines[-1].get_xdata()[0] < 12


def test_threshold_stands_between_the_last_kept_and_the_first_dropped_value(separated):
    assert separated.supported
    ax = separated.plot()
    cut = ax.lines[-1].get_xdata()[0]
    kept = 2 * separated.threshold - 20
    assert kept < cut < kept + 2


def test_picture_is_written_for_mixed_visits_unseen_samples_and_without_support(
    tmp_path, separated
):
    generator = np.random.default_rng(1)
    seen = generator.integers(0, 21, 1000)
    mixed = select_clean(times(generator.integers(0, seen + 1), seen, 20))
    few = select_clean(LearningStatus(3, 5))
    assert not few.supported
    for number, selection in enumerate((separated, mixed, few)):
        path = tmp_path / f"{number}.png"
        save_figure(selection.plot(), path)
        assert path.read_bytes().startswith(b"\x89PNG")
    assert "kept everything" in few.plot().get_title()
