"""What a comparison comes to: means over seeds, their intervals, and who is ahead beyond chance."""

import re

import numpy as np
import pytest
import torch
from scipy import stats

from mild_ext.commands.comparison_shown import comparison_table, heading
from mild_ext.training.chance import mean_interval, paired_difference
from mild_ext.training.comparison_folder import pack_right
from mild_ext.training.comparison_summary import summarize_comparison


def row(method, seed, right, **more):
    return {
        "noise": "n", "seed": seed, "method": method, "test_accuracy": float(right.double().mean()),
        "test_samples": len(right), "epochs": 20 + seed, "steps": 1000, "seconds": 2.0 + seed,
        "right": pack_right(right), "noise_rate": 0.3 + seed / 100,
    } | more  # fmt: skip


def test_table_shows_means_with_intervals_and_what_they_cost():
    some = torch.arange(100)
    results = [row("mild", s, some < 80 + 10 * s, f1=0.4 + s / 10) for s in range(3)]
    text = comparison_table(results, ["mild"])
    # of the test samples sqrt(.9 * .1 / 100) = 0.03, of the seeds 0.1 / sqrt 3; the latter from three values
    tests, seeds = 1.96 * 0.03, stats.t.ppf(0.975, 2) * 0.1 / 3**0.5
    assert f"90.0 ± {100 * (tests**2 + seeds**2) ** 0.5:.1f}" in text
    assert f"50.0 ± {100 * seeds:.1f}" in text
    lines = text.splitlines()
    assert lines[1].split() == ["labels", "that", "are", "wrong", "31.0%"]
    assert "20-22" in lines[2]
    assert "1,000" in lines[2]
    assert lines[2].endswith("3.0")
    assert "standard deviation" not in text
    assert "3 seeds, ± its 95 % interval by these and 100 test samples" in heading(results)


def test_one_seed_has_an_interval_of_the_test_samples_alone():
    results = [row("mild", 0, torch.arange(100) < 90, f1=0.5)]
    assert heading(results).endswith("of 1 seed, ± its 95 % interval by 100 test samples alone")
    assert f"90.0 ± {196 * (0.9 * 0.1 / 100) ** 0.5:.1f}" in comparison_table(results, ["mild"])
    assert comparison_table(results, ["mild"]).splitlines()[-1].split() == ["MILD", "50.0"]


def test_methods_are_held_against_plain_on_the_same_samples_and_seeds():
    samples = torch.arange(1000)
    results = [row("plain", s, samples < 800) for s in range(2)]
    results += [row("mild", s, samples < 850 + s) for s in range(2)]
    results += [row("elr", s, samples < 800) for s in range(2)]
    lines = {line["method"]: line for line in summarize_comparison(results)}
    mild = lines["mild"]
    assert mild["against_plain"] == pytest.approx(0.0505)
    # Alone each method's interval is far wider: most samples are as hard for both.
    assert mild["against_plain_low"] > 0.03
    assert mild["low"] < 0.83
    assert lines["elr"]["against_plain_low"] < 0 < lines["elr"]["against_plain_high"]
    assert lines["plain"]["against_plain"] is None
    text = comparison_table(results, ["plain", "mild", "elr"])
    assert re.search(r"MILD +\+5\.\d \(\+\d\.\d to \+\d\.\d\)\*", text)
    with_others = [r for r in results if (r["method"], r["seed"]) != ("plain", 1)]
    lines = {line["method"]: line for line in summarize_comparison(with_others)}
    assert lines["mild"]["against_plain"] is None  # not of the same seeds


@pytest.mark.parametrize(("seeds", "spread"), [(2, 0.03), (3, 0.03), (3, 0.003), (1, 0.0)])
def test_intervals_hold_what_they_promise_and_equal_methods_are_level(seeds, spread):
    """Two methods that are right with the same chance, 0.85 in the mean, of samples and seeds drawn anew."""
    rng = np.random.default_rng(0)
    held, starred, draws = 0, 0, 400
    for _ in range(draws):
        ease = rng.beta(1.7, 0.3, 500)
        luck = rng.normal(0, spread, (2, seeds, 1))
        mine, theirs = torch.from_numpy(rng.random((2, seeds, 500)) < ease + luck)
        mean, half = mean_interval(mine.double().mean(1).tolist(), 500)
        held += abs(mean - 0.85) < half
        found = paired_difference(mine, theirs)
        starred += found["low"] > 0 or found["high"] < 0
    # by chance alone 400 draws of 0.95 and 0.05 come out at 0.92 and 0.08 in one case of 200
    assert held / draws > 0.92
    assert starred / draws < 0.08
