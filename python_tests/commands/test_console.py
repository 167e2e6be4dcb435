"""What is printed: no figures of a choice that was none, and no words that nobody has explained."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mild_ext.commands.console import RoundsTable, most_suspicious, what_was_learned
from mild_ext.data.sets import array_data
from mild_ext.report.verdict import Verdict
from mild_ext.training.recipe import Recipe
from mild_ext.training.suspects import Suspect


def printed(records, **settings):
    labels = torch.arange(20) % 2
    data = array_data("d", torch.rand(20, 3), labels, ["a", "b"], true_labels=labels)
    lines: list[str] = []
    table = RoundsTable(lines.append, data, Recipe(method="mild-rounds").override(settings))
    for record in records:
        table(record)
    return lines


def record(number, kept, trained_on=20):
    return {
        "type": "round", "round": number, "epochs": 3, "trained_on": trained_on, "kept": kept,
        "noise_removed": 0.5, "precision": 0.9, "recall": 0.8, "f1": 0.85,
    }  # fmt: skip


@pytest.mark.parametrize("kept", [20, 18])
def test_where_nothing_was_dropped_no_choice_was_good_or_bad(kept):
    title, header, line = printed([record(0, kept)], rounds=1)
    assert title.startswith("Held against the true labels")
    assert "round" not in header
    shown = line.split()[3:]
    assert shown == (["-"] * 4 if kept == 20 else ["50.0%", "90.0%", "80.0%", "85.0%"])


def test_a_later_round_that_drops_no_more_has_its_figures():
    lines = printed([record(0, 18), record(1, 18, trained_on=18)], rounds=3)
    assert lines[1].split()[0] == "round"
    assert [line.split()[0] for line in lines[2:]] == ["0", "1"]
    assert lines[3].split()[4:] == ["50.0%", "90.0%", "80.0%", "85.0%"]


def test_of_a_single_training_without_the_truth_there_is_nothing_to_tell():
    data = array_data("d", torch.rand(4, 3), torch.arange(4) % 2, ["a", "b"])
    lines: list[str] = []
    RoundsTable(lines.append, data, Recipe(method="mild-rounds", rounds=1))(record(0, 3))
    assert lines == []


@pytest.mark.parametrize("kind", ["found", "unknown"])
def test_where_it_cannot_be_told_what_is_wrong_no_suggestion_is_called_sure(kind):
    suspect = Suspect("cat/3.png", "cat", "dog", 0.97, 2.5, True)
    text = most_suspicious([suspect], Verdict(kind, []))
    assert "cat/3.png" in text
    assert ("97%" in text) == (kind == "found")
    assert ("order means little" in text) == (kind == "unknown")


@pytest.mark.parametrize(("learned", "advice"), [(1.0, False), (0.7, True)])
def test_who_has_learned_all_is_not_told_to_learn_more(learned, advice):
    text = what_was_learned(SimpleNamespace(rounds=[{"learned": learned}]))
    assert ("--first-epochs" in text) == advice
