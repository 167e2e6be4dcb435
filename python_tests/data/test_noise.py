"""Label noise: rates, conventions, seeds, files."""

import numpy as np
import pytest
import torch

from mild_ext.data import ArrayDataset, corrupt_labels
from mild_ext.data.noise import small_inputs

CIFAR10_MAP = [0, 1, 0, 5, 7, 3, 6, 7, 8, 1]
LABELS = torch.arange(10).repeat(2000)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("none", 0.0),
        ("symmetric:0", 0.0),
        ("symmetric:0.5", 0.45),  # R (1 - 1/K)
        ("symmetric:1", 0.9),
        ("symmetric-other:0.5", 0.5),
        ("symmetric-other:1", 1.0),
        ("next:0.3", 0.3),
        ("asymmetric:0.4", 0.2),  # half of CIFAR-10's classes have a look-alike
    ],
)
def test_rate_follows_the_convention(spec, expected):
    noise = corrupt_labels(LABELS, spec, 10, seed=3, class_map=CIFAR10_MAP)
    deviation = 4 * np.sqrt(0.25 / len(LABELS))
    assert noise.rate == pytest.approx(expected, abs=deviation if 0 < expected < 1 else 0)
    assert noise.rate == float((noise.labels != LABELS).double().mean())
    assert noise.labels.dtype == torch.int64
    assert noise.labels.min() >= 0
    assert noise.labels.max() <= 9


def test_same_seed_same_labels_other_seed_other_labels():
    first, again, other = (corrupt_labels(LABELS, "symmetric:0.5", 10, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)


def test_asymmetric_moves_only_along_the_map_and_reports_rates_per_class():
    noise = corrupt_labels(LABELS, "asymmetric:0.4", 10, seed=0, class_map=CIFAR10_MAP)
    targets = torch.tensor(CIFAR10_MAP)[LABELS]
    moved = noise.labels != LABELS
    assert torch.equal(noise.labels[moved], targets[moved])
    assert noise.class_rates[0] == 0  # airplane has no look-alike
    assert noise.class_rates[9] == pytest.approx(0.4, abs=0.05)


def test_asymmetric_without_a_map_is_the_next_class():
    noise = corrupt_labels(LABELS, "asymmetric:1", 10)
    assert torch.equal(noise.labels, (LABELS + 1) % 10)


def test_matrix_gives_its_transition_probabilities(tmp_path):
    matrix = np.array([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]])
    np.save(tmp_path / "t.npy", matrix)
    np.savetxt(tmp_path / "t.csv", matrix, delimiter=",")
    labels = torch.arange(3).repeat(20_000)
    noise = corrupt_labels(labels, f"matrix:{tmp_path / 't.npy'}", 3, seed=0)
    counts = torch.bincount(labels * 3 + noise.labels, minlength=9).view(3, 3) / 20_000
    assert torch.allclose(counts, torch.tensor(matrix).float(), atol=0.02)
    text = corrupt_labels(labels, f"matrix:{tmp_path / 't.csv'}", 3, seed=0)
    assert torch.equal(text.labels, noise.labels)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_a_matrix_can_be_handed_over(tmp_path, kind):
    rows = [[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]]
    np.save(tmp_path / "t.npy", np.array(rows))
    labels = torch.arange(3).repeat(1000)
    read = corrupt_labels(labels, f"matrix:{tmp_path / 't.npy'}", 3, seed=2)
    given = corrupt_labels(labels, kind(rows), 3, seed=2)
    assert torch.equal(given.labels, read.labels)
    assert given.spec == "matrix"
    with pytest.raises(ValueError, match="the matrix must hold 4 x 4 numbers"):
        corrupt_labels(labels, kind(rows), 4)
    with pytest.raises(ValueError, match="every row of the matrix must sum to 1"):
        corrupt_labels(labels, kind(rows) * 2, 3)


@pytest.mark.parametrize("spec", [0.4, None, [[1.0]], np.array([["a"]]), b"symmetric:0.4"])
def test_what_is_no_noise_is_a_type_error(spec):
    with pytest.raises(TypeError, match=r"noise must be text like .* or an array or tensor"):
        corrupt_labels(LABELS, spec, 10)


def test_instance_noise_depends_on_the_instance_and_has_the_mean_rate():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4000, 20, generator=generator)
    labels = torch.arange(4).repeat(1000)
    noise = corrupt_labels(labels, "instance:0.3", 4, seed=0, inputs=inputs)
    assert noise.rate == pytest.approx(0.3, abs=0.03)
    # Where an input goes follows its own scores: copies of one input share their favourite class.
    copies = 3 * inputs[torch.arange(2).repeat(2000)]
    same = corrupt_labels(labels * 0, "instance:0.5", 4, seed=0, inputs=copies)
    even, odd = (same.labels[k::2][same.labels[k::2] != 0].bincount(minlength=4) for k in (0, 1))
    assert (even / even.sum() - odd / odd.sum()).abs().max() > 0.2
    assert torch.equal(
        corrupt_labels(labels, "instance:0.3", 4, seed=0, inputs=inputs).labels, noise.labels
    )


def test_labels_from_a_file(tmp_path):
    (tmp_path / "y.txt").write_text("1\n0\n2\n")
    noise = corrupt_labels(torch.tensor([1, 1, 2]), f"labels:{tmp_path / 'y.txt'}", 3)
    assert noise.labels.tolist() == [1, 0, 2]
    assert noise.seed is None
    assert noise.rate == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("symmetric", "KIND:RATE"),
        ("symetric:0.5", "KIND:RATE"),
        ("symmetric:1.5", r"\[0, 1\]"),
        ("symmetric:nan", r"\[0, 1\]"),
        ("symmetric:half", r"\[0, 1\]"),
        ("none:0.1", "KIND:RATE"),
        ("matrix:/nowhere.npy", "no file"),
        ("instance:0.5", "inputs"),
    ],
)
def test_wrong_specifications_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        corrupt_labels(LABELS, spec, 10)


def test_matrix_that_is_no_matrix_of_probabilities_is_refused(tmp_path):
    for matrix, message in (
        (np.ones((2, 2)), "sum to 1"),
        (np.array([[1.5, -0.5], [0, 1]]), "negative"),
        (np.eye(3), "2 x 2"),
    ):
        np.save(tmp_path / "t.npy", matrix)
        with pytest.raises(ValueError, match=message):
            corrupt_labels(torch.tensor([0, 1]), f"matrix:{tmp_path / 't.npy'}", 2)


def test_labels_file_with_a_class_out_of_range_is_refused(tmp_path):
    np.save(tmp_path / "y.npy", np.array([0, 3]))
    with pytest.raises(ValueError, match=r"must lie in \[0, 2\).* got 0 to 3"):
        corrupt_labels(torch.tensor([0, 1]), f"labels:{tmp_path / 'y.npy'}", 2)


@pytest.mark.parametrize("kind", ["symmetric", "symmetric-other", "next", "asymmetric"])
def test_one_class_stays_one_class(kind):
    noise = corrupt_labels(torch.zeros(5, dtype=torch.int64), f"{kind}:1", 1)
    assert noise.rate == 0


def test_superclass_noise_stays_inside_and_needs_superclasses():
    superclasses = [0, 1, 0, 1, 0, 2]
    labels = torch.arange(6)
    noise = corrupt_labels(labels, "superclass:1", 6, superclasses=superclasses)
    assert noise.labels.tolist() == [2, 3, 4, 1, 0, 5]  # class 5 is alone
    with pytest.raises(ValueError, match="no superclasses"):
        corrupt_labels(labels, "superclass:1", 6)


def test_instance_noise_of_rate_zero_changes_nothing():
    noise = corrupt_labels(LABELS, "instance:0", 10, inputs=torch.randn(len(LABELS), 3))
    assert noise.rate == 0


def test_instance_noise_does_not_depend_on_the_scale_of_the_inputs():
    inputs = torch.randint(0, 256, (10_000, 3, 4, 4), dtype=torch.uint8)
    labels = torch.arange(10).repeat(1000)
    first = corrupt_labels(labels, "instance:0.4", 10, seed=1, inputs=inputs)
    again = corrupt_labels(labels, "instance:0.4", 10, seed=1, inputs=inputs.double() / 255 - 3)
    assert (first.labels == again.labels).double().mean() > 0.999
    assert first.rate == pytest.approx(0.4, abs=0.02)


def test_small_inputs_averages_images_that_are_read_from_disk():
    class Slow(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return torch.full((3, 40, 30), 10 * index, dtype=torch.uint8), 0

    inputs = small_inputs(Slow())
    assert inputs.shape == (3, 3, 16, 16)
    assert inputs[2].unique().tolist() == [20]
    arrays = ArrayDataset(torch.zeros(2, 5), torch.zeros(2).long())
    assert small_inputs(arrays) is arrays.inputs
