"""Data sources: digits and a user's arrays."""

import numpy as np
import pytest
import torch

from mild_ext.data import load_data


def write(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


@pytest.fixture
def vectors():
    generator = np.random.default_rng(0)
    return {
        "x_train": generator.normal(size=(12, 5)),
        "y_train": np.arange(12) % 3,
    }


def test_digits_split_is_fixed_and_stratified():
    pytest.importorskip("sklearn")
    data, again = load_data("digits"), load_data("digits")
    assert len(data) + len(data.test) == 1797
    assert data.num_classes == 10
    assert torch.equal(data.train.inputs, again.train.inputs)
    share = torch.bincount(data.test.labels) / (
        torch.bincount(data.test.labels) + torch.bincount(data.labels)
    )
    assert torch.allclose(share, torch.full((10,), 0.25), atol=0.01)


def test_npz_vectors(tmp_path, vectors):
    data = load_data(write(tmp_path / "a.npz", **vectors))
    assert data.name == "a"
    assert data.kind == "vector"
    assert data.train.inputs.dtype == torch.float32
    assert data.labels.tolist() == vectors["y_train"].tolist()
    assert data.test is None
    assert data.true_labels is None


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((6, 8, 9), (1, 8, 9)), ((6, 8, 9, 3), (3, 8, 9)), ((6, 3, 8, 9), (3, 8, 9))],
)
def test_npz_images_become_channels_first_and_stay_uint8(tmp_path, shape, expected):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = load_data(write(tmp_path / "a.npz", x_train=images, y_train=np.arange(6) % 2))
    assert data.input_shape == expected
    assert data.train.inputs.dtype == torch.uint8
    assert data.train.inputs.sum() == images.sum()


def test_npz_text_and_gappy_labels_are_numbered_over_all_splits(tmp_path, vectors):
    vectors["y_train"] = np.array(["cat", "dog"] * 6)
    vectors |= {
        "y_true": np.array(["dog"] * 12),
        "x_test": np.zeros((2, 5)),
        "y_test": ["ant", "dog"],
    }
    data = load_data(write(tmp_path / "a.npz", **vectors))
    assert data.class_names == ["ant", "cat", "dog"]
    assert data.labels.tolist() == [1, 2] * 6
    assert data.true_labels.tolist() == [2] * 12
    assert data.test.labels.tolist() == [0, 2]


def test_npz_class_names(tmp_path, vectors):
    names = np.array(["a", "b", "c", "never seen"])
    data = load_data(write(tmp_path / "a.npz", **vectors, class_names=names))
    assert data.num_classes == 4
    assert data.labels.tolist() == vectors["y_train"].tolist()
    with pytest.raises(ValueError, match="class_names has 2"):
        load_data(write(tmp_path / "b.npz", **vectors, class_names=names[:2]))


def test_test_fraction_sets_samples_aside(tmp_path, vectors):
    spec = write(tmp_path / "a.npz", **vectors)
    data = load_data(spec, test_fraction=0.25)
    assert len(data) == 9
    assert len(data.test) == 3
    with pytest.raises(ValueError, match="test split of its own"):
        load_data("digits", test_fraction=0.25)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"y_train": np.arange(11)}, ValueError, "12 entries"),
        ({"y_train": np.arange(12.0)}, TypeError, "integers or text"),
        ({"y_train": np.zeros((12, 1), int)}, ValueError, "one-dimensional"),
        ({"x_train": np.full((12, 5), np.nan)}, ValueError, "finite"),
        ({"x_train": np.zeros(12)}, ValueError, "x_train must be"),
        ({"x_train": np.array(["a"] * 12)}, TypeError, "numbers"),
        ({"x_test": np.zeros((2, 5))}, ValueError, "both x_test and y_test"),
        ({"x_test": np.zeros((2, 4)), "y_test": np.zeros(2, int)}, ValueError, "one shape"),
    ],
)
def test_npz_that_does_not_fit_is_refused(tmp_path, vectors, change, error, message):
    with pytest.raises(error, match=message):
        load_data(write(tmp_path / "a.npz", **(vectors | change)))


def test_npz_without_the_arrays_says_which_it_wants(tmp_path):
    with pytest.raises(ValueError, match=r"x_train and y_train.*it holds data"):
        load_data(write(tmp_path / "a.npz", data=np.zeros(3)))


def test_npz_with_objects_is_not_unpickled(tmp_path, vectors):
    vectors["y_train"] = np.array([object()] * 12)
    with pytest.raises(ValueError, match="plain arrays"):
        load_data(write(tmp_path / "a.npz", **vectors))


def test_unknown_and_missing_data(tmp_path):
    for spec, message in (
        ("mnits", "data must be one of"),
        ("npz", "npz:FILE"),
        ("digits:3", "the form digits"),
        (f"npz:{tmp_path / 'no.npz'}", "no file"),
    ):
        with pytest.raises(ValueError, match=message):
            load_data(spec)
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(ValueError, match=r"cannot be read: it is not an npz"):
        load_data(f"npz:{tmp_path / 'text.npz'}")


def test_options_are_checked_against_the_reader(tmp_path, vectors):
    with pytest.raises(ValueError, match="digits has no option 'size'; it has none"):
        load_data("digits,size=3")
    # A comma in a file's name is no option.
    assert load_data(write(tmp_path / "a,b.npz", **vectors)).name == "a,b"


def test_the_test_split_is_labeled_truly_and_the_rest_as_given(tmp_path, vectors):
    truth = vectors["y_train"]
    vectors |= {"y_true": truth, "y_train": (truth + 1) % 3}
    data = load_data(write(tmp_path / "a.npz", **vectors), test_fraction=0.25)
    assert torch.equal(data.labels, (data.true_labels + 1) % 3)
    assert data.test.labels.sort().values.tolist() == [0, 1, 2]
    rows = {row.tobytes(): k for k, row in enumerate(vectors["x_train"].astype(np.float32))}
    for inputs, label in zip(data.test.inputs, data.test.labels, strict=True):
        assert truth[rows[inputs.numpy().tobytes()]] == label
