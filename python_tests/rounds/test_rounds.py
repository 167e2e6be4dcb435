"""The rounds as a state machine: what a selection does to the kept set, refusals, stops, and its state."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mild_ext.rounds import SMALLEST_KEPT_SHARE, UNKNOWN, Rounds

COUNT = 40
LABELS = torch.arange(COUNT) % 4
ALL = torch.ones(COUNT, dtype=torch.bool)


def verdict(mask, *, supported=True, reason="two groups"):
    return SimpleNamespace(
        mask=mask, clean_probability=mask.float() * 0.75, supported=supported, reason=reason
    )


def record(rounds, *, wrong=()):
    """A status of the current round with all its epochs; ``wrong`` samples are misclassified in each."""
    status = rounds.new_status()
    ids = rounds.watched.nonzero().flatten()
    right = ~torch.isin(ids, torch.tensor(wrong, dtype=torch.int64))
    logits = torch.stack([right.float(), (~right).float()], 1)
    for _ in range(status.num_epochs):
        status.update(ids, logits, torch.zeros(len(ids), dtype=torch.int64))
        status.advance()
    return status


def end(rounds, mask, **options):
    return rounds.end_round(record(rounds), verdict(mask, **options))


def without(*ids):
    return ~torch.isin(torch.arange(COUNT), torch.tensor(ids))


# ------------------------------------------------------------------------------- following a selection


def test_a_selection_narrows_down_what_is_watched_until_all_rounds_are_done():
    rounds = Rounds(COUNT, [3, 2], labels=LABELS)
    assert (rounds.round, rounds.num_epochs, rounds.finished) == (0, 3, False)
    first = end(rounds, without(0, 1))
    assert (first.round, first.epochs, first.removed, first.changed) == (0, 3, 2, 2)
    assert (first.refused, first.stop_reason) == (None, None)
    assert first.learned.all()
    assert torch.equal(rounds.watched, without(0, 1))
    assert (rounds.round, rounds.num_epochs) == (1, 2)
    second = end(rounds, without(4))  # says that 0 and 1 are right, but nobody watched them
    assert torch.equal(second.learned, without(0, 1))
    assert torch.equal(rounds.kept, without(0, 1, 4))
    assert rounds.round_dropped[[0, 1, 4, 5]].tolist() == [0, 0, 1, -1]
    assert rounds.stop_reason == second.stop_reason == "the recipe's 2 rounds are done"
    assert (rounds.round, rounds.num_epochs) == (2, 2)
    assert torch.equal(rounds.watched, rounds.kept)
    assert torch.equal(first.kept, without(0, 1)), "an outcome stays as it was"


def test_a_dropped_sample_may_return_where_everyone_is_watched():
    rounds = Rounds(COUNT, [1, 1, 1], labels=LABELS, reselect="all")
    end(rounds, without(0, 1))
    assert rounds.watched.all()
    outcome = end(rounds, without(1, 2))
    assert torch.equal(rounds.kept, without(1, 2))
    assert (outcome.removed, outcome.changed) == (1, 2)
    assert rounds.round_dropped[:3].tolist() == [-1, 0, 1]
    end(rounds, without(1, 2, 3))
    assert torch.equal(rounds.watched, rounds.kept), "after the rounds, only what is kept is drawn"


def test_evidence_is_of_the_last_round_that_watched_the_sample():
    rounds = Rounds(COUNT, [3, 2], labels=LABELS)
    rounds.end_round(record(rounds, wrong=(0, 1)), verdict(without(0)))
    rounds.end_round(record(rounds, wrong=(2,)), verdict(without(2)))
    assert rounds.seen[:4].tolist() == [3, 2, 2, 2]
    assert rounds.misclassified[:4].tolist() == [3, 0, 2, 0]
    assert rounds.clean_probability[:4].tolist() == [0.0, 0.75, 0.0, 0.75]


@pytest.mark.parametrize("ids", [torch.arange(0, COUNT, 2), torch.arange(COUNT) % 2 == 0])
def test_samples_outside_train_ids_are_never_touched(ids):
    rounds = Rounds(COUNT, [1], labels=LABELS, train_ids=ids)
    outcome = end(rounds, without(0))
    assert int(outcome.watched.sum()) == COUNT // 2
    assert not rounds.kept[1::2].any()
    assert (rounds.round_dropped[1::2] == -1).all()
    assert (rounds.clean_probability[1::2] == 1).all()
    assert not rounds.seen[1::2].any()


# --------------------------------------------------------------------------------- refusals and stops


@pytest.mark.parametrize(
    ("mask", "options", "reason"),
    [
        (ALL & False, {}, "would keep 0 of 40 samples, less than a share of 0.05: everything was"),
        (torch.arange(COUNT) < 1, {}, "would keep 1 of 40"),
        (LABELS != 2, {}, "would empty class 2: everything was kept instead"),
        (LABELS > 1, {}, "would empty class 0"),
        (without(3), {"supported": False, "reason": "one group"}, "one group"),
    ],
)
def test_what_is_refused_keeps_everything_and_ends_the_rounds(mask, options, reason):
    rounds = Rounds(COUNT, [1, 1], labels=LABELS)
    outcome = end(rounds, mask, **options)
    assert reason in outcome.refused == outcome.stop_reason == rounds.stop_reason
    assert rounds.kept.all()
    assert (rounds.round_dropped == -1).all()
    assert outcome.removed == outcome.changed == 0
    assert (rounds.seen == 1).all(), "the evidence is there all the same"


def test_a_share_of_exactly_the_smallest_is_followed():
    rounds = Rounds(COUNT, [1, 1])
    outcome = end(rounds, torch.arange(COUNT) < SMALLEST_KEPT_SHARE * COUNT)
    assert outcome.refused is None
    assert int(rounds.kept.sum()) == 2


def test_without_labels_no_class_is_looked_at_and_unknown_labels_are_no_class():
    rounds = Rounds(COUNT, [1, 1])
    assert end(rounds, LABELS != 2).refused is None
    unknown = torch.where(LABELS == 2, UNKNOWN, LABELS)
    rounds = Rounds(COUNT, [1, 1], labels=unknown)
    assert end(rounds, LABELS != 2).refused is None


def test_a_round_that_changes_little_is_the_last_but_is_followed():
    rounds = Rounds(COUNT, [1, 1, 1], labels=LABELS, min_removed=0.1)
    end(rounds, without(0, 1, 2, 3))
    assert not rounds.finished
    end(rounds, without(4, 5, 6))
    assert rounds.stop_reason == (
        "round 1 changed the fate of 3 samples, less than a share of 0.1 of 36"
    )
    assert int(rounds.kept.sum()) == 33
    patient = Rounds(COUNT, [1, 1], labels=LABELS, min_removed=0)
    assert end(patient, ALL).stop_reason is None


# -------------------------------------------------------------------------------------------- labels


def test_labels_are_given_to_the_selection_and_known_ones_stay():
    given_to = []

    def select(status, *, labels):
        given_to.append(labels)
        return verdict(ALL)

    rounds = Rounds(COUNT, [1], select=select, train_ids=torch.arange(3))
    rounds.select(record(rounds))
    rounds.take_labels(torch.full((COUNT,), -100))
    assert rounds.labels is None
    rounds.take_labels(torch.where(torch.arange(COUNT) < 2, LABELS, -100))
    assert rounds.labels[:4].tolist() == [0, 1, -1, -1]
    assert not rounds.labels_known
    rounds.take_labels((LABELS + 1).int())
    assert rounds.labels[:4].tolist() == [0, 1, 3, 4]
    assert rounds.labels_known
    rounds.select(record(rounds))
    assert given_to[0] is None
    assert torch.equal(given_to[1], rounds.labels)


# -------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rounds": []}, ValueError, "rounds must name at least one round"),
        ({"rounds": [3, 0]}, ValueError, r"at least one epoch each, got \[3, 0\]"),
        ({"reselect": "some"}, ValueError, "reselect must be one of kept, all; got 'some'"),
        ({"min_removed": 1.0}, ValueError, r"min_removed must be in \[0, 1\), got 1.0"),
        ({"train_ids": torch.tensor([], dtype=torch.int64)}, ValueError, "no samples to train on"),
        ({"labels": LABELS.float()}, TypeError, "labels must be integers, got torch.float32"),
        ({"labels": LABELS[:3]}, ValueError, r"each of the 40 samples, got shape \[3\]"),
    ],
)
def test_wrong_arguments_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Rounds(COUNT, **{"rounds": [1]} | options)


def test_a_round_cannot_end_early_or_twice_or_on_another_status():
    rounds = Rounds(COUNT, [2], labels=LABELS)
    early = rounds.new_status()
    for call in (rounds.select, lambda status: rounds.end_round(status, verdict(ALL))):
        with pytest.raises(RuntimeError, match=r"round 0 is not over: 0 of 2 epochs .*advance\(\)"):
            call(early)
    with pytest.raises(ValueError, match=r"must have .* = \(40, 2\), got \(40, 1\)"):
        rounds.select(Rounds(COUNT, [1]).new_status())
    end(rounds, ALL)
    with pytest.raises(RuntimeError, match="no more rounds to end: round 0 changed"):
        rounds.select(early)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (ALL.float(), TypeError, "bool mask, got torch.float32"),
        (ALL.tolist(), TypeError, "bool mask, got list"),
        (ALL[:5], ValueError, r"mask of shape \[40\], got \[5\]"),
    ],
)
def test_a_selection_without_a_mask_changes_nothing(mask, error, message):
    rounds = Rounds(COUNT, [1, 1], labels=LABELS)
    before = rounds.state_dict()
    selection = SimpleNamespace(mask=mask, clean_probability=ALL, supported=True, reason="")
    with pytest.raises(error, match=message):
        rounds.end_round(record(rounds), selection)
    assert_same_state(before, rounds.state_dict())


# --------------------------------------------------------------------------------------------- state


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[name]), name
        else:
            assert value == other[name], name


def test_a_state_is_a_copy_of_tensors_numbers_and_text():
    rounds = Rounds(COUNT, [1, 1], labels=LABELS)
    state = rounds.state_dict()
    end(rounds, without(0, 1))
    assert state["kept"].all()
    assert (state["round"], state["stop_reason"]) == (0, None)


def changed(**values):
    state = Rounds(COUNT, [2], labels=LABELS).state_dict()
    return {k: v for k, v in (state | values).items() if v is not ...}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, r"must be of Rounds \(mild_ext-rounds-state-2\), got None"),
        (Rounds(41, [2]).state_dict(), "must be of 40 samples, got 41"),
        (Rounds(COUNT, [3]).state_dict(), r"must be of rounds \[2\], got \[3\]"),
        (Rounds(COUNT, [2], reselect="all").state_dict(), "must be of reselect kept, got all"),
        (Rounds(COUNT, [2], min_removed=0.5).state_dict(), "must be of min_removed 0.01, got 0.5"),
        (Rounds(COUNT, [2], train_ids=torch.arange(9)).state_dict(), "of the same train_ids"),
        (Rounds(COUNT, [2], labels=(LABELS + 1) % 4).state_dict(), "same labels, but 40 differ"),
        (changed(kept=ALL.int()), r"damaged: kept must be torch.bool \[40\]"),
        (changed(seen=...), "damaged: it has no 'seen'"),
        (changed(round=1), "damaged: round 1 of 1, stopped: None"),
        (changed(round=0, stop_reason="done"), "damaged: round 0 of 1, stopped: done"),
    ],
)
def test_a_foreign_or_damaged_state_is_refused_and_changes_nothing(state, message):
    rounds = Rounds(COUNT, [2], labels=LABELS)
    before = rounds.state_dict()
    with pytest.raises(ValueError, match=message):
        rounds.load_state_dict(state)
    assert_same_state(before, rounds.state_dict())


def test_labels_come_back_with_the_state():
    rounds = Rounds(COUNT, [2])
    rounds.load_state_dict(Rounds(COUNT, [2], labels=LABELS).state_dict())
    assert torch.equal(rounds.labels, LABELS)


masks = st.lists(st.booleans(), min_size=COUNT, max_size=COUNT).map(torch.tensor)
steps = st.lists(st.tuples(masks, st.booleans()), min_size=1, max_size=5)


@settings(deadline=None, max_examples=100)
@given(
    steps=steps, reselect=st.sampled_from(["kept", "all"]), taking_part=masks, cut=st.integers(0, 4)
)
def test_laws_of_the_rounds(steps, reselect, taking_part, cut):
    """Whatever the selections say: never collapsed, nobody from outside, the same after a resume."""
    taking_part[:20] = True
    options = {"labels": LABELS, "reselect": reselect, "train_ids": taking_part}
    rounds, resumed = (Rounds(COUNT, [1] * len(steps), **options) for _ in range(2))
    classes = set(LABELS[taking_part].tolist())
    for number, (mask, supported) in enumerate(steps):
        if number == cut:
            resumed.load_state_dict(rounds.state_dict())
        before = rounds.state_dict()
        outcome = end(rounds, mask, supported=supported)
        if number >= cut:
            end(resumed, mask, supported=supported)
        assert not (rounds.kept & ~taking_part).any()
        assert torch.equal(rounds.round_dropped >= 0, taking_part & ~rounds.kept)
        assert int(rounds.kept.sum()) >= SMALLEST_KEPT_SHARE * int(outcome.watched.sum()) > 0
        assert set(LABELS[rounds.kept].tolist()) == classes
        if reselect == "kept":
            assert not (rounds.kept & ~before["kept"]).any()
        if outcome.refused is None:
            assert torch.equal(rounds.kept, mask & outcome.watched)
        else:
            assert torch.equal(rounds.kept, before["kept"])
        assert outcome.changed == int((before["kept"] ^ rounds.kept).sum())
        assert rounds.finished == (outcome.stop_reason is not None)
        if rounds.finished:
            break
    else:
        pytest.fail("the last round must end the rounds")
    if number >= cut:
        assert_same_state(rounds.state_dict(), resumed.state_dict())
