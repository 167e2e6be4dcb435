"""WebVision 1.0 and Clothing1M, on small copies of their layouts."""

import os

import numpy as np
import pytest
import torch
from layouts import CATEGORIES, COLORS, write_clothing, write_imagenet, write_webvision

from mild_ext.data import load_data
from mild_ext.data.batches import Batches
from mild_ext.data.readers.images import ImageFiles

Image = pytest.importorskip("PIL.Image")


def colors_match(dataset, labels):
    return all(
        np.allclose(dataset[k][0].float().mean((1, 2)), COLORS[int(label)], atol=6)
        for k, label in enumerate(labels)
    )


@pytest.mark.parametrize("prefix", ["", "resized_images"])
def test_webvision_subset(tmp_path, prefix):
    write_webvision(tmp_path, prefix=prefix)
    data = load_data(f"webvision:{tmp_path},classes=2,size=16,resize=20")
    assert data.class_names == ["tench", "goldfish"]
    assert data.labels.tolist() == [0] * 4 + [1] * 4
    assert isinstance(data.train, ImageFiles)
    assert data.input_shape == (3, 16, 16)
    assert colors_match(data.train, data.labels)
    assert colors_match(data.plain, data.labels)
    assert data.test.labels.tolist() == [0, 1, 0, 1]
    assert colors_match(data.test, data.test.labels)
    assert data.sample_names[0] == "google/q0001/g0_0.jpg"
    assert any("no ImageNet" in message for message in data.messages)
    both = load_data(f"webvision:{tmp_path},classes=3,source=both,size=16,resize=20")
    assert len(both) == 24
    few = load_data(f"webvision:{tmp_path},classes=3,per_class=2,size=16,resize=20")
    assert few.labels.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("kind", ["webvision", "clothing1m"])
def test_lists_name_files_whose_names_are_no_text(tmp_path, kind):
    """As the bytes that they are, whatever the encoding; names of classes are spelled out."""
    write = write_webvision if kind == "webvision" else write_clothing
    write(tmp_path)
    names = tmp_path / ("info/synsets.txt" if kind == "webvision" else "category_names_eng.txt")
    names.write_bytes(names.read_bytes().replace(b"t", b"t\xe9", 1))
    for path in list(tmp_path.rglob("*.jpg")):
        path.rename(path.with_name(os.fsdecode(b"\xe9\x85" + os.fsencode(path.name))))
    for path in tmp_path.rglob("*.txt"):
        if path != names:
            lines = [
                line[: at + 1] + b"\xe9\x85" + line[at + 1 :]
                for line in path.read_bytes().splitlines()
                for at in [line.partition(b" ")[0].rfind(b"/")]
            ]
            path.write_bytes(b"\n".join(lines) + b"\n")
    options = "classes=2,size=16,resize=20" if kind == "webvision" else "size=16,resize=20"
    data = load_data(f"{kind}:{tmp_path},{options}")
    assert len(data) >= 8
    assert colors_match(data.plain, data.labels)
    assert os.fsencode(data.sample_names[0]).rpartition(b"/")[2].startswith(b"\xe9\x85")
    assert any("\\udce9" in name for name in data.class_names)


@pytest.mark.parametrize("layout", ["wordnet", "number", "flat"])
@pytest.mark.parametrize("inside", [True, False])
def test_webvision_is_tested_on_imagenet_too(tmp_path, layout, inside):
    write_webvision(tmp_path / "web")
    where = tmp_path / "web" / "imagenet" / "val" if inside else tmp_path / "other"
    write_imagenet(where, layout)
    option = "" if inside else f",imagenet={where}"
    data = load_data(f"webvision:{tmp_path / 'web'},classes=2,size=16,resize=20{option}")
    (dataset,) = data.more_tests.values()
    assert sorted(dataset.labels.tolist()) == [0, 0, 1, 1]
    assert colors_match(dataset, dataset.labels)


def test_missing_images_are_reported_and_many_are_refused(tmp_path):
    write_webvision(tmp_path, per_class=6)
    (tmp_path / "google" / "q0001" / "g0_0.jpg").unlink()
    data = load_data(f"webvision:{tmp_path},classes=3,size=16,resize=20")
    assert len(data) == 17
    assert any("left out 1 of 18 training images" in message for message in data.messages)
    for k in range(6):
        (tmp_path / "google" / f"q{k % 2 + 3:04d}" / f"g1_{k}.jpg").unlink()
    with pytest.raises(ValueError, match="7 of 18 training images are missing"):
        load_data(f"webvision:{tmp_path},classes=3,size=16,resize=20")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (",classes=4", r"classes must be in \[2, 3\]"),
        (",source=bing", "google, flickr or both"),
        (",classes=2,size=30,resize=20", "size must be in"),
        (",classes=2,per_class=0", "per_class"),
        (",classes=2,imagenet=/nowhere", "no folder /nowhere"),
    ],
)
def test_webvision_options_out_of_range(tmp_path, options, message):
    write_webvision(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_data(f"webvision:{tmp_path}{options}")


def test_webvision_lists_that_do_not_fit(tmp_path):
    write_webvision(tmp_path)
    spec = f"webvision:{tmp_path},classes=3"
    (tmp_path / "info" / "train_filelist_google.txt").write_text("google/q0001/a.jpg\n")
    with pytest.raises(ValueError, match="line 1: expected a file name and a label"):
        load_data(spec)
    (tmp_path / "info" / "train_filelist_google.txt").unlink()
    with pytest.raises(ValueError, match=r"train_filelist_google\.txt is missing"):
        load_data(spec)


@pytest.mark.parametrize(("lists", "images"), [("", "images"), ("annotations", "")])
def test_clothing1m(tmp_path, lists, images):
    write_clothing(tmp_path, lists, images)
    data = load_data(f"clothing1m:{tmp_path},size=16,resize=20")
    assert data.class_names == CATEGORIES
    assert data.labels.tolist() == [k % 3 for k in range(9)]
    assert colors_match(data.train, data.labels)
    assert (len(data.validation), len(data.test)) == (3, 6)
    assert colors_match(data.test, data.test.labels)
    assert colors_match(data.validation, data.validation.labels)
    assert load_data(f"clothing1m:{tmp_path},per_class=1").labels.tolist() == [0, 1, 2]


def test_clothing1m_lists_that_do_not_fit(tmp_path):
    write_clothing(tmp_path)
    keys = tmp_path / "clean_test_key_list.txt"
    keys.write_text(keys.read_text() + "images/unknown.jpg\n")
    with pytest.raises(ValueError, match=r"lists images/unknown\.jpg, which"):
        load_data(f"clothing1m:{tmp_path}")
    labels = tmp_path / "noisy_label_kv.txt"
    labels.write_text(labels.read_text() + "images/0/00/x.jpg 3\n")
    with pytest.raises(ValueError, match="label 3 of 3 classes"):
        load_data(f"clothing1m:{tmp_path}")


def test_batches_stream_the_same_pieces_whatever_the_number_of_workers(tmp_path):
    write_webvision(tmp_path)
    generator = np.random.default_rng(0)
    for path in (tmp_path / "google").rglob("*.jpg"):
        Image.fromarray(generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
    data = load_data(f"webvision:{tmp_path},classes=3,size=16,resize=24")

    def epoch(workers, seed):
        batches = Batches(data.train, data.labels, batch_size=5, shuffle=True, workers=workers)
        return torch.cat([inputs for _, inputs, _ in batches.epoch(seed)])

    assert torch.equal(epoch(0, 1), epoch(2, 1))
    assert not torch.equal(epoch(0, 1), epoch(0, 2))
