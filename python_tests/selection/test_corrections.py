"""Which suggestions are followed: as many as are right often enough, by planted samples alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mild_ext import LearningStatus, plant_labels, select_clean
from mild_ext.selection.corrections import choose_corrections
from mild_ext.selection.noise_rate import Estimate


def recorded(noise, seed=0, count=3000, classes=4, epochs=20):
    """A status whose network predicts the true class, as a rule, whatever the label: and the true labels."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randint(0, classes, (count,), generator=generator)
    wrong = torch.rand(count, generator=generator) < noise
    shift = torch.randint(1, classes, (count,), generator=generator)
    given = torch.where(wrong, (true + shift) % classes, true)
    planted = plant_labels(given, seed=seed)
    status = LearningStatus(count, epochs, num_classes=classes)
    # Some samples are harder than others: more of their predictions are anything.
    sure = 1 - 0.6 * torch.rand(count, generator=generator) ** 3
    for _ in range(epochs):
        right = torch.rand(count, generator=generator) < sure
        noise_class = torch.randint(0, classes, (count,), generator=generator)
        logits = 4.0 * torch.nn.functional.one_hot(torch.where(right, true, noise_class), classes)
        status.update(torch.arange(count), logits.float(), planted.labels)
        status.advance()
    return status, planted, given, true


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_corrections_make_labels_better_by_as_much_as_is_said(noise):
    status, planted, given, true = recorded(noise)
    selection = select_clean(status, planted=planted)
    chosen = selection.corrections()
    labels = selection.corrected_labels()
    changed = labels != given
    assert changed.sum() == len(chosen.index) > 0.5 * noise * len(given)
    assert torch.equal(labels[chosen.index], chosen.label)
    right = float((labels == true)[changed].float().mean())
    assert chosen.precision is not None
    assert chosen.precision.low <= right <= chosen.precision.high
    assert (labels == true).float().mean() > (given == true).float().mean() + 0.5 * noise
    strict = selection.corrections(least_precision=0.99)
    assert len(strict.index) <= len(chosen.index)


def test_nothing_is_changed_where_nothing_is_wrong():
    status, planted, given, _ = recorded(0.0)
    selection = select_clean(status, planted=planted)
    assert torch.equal(selection.corrected_labels(), given)
    assert "nothing is changed" in selection.corrections().reason


def test_without_planted_labels_nobody_knows():
    status, _, _, _ = recorded(0.1)
    with pytest.raises(ValueError, match="counted on planted labels"):
        select_clean(status).corrections()
    status, planted, _, _ = recorded(0.1)
    with pytest.raises(ValueError, match="least_precision"):
        select_clean(status, planted=planted).corrections(least_precision=0.5)


def choose(right, of_planted, probability, rate, least=0.8):
    count = len(probability)
    return choose_corrections(
        torch.tensor(probability),
        torch.zeros(count, dtype=torch.int64),
        torch.tensor(of_planted),
        torch.tensor(right),
        torch.arange(0),
        rate,
        least,
    )


def test_the_figure_is_that_of_the_formula():
    """1,000 others, 20 % wrong; half of the planted are put right down to the one cutoff there is."""
    rate = Estimate(0.2, 0.18, 0.22)
    right, of_planted = [k % 4 < 2 for k in range(200)], [0.97] * 200
    probability = [0.97] * 130 + [0.0] * 870
    chosen = choose(right, of_planted, probability, rate)
    assert chosen.precision is not None
    assert chosen.precision.value == pytest.approx(0.2 * 1000 * 0.5 / (0.8 * 130))
    assert chosen.cutoff == pytest.approx(0.97)
    assert chosen.index.tolist() == list(range(130))
    assert 0.7 < chosen.precision.low < chosen.precision.value < chosen.precision.high <= 1
    # With twice as many to be changed, no more than half of them can be right.
    many = choose(right, of_planted, [0.97] * 260 + [0.0] * 740, rate)
    assert len(many.index) == 0
    assert many.precision is None
    assert many.cutoff == float("inf")


def test_few_hits_are_not_enough():
    rate = Estimate(0.2, 0.18, 0.22)
    right = [k < 4 for k in range(200)]
    chosen = choose(right, [0.9] * 200, [0.9] * 4 + [0.0] * 996, rate)
    assert len(chosen.index) == 0


def test_the_stricter_of_both_halves_counts():
    rate = Estimate(0.2, 0.19, 0.21)
    rng = np.random.default_rng(0)
    right = (rng.random(400) < 0.9).tolist()
    of_planted = rng.uniform(0.5, 1, 400).tolist()
    probability = rng.uniform(0.5, 1, 300).tolist() + [0.0] * 1200
    chosen = choose(right, of_planted, probability, rate, 0.8)
    assert len(chosen.index) > 100
    values = torch.tensor(probability)[chosen.index]
    assert bool((values >= chosen.cutoff).all())
    assert torch.equal(values, values.sort(descending=True).values)


def test_a_cutoff_that_one_half_does_not_confirm_gives_way_to_a_stricter_one():
    """Suggestions are the better the surer they are, so somewhere enough of them are right on both halves."""
    rate = Estimate(0.2, 0.19, 0.21)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        sure = rng.uniform(0, 1, 300)
        right = rng.random(300) < sure
        wrong, others = rng.uniform(0, 1, 200), rng.uniform(0, 1, 800)
        wrong[rng.random(200) >= 0.8] = 0.0
        others[rng.random(800) >= 0.15 * (1 - others)] = 0.0
        chosen = choose(right.tolist(), sure.tolist(), [*wrong, *others], rate)
        assert len(chosen.index) > 0, seed
        assert chosen.precision is not None
        assert chosen.precision.value >= 0.8


def test_the_probabilities_have_a_say():
    """By planted samples 96 % would be right, by the probabilities of those to be changed 85 %: that counts."""
    rate = Estimate(0.2, 0.18, 0.22)
    right = [k % 4 < 2 for k in range(200)]
    chosen = choose(right, [0.85] * 200, [0.85] * 130 + [0.0] * 870, rate)
    assert chosen.precision is not None
    assert chosen.precision.value == pytest.approx(0.85)
    assert len(choose(right, [0.7] * 200, [0.7] * 130 + [0.0] * 870, rate).index) == 0
