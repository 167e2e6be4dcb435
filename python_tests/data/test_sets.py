"""Data sets, the index-carrying wrapper, holdouts, and batches of both paths."""

import random

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from mild_ext.data import ArrayDataset, IndexedDataset, labels_of, stratified_holdout
from mild_ext.data.augment import augmentation, crop, flip
from mild_ext.data.batches import Batches, batch_ids
from mild_ext.data.sets import statistics_of


class Squares(Dataset):
    """Map-style, with random augmentation from all three generators."""

    def __init__(self, count=20):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        noise = random.random() + np.random.random() + float(torch.rand(()))  # noqa: NPY002
        return torch.tensor([float(index**2), noise]), index % 3


def test_indexed_dataset_gives_the_sample_id_and_the_given_label():
    plain = IndexedDataset(Squares())
    index, value, label = plain[4]
    assert (index, float(value[0]), label) == (4, 16.0, 1)
    relabeled = IndexedDataset(Squares(), labels=torch.full((20,), 7))
    assert int(relabeled[4][2]) == 7


def test_indexed_dataset_refuses_what_has_no_positions():
    class Stream(IterableDataset):
        def __iter__(self):
            yield 1, 2

    with pytest.raises(TypeError, match="map-style"):
        IndexedDataset(Stream())
    with pytest.raises(ValueError, match="length 20"):
        IndexedDataset(Squares(), labels=torch.zeros(3))


ROWS = [
    {"id": "b7", "text": [1, 2], "mask": [1, 1], "label": "dog"},
    {"id": "a3", "text": [3, 4], "mask": [1, 0], "label": "cat"},
]


def test_items_of_any_kind_are_taken_apart_where_it_is_said_what_is_what():
    data = IndexedDataset(ROWS, index="id", inputs="text", labels="label")
    assert [data[0], data[-1]] == [(0, [1, 2], 1), (1, [3, 4], 0)]
    assert (data.class_names, list(data.ids)) == (("cat", "dog"), ["b7", "a3"])
    assert data.position_of("a3") == 1
    several = IndexedDataset(ROWS, inputs=("text", "mask"), labels=[1, 0])
    assert several[1] == (1, {"text": [3, 4], "mask": [1, 0]}, 0)
    rest = IndexedDataset(ROWS, index="id", labels="label")
    assert rest[1] == (1, {"text": [3, 4], "mask": [1, 0]}, 0)
    triples = [(k, float(k), k % 2) for k in range(5)]
    with pytest.raises(TypeError, match=r"begins with its own position, .* inputs=1, labels=2"):
        IndexedDataset(triples)[3]
    assert IndexedDataset(triples, inputs=1, labels=2)[3] == (3, 3.0, 1)
    by_function = IndexedDataset(triples, inputs=lambda item: -item[1], labels=lambda item: 1)
    assert by_function[3] == (3, -3.0, 1)
    only_inputs = IndexedDataset([torch.ones(3), torch.zeros(3)], labels=torch.tensor([1, 0]))
    assert only_inputs[0][1].shape == (3,)
    assert labels_of(data).tolist() == [1, 0]
    again = IndexedDataset(data, labels=torch.tensor([0, 0]))
    assert again[0] == (0, [1, 2], 0)


class Growing(Squares):
    def __len__(self):
        self.count += 1
        return self.count


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: IndexedDataset(ROWS)[0],
            TypeError,
            "label of item 0 is the text 'dog'.*labels=KEY",
        ),
        (
            lambda: IndexedDataset(ROWS, labels="y"),
            TypeError,
            "labels='y' is not in an item, which is a mapping",
        ),
        (lambda: IndexedDataset([{"label": 0, "y": 1}])[0], TypeError, "both 'label' and 'y'"),
        (
            lambda: IndexedDataset([{"image": 0}])[0],
            TypeError,
            "none of label, labels.*keys: image",
        ),
        (lambda: IndexedDataset([torch.zeros(3)] * 2)[0], TypeError, "got a Tensor; say"),
        (lambda: IndexedDataset([(1, None)])[0], ValueError, "of item 0.* missing"),
        (lambda: IndexedDataset([(1, -1)])[0], ValueError, "missing"),
        (lambda: IndexedDataset([(1, 0.5)])[0], TypeError, "soft"),
        (lambda: IndexedDataset(ROWS, index=["a", "a"]), ValueError, "'a' occurs twice"),
        (lambda: IndexedDataset(ROWS, index=["a"]), ValueError, "index must have length 2, got 1"),
        (lambda: IndexedDataset(ROWS).position_of("a3"), KeyError, "have no ids"),
        (
            lambda: IndexedDataset(ROWS, index="id").position_of("x"),
            KeyError,
            "no sample has the id 'x'",
        ),
        (lambda: IndexedDataset({"train": ROWS}), TypeError, "of splits by name, give one"),
        (lambda: IndexedDataset(ROWS, labels=7.5), TypeError, "got float"),
        (lambda: IndexedDataset(Growing())[0], RuntimeError, "had 21 samples .* and has 22 now"),
        (lambda: labels_of(Growing()), RuntimeError, "grow or shrink cannot be tracked"),
        (lambda: IndexedDataset(ROWS)[2], IndexError, "index 2 of 2 samples"),
    ],
)
def test_items_that_do_not_say_what_they_are_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_labels_that_change_from_reading_to_reading_are_refused():
    class Drawn(Squares):
        def __getitem__(self, index):
            return torch.zeros(2), random.randrange(1000)

    with pytest.raises(ValueError, match="have another label when they are read again"):
        labels_of(Drawn())


class Table(Dataset):
    """Items (input, label, ...), as they are given."""

    def __init__(self, *columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, index):
        return torch.zeros(2), *(column[index] for column in self.columns)


TRUE, NOISY = [k % 3 for k in range(60)], [(k + (k % 5 == 0)) % 3 for k in range(60)]


@pytest.mark.parametrize(
    "dataset",
    [
        Table(TRUE, NOISY),
        TensorDataset(torch.zeros(60, 2), torch.tensor(TRUE), torch.tensor(NOISY)),
        [{"x": 1, "label": a, "noisy_label": b} for a, b in zip(TRUE, NOISY, strict=True)],
        [{"x": 1, "targets": a, "clean_targets": b} for a, b in zip(TRUE, NOISY, strict=True)],
    ],
)
def test_items_with_two_labels_are_refused_until_it_is_said_which_counts(dataset):
    with pytest.raises(TypeError, match="say which"):
        labels_of(dataset)
    where = {"noisy_label", "clean_targets"} & set(dataset[0]) if isinstance(dataset, list) else {2}
    assert labels_of(IndexedDataset(dataset, labels=where.pop())).tolist() == NOISY


@pytest.mark.parametrize(
    "more",
    [
        list(range(60)),  # its own number
        [10 * k for k in range(60)],  # an id
        TRUE,  # the label once more
        [1] * 60,
        [k / 60 for k in range(60)],  # a weight
        ["a"] * 60,
    ],
)
def test_other_entries_of_an_item_are_no_labels(more):
    assert labels_of(Table(TRUE, more)).tolist() == TRUE


def test_a_label_that_changes_after_the_first_reading_is_refused():
    class Mended(Table):
        def __init__(self, labels):
            super().__init__(labels)
            self.read = set()

        def __getitem__(self, index):
            first = index not in self.read
            self.read.add(index)
            return torch.zeros(2), (NOISY if first else TRUE)[index]

    dataset = Mended(TRUE)
    dataset.targets = TRUE
    with pytest.raises(ValueError, match="have another label when they are read again"):
        labels_of(dataset)

    class Renamed(Table):  # numbered alike, as often as they are looked at alone
        times = 0

        def __getitem__(self, index):
            Renamed.times += 1
            return torch.zeros(2), "a" if Renamed.times <= 60 else "b"

    with pytest.raises(ValueError, match="have another label when they are read again"):
        labels_of(Renamed(TRUE))


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (Subset(Table(TRUE), [k % 2 == 0 for k in range(60)]), TypeError, r"mask.nonzero\(\)"),
        (Subset(Table(TRUE), [0.0, 1.0]), TypeError, "float32, not whole numbers"),
        (Subset(Table(TRUE), [0, 99]), ValueError, "indices 0 to 99 of a whole of 60"),
        (Subset(Subset(Table(TRUE), [0, 1, 77]), [0]), ValueError, "the whole of dataset .* 77"),
        (None, ValueError, None),
        (pd.DataFrame({"x": [1, 2], "label": [0, 1]}), TypeError, r'frame.to_dict\("records"\)'),
    ],
)
def test_what_is_no_data_set_says_what_to_give(dataset, error, message):
    if message is None:  # a length that is not true

        class Longer(Table):
            def __len__(self):
                return 70

        dataset, message = Longer(TRUE), "says that it has 70 samples, but reading item 60"
    with pytest.raises(error, match=message):
        labels_of(dataset)


def test_an_attribute_that_cannot_be_read_is_not_needed():
    class Lazy(Table):
        @property
        def labels(self):
            raise RuntimeError("not loaded")

    with pytest.warns(UserWarning, match=r"they cannot be read: RuntimeError: not loaded"):
        assert labels_of(Lazy(NOISY)).tolist() == NOISY


def test_labels_of_a_subset_are_those_of_the_whole():
    whole = Squares(9)
    whole.targets = [k % 3 for k in range(9)]
    assert labels_of(Subset(whole, [8, 1, 4])).tolist() == [2, 1, 1]
    whole.targets = np.zeros(9)
    with pytest.warns(UserWarning, match="another label than .targets of the whole says"):
        assert labels_of(Subset(whole, [8, 1, 4])).tolist() == [2, 1, 1]


@pytest.mark.parametrize(
    ("targets", "note"),
    [
        (torch.nn.functional.one_hot(torch.arange(20) % 3), "one-hot"),
        (["a"] * 20, "20 of 20 items"),
        ([0] * 7, "7 for 20 samples"),
    ],
)
def test_an_attribute_that_is_not_the_labels_is_not_believed(targets, note):
    dataset = Squares()
    dataset.targets = targets
    with pytest.warns(UserWarning, match=note):
        assert labels_of(dataset).tolist() == [k % 3 for k in range(20)]


def test_array_dataset_checks_its_labels():
    with pytest.raises(TypeError, match="soft labels"):
        ArrayDataset(torch.zeros(3, 2), torch.full((3,), 0.5))
    with pytest.raises(ValueError, match=r"missing for 1 of 3 samples \(row 1: -1\)"):
        ArrayDataset(torch.zeros(3, 2), torch.tensor([0, -1, 1]))
    text = ArrayDataset(torch.zeros(3, 2), ["b", "a", "b"])
    assert (text.labels.tolist(), text.class_names) == ([1, 0, 1], ("a", "b"))
    with pytest.raises(ValueError, match="agree"):
        ArrayDataset(torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64))


def test_labels_of_reads_an_attribute_or_every_item():
    assert labels_of(Squares(4)).tolist() == [0, 1, 2, 0]
    dataset = Squares(4)
    dataset.targets = [0, 1, 2, 0]
    assert labels_of(dataset).tolist() == [0, 1, 2, 0]
    dataset.targets = [2, 2, 2, 2]
    with pytest.warns(UserWarning, match="3 of 4 items .* another label than .targets"):
        assert labels_of(dataset).tolist() == [0, 1, 2, 0]


def test_holdout_takes_a_share_of_every_class_but_never_all():
    labels = torch.tensor([0] * 100 + [1] * 10 + [2])
    held = stratified_holdout(labels, 0.9, seed=0)
    assert [int(held[labels == k].sum()) for k in range(3)] == [90, 9, 0]
    assert torch.equal(held, stratified_holdout(labels, 0.9, seed=0))
    with pytest.raises(ValueError, match="fraction"):
        stratified_holdout(labels, 1.0, seed=0)


def test_statistics_leave_a_constant_feature_at_zero():
    values = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    mean, std = statistics_of(values, "vector")
    assert mean.tolist() == [2.0, 5.0]
    assert torch.isfinite((values - mean) / std).all()
    mean, std = statistics_of(torch.full((4, 3, 2, 2), 7, dtype=torch.uint8), "image")
    assert mean.tolist() == [7, 7, 7]
    assert std.tolist() == [1, 1, 1]


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 21])
def test_every_sample_comes_once_and_no_batch_of_one_is_left(count):
    batches = batch_ids(torch.arange(count), 10, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(batches).tolist()) == list(range(count))
    if count > 1:
        assert min(len(batch) for batch in batches) > 1


def test_both_paths_give_the_same_batches():
    inputs, labels = torch.randn(30, 4), torch.arange(30) % 3
    arrays = ArrayDataset(inputs, labels)

    class Plain(Dataset):
        def __len__(self):
            return 30

        def __getitem__(self, index):
            return inputs[index], int(labels[index])

    ids = torch.arange(1, 30, 2)
    options = {"labels": labels + 1, "ids": ids, "batch_size": 4, "shuffle": True}
    for seed in (1, 2):
        fast = list(Batches(arrays, **options).epoch(seed))
        slow = list(Batches(Plain(), **options).epoch(seed))
        assert len(fast) == len(slow) == len(Batches(arrays, **options))
        for (i, x, y), (j, u, v) in zip(fast, slow, strict=True):
            assert torch.equal(i, j)
            assert torch.equal(x, u)
            assert torch.equal(y, v)
            assert torch.equal(x, inputs[i])
            assert torch.equal(y, labels[i] + 1)


def test_random_augmentation_does_not_depend_on_the_number_of_workers():
    def noise(workers):
        batches = Batches(Squares(), batch_size=5, shuffle=True, workers=workers)
        return [torch.cat([x for _, x, _ in batches.epoch(seed)]) for seed in (1, 2)]

    without, with_workers = noise(0), noise(2)
    assert torch.equal(without[0], with_workers[0])
    assert torch.equal(without[1], with_workers[1])
    assert not torch.equal(without[0][:, 1], without[1][:, 1])


def test_no_samples_is_an_error():
    with pytest.raises(ValueError, match="no samples"):
        Batches(Squares(), ids=torch.tensor([], dtype=torch.int64))


def test_crop_shifts_and_flip_mirrors():
    images = torch.arange(2 * 3 * 6 * 6, dtype=torch.uint8).view(2, 3, 6, 6) + 1
    generator = torch.Generator().manual_seed(0)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    cropped = crop(images, generator, padding=2)
    for original, result in zip(padded, cropped, strict=True):
        places = [
            torch.equal(original[:, r : r + 6, c : c + 6], result)
            for r in range(5)
            for c in range(5)
        ]
        assert sum(places) == 1
    mirrored = flip(images.repeat(20, 1, 1, 1), generator)
    kept = [torch.equal(m, images[k % 2]) for k, m in enumerate(mirrored)]
    flipped = [torch.equal(m, images[k % 2].flip(2)) for k, m in enumerate(mirrored)]
    assert all(a != b for a, b in zip(kept, flipped, strict=True))
    assert 5 < sum(kept) < 35


def test_automatic_augmentation_never_mirrors_digits_or_moves_vectors():
    assert augmentation("auto", (3, 32, 32)) is not None
    assert augmentation("auto", (1, 28, 28)) is None
    assert augmentation("auto", (64,)) is None
    with pytest.raises(ValueError, match="needs images"):
        augmentation("crop", (64,))


def test_inputs_that_are_dicts_are_moved_piece_by_piece():
    class Tokens(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return {"ids": torch.full((2,), index), "pair": (torch.tensor(index), "text")}, 0

    ((_, inputs, _),) = Batches(Tokens(), batch_size=4, device="meta").epoch()
    assert inputs["ids"].device.type == "meta"
    assert inputs["pair"][0].device.type == "meta"
    assert inputs["pair"][1] == ("text",) * 4 or inputs["pair"][1] == ["text"] * 4
