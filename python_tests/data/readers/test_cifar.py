"""CIFAR in its original formats."""

import io
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from layouts import cifar_files, cifar_samples, write_archive, write_folder

from mild_ext.data import corrupt_labels, load_data
from mild_ext.data.readers.cifar import CIFAR10_MAP, CIFAR100_MAP

VERSIONS = ["python", "python3", "binary"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("write", [write_folder, write_archive])
def test_every_version_gives_the_images_and_labels_that_went_in(tmp_path, classes, version, write):
    per_file = 100
    path = write(tmp_path, classes, version, per_file)
    for spec in (path, tmp_path):  # the archive or folder itself, and the folder around it
        data = load_data(f"cifar{classes}:{spec}")
        images, labels = zip(
            *(cifar_samples(per_file, classes, seed=k) for k in range(5 if classes == 10 else 1)),
            strict=True,
        )
        assert np.array_equal(data.train.inputs.numpy(), np.concatenate(images))
        assert data.labels.tolist() == np.concatenate(labels).tolist()
        assert data.train.inputs.dtype == torch.uint8
        assert data.input_shape == (3, 32, 32)
        assert data.class_names == [f"class{k}" for k in range(classes)]
        assert len(data.test) == per_file
        assert torch.equal(data.true_labels, data.labels)
        assert any("50,000" in message for message in data.messages)
    if classes == 100:
        assert data.superclasses == [k % 20 for k in range(100)]


def test_the_asymmetric_maps_are_the_usual_ones():
    names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    moved = {names[k]: names[to] for k, to in enumerate(CIFAR10_MAP) if to != k}
    assert moved == {
        "truck": "automobile",
        "bird": "airplane",
        "deer": "horse",
        "cat": "dog",
        "dog": "cat",
    }
    labels = torch.arange(100)
    noise = corrupt_labels(labels, "asymmetric:1", 100, class_map=CIFAR100_MAP)
    assert noise.labels[:6].tolist() == [1, 2, 3, 4, 0, 6]
    assert torch.equal(noise.labels // 5, labels // 5)


def test_noise_inside_the_true_superclasses(tmp_path):
    data = load_data(f"cifar100:{write_folder(tmp_path, 100, 'binary', 100)}")
    noise = corrupt_labels(data.labels, "superclass:1", 100, superclasses=data.superclasses)
    assert torch.equal(noise.labels, (data.labels + 20) % 100)  # the fixture's superclass is k % 20


@pytest.mark.parametrize("packed", [True, False])
def test_a_malicious_archive_is_refused_and_not_executed(tmp_path, packed):
    victim = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {victim}",)

    files = cifar_files(10, "python", 4)
    files["data_batch_3"] = pickle.dumps({"data": Evil(), "labels": [0]})
    path = tmp_path / ("evil.tar.gz" if packed else "evil")
    if packed:
        with tarfile.open(path, "w:gz") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(f"../../{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    else:
        path.mkdir()
        for name, data in files.items():
            (path / name).write_bytes(data)
    with pytest.raises(ValueError, match=r"data_batch_3: .*system.*nothing was executed"):
        load_data(f"cifar10:{path}")
    assert not victim.exists()
    assert not (tmp_path.parent.parent / "data_batch_1").exists()


def test_incomplete_and_damaged_archives_say_what_is_wrong(tmp_path):
    folder = write_folder(tmp_path, 10, "binary", 4)
    whole = (folder / "data_batch_2.bin").read_bytes()
    (folder / "data_batch_2.bin").write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"data_batch_2\.bin is truncated"):
        load_data(f"cifar10:{folder}")
    (folder / "data_batch_2.bin").write_bytes(b"\x0a" + whole[1:])
    with pytest.raises(ValueError, match="label 10"):
        load_data(f"cifar10:{folder}")
    (folder / "data_batch_2.bin").unlink()
    with pytest.raises(ValueError, match=r"data_batch_2\.bin is missing"):
        load_data(f"cifar10:{folder}")
    with pytest.raises(ValueError, match="holds no CIFAR-100"):
        load_data(f"cifar100:{folder}")
    archive = write_archive(tmp_path, 100, "python", 100)
    archive.write_bytes(archive.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cannot be read.*expected the original"):
        load_data(f"cifar100:{archive}")
    with pytest.raises(ValueError, match="no file or folder"):
        load_data(f"cifar10:{tmp_path / 'missing'}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": np.zeros((2, 3072), np.uint8)}, "holds no labels"),
        ({"data": np.zeros((2, 3071), np.uint8), "labels": [0, 1]}, r"\[n, 3072\]"),
        ({"data": np.zeros((2, 3072)), "labels": [0, 1]}, "no array of bytes"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "2 integer labels"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, -1]}, "label"),
        ([1, 2], "no dict"),
    ],
)
def test_batches_that_do_not_fit_are_refused(tmp_path, content, message):
    folder = write_folder(tmp_path, 10, "python3", 2)
    (folder / "test_batch").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_data(f"cifar10:{folder}")
