"""Fuzz targets: arrays in .npz files and folders of images. See fuzz_run.py."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from fuzz_labels import REFUSALS, plain
from hypothesis import strategies as st
from PIL import Image

from mild_ext.data import load_data
from mild_ext.files import as_text

ARRAYS = st.sampled_from(
    [
        np.zeros((6, 3)),
        np.ones((6, 3), np.uint8),
        np.full((6, 3), np.nan),
        np.zeros((6, 4, 4), np.float32),
        np.zeros((0, 3)),
        np.zeros(6),
        np.arange(6) % 2,
        np.arange(6.0) % 3,
        np.arange(6) % 3 - 1,
        np.array([0, 1, np.nan, 1, 0, 1]),
        np.array(list("abcabc")),
        np.array(["a", "", "b", "nan", "c", "a"]),
        np.eye(6),
        np.array(list("abc")),
        np.array([object()] * 6),
        np.array(3),
        np.zeros(6, complex),
        np.arange(6)[:, None] % 2,
    ]
)


@st.composite
def any_npz(draw):
    names = ("x_train", "y_train", "y_true", "x_test", "y_test", "class_names", "other")
    arrays = {"x_train": np.arange(18.0).reshape(6, 3), "y_train": np.arange(6) % 2}
    for name in draw(st.lists(st.sampled_from(names), max_size=3)):
        arrays[name] = draw(ARRAYS)
    damage = draw(st.one_of(st.none(), st.tuples(st.floats(0, 0.999), st.integers(0, 255))))
    return arrays, damage, draw(st.booleans()), draw(st.booleans())


def npz(case):
    """Arrays are read as they were written, or the file is refused by its name."""
    arrays, damage, cut, drop = case
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, **arrays)
        whole = bytearray(path.read_bytes())
        if damage is not None:
            place = int(damage[0] * len(whole))
            changed = whole[:place] if cut else whole
            if not cut:
                changed[place] ^= damage[1]
            path.write_bytes(bytes(changed))
        try:
            data = load_data(f"npz:{path}" + (",missing=drop" if drop else ""))
        except REFUSALS:
            return
        kept = [plain(y) is not None for y in arrays["y_train"].ravel()]
        assert drop or all(kept)
        if damage is not None and len(data) != sum(kept):
            raise AssertionError("a damaged file was read as another one")
        x = arrays["x_train"][kept]
        x = x[:, None] if x.ndim == 3 else x
        assert np.array_equal(data.train.inputs.numpy(), x.astype(data.train.inputs.numpy().dtype))
        names = arrays.get("class_names")
        for entry, value in zip(arrays["y_train"].ravel()[kept], data.labels.tolist(), strict=True):
            text = str(entry) if isinstance(entry, str) else str(int(entry))
            assert names is not None or data.class_names[value] == text


WORDS = ("cat", "dog", "owl", "1", "2", "1.0", "-1", "", "nan", " cat", "None", "none", "=x", "ä")


@st.composite
def any_table(draw):
    """Rows of a text and a label, how they are written, and where a quote is put into the file, if anywhere."""
    cells = st.text(alphabet="ab ,;\"\n'=", max_size=8)
    some = draw(st.lists(st.sampled_from(WORDS), min_size=2, max_size=4))
    rows = draw(st.lists(st.tuples(cells, st.sampled_from(some)), min_size=8, max_size=12))
    quote = draw(st.one_of(st.none(), st.floats(0, 1)))
    return rows, draw(st.sampled_from([",", ";", "\t", "parquet"])), quote, draw(st.booleans())


def tables(case):
    """Texts and labels are those that were written, or the file is refused; no quote makes rows disappear."""
    rows, kind, quote, drop = case
    rows = [("good day " + text, label) for text, label in rows]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("t.parquet" if kind == "parquet" else "t.csv")
        if kind == "parquet":
            columns = {name: [row[k] for row in rows] for k, name in enumerate(("text", "y"))}
            pyarrow.parquet.write_table(pyarrow.table(columns), path)
        else:
            with open(path, "w", newline="", encoding="utf-8") as file:
                csv.writer(file, delimiter=kind).writerows([("text", "y"), *rows])
            if quote is not None:
                content = path.read_bytes().decode()
                place = len("text,y\r\n") + int(quote * (len(content) - len("text,y\r\n")))
                if kind not in content[place:].partition("\r\n")[0]:
                    return  # in a label, which is another one then
                path.write_bytes((content[:place] + '"' + content[place:]).encode())
        prefix = "parquet" if kind == "parquet" else "csv"
        option = ",missing=drop" if drop else ""
        try:
            data = load_data(f"{prefix}:{path},label=y,text=text{option}")
        except REFUSALS:
            return
    labels = [label.strip() for _, label in rows]
    if all(label in ("", "nan", "None", "1", "2", "1.0", "-1") for label in labels):
        labels = [label.partition(".")[0] for label in labels]
    two = set(labels) <= {"-1", "1"}
    kept = [
        k
        for k, label in enumerate(labels)
        if label not in ("", "nan", "None") and (label != "-1" or two)
    ]
    assert drop or len(kept) == len(rows)
    # A quote may end a cell and make two rows of one, as the file then says; it may not make rows disappear.
    assert len(data) >= len(kept)
    if quote is None or kind == "parquet":
        assert len(data) == len(kept)
        assert [data.class_names[k] for k in data.labels.tolist()] == [labels[k] for k in kept]
        assert data.texts == [rows[k][0].strip() for k in kept]


NAMES = (
    "cat",
    "dog",
    "train",
    "Train",
    "test",
    "val",
    "validation",
    ".git",
    "a\nb",
    "k\udce4se",
    "=cmd()",
)
SPLITS = {"train", "Train", "test", "val", "validation"}
FILES = (
    "1.png",
    "2.PNG",
    "x.jpg",
    "._1.png",
    "n.txt",
    "bad.png",
    "pipe.png",
    "link.png",
    "u\udce9.png",
    "Thumbs.db",
)


@st.composite
def any_folder(draw):
    deep = st.lists(st.sampled_from(NAMES), max_size=3)
    files = draw(st.lists(st.tuples(deep, st.sampled_from(FILES)), min_size=1, max_size=14))
    return files, draw(st.sampled_from(["", ",layout=classes", ",layout=splits", ",memory=no"]))


def _looks_like_an_image(path):
    return path.suffix.lower() in (".png", ".jpg") and path.name[0] != "."


def folders(case):
    """Every file that looks like data is loaded, or counted in a message."""
    files, options = case
    top = tempfile.mkdtemp()
    root = Path(top) / "data"
    try:
        root.mkdir()
        for parents, name in files:
            path = root.joinpath(*parents, name)
            with contextlib.suppress(FileExistsError):
                path.parent.mkdir(parents=True, exist_ok=True)
                if name == "pipe.png":
                    os.mkfifo(path)
                elif name == "link.png":
                    path.symlink_to(root)
                elif name in ("bad.png", "n.txt", "Thumbs.db"):
                    path.write_bytes(b"nothing of the kind")
                else:
                    Image.new("RGB", (9, 9), (len(parents), 9, 9)).save(path, "PNG")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                data = load_data(f"folder:{root}{options}")
            except REFUSALS:
                return
        for text in (*data.class_names, *map(as_text, data.sample_names), *data.messages):
            text.encode("utf-8")
            assert text.isprintable()
        parts = (data.train, data.test, data.validation)
        loaded = sum(len(part) for part in parts if part is not None)
        told = "\n".join(data.messages)
        counted = sum(map(int, re.findall(r"passed over (\d+) files", told)))
        # A file that cannot be read may be told of twice: by its header, and by its content.
        unreadable = sum(map(int, re.findall(r"left out (\d+) of", told)))
        aside = re.findall(r"passed over \d+ folders in .* that (?:are hidden|hold images)", told)
        whole = [p for p in root.rglob("*") if not p.is_dir() and p.name != "Thumbs.db"]
        relative = [p.relative_to(root) for p in whole]
        imageless = re.search(r"passed over (\d+) folders in .* that hold no images", told)
        if imageless:
            full = {p.parts[0] for p in relative if _looks_like_an_image(p)}
            tops = {p.name for p in root.iterdir() if p.is_dir()}
            empty = tops - full - SPLITS - {".git", "link.png"}
            assert int(imageless[1]) == len(empty), (told, relative)
            relative = [p for p in relative if p.parts[0] not in empty]
        hidden = [p for p in relative if any(part.startswith(".") for part in p.parts[:-1])]
        if not aside:
            assert not [p for p in hidden if _looks_like_an_image(p)]
            plain_files = len(relative) - len(hidden)
            loose_text = sum(p.name == "n.txt" for p in relative)  # no data, where it lies about
            assert plain_files - loose_text <= loaded + counted + unreadable, (told, relative)
    finally:
        shutil.rmtree(top)
