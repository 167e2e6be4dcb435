"""WebVision 1.0 and Clothing1M, on small copies of their layouts."""

import numpy as np
import pytest
import torch

from mild_ext.data import load_data
from mild_ext.data.batches import Batches
from mild_ext.data.images import ImageFiles

Image = pytest.importorskip("PIL.Image")

SYNSETS = [("n01440764", "tench, Tinca tinca"), ("n01443537", "goldfish"), ("n01484850", "shark")]
COLORS = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]


def save(path, label, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLORS[label % 3]).save(path)


def write_webvision(root, per_class=4, prefix=""):
    (root / "info").mkdir(parents=True)
    (root / "info" / "synsets.txt").write_text("".join(f"{i} {n}\n" for i, n in SYNSETS))
    for source in ("google", "flickr"):
        lines = []
        for label in range(3):
            for k in range(per_class):
                # Query folders are not classes, and labels are what the list says.
                name = f"{source}/q{2 * label + k % 2 + 1:04d}/{source[0]}{label}_{k}.jpg"
                save(root / prefix / name, label)
                lines.append(f"{name} {label}\n")
        (root / "info" / f"train_filelist_{source}.txt").write_text("".join(lines))
    lines = []
    for k in range(6):
        save(root / "val_images_256" / f"val{k:06d}.jpg", k % 3)
        lines.append(f"val{k:06d}.jpg {k % 3}\n")
    (root / "info" / "val_filelist.txt").write_text("".join(lines))


def write_imagenet(root, layout):
    names = {"wordnet": [i for i, _ in SYNSETS], "number": ["0", "1", "2"], "flat": [""] * 3}[layout]
    rows = ["ImageId,PredictionString"]
    for k in range(6):
        image = f"ILSVRC2012_val_{k + 1:08d}"
        save(root / names[k % 3] / f"{image}.JPEG", k % 3)
        rows.append(f"{image},{SYNSETS[k % 3][0]} 1 2 3 4 ")
    if layout == "flat":
        (root / "LOC_val_solution.csv").write_text("\n".join(rows) + "\n")


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


CATEGORIES = ["T-Shirt", "Shirt", "Knitwear"]


def write_clothing(root, lists="", images="images"):
    listed = root / lists
    listed.mkdir(parents=True, exist_ok=True)
    (listed / "category_names_eng.txt").write_text("".join(f"{c}\n" for c in CATEGORIES))
    pairs = {"noisy": [], "clean": []}
    for kind, part, count in (
        ("noisy", "train", 9),
        ("clean", "train", 3),
        ("clean", "val", 3),
        ("clean", "test", 6),
    ):
        keys = []
        for k in range(count):
            key = f"images/{k % 2}/0{k}/{kind}_{part}_{k}.jpg"
            save(root / key.replace("images/", f"{images}/" if images else ""), k)
            keys.append(key)
            pairs[kind].append((key, k % 3))
        (listed / f"{kind}_{part}_key_list.txt").write_text("\n".join(keys) + "\n")
    for kind, entries in pairs.items():
        text = "".join(f"{key} {label}\n" for key, label in entries)
        (listed / f"{kind}_label_kv.txt").write_text(text)


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
