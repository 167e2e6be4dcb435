"""A folder of images per class, and reading images."""

import os
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from mild_ext.data import load_data
from mild_ext.data.readers.images import (
    ImageFiles,
    ImageFormat,
    PathList,
    decode,
    existing,
    read_header,
)
from mild_ext.files import as_name, as_text

Image = pytest.importorskip("PIL.Image")


def save(path, height=20, width=30, color=(200, 100, 50), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (width, height), color).convert(mode)
    image.save(path, **options)
    return path


@pytest.fixture
def photos(tmp_path):
    """Two classes of JPEGs and PNGs of different sizes, one in a deeper folder."""
    for k in range(4):
        save(tmp_path / "photos" / "cat" / f"{k}.jpg", 100 + k, 150, (200, 10, 10))
        save(tmp_path / "photos" / "dog" / "deep" / f"{k}.PNG", 90, 80 + k, (10, 10, 200))
    return tmp_path / "photos"


def test_classes_are_the_subfolders_and_sizes_are_brought_together(photos):
    data = load_data(f"folder:{photos}")
    assert data.name == "photos"
    assert data.class_names == ["cat", "dog"]
    assert data.labels.tolist() == [0] * 4 + [1] * 4
    assert data.sample_names[0] == "cat/0.jpg"
    assert data.sample_names[4] == "dog/deep/0.PNG"
    assert data.input_shape == (3, 64, 64)
    assert data.train.inputs.dtype == torch.uint8
    assert data.train.inputs[0].float().mean((1, 2)).tolist() == pytest.approx([200, 10, 10], abs=3)
    assert data.train.inputs[7].float().mean((1, 2)).tolist() == pytest.approx([10, 10, 200], abs=0)
    assert any("resized to 64 x 64" in message for message in data.messages)
    assert data.test is None


def test_a_folder_may_be_named_like_an_option(photos):
    odd = photos.with_name("photos,size=7")
    photos.rename(odd)
    assert load_data(f"folder:{odd}").input_shape == (3, 64, 64)
    assert load_data(f"folder:{odd},size=16").input_shape == (3, 16, 16)


def test_options_choose_size_channels_and_memory(photos):
    in_memory = load_data(f"folder:{photos},size=32,gray=yes")
    streamed = load_data(f"folder:{photos},size=32,gray=yes,memory=no")
    assert in_memory.input_shape == streamed.input_shape == (1, 32, 32)
    assert isinstance(streamed.train, ImageFiles)
    assert torch.equal(streamed.labels, in_memory.labels)
    for k in range(8):
        assert torch.equal(streamed.train[k][0], in_memory.train[k][0])
        assert streamed.train[k][1] == int(in_memory.labels[k])
    assert torch.equal(streamed.mean, in_memory.mean)
    for spec, message in (
        (f"folder:{photos},size=0", "at least 1"),
        (f"folder:{photos},size=big", "type int"),
        (f"folder:{photos},gray=maybe", "yes or no"),
        (f"folder:{photos},width=3", "no option 'width'; it has size, side, gray, memory"),
        (f"folder:{photos},size=1,size=2", "twice"),
    ):
        with pytest.raises(ValueError, match=message):
            load_data(spec)


@pytest.mark.parametrize("shape", [(28, 28), (40, 24), (96, 96)])
def test_small_images_of_one_size_stay_as_they_are(tmp_path, shape):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (4, *shape), dtype=np.uint8)
    for k in range(4):
        (tmp_path / f"{k % 2}").mkdir(exist_ok=True)
        Image.fromarray(pixels[k]).save(tmp_path / f"{k % 2}" / f"{k}.png")
    data = load_data(f"folder:{tmp_path}")
    assert data.input_shape == (1, *shape)
    assert np.array_equal(data.train.inputs[:, 0].numpy(), pixels[[0, 2, 1, 3]])
    assert data.messages == []


def test_small_images_of_different_sizes_are_not_blown_up(tmp_path):
    for k in range(6):
        save(tmp_path / f"{k % 2}" / f"{k}.png", 20 + k, 24)
    assert load_data(f"folder:{tmp_path}").input_shape == (3, 22, 22)


@pytest.mark.parametrize("names", [("train", "test", "val"), ("Training", "testing", "Validation")])
def test_given_splits_are_recognised(tmp_path, names):
    for split, count in zip(names, (4, 2, 1), strict=True):
        for label in ("a", "b"):
            for k in range(count):
                save(tmp_path / split / label / f"{k}.png")
    data = load_data(f"folder:{tmp_path}")
    assert (len(data), len(data.test), len(data.validation)) == (8, 4, 2)
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.sample_names[0] == "a/0.png"
    with pytest.raises(ValueError, match="test split of its own"):
        load_data(f"folder:{tmp_path}", test_fraction=0.5)
    save(tmp_path / names[1] / "c" / "0.png")
    with pytest.raises(ValueError, match="has the class c, which"):
        load_data(f"folder:{tmp_path}")


@pytest.mark.parametrize("memory", ["yes", "no"])
def test_a_test_split_can_be_set_aside(photos, memory):
    data = load_data(f"folder:{photos},memory={memory}", test_fraction=0.25)
    whole = load_data(f"folder:{photos}")
    assert (len(data), len(data.test)) == (6, 2)
    assert len(data.sample_names) == 6
    positions = [whole.sample_names.index(name) for name in data.sample_names]
    for k, position in enumerate(positions):
        assert torch.equal(data.train[k][0], whole.train[position][0])
        assert int(data.train[k][1]) == int(whole.labels[position])
    left = sorted(set(range(8)) - set(positions))
    assert torch.equal(data.test[0][0], whole.train[left[0]][0])
    assert [int(data.test[k][1]) for k in range(2)] == [0, 1]


@pytest.mark.parametrize("memory", ["yes", "no"])
def test_bad_files_are_left_out_and_named(photos, memory):
    (photos / "cat" / "0.jpg").write_bytes(b"not an image")
    (photos / "cat" / "notes.txt").write_text("hello")
    (photos / "cat" / ".hidden.jpg").write_bytes(b"")
    (photos / "cat" / "Thumbs.db").write_bytes(b"")
    data = load_data(f"folder:{photos},memory={memory}")
    assert len(data) == 7
    assert data.labels.tolist() == [0] * 3 + [1] * 4
    assert "cat/0.jpg" not in list(data.sample_names)
    text = "\n".join(data.messages)
    assert "left out 1 of 8 images" in text
    assert "cat/0.jpg (" in text
    assert "1 files" in text
    for k in range(1, 4):
        (photos / "cat" / f"{k}.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"4 of 8 images .* cannot be read"):
        load_data(f"folder:{photos}")


def test_a_file_cut_short_is_found_when_it_is_decoded(photos):
    path = photos / "dog" / "deep" / "0.PNG"
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (90, 80, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    data = load_data(f"folder:{photos}")
    assert len(data) == 7
    assert "0.PNG" in data.messages[-1]
    # Streamed, its turn comes while training: a gray image stands in, with a warning.
    with pytest.warns(RuntimeWarning, match=r"0\.PNG cannot be read"):  # mean and deviation
        streamed = load_data(f"folder:{photos},memory=no,size=16")
    bad = list(streamed.sample_names).index("dog/deep/0.PNG")
    with pytest.warns(RuntimeWarning, match=r"0\.PNG cannot be read"):
        image, label = streamed.train[bad]
    assert label == 1
    assert (image == 128).all()


def test_reading_stops_when_many_files_fail(tmp_path):
    names = [f"{k}.png" for k in range(30)]
    dataset = ImageFiles(tmp_path, names, torch.zeros(30).long(), ImageFormat(3, 8, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k in range(19):
            dataset[k]
        with pytest.raises(RuntimeError, match="20 of the last 20 images"):
            dataset[19]


def test_folders_without_that_layout_say_what_is_expected(tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        load_data(f"folder:{tmp_path / 'missing'}")
    save(tmp_path / "0.png")
    with pytest.raises(ValueError, match="no subfolder"):
        load_data(f"folder:{tmp_path}")
    save(tmp_path / "cat" / "0.png")
    with pytest.raises(ValueError, match="only cat"):
        load_data(f"folder:{tmp_path}")
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match="only one class"):
        load_data(f"folder:{tmp_path}")
    (tmp_path / "cat" / "0.png").unlink()
    with pytest.raises(ValueError, match="holds no images"):
        load_data(f"folder:{tmp_path}")


def test_an_empty_class_is_kept_and_named(photos):
    (photos / "bird").mkdir()
    data = load_data(f"folder:{photos}")
    assert data.class_names == ["bird", "cat", "dog"]
    assert any("class bird" in message for message in data.messages)


# ---------------------------------------------------------------------------------- decoding


def gradient(height, width):
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([rows, columns, rows * 0], -1).astype(np.uint8))


def test_decoding_keeps_proportions_and_cuts_the_centre():
    pixels = decode(gradient(100, 200), ImageFormat(3, 50, 50))
    assert pixels.shape == (3, 50, 50)
    # The central 100 x 100 pixels, halved: columns 50 to 150.
    assert int(pixels[1].min()) == pytest.approx(50, abs=1)
    assert int(pixels[1].max()) == pytest.approx(149, abs=1)
    assert np.array_equal(
        decode(gradient(50, 50), ImageFormat(3, 50, 50)),
        np.asarray(gradient(50, 50)).transpose(2, 0, 1),
    )


def test_a_margin_leaves_room_to_cut_elsewhere():
    wanted = ImageFormat(3, 50, 50, margin=2)
    image = gradient(100, 200)
    centre, first, last = (decode(image, wanted, (p, p)) for p in (0.5, 0, 1))
    assert (centre[0].min(), centre[1].min()) == (25, 75)
    assert (first[0].min(), first[1].min()) == (0, 0)
    assert (last[0].max(), last[1].max()) == (99, 199)


def test_orientation_transparency_and_depth(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    path = tmp_path / "turned.png"
    gradient(40, 20).save(path, exif=exif)
    assert decode(path, ImageFormat(3, 20, 40)).shape == (3, 20, 40)
    assert decode(path, ImageFormat(3, 20, 40))[0, 0].max() == 39  # rows became columns
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (decode(clear, ImageFormat(3, 8, 8)) == 255).all()
    palette = Image.new("P", (8, 8), 0)
    palette.info["transparency"] = b"\x00" * 256
    assert (decode(palette, ImageFormat(1, 8, 8)) == 255).all()
    deep = Image.fromarray(np.full((8, 8), 40_000, np.uint16))
    assert (decode(deep, ImageFormat(1, 8, 8)) == 40_000 >> 8).all()
    with pytest.raises(ValueError, match="floating-point"):
        decode(Image.fromarray(np.zeros((8, 8), np.float32)), ImageFormat(1, 8, 8))


def test_random_pieces_follow_the_seed_and_the_plain_ones_do_not_move(tmp_path):
    gradient(60, 60).save(tmp_path / "0.png")
    labels = torch.tensor([0])
    wanted = ImageFormat(3, 20, 20, margin=1.5)
    moving = ImageFiles(tmp_path, ["0.png"], labels, wanted, random=True)
    still = ImageFiles(tmp_path, ["0.png"], labels, wanted)
    assert torch.equal(still[0][0], still[0][0])
    seen = []
    for seed in (1, 1, 2, 3, 4, 5):
        torch.manual_seed(seed)
        seen.append(moving[0][0])
    assert torch.equal(seen[0], seen[1])
    assert len({image.numpy().tobytes() for image in seen}) == 5
    mirrored = [bool(image[1, 0, 0] > image[1, 0, -1]) for image in seen[1:]]
    assert len(set(mirrored)) == 2


def test_path_list_holds_what_went_in():
    names = ["", "a", "ä/b.png", "x" * 300, "bad\udcff.jpg"]
    paths = PathList(names)
    assert list(paths) == names
    assert paths[-1] == names[-1]
    assert paths[1:4] == names[1:4]
    with pytest.raises(IndexError):
        paths[5]


def test_existing(tmp_path):
    save(tmp_path / "a" / "0.png")
    assert existing(tmp_path, ["a/0.png", "a/1.png", "b/0.png"]).tolist() == [True, False, False]


# ------------------------------------------------------------- nothing is passed over without a word


def folders(root, *names):
    for name in names:
        for k in range(2):
            save(root / name / f"{k}.png")


def test_a_class_may_be_called_train(tmp_path):
    """As in COCO: the other classes stay."""
    folders(tmp_path, "bus", "car", "train/local", "train/express")
    data = load_data(f"folder:{tmp_path}")
    assert data.class_names == ["bus", "car", "train"]
    assert len(data) == 8
    assert "train is taken for a class, for bus beside it holds images too" in data.messages[0]
    with pytest.raises(ValueError, match="has no subfolder train"):
        load_data(f"folder:{tmp_path / 'train'},layout=splits")
    splits = load_data(f"folder:{tmp_path},layout=splits")
    assert splits.class_names == ["express", "local"]
    assert any(
        "2 folders" in m and "hold images, but are no split (bus, car)" in m
        for m in splits.messages
    )


def test_a_folder_that_could_be_either_layout_is_refused_until_it_is_said(tmp_path):
    folders(tmp_path, "train/cat", "train/dog", "test/cat", "extra/cat")
    with pytest.raises(
        ValueError, match=r"extra and test with images beside train.*,layout=classes"
    ):
        load_data(f"folder:{tmp_path}")
    assert load_data(f"folder:{tmp_path},layout=splits").class_names == ["cat", "dog"]
    assert load_data(f"folder:{tmp_path},layout=classes").class_names == ["extra", "test", "train"]
    with pytest.raises(ValueError, match="layout must be classes or splits, got 'both'"):
        load_data(f"folder:{tmp_path},layout=both")
    shutil.rmtree(tmp_path / "extra")
    (tmp_path / "notes").mkdir()
    folders(tmp_path, "val/cat", "validation/cat")
    with pytest.raises(
        ValueError, match="val and validation, which both name the validation split"
    ):
        load_data(f"folder:{tmp_path}")
    shutil.rmtree(tmp_path / "validation")
    data = load_data(f"folder:{tmp_path}")
    assert (len(data.test), len(data.validation)) == (2, 2)
    assert any("hold no images (notes)" in message for message in data.messages)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files here")
def test_whatever_is_passed_over_is_counted_named_and_explained(tmp_path):
    folders(tmp_path, "cat", "dog", ".old/cat", "cat/.hidden")
    save(tmp_path / "loose.png")
    save(tmp_path / "dog" / "._0.png")
    (tmp_path / "dog" / "0.heic").write_bytes(b"")
    (tmp_path / "dog" / ".DS_Store").write_bytes(b"")
    os.mkfifo(tmp_path / "dog" / "pipe.png")  # reading it would wait for ever
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "dog" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "dog" / "linked").symlink_to(tmp_path / "cat")
    data = load_data(f"folder:{tmp_path}")
    assert len(data) == 4
    found = "\n".join(data.messages)
    for line in (
        "1 files in {} that lie beside the folders of the classes, in none of them (loose.png)",
        "1 folders in {} that are hidden, by a dot before their name (.old, cat/.hidden)",
        "1 files in {} that are no images by their names (dog/0.heic)",
        "1 files in {} that are hidden, by a dot before their name (dog/._0.png)",
        "3 files in {} that are no regular files (dog/gone.png, dog/pipe.png, dog/zero.png)",
        "1 folders in {} that are links, which are not followed (dog/linked)",
    ):
        count = "2" if ".old" in line else line[0]
        assert f"passed over {count}{line[1:].format(tmp_path)}" in found
    assert "DS_Store" not in found


def test_names_that_are_not_utf8_survive(tmp_path):
    odd = os.fsdecode(b"caf\xe9\n.png")
    folders(tmp_path, "dog")
    for name in ("cat", os.fsdecode(b"k\xe4se")):
        save(tmp_path / name / odd)
    for memory in ("yes", "no"):
        data = load_data(f"folder:{tmp_path},memory={memory}")
        assert data.class_names == ["cat", "dog", r"k\udce4se"]
        name = next(iter(data.sample_names))
        assert name == os.path.join("cat", odd)  # as the file system has it
        assert as_text(name) == r"cat/caf\udce9\u000a.png"
        assert as_name(as_text(name)) == name
        assert data.train[3][0].shape == data.train[0][0].shape
        for text in [*data.class_names, *map(as_text, data.sample_names), *data.messages]:
            assert text.encode("utf-8")
            assert text.isprintable()


def test_a_name_that_looks_spelled_out_is_passed_over(tmp_path):
    """It would be spelled as that of another file, and `fix` would move that one."""
    folders(tmp_path, "cat", "dog")
    save(tmp_path / "cat" / os.fsdecode(b"caf\xe9.png"))
    save(tmp_path / "cat" / r"caf\udce9.png")
    data = load_data(f"folder:{tmp_path}")
    spelled = [as_text(name) for name in data.sample_names]
    assert len(set(spelled)) == len(spelled)
    assert spelled.count(r"cat/caf\udce9.png") == 1
    assert r"called as if spelled out; rename them (cat/caf\udce9.png)" in data.messages[0]


# ------------------------------------------------------------------------------ images as bombs


def palette_bomb(path, side):
    """One colour and one transparent index: a few kB of file for side * side pixels."""
    image = Image.new("P", (side, side))
    image.putpalette([k % 256 for k in range(768)])
    image.save(path, transparency=0)
    return path


def test_an_image_of_too_many_pixels_is_left_out_before_it_is_decoded(tmp_path, monkeypatch):
    path = palette_bomb(tmp_path / "bomb.png", 9000)
    assert path.stat().st_size < 200_000
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    for read in (read_header, lambda file: decode(file, ImageFormat(3, 8, 8))):
        with pytest.raises(
            ValueError, match="9000 x 9000 pixels, of which 67,108,864 are decoded at most"
        ):
            read(path)


def test_a_large_image_is_brought_to_its_mode_in_strips(tmp_path):
    """Transparent palette, 6000 x 6000: 36 MB as it is, 144 MB for each copy with transparency."""
    code = """
import resource, sys
from mild_ext.data.readers.images import ImageFormat, decode
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pixels = decode(sys.argv[1], ImageFormat(3, 32, 32))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base, pixels.min())
"""
    path = palette_bomb(tmp_path / "large.png", 6000)
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    kilobytes, darkest = map(int, done.stdout.split())
    assert darkest == 255  # transparent over white
    assert kilobytes < 150_000


def test_strips_give_the_picture_that_the_whole_gives(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (16, 12, 4), dtype=np.uint8)
    Image.fromarray(small).resize((960, 1280), Image.Resampling.BICUBIC).save(tmp_path / "a.png")
    wanted = ImageFormat(3, 24, 24)
    whole = decode(tmp_path / "a.png", wanted).astype(int)
    monkeypatch.setattr("mild_ext.data.readers.images.LARGE_PIXELS", 1000)
    assert np.abs(decode(tmp_path / "a.png", wanted) - whole).max() <= 6


def test_only_images_are_opened_whatever_the_name(tmp_path):
    """Pillow would start Ghostscript for this one."""
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(OSError, match="cannot identify image file"):
        read_header(path)


@pytest.mark.parametrize(
    "tops",
    [
        ("test", "val"),
        ("train_set", "test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("fold1", "fold2"),
        ("dev", "train"),
        ("Training data", "other"),
    ],
)
def test_parts_of_the_data_are_not_taken_for_classes(tmp_path, tops):
    folders(tmp_path, *(f"{top}/{name}" for top in tops for name in ("cat", "dog")))
    with pytest.raises(ValueError, match=r"if these are parts|,layout=classes or ,layout=splits"):
        load_data(f"folder:{tmp_path}")
    classes = load_data(f"folder:{tmp_path},layout=classes").class_names
    assert classes == sorted(top.partition("/")[0] for top in tops)


def test_parts_without_classes_inside_are_no_classes_either(tmp_path):
    folders(tmp_path, "train", "test")
    with pytest.raises(ValueError, match="holds the folders test, train: if these are parts"):
        load_data(f"folder:{tmp_path}")


def test_folders_inside_classes_are_told_of_where_they_could_be_the_classes(tmp_path):
    folders(tmp_path, "cat/2020", "cat/2021", "dog/2020", "dog/2021")
    data = load_data(f"folder:{tmp_path}")
    assert data.class_names == ["cat", "dog"]
    assert "all of them hold 2020, 2021, which are not told apart" in data.messages[0]


@pytest.mark.parametrize("name", ["nan", "None", "NA", "-1"])
def test_a_folder_of_samples_without_a_label_is_no_class(tmp_path, name):
    folders(tmp_path, "0", "1", name)
    with pytest.raises(ValueError, match=f"{name} stands for samples without a label"):
        load_data(f"folder:{tmp_path}")
    assert load_data(f"folder:{tmp_path},layout=classes").class_names == sorted(["0", "1", name])
    (tmp_path / "data").mkdir()
    for part in ("0", "1", name):
        (tmp_path / part).rename(tmp_path / "data" / part)
    (tmp_path / "data").rename(tmp_path / "train")
    with pytest.raises(ValueError, match=f"{name} stands for samples without a label"):
        load_data(f"folder:{tmp_path}")
    assert len(load_data(f"folder:{tmp_path},layout=splits").class_names) == 3


def test_what_an_archiver_leaves_behind_is_no_class(tmp_path):
    folders(tmp_path, "0", "1")
    (tmp_path / "__MACOSX" / "0").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "0" / "._1.png").touch()
    assert load_data(f"folder:{tmp_path}").class_names == ["0", "1"]


def test_a_link_to_a_class_or_around_it_is_no_class(tmp_path):
    """Its images would be there twice, with two labels."""
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (data / "cat", data / "dog", data / ".store" / "owl", elsewhere):
        folder.mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (9, 9)).save(folder / f"{number}.png")
    for name, target in (
        ("all", data),
        ("above", tmp_path),
        ("kitten", data / "cat"),
        ("owl", data / ".store" / "owl"),
        ("fox", elsewhere),
        ("vixen", elsewhere),
    ):
        (data / name).symlink_to(target)
    read = load_data(f"folder:{data}")
    assert read.class_names == ["cat", "dog", "fox", "owl"]
    assert len(read.train) == 8
    assert read.messages == [
        f"passed over 4 folders in {data} that are links to what is there already (above, all, kitten, ...)",
        f"passed over 1 folders in {data} that are hidden, by a dot before their name (.store)",
    ]


def test_a_link_from_one_split_into_another_is_no_class(tmp_path):
    for folder in ("train/cat", "train/dog", "test/cat"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (9, 9)).save(tmp_path / folder / f"{number}.png")
    (tmp_path / "test" / "dog").symlink_to(tmp_path / "train" / "cat")
    read = load_data(f"folder:{tmp_path}")
    assert read.test.labels.tolist() == [0, 0]
    assert any("links to what is there already (dog)" in message for message in read.messages)
