"""Hugging Face data sets, built here and saved to disk."""

import io

import numpy as np
import pytest
import torch

from mild_ext.data import IndexedDataset, labels_of, load_data
from mild_ext.data.readers import huggingface
from mild_ext.data.readers.images import read_header
from mild_ext.data.sets import ArrayDataset

datasets = pytest.importorskip("datasets")
Image = pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def _quiet_and_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def images(count, size=(12, 10), seed=0):
    generator = np.random.default_rng(seed)
    return [
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8))
        for _ in range(count)
    ]


def image_set(count, seed=0, **columns):
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog", "owl"]),
            **{name: datasets.Value("int64") for name in columns},
        }
    )
    content = {"image": images(count, seed=seed), "label": [k % 3 for k in range(count)], **columns}
    return datasets.Dataset.from_dict(content, features=features)


@pytest.mark.parametrize("memory", ["yes", "no"])
def test_images_from_a_saved_dataset_dict(tmp_path, memory):
    parts = {"train": image_set(9), "test": image_set(3, seed=1)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    data = load_data(f"hf:{tmp_path / 'set'},memory={memory}")
    assert data.name == "set"
    assert data.class_names == ["cat", "dog", "owl"]
    assert data.labels.tolist() == [k % 3 for k in range(9)]
    assert isinstance(data.train, ArrayDataset) == (memory == "yes")
    for k, image in enumerate(images(9)):
        assert np.array_equal(data.train[k][0].numpy(), np.asarray(image).transpose(2, 0, 1))
    assert np.array_equal(
        data.test[2][0].numpy(), np.asarray(images(3, seed=1)[2]).transpose(2, 0, 1)
    )
    assert data.test[2][1] == 2
    resized = load_data(f"hf:{tmp_path / 'set'},size=8,gray=yes")
    assert resized.input_shape == (1, 8, 8)


def test_one_table_is_all_for_training_and_may_know_the_truth(tmp_path):
    image_set(6, right=[2, 1, 2, 0, 1, 2]).save_to_disk(tmp_path / "one")
    data = load_data(f"hf:{tmp_path / 'one'},true=right")
    assert data.test is None
    assert data.true_labels.tolist() == [2, 1, 2, 0, 1, 2]
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("text", [True, False])
def test_embeddings(tmp_path, text):
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(8, 5)).astype(np.float32)
    names = ["spam", "ham"] * 4
    content = {
        "text": [f"message {k}" for k in range(8)],
        "embedding": vectors.tolist(),
        "label": names if text else [10 * (n == "spam") for n in names],
    }
    datasets.DatasetDict(
        {
            "train": datasets.Dataset.from_dict({k: v[:6] for k, v in content.items()}),
            "validation": datasets.Dataset.from_dict({k: v[6:] for k, v in content.items()}),
        }
    ).save_to_disk(tmp_path / "vectors")
    data = load_data(f"hf:{tmp_path / 'vectors'}")
    assert data.kind == "vector"
    assert torch.allclose(data.train.inputs, torch.from_numpy(vectors[:6]))
    assert data.class_names == (["ham", "spam"] if text else ["0", "10"])
    assert data.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert data.test.labels.tolist() == [1, 0]


def test_files_that_datasets_reads(tmp_path):
    for split in ("train", "test"):
        for name in ("a", "b"):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            images(1)[0].save(folder / "0.png")
    data = load_data(f"hf:{tmp_path / 'pictures'}")
    assert data.class_names == ["a", "b"]
    assert (len(data), len(data.test)) == (2, 2)


def test_wrong_columns_and_splits_say_what_there_is(tmp_path):
    content = {"text": ["a", "b"], "topic": [0, 1], "label": [0, 1]}
    datasets.Dataset.from_dict(content).save_to_disk(tmp_path / "text")
    image_set(4, label2=[0, 1, 0, 1]).save_to_disk(tmp_path / "images")
    ragged = {"embedding": [[1.0], [1.0, 2.0]], "label": [0, 1]}
    datasets.Dataset.from_dict(ragged).save_to_disk(tmp_path / "ragged")
    unlabeled = image_set(3).cast_column("label", datasets.Value("int64"))
    unlabeled = unlabeled.map(lambda row: {"label": -1})
    unlabeled = unlabeled.cast_column("label", datasets.ClassLabel(names=["a", "b"]))
    unlabeled.save_to_disk(tmp_path / "unlabeled")
    for spec, message in (
        ("text", "which column holds the inputs"),
        ("text,input=text", "give ,text=text"),
        ("text,input=no", "no column 'no'"),
        ("images,label=no", "no column 'no'; there are image, label, label2"),
        ("images,train=dev", "no split 'dev'; it has train"),
        ("images,test=dev", "no split 'dev'"),
        ("ragged", "one length"),
        ("unlabeled", r"missing for 3 of 3 samples \(row 0: -1.*,missing=drop"),
        ("missing", "datasets cannot load"),
    ):
        with pytest.raises(ValueError, match=message):
            load_data(f"hf:{tmp_path / spec}")


def encoded_set(tmp_path, count=6, **columns):
    """Images as bytes, so that some can be damaged."""
    rows = []
    for image in images(count):
        stream = io.BytesIO()
        image.save(stream, "PNG")
        rows.append({"bytes": stream.getvalue(), "path": None})
    rows[1]["bytes"] = b"no image"
    rows[4] = None
    features = {"image": datasets.Image(), "label": datasets.Value("string"), **columns}
    labels = ["cat", "dog", None, "cat", "dog", "dog"][:count]
    table = datasets.Dataset.from_dict(
        {"image": rows, "label": labels}, features=datasets.Features(features)
    )
    table.save_to_disk(tmp_path / "set")
    return tmp_path / "set"


@pytest.mark.parametrize("memory", ["yes", "no"])
def test_damaged_images_and_missing_labels_are_left_out_and_named(tmp_path, memory, monkeypatch):
    monkeypatch.setattr("mild_ext.data.readers.images.LARGEST_UNREADABLE_SHARE", 0.5)
    path = encoded_set(tmp_path)
    with pytest.raises(ValueError, match=r"missing for 1 of 6 samples \(row 2: None\)"):
        load_data(f"hf:{path},memory={memory}")
    data = load_data(f"hf:{path},memory={memory},missing=drop")
    assert list(data.sample_names) == ["row 0", "row 3", "row 5"]
    assert (data.labels.tolist(), data.class_names) == ([0, 0, 1], ["cat", "dog"])
    original = images(6)
    for k, row in enumerate((0, 3, 5)):
        image, label = data.train[k]
        assert np.array_equal(image.numpy(), np.asarray(original[row]).transpose(2, 0, 1))
        assert label == data.labels[k]
    text = "\n".join(data.messages)
    assert "left out 1 of 6 training samples without a label" in text
    assert "left out 2 of 5 images in the split train that cannot be read: row 1 (" in text


def test_labels_lengths_and_sizes_are_read_without_decoding_an_image(tmp_path, monkeypatch):
    image_set(5).save_to_disk(tmp_path / "set")

    def refuse(*_args, **_options):
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(datasets.Image, "decode_example", refuse)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    table = datasets.load_from_disk(str(tmp_path / "set"))
    indexed = IndexedDataset(table, inputs="image", labels="label")
    assert len(indexed) == 5
    assert labels_of(indexed).tolist() == labels_of(table).tolist() == [0, 1, 2, 0, 1]
    assert indexed.class_names == ("cat", "dog", "owl")
    tables = {"train": table}
    labels, names = huggingface._read_labels(tables, {"train": ["label"]}, "refuse")
    assert (labels["train"]["label"].values.tolist(), names[0]) == ([0, 1, 2, 0, 1], "cat")
    encoded = huggingface._Encoded(table, "image")
    assert [read_header(encoded[k]).width for k in range(5)] == [10] * 5


def test_a_table_of_vectors_does_not_read_its_other_columns(tmp_path, monkeypatch):
    table = image_set(4).add_column("embedding", [[float(k), 1.0] for k in range(4)])
    table.save_to_disk(tmp_path / "set")
    monkeypatch.setattr(datasets.Image, "decode_example", None)
    data = load_data(f"hf:{tmp_path / 'set'},input=embedding")
    assert data.train.inputs.tolist() == [[float(k), 1.0] for k in range(4)]
    assert data.labels.tolist() == [0, 1, 2, 0]


def test_splits_that_number_their_classes_differently_are_refused(tmp_path):
    other = image_set(3).cast_column("label", datasets.ClassLabel(names=["dog", "cat", "owl"]))
    datasets.DatasetDict({"train": image_set(3), "test": other}).save_to_disk(tmp_path / "set")
    with pytest.raises(ValueError, match="numbers its classes in another way"):
        load_data(f"hf:{tmp_path / 'set'}")


def test_a_streamed_table_is_refused_in_one_sentence():
    with pytest.raises(TypeError, match=r"IterableDataset, a stream; .* list\(dataset\)"):
        IndexedDataset(image_set(3).to_iterable_dataset())


def test_a_transform_that_changes_labels_is_followed(tmp_path):
    def noisy(batch):
        return batch | {"label": [(label + 1) % 3 for label in batch["label"]]}

    def renamed(batch):
        return {"pixels": batch["x"], "labels": [(label + 1) % 3 for label in batch["label"]]}

    def augmented(batch):
        return batch | {"x": [[-value for value in row] for row in batch["x"]]}

    rows = {"x": [[float(k)] for k in range(9)], "label": [k % 3 for k in range(9)]}
    table = datasets.Dataset.from_dict(rows)
    changed = [(k + 1) % 3 for k in range(9)]
    for transform, expected in ((noisy, changed), (renamed, changed), (augmented, rows["label"])):
        made = table.with_transform(transform)
        assert labels_of(made).tolist() == expected
        assert [int(IndexedDataset(made)[k][2]) for k in range(9)] == expected
    named = IndexedDataset(table.with_transform(noisy), labels="label")
    assert labels_of(named).tolist() == [int(named[k][2]) for k in range(9)] == changed


def test_what_minus_one_becomes_in_an_unsigned_column_is_no_class(tmp_path):
    features = datasets.Features(
        {"x": datasets.Sequence(datasets.Value("float32")), "label": datasets.Value("uint8")}
    )
    table = datasets.Dataset.from_dict({"x": [[0.0], [1.0]], "label": [0, 255]}, features=features)
    table.save_to_disk(tmp_path / "set")
    for read in (lambda: load_data(f"hf:{tmp_path / 'set'}"), lambda: labels_of(table)):
        with pytest.raises(ValueError, match="255 is what -1, no label, becomes"):
            read()
