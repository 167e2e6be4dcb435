"""The two shares that add up to a noise rate, on runs on paper and of real networks."""

import pytest
import torch
from planted_runs import paper_run
from recordings import NAMES, read_recording

from mild_ext.selection.measure_noise import UNITED, _one_sided, _united_weight, measure
from mild_ext.selection.votes import PlantedEvidence

EASY, HARD, RIGHT = NAMES


def measured(run):
    return measure(PlantedEvidence([run.status], [run.planted], run.status.num_epochs))


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3, 0.5])
def test_random_errors_are_plainly_wrong(noise):
    run = paper_run(n=4000, planted=200, noise=noise, hard=0.0)
    found = measured(run).noise_rate
    wrong = float((run.given != run.true)[run.others].double().mean())
    assert found.measured
    assert found.plainly_wrong.value == pytest.approx(wrong, abs=0.05)
    assert found.low - 0.01 <= wrong <= found.high + 0.01
    assert found.contradicted == pytest.approx(found.rate - found.plainly_wrong.value)


def test_labels_that_are_never_contradicted_leave_nothing_to_hold_out():
    # Every planted label is memorized before it is first seen: no vote is left for another class.
    run = paper_run(noise=0.0, wrong_memorized="at once", right=1.0)
    found = measured(run)
    assert found.contradiction.held_out == 0.0
    assert found.contradiction.held_out_variance == float("inf")


def test_united_are_as_many_of_every_winner():
    generator = torch.Generator().manual_seed(0)
    winner = torch.randint(0, 4, (500,), generator=generator)
    united = torch.randint(0, 6, (500,), generator=generator)  # many ties
    weight = _united_weight(winner, united, 4)
    for k in range(4):
        own = winner == k
        assert float(weight[own].sum()) == pytest.approx(UNITED * int(own.sum()))
        # The more united, the more weight.
        order = united[own].argsort()
        assert (weight[own][order].diff() >= 0).all()
    assert len(_united_weight(winner[:0], united[:0], 4)) == 0


def test_confusions_both_ways_are_not_one_sided():
    joint = torch.full((3, 3), 40.0).fill_diagonal_(900.0)
    assert _one_sided(joint)[1] == 0.0
    joint[0, 1] = 400.0  # class 0 is predicted for labels 1, hardly the other way round
    one_sided, share = _one_sided(joint)
    assert one_sided[0, 1] > 1
    assert torch.equal(one_sided, -one_sided.T)
    assert 0.4 < share < 0.7


@pytest.mark.parametrize(("name", "plain", "rate"), [(EASY, 0.05, 0.05), (HARD, None, 0.12)])
def test_recorded_runs_are_measured(name, plain, rate):
    recording = read_recording(name)
    status = recording.status()
    found = measure(
        PlantedEvidence([status], [recording.planted_labels], status.num_epochs)
    ).noise_rate
    wrong = 1 - recording.clean[recording.others].mean()
    assert found.rate == pytest.approx(wrong, abs=rate)
    assert found.low <= wrong <= found.high
    if plain is not None:
        assert found.plainly_wrong.value == pytest.approx(wrong, abs=plain)
    else:  # mixed up, not random
        assert found.plainly_wrong.value < 0.05


def test_a_recorded_run_without_wrong_labels_has_none_that_are_plainly_wrong():
    recording = read_recording(RIGHT)
    status = recording.status()
    found = measure(
        PlantedEvidence([status], [recording.planted_labels], status.num_epochs)
    ).noise_rate
    assert found.plainly_wrong.value < 0.01
    assert found.low == 0.0
