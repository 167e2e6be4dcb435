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
        ({"y_train": np.arange(11)}, ValueError, "y_train must have one entry for each of the 12"),
        ({"y_train": np.arange(12) / 2}, TypeError, "y_train must be integers"),
        ({"y_train": np.eye(12)}, TypeError, "one-hot"),
        ({"y_train": np.arange(12) - 1}, ValueError, r"missing for 1 of 12 .*,missing=drop"),
        ({"y_train": np.array([""] + ["a", "b"] * 5 + ["nan"])}, ValueError, "missing for 2 of 12"),
        ({"y_true": np.arange(12) - 1.0}, ValueError, "y_true are missing for 1 of 12"),
        ({"y_true": np.array(["a"] * 12)}, TypeError, "y_true must name the classes as y_train"),
        ({"class_names": np.array(["a", "b"])}, ValueError, "2 entries, but label 2"),
        ({"x_train": np.full((12, 5), np.nan)}, ValueError, "finite"),
        ({"x_train": np.zeros(12)}, ValueError, "x_train must be"),
        ({"x_train": np.zeros((12, 0))}, ValueError, "x_train must be"),
        ({"x_train": np.zeros((12, 8, 8, 2))}, ValueError, r"put others first: x.transpose"),
        ({"class_names": np.array(["a", "b", "a"])}, ValueError, "'a' occurs twice"),
        ({"y_true": np.arange(12) - 1}, ValueError, "take these samples, or y_true, out"),
        ({"x_train": np.array(["a"] * 12)}, TypeError, "numbers"),
        ({"x_test": np.zeros((2, 5))}, ValueError, "both x_test and y_test"),
        ({"x_test": np.zeros((2, 4)), "y_test": np.zeros(2, int)}, ValueError, "one shape"),
    ],
)
def test_npz_that_does_not_fit_is_refused(tmp_path, vectors, change, error, message):
    with pytest.raises(error, match=message):
        load_data(write(tmp_path / "a.npz", **(vectors | change)))


def test_npz_samples_without_a_label_are_left_out_where_that_is_asked_for(tmp_path, vectors):
    labels = vectors["y_train"].astype(float)
    labels[[3, 7]] = np.nan
    np.savez(tmp_path / "a.npz", **(vectors | {"y_train": labels, "extra": labels}))
    data = load_data(f"npz:{tmp_path / 'a.npz'},missing=drop")
    kept = [k for k in range(12) if k not in (3, 7)]
    assert np.array_equal(data.train.inputs, vectors["x_train"][kept].astype(np.float32))
    assert data.labels.tolist() == [k % 3 for k in kept]
    assert list(data.sample_names) == [f"row {k}" for k in kept]
    assert data.messages[0] == "left out 2 of 12 training samples without a label"
    assert "of other names: extra" in data.messages[1]


def test_npz_that_would_fill_the_memory_is_not_read(tmp_path, vectors, monkeypatch):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x_train=np.zeros((1 << 13, 1 << 11)), y_train=np.zeros(1 << 13, int))
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr("mild_ext.reading.SMALL", 1 << 20)
    with pytest.raises(
        ValueError, match=r"bomb.npz .* that unpack to 134,.* an attack on the memory"
    ):
        load_data(f"npz:{path}")


def test_npz_damaged_anywhere_is_one_line_with_its_name(tmp_path, vectors):
    """A byte flipped, or the file cut, at many places: read as before, or refused with its path."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **vectors)
    whole = path.read_bytes()
    expected = load_data(f"npz:{path}")
    refusals = []
    for position in range(0, len(whole), 7):
        for damaged in (
            whole[:position] + bytes([whole[position] ^ 0x15]) + whole[position + 1 :],
            whole[:position],
        ):
            path.write_bytes(damaged)
            try:
                data = load_data(f"npz:{path}")
            except ValueError as error:
                refusals.append(str(error))
            else:
                assert torch.equal(data.train.inputs, expected.train.inputs)
                assert torch.equal(data.labels, expected.labels)
    assert len(refusals) > 50
    assert all(str(path) in text for text in refusals)


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


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["a", "b", "", "a", "b", "a"], r"1 of 6 rows have no label in column y \(rows 2"),
        (["a", "b", "nan", "a", "NULL", "a"], "2 of 6 rows have no label"),
        (["0", "1", "-1", "0", "1", "0"], "1 of 6 rows have no label"),
    ],
)
def test_table_rows_without_a_label_are_refused_or_left_out(tmp_path, cells, message):
    path = tmp_path / "t.csv"
    path.write_text("x,z,y\n" + "".join(f"{k * k},{-k},{y}\n" for k, y in enumerate(cells)))
    for options in ("", ",missing=refuse"):
        with pytest.raises(ValueError, match=message):
            load_data(f"csv:{path},label=y{options}")
    data = load_data(f"csv:{path},label=y,missing=drop")
    assert len(data) == sum(cell in ("a", "b", "0", "1") for cell in cells)
    assert len(data.class_names) == 2
    with pytest.raises(ValueError, match="missing must be refuse or drop"):
        load_data(f"csv:{path},label=y,missing=some")


def test_table_labels_minus_one_and_one_are_two_classes(tmp_path):
    (tmp_path / "t.csv").write_text(
        "x,y\n" + "".join(f"{k * k},{k % 2 * 2 - 1}\n" for k in range(6))
    )
    data = load_data(f"csv:{tmp_path / 't.csv'},label=y")
    assert (data.class_names, data.labels.tolist()) == (["-1", "1"], [0, 1] * 3)
