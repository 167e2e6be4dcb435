"""Small copies of data sets in their original formats: CIFAR archives, WebVision, Clothing1M."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest


def cifar_samples(count: int, num_classes: int, seed: int = 0):
    """Images that a network can learn: one flat color per class, and noise."""
    generator = np.random.default_rng(seed)
    fine = np.arange(count) % num_classes
    colors = np.random.default_rng(99).integers(0, 200, (num_classes, 3, 1, 1))
    noise = generator.integers(0, 56, (count, 3, 32, 32))
    return (colors[fine] + noise).astype(np.uint8), fine


def python2_pickle(content: dict) -> bytes:
    """The pickle that Python 2's cPickle writes: protocol 2, byte strings as STRING opcodes."""

    def write(value) -> bytes:
        if isinstance(value, str):
            raw = value.encode("latin-1")
            if len(raw) < 256:
                return b"U" + bytes([len(raw)]) + raw
            return b"T" + struct.pack("<i", len(raw)) + raw
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, list):
            return b"](" + b"".join(map(write, value)) + b"e"
        if isinstance(value, tuple):
            return b"(" + b"".join(map(write, value)) + b"t"
        assert isinstance(value, np.ndarray)
        # numpy.core.multiarray._reconstruct(ndarray, (0,), "b"), then its state.
        dtype = b"cnumpy\ndtype\n" + write(("u1", 0, 1)) + b"R"
        dtype += b"(" + write(3) + write("|") + b"NNN" + write(-1) + write(-1) + write(0) + b"tb"
        state = b"(" + write(1) + write(value.shape) + dtype + b"\x89"
        state += write(value.tobytes().decode("latin-1")) + b"t"
        head = b"cnumpy.core.multiarray\n_reconstruct\nq\x01(cnumpy\nndarray\n" + write((0,))
        return head + write("b") + b"tRq\x02" + state + b"b"

    items = b"".join(write(key) + write(value) for key, value in content.items())
    return b"\x80\x02}q\x00(" + items + b"u."


def cifar_files(num_classes: int, version: str, per_file: int = 40) -> dict[str, bytes]:
    """Content by file name, of the python, python3 (pickled by Python 3) or binary version."""
    dump = python2_pickle if version == "python" else pickle.dumps
    trains = [f"data_batch_{k}" for k in range(1, 6)] if num_classes == 10 else ["train"]
    test = "test_batch" if num_classes == 10 else "test"
    files = {}
    for k, name in enumerate([*trains, test]):
        images, fine = cifar_samples(per_file, num_classes, seed=k)
        coarse = fine % 20
        if version == "binary":
            columns = [fine] if num_classes == 10 else [coarse, fine]
            labels = np.stack(columns, axis=1).astype(np.uint8)
            records = np.concatenate([labels, images.reshape(per_file, -1)], axis=1)
            files[f"{name}.bin"] = records.tobytes()
            continue
        content = {"batch_label": f"batch {k}", "data": images.reshape(per_file, -1)}
        if num_classes == 10:
            content["labels"] = fine.tolist()
        else:
            content |= {"fine_labels": fine.tolist(), "coarse_labels": coarse.tolist()}
        content["filenames"] = [f"{i}.png" for i in range(per_file)]
        files[name] = dump(content)
    names = [f"class{k}" for k in range(num_classes)]
    if version == "binary":
        listed = "".join(f"{name}\n" for name in names).encode()
        files["batches.meta.txt" if num_classes == 10 else "fine_label_names.txt"] = listed
    elif num_classes == 10:
        files["batches.meta"] = dump({"label_names": names})
    else:
        files["meta"] = dump({"fine_label_names": names, "coarse_label_names": ["a"] * 20})
    return files


FOLDERS = {
    (10, "python"): "cifar-10-batches-py",
    (10, "python3"): "cifar-10-batches-py",
    (10, "binary"): "cifar-10-batches-bin",
    (100, "python"): "cifar-100-python",
    (100, "python3"): "cifar-100-python",
    (100, "binary"): "cifar-100-binary",
}


def write_folder(root: Path, num_classes: int, version: str, per_file: int = 40) -> Path:
    """The unpacked folder."""
    folder = root / FOLDERS[num_classes, version]
    folder.mkdir(parents=True)
    for name, data in cifar_files(num_classes, version, per_file).items():
        (folder / name).write_bytes(data)
    return folder


def write_archive(root: Path, num_classes: int, version: str, per_file: int = 40) -> Path:
    """The ``.tar.gz``."""
    path = root / f"cifar-{num_classes}-{version.rstrip('3')}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in cifar_files(num_classes, version, per_file).items():
            member = tarfile.TarInfo(f"{FOLDERS[num_classes, version]}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


SYNSETS = [("n01440764", "tench, Tinca tinca"), ("n01443537", "goldfish"), ("n01484850", "shark")]
COLORS = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]


def _pillow():
    """Pillow's Image, or the test is skipped."""
    return pytest.importorskip("PIL.Image")


def _save(path, label, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    _pillow().new("RGB", size, COLORS[label % 3]).save(path)


def write_webvision(root, per_class=4, prefix=""):
    """WebVision: lists of both sources, 2 × ``per_class`` images a class, six for validation."""
    (root / "info").mkdir(parents=True)
    (root / "info" / "synsets.txt").write_text("".join(f"{i} {n}\n" for i, n in SYNSETS))
    for source in ("google", "flickr"):
        lines = []
        for label in range(3):
            for k in range(per_class):
                # Query folders are not classes, and labels are what the list says.
                name = f"{source}/q{2 * label + k % 2 + 1:04d}/{source[0]}{label}_{k}.jpg"
                _save(root / prefix / name, label)
                lines.append(f"{name} {label}\n")
        (root / "info" / f"train_filelist_{source}.txt").write_text("".join(lines))
    lines = []
    for k in range(6):
        _save(root / "val_images_256" / f"val{k:06d}.jpg", k % 3)
        lines.append(f"val{k:06d}.jpg {k % 3}\n")
    (root / "info" / "val_filelist.txt").write_text("".join(lines))


def write_imagenet(root, layout):
    """Six ImageNet validation images in folders by WordNet id or number, or ``flat`` with a list."""
    names = {"wordnet": [i for i, _ in SYNSETS], "number": ["0", "1", "2"], "flat": [""] * 3}[
        layout
    ]
    rows = ["ImageId,PredictionString"]
    for k in range(6):
        image = f"ILSVRC2012_val_{k + 1:08d}"
        _save(root / names[k % 3] / f"{image}.JPEG", k % 3)
        rows.append(f"{image},{SYNSETS[k % 3][0]} 1 2 3 4 ")
    if layout == "flat":
        (root / "LOC_val_solution.csv").write_text("\n".join(rows) + "\n")


CATEGORIES = ["T-Shirt", "Shirt", "Knitwear"]


def write_clothing(root, lists="", images="images"):
    """Clothing1M: key lists and labels, noisy and clean, in ``lists``; pictures in ``images``."""
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
            _save(root / key.replace("images/", f"{images}/" if images else ""), k)
            keys.append(key)
            pairs[kind].append((key, k % 3))
        (listed / f"{kind}_{part}_key_list.txt").write_text("\n".join(keys) + "\n")
    for kind, entries in pairs.items():
        text = "".join(f"{key} {label}\n" for key, label in entries)
        (listed / f"{kind}_label_kv.txt").write_text(text)
