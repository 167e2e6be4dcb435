"""Planted labels: how many, whose, which, and that nothing of the given labels is lost."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mild_ext.selection.planted import MAX_SHARE, MIN_PLANTED, PlantedLabels, plant_labels


@settings(max_examples=50)
@given(
    sizes=st.lists(st.integers(0, 400), min_size=2, max_size=6),
    share=st.floats(0.001, 0.1),
    seed=st.integers(0, 5),
)
def test_a_part_of_every_class_gets_another_label_and_the_rest_stays(sizes, share, seed):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    if max(sizes) < 10:
        return
    planted = plant_labels(labels, share, num_classes=len(sizes), seed=seed)
    again = plant_labels(labels, share, num_classes=len(sizes), seed=seed)
    assert torch.equal(planted.labels, again.labels)
    assert torch.equal(planted.given, labels)
    assert torch.equal(planted.labels != labels, planted.mask)
    assert int(planted.mask.sum()) == len(planted) > 0
    numbers = torch.bincount(labels[planted.mask], minlength=len(sizes))
    room = (torch.tensor(sizes) * MAX_SHARE).long()
    assert bool((numbers <= room).all())
    wanted = max(MIN_PLANTED, round(share * len(labels)))
    assert len(planted) == min(wanted, int(room.sum()))


def test_classes_are_planted_in_proportion():
    labels = torch.arange(2).repeat_interleave(torch.tensor([9000, 1000]))
    numbers = torch.bincount(labels[plant_labels(labels).mask])
    assert numbers.tolist() == [450, 50]


def test_wrong_labels_follow_a_transition_matrix():
    labels = torch.arange(20_000) % 4
    flow = torch.zeros(4, 4)
    flow[0, 1], flow[1, 2], flow[1, 3], flow[2, 2] = 5, 1, 3, 7  # class 3 is never mistaken
    planted = plant_labels(labels, 0.1, transition=flow)
    seen = torch.zeros(4, 4)
    seen.index_put_(
        (planted.withheld, planted.labels[planted.index]), torch.ones(len(planted)), True
    )
    share = seen / seen.sum(1, keepdim=True)
    assert share[0].tolist() == [0, 1, 0, 0]
    assert share[1, 3] == pytest.approx(0.75, abs=0.06)
    for k in (2, 3):  # no wrong label known: any other class
        assert share[k, k] == 0
        assert share[k].tolist() == pytest.approx(
            [1 / 3 if j != k else 0 for j in range(4)], abs=0.07
        )


def test_they_are_saved_and_loaded(tmp_path):
    planted = plant_labels(torch.arange(1500) % 7, seed=3)
    planted.save(tmp_path / "planted.safetensors")
    loaded = PlantedLabels.load(tmp_path / "planted.safetensors")
    for name in ("labels", "index", "withheld"):
        assert torch.equal(getattr(loaded, name), getattr(planted, name))
    (tmp_path / "other").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged"):
        PlantedLabels.load(tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        PlantedLabels.load(tmp_path / "none")


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (([0, 1], [0], [0]), ValueError, "must differ from the one withheld"),
        (([0, 1], [2], [1]), ValueError, r"index must lie in \[0, 2\)"),
        (([0, 1, 1], [1, 1], [0, 0]), ValueError, "names a sample twice"),
        (([0, 1], [0], [1, 0]), ValueError, "one entry for each planted sample"),
        (([0.0, 1.0], [0], [1]), TypeError, "labels must be an int64 tensor"),
        (([[0, 1]], [0], [1]), ValueError, "labels must have one dimension"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, error, message):
    with pytest.raises(error, match=message):
        PlantedLabels(*(torch.tensor(field) for field in fields))


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        (torch.zeros(200).long(), {}, ValueError, "at least two classes"),
        (torch.arange(200) % 2, {"share": 0.2}, ValueError, r"share must lie in \(0, 0.1\]"),
        (torch.arange(200) % 2, {"share": 0.0}, ValueError, "share must lie"),
        (torch.arange(200) % 3, {"num_classes": 2}, ValueError, "got 0 to 2"),
        (torch.arange(200) % 2 - 1, {}, ValueError, r"missing for 100 of 200 samples \(row 0: -1"),
        (torch.rand(200), {}, TypeError, "labels must be integers"),
        (torch.arange(8) % 2, {}, ValueError, "no class can spare a sample"),
        (torch.arange(200) % 2, {"transition": torch.ones(3, 3)}, ValueError, r"shape \[2, 2\]"),
        (torch.arange(200) % 2, {"transition": -torch.ones(2, 2)}, ValueError, "not negative"),
    ],
)
def test_what_cannot_be_planted_is_refused(labels, options, error, message):
    with pytest.raises(error, match=message):
        plant_labels(labels, **options)
