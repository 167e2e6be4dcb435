"""Planted labels in the rounds: drawn among those watched, given back, told to the selection, kept in the state."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mild_ext import PlantedLabels, plant_labels
from mild_ext.rounds import Rounds
from mild_ext.rounds.planting import RoundPlanting
from mild_ext.selection import planted as planted_module
from mild_ext.training import recipe

COUNT, CLASSES = 400, 4
LABELS = torch.arange(COUNT) % CLASSES
ALL = torch.ones(COUNT, dtype=torch.bool)


def make(epochs=(2, 2, 1), **options):
    return Rounds(COUNT, epochs, **{"labels": LABELS, "plant": 0.05, "min_removed": 0} | options)


def record(rounds, labels=None, *, say=LABELS):
    """A status of the current round whose model always says ``say``."""
    status = rounds.new_status()
    ids = rounds.watched.nonzero().flatten()
    labels = rounds.training_labels if labels is None else labels
    for _ in range(status.num_epochs):
        status.update(ids, torch.eye(CLASSES)[say[ids]], labels[ids])
        status.advance()
    return status


def verdict(mask=ALL, **more):
    fields = {"clean_probability": mask.float(), "supported": True, "reason": ""} | more
    return SimpleNamespace(mask=mask, **fields)


def test_a_round_plants_among_the_samples_it_watches_and_gives_the_labels_back():
    rounds = make()
    shared = rounds.training_labels
    assert shared.is_shared()
    half = ALL & (torch.arange(COUNT) >= COUNT // 2)
    seen = []
    while not rounds.finished:
        planted = rounds.planted
        assert not (planted.mask & ~rounds.watched).any()
        assert torch.equal(planted.given, LABELS)
        assert torch.equal(rounds.training_labels, planted.labels)
        seen.append(planted)
        outcome = rounds.end_round(record(rounds), verdict(half))
        assert outcome.planted is planted
        assert outcome.planting_note is None
    assert [len(planted) for planted in seen] == [40, 20, 20]  # a tenth: 100 are more
    assert not torch.equal(seen[1].index, seen[2].index), "each round has a draw of its own"
    assert rounds.planted is None
    assert rounds.training_labels is shared, "one tensor from the first round to the last"
    assert torch.equal(shared, LABELS)
    assert torch.equal(rounds.labels, LABELS)


def test_without_planting_the_given_labels_are_trained_on_and_no_classes_recorded():
    rounds = make(plant=0.0)
    assert rounds.training_labels is rounds.labels
    assert rounds.planted is None
    assert rounds.new_status().record == "status"


def test_the_selection_gets_given_and_planted_labels():
    heard = {}

    def select(status, *, labels, planted):
        heard.update(labels=labels, planted=planted, record=status.record)
        return verdict()

    rounds = make(select=select)
    expected = rounds.planted
    rounds.end_round(status := record(rounds), rounds.select(status))
    assert torch.equal(heard["labels"], LABELS)
    assert heard["planted"] is expected
    assert heard["record"] == "classes"


def test_evidence_of_planted_samples_is_against_their_given_labels():
    rounds = make((3,))
    mask = rounds.planted.mask
    outcome = rounds.end_round(
        record(rounds), verdict(suspicion=mask.float(), suggested_label=LABELS + 1)
    )
    assert (rounds.misclassified[outcome.planted.mask] == 0).all(), "the model says the given label"
    assert (rounds.misclassified == 0).all()
    assert (rounds.seen == 3).all()
    assert torch.equal(rounds.suspicion, mask.float())
    assert torch.equal(rounds.suggested_label, LABELS + 1)
    assert (rounds.suggestion_confidence == 0).all()


def test_every_round_plants_evenly_whatever_confusions_were_found():
    transition = torch.roll(torch.eye(CLASSES, dtype=torch.float64), 1, dims=1)
    rounds = make((1, 1, 1))
    while not rounds.finished:
        now = rounds.planted
        assert ((now.labels - LABELS)[now.index] % CLASSES).unique().tolist() == [1, 2, 3]
        rounds.end_round(record(rounds), verdict(transition=transition))


def test_where_the_dropped_are_watched_planted_samples_are_held_out_like_them():
    rounds = make((1, 1), reselect="all")
    assert torch.equal(rounds.learned, ALL), "in the first round all are learned"
    kept = torch.arange(COUNT) // CLASSES % 2 == 0  # of every class
    rounds.end_round(record(rounds), verdict(kept))
    assert torch.equal(rounds.kept, kept)
    assert (rounds.planted.mask & ~kept).any()
    assert torch.equal(rounds.learned, kept & ~rounds.planted.mask)
    rounds.end_round(record(rounds), verdict(kept))
    assert torch.equal(rounds.learned, kept)
    narrow = make((1, 1))
    narrow.end_round(record(narrow), verdict(kept))
    assert torch.equal(narrow.learned, kept), "a dropped sample that is not watched has no say"


def test_batches_with_other_labels_are_noticed():
    rounds = make()
    message = r"40 of the 40 planted samples were trained on other labels(.*)IndexedDataset"
    with pytest.raises(ValueError, match=message):
        rounds.select(record(rounds, LABELS))


@pytest.mark.parametrize("at", [0, 1])
def test_a_resumed_round_has_the_same_planted_labels_in_the_same_tensor(at):
    def at_round(rounds):
        for _ in range(at):
            found = torch.rand(CLASSES, CLASSES, generator=torch.Generator().manual_seed(0))
            rounds.end_round(record(rounds), verdict(transition=found))
        return rounds

    before = at_round(make())
    other = make()
    shared = other.training_labels
    other.load_state_dict(before.state_dict())
    for rounds in (before, other, before.copy()):
        for _ in range(3 - at):
            if not rounds.finished and rounds is not before:
                assert torch.equal(rounds.planted.index, before.planted.index)
                assert torch.equal(rounds.training_labels, before.training_labels)
    assert other.training_labels is shared
    for rounds in (before, other):
        rounds.end_round(record(rounds), verdict())
    if not before.finished:
        assert torch.equal(other.planted.labels, before.planted.labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plant": 0.06}, "must be of plant 0.06, got 0.05"),
        ({"plant_seed": 1}, "must be of plant_seed 1, got 0"),
        ({"num_classes": 5}, "must be of num_classes 5, got 4"),
        ({"plant": 0.0}, "must be of plant 0.0, got 0.05"),
    ],
)
def test_a_state_of_other_settings_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options).load_state_dict(make().state_dict())


def test_a_damaged_state_is_refused():
    state = make().state_dict()
    state["planting"]["labels"] = LABELS[state["planting"]["index"]]
    with pytest.raises(
        ValueError, match="damaged: its planted labels: a planted label must differ"
    ):
        make().load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": None}, "needs labels=, the given labels of all samples, but 0 of 400"),
        ({"labels": LABELS.where(LABELS > 0, -1)}, "but 300 of 400 are known"),
        ({"num_classes": 3}, r"labels must lie in \[0, num_classes\) = \[0, 3\), got 3"),
        ({"labels": torch.zeros(COUNT, dtype=torch.int64)}, "at least two classes"),
        ({"labels": torch.arange(COUNT)}, "no class can spare a sample"),
        ({"train_ids": torch.arange(60)}, "at least 10 samples must be planted"),
    ],
)
def test_what_cannot_be_planted_is_an_error_or_a_note(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
    rounds = make(**options, plant_required=False)
    assert rounds.planted is None
    assert rounds.new_status().record == "status"
    if rounds.labels is not None and bool((rounds.labels >= 0).all()):
        assert torch.equal(rounds.training_labels, rounds.labels)


def test_a_note_says_why_nothing_was_planted():
    rounds = make(labels=torch.arange(COUNT) // 5, plant_required=False)
    outcome = rounds.end_round(record(make(plant=0.0)), verdict())
    assert outcome.planted is None
    assert outcome.planting_note.startswith("nothing was planted in round 0: no class can spare")


def test_a_later_round_that_is_too_small_plants_nothing_and_goes_on():
    rounds = make((1, 1))
    rounds.end_round(record(rounds), verdict(torch.arange(COUNT) < 60))
    assert rounds.planted is None
    outcome = rounds.end_round(record(rounds), verdict())
    assert "nothing was planted in round 1: at least 10" in outcome.planting_note


@pytest.mark.parametrize("share", [-0.1, 0.11, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=r"plant must lie in \[0, 0.1\]"):
        RoundPlanting(COUNT, share)


def test_the_recipes_limit_is_that_of_planting():
    assert recipe.MAX_PLANT == planted_module.MAX_SHARE
    assert isinstance(plant_labels(LABELS, recipe.DEFAULT_PLANT), PlantedLabels)
