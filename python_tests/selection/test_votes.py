"""Votes of the planted samples, and how well a score tells them from all others."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_runs import paper_run

from mild_ext.selection.votes import PlantedEvidence, running_majority, separation, some


@settings(max_examples=60)
@given(
    predicted=st.integers(1, 12).flatmap(
        lambda epochs: st.lists(
            st.lists(st.integers(-1, 4), min_size=epochs, max_size=epochs), min_size=1, max_size=6
        )
    )
)
def test_the_running_majority_is_the_first_of_the_largest_counts(predicted):
    array = np.array(predicted)
    for epoch, (winner, votes) in enumerate(running_majority(array)):
        for row, mine, count in zip(array, winner, votes, strict=True):
            counts = np.bincount(row[: epoch + 1][row[: epoch + 1] >= 0], minlength=5)
            assert count == counts.max()
            assert mine == (counts.argmax() if counts.max() else -1)


def test_excluded_classes_have_no_votes():
    run = paper_run(noise=0.0, hard=0.0, right=0.9)
    evidence = PlantedEvidence([run.status], [run.planted], run.status.num_epochs)
    planted = evidence.planted_labels
    all_of_them = evidence.planted_majority()
    rest = evidence.planted_majority(planted)
    neither = evidence.planted_majority(planted, evidence.withheld)
    assert (all_of_them.total == run.status.num_epochs).all()
    assert (rest.winner != planted).all()
    assert ((neither.winner != planted) & (neither.winner != evidence.withheld)).all()
    assert (rest.total >= neither.total).all()
    # The label withheld is the true one here, and what the network says until it memorizes the other.
    assert (rest.winner == evidence.withheld).mean() > 0.9


def test_separation_is_the_share_of_pairs_in_order():
    run = paper_run(n=200, planted=20)
    evidence = PlantedEvidence([run.status], [run.planted], run.status.num_epochs)
    score = torch.randint(0, 6, (200,), generator=torch.Generator().manual_seed(1)).float()
    mine, others = score[evidence.index], score[evidence.others]
    pairs = (mine[:, None] > others).double() + 0.5 * (mine[:, None] == others)
    assert separation(score, evidence) == pytest.approx(float(pairs.mean()))


def test_of_many_samples_a_part_is_enough():
    values = torch.arange(1_000_000)
    part = some(values)
    assert part.is_contiguous()  # searchsorted warns of anything else
    assert len(part) == 100_000
    assert torch.equal(some(values[:1000]), values[:1000])
