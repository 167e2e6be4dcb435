"""Tables: rows of numbers, categories, text and pictures; what is missing, and what the errors name."""

from __future__ import annotations

import csv
import datetime
import json
import os
import re

import numpy as np
import pytest
import torch

from mild_ext.data import load_data
from mild_ext.data.readers.table import encode_rows
from mild_ext.data.readers.table_file import read_table_file, write_table_file


def write(path, header, *rows, delimiter=","):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerows([header, *rows])
    return path


@pytest.fixture
def people(tmp_path):
    rows = [
        ["a1", "1.5", "red", "yes", "5"],
        ["a2", "2.5", "blue", "no", "5"],
        ["a3", "", "red", "yes", "5"],
        ["a4", "3.5", "", "no", "5"],
        ["a5", "100", "red", "no", "5"],
        ["a6", "2.5", "blue", "yes", "5"],
    ]
    return write(tmp_path / "people.csv", ["key", "size", "color", "label", "same"], *rows)


def test_numbers_and_categories(people):
    data = load_data(f"csv:{people},label=label,id=key")
    assert data.class_names == ["no", "yes"]
    assert data.labels.tolist() == [1, 0, 1, 0, 0, 1]
    assert data.sample_names == ["a1", "a2", "a3", "a4", "a5", "a6"]
    # size, size missing, color blue, red, missing; one value for all says nothing
    inputs = data.train.inputs
    assert inputs.shape == (6, 5)
    assert data.input_shape == (5,)
    size = np.array([1.5, 2.5, 2.5, 3.5, 100, 2.5])  # the median where it is missing
    there = np.array([1.5, 2.5, 3.5, 100, 2.5])
    assert np.allclose(inputs[:, 0], (size - there.mean()) / there.std(), atol=1e-6)
    assert inputs[:, 1].tolist() == [0, 0, 1, 0, 0, 0]
    assert inputs[:, 2:].tolist() == [
        [0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0],
    ]  # fmt: skip
    listed = " ".join(data.messages)
    assert "column same is left out: all its values are '5'" in listed
    assert "2 values are missing, in 2 columns, most in size 1, color 1" in listed
    assert data.texts is not None
    assert data.texts[0] == "size=1.5, color=red, same=5"
    assert data.shown_kind == "text"
    encoding = json.loads(json.dumps(data.encoding))
    rows = [{"size": "1.5", "color": "red"}, {"size": None, "color": "green"}]
    again = encode_rows(rows, encoding)
    assert torch.equal(again[0], inputs[0])
    assert again[1].tolist() == pytest.approx([float(inputs[2, 0]), 1, 0, 0, 0])
    with pytest.raises(ValueError, match="row 0 has no column 'color'; it has size"):
        encode_rows([{"size": 1}], encoding)


def test_columns_can_be_chosen_and_far_values_are_cut_off(people, tmp_path):
    data = load_data(f"csv:{people},label=label,columns=color")
    assert data.input_shape == (3,)
    assert data.sample_names == [str(k) for k in range(6)]
    values = [["0"]] * 200 + [["1e9"]] + [["1"]] * 200
    far = write(tmp_path / "f.csv", ["x", "y"], *[[*v, k % 2] for k, v in enumerate(values)])
    inputs = load_data(f"csv:{far},label=y").train.inputs
    assert float(inputs.max()) == 6.0


def test_other_delimiters_ids_that_count_and_names_are_seen(tmp_path):
    rows = [[k, f"name{k}", k % 7, "ab"[k % 2]] for k in range(200)]
    path = write(tmp_path / "t.csv", ["index", "name", "x", "y"], *rows, delimiter=";")
    data = load_data(f"csv:{path},label=y")
    listed = " ".join(data.messages)
    assert data.input_shape == (1,)
    assert "column index is left out: it numbers the rows" in listed
    assert "column name is left out: 200 different values" in listed
    assert "text=name" in listed


def test_labels_that_are_missing_are_counted_or_left_out(tmp_path):
    rows = [[k, ["a", "b", "", "nan"][k % 4] if k < 8 else "ab"[k % 2]] for k in range(12)]
    path = write(tmp_path / "t.csv", ["x", "y"], *[[k * k % 5, y] for k, y in rows])
    with pytest.raises(
        ValueError, match=r"4 of 12 rows have no label in column y \(rows 2, 3, 6, 7"
    ):
        load_data(f"csv:{path},label=y")
    data = load_data(f"csv:{path},label=y,missing=drop")
    assert len(data) == 8
    assert data.sample_names == ["0", "1", "4", "5", "8", "9", "10", "11"]  # rows of the file
    assert "4 rows without a label are left out" in " ".join(data.messages)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "name the column of the labels: ,label=COLUMN; .* has key, size, color, label, same"),
        (",label=lable", "has no column 'lable' .*did you mean label.*It has key, size"),
        (",label=label,text=words", r"no column 'words' \(text=\)"),
        (",label=label,text=color+words", r"no column 'words' \(text=\)"),
        (",label=label,image=file", r"no column 'file' \(image=\)"),
        (",label=label,id=color", "'red' occurs 3 times in column color; ids must be unique"),
        (",label=label,columns=size+label", "column label is the label or the id"),
        (",label=key", "column key has 6 different values in 6 rows"),
        (",label=same", "one value '5'"),
        (",label=label,missing=keep", "missing must be refuse or drop"),
        (",label=label,text=color,image=key", "give one of them"),
        (",label=label,nonsense=1", "has no option 'nonsense'"),
    ],
)
def test_errors_name_what_there_is(people, options, message):
    with pytest.raises(ValueError, match=message):
        load_data(f"csv:{people}{options}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("a,a\n1,2\n", "more than one column 'a'"),
        ("a,b\n1,2,3\n", "line 2: 3 cells, but the header has 2"),
        ("a,y\n1,\n", "1 of 1 rows have no label"),
        ("a,y\n", "no row with a label"),
        (
            b"a,y\n\xff\xfe,1\n",
            "t.csv cannot be read: the byte 0xff in line 2 is no UTF-8; save it as",
        ),
        ("a,y\n1,caf\xe9\n".encode("latin-1"), "the byte 0xe9 in line 2 is no UTF-8"),
        ("a,y\n1,2\n".encode("utf-16"), "it is UTF-16, not UTF-8; convert it: iconv -f UTF-16"),
        ("a,y\n1,2\n".encode("utf-32"), "it is UTF-32"),
        ("a,y\n1,2\n".encode("utf-16-le"), "line 1 holds a zero byte.* .iconv -f UTF-16LE"),
        ("a,y\n1,cat\n2,cat\0\n", "line 3 holds a zero byte"),
        (b"PK\3\4" + b" " * 99, "an Excel workbook: .* save it as CSV"),
        (b"\x1f\x8b\x08" + b" " * 99, "gunzip"),
        (b"PAR1" + b" " * 99, "give it as parquet:FILE"),
        ("a,y\n1,2\na,y\n2,2\n", "line 3: the header again"),
        ('a,y\n1,2\n"2,3\n', "line 3: unexpected end of data; a quote"),
        ('a,y\n1,2\n2,"3\n', "line 3: unexpected end of data; a quote"),
        ('a,y\n"1,2\n3,4\n5" in,6\n', "line 4: ',' expected after"),
        (
            'a,y\n1,2\n"2,2\n3,5\n4",5\n1,5\n5,2\n6,2\n',
            r"row 1 .* lines that are rows .*'3,5'.* too late",
        ),
    ],
)
def test_files_that_are_no_tables(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        load_data(f"csv:{path},label=y")
    with pytest.raises(ValueError, match="there is no file"):
        load_data(f"csv:{tmp_path / 'none.csv'},label=y")


def test_a_cell_of_several_lines_need_not_be_rows(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('text,y\n"one,\ntwo, or three\nfour",a\none two,b\none four,a\nfour two,b\n')
    assert load_data(f"csv:{path},label=y,text=text").labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("text", ["y", "x+y"])
def test_nothing_is_learned_from_the_label_itself(tmp_path, text):
    path = write(tmp_path / "t.csv", ["x", "y"], *[["good day", "a"], ["bad day", "b"]] * 4)
    with pytest.raises(ValueError, match="column y is the label"):
        load_data(f"csv:{path},label=y,text={text}")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([1.5, 2.5, 3.5, "inf"], "'inf' is none"),
        ([1.5, 2.5, 3.5, "3.5 kg"], "'3.5 kg' is none"),
        (["1,5", "2,5", "3,5", "4,5"], "a number needs a point"),
        (["red", "blue", "red", "4"], None),
        ([1.5, 2.5, 3.5, ""], None),
    ],
)
def test_numbers_are_not_taken_for_categories_without_a_word(tmp_path, values, why):
    rows = [[value, k % 2] for k, value in enumerate(values * 3)]
    data = load_data(f"csv:{write(tmp_path / 't.csv', ['x', 'y'], *rows)},label=y")
    told = [text for text in data.messages if "taken for a category" in text]
    assert len(told) == (why is not None)
    assert why is None or why in told[0]


def test_cells_of_a_parquet_file_that_are_no_values_are_left_out_and_named(tmp_path):
    table = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    columns = {
        "list": [[1.0, k] for k in range(8)],
        "struct": [{"a": k} for k in range(8)],
        "good": [0.5 * k for k in range(8)],
        "y": [k % 2 for k in range(8)],
    }
    write_table(table.table(columns), tmp_path / "t.parquet")
    data = load_data(f"parquet:{tmp_path / 't.parquet'},label=y")
    assert data.input_shape == (1,)
    told = "\n".join(data.messages)
    assert "column list is left out: it holds lists" in told
    assert "column struct is left out: it holds dicts" in told
    columns["y"] = table.array([0, 255] * 4, table.uint8())
    write_table(table.table(columns), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="255 is what -1, no label, becomes"):
        load_data(f"parquet:{tmp_path / 't.parquet'},label=y")


def test_lines_of_a_parquet_cell_are_no_rows(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    texts = ["first\nwe said so,cat\nlast" if k == 3 else f"text {k}" for k in range(20)]
    table = pyarrow.table({"text": texts, "y": ["cat", "dog"] * 10})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert len(load_data(f"parquet:{tmp_path / 't.parquet'},label=y,text=text")) == 20


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["cat", "Cat", "dog"], "'Cat' and 'cat' differ in their spelling alone"),
        (["1", "01", "2"], "differ in their spelling"),
        (["caf\u00e9", "cafe\u0301", "tea"], "differ in their spelling"),
        (["big_cat", "big cat", "dog"], "differ in their spelling"),
        (["?", "cat", "dog"], r"a class is called '\?' \(8 samples\)"),
        (["unknown", "cat", "dog"], "a class is called 'unknown'"),
        (["none", "cat", "dog"], "a class is called 'none'"),
        (["cat", "dog", "owl"], None),
        (["up", "-2", "2"], None),
    ],
)
def test_classes_that_may_be_none_are_said(tmp_path, names, told):
    rows = [[k % 5, names[k % 3]] for k in range(24)]
    data = load_data(f"csv:{write(tmp_path / 't.csv', ['x', 'y'], *rows)},label=y")
    assert len(data.messages) == (told is not None)
    assert told is None or re.search(told, data.messages[0])
    path = write(tmp_path / "u.csv", ["x", "y"], *rows, ["1", "Total: 24"])
    said = load_data(f"csv:{path},label=y").messages
    assert said[-1] == "only one sample is labeled 'Total: 24'; is that a class?"


def test_whole_numbers_are_classes_in_their_order(tmp_path):
    path = write(tmp_path / "t.csv", ["x", "y"], *[[k % 3, [10, 9, 100][k % 3]] for k in range(30)])
    data = load_data(f"csv:{path},label=y,missing=drop")
    assert data.class_names == ["9", "10", "100"]


def test_text_by_its_words(tmp_path):
    pytest.importorskip("sklearn")
    texts = [
        "the cat sat",
        "a dog barks",
        "cat naps",
        "dog runs",
        "The CAT eats",
        "dog dog dog",
        "",
    ]
    rows = [[text, f"{text} again", "cd"["dog" in text]] for text in texts]
    path = write(tmp_path / "t.csv", ["title", "body", "y"], *rows)
    data = load_data(f"csv:{path},label=y,text=title")
    assert data.texts == texts
    assert "1 of 7 texts are empty" in " ".join(data.messages)
    inputs = data.train.inputs
    lengths = inputs.norm(dim=1)
    assert torch.allclose(lengths[:-1], torch.full((6,), 8.0), atol=1e-5)
    assert lengths[-1] == 0
    words = data.encoding["words"]
    assert {"cat", "dog", "the cat"} <= set(words)
    assert torch.equal(inputs[:, words.index("cat")] > 0, torch.tensor([1, 0, 1, 0, 1, 0, 0]) > 0)
    encoding = json.loads(json.dumps(data.encoding))
    again = encode_rows([{"title": text} for text in texts], encoding)
    assert torch.allclose(again, inputs, atol=1e-6)
    both = load_data(f"csv:{path},label=y,text=title+body")
    assert both.texts[0] == "the cat sat the cat sat again"
    held = load_data(f"csv:{path},label=y,text=title", test_fraction=0.4)
    assert len(held) == len(held.texts) < 7
    assert set(held.texts) < set(texts)


@pytest.mark.slow
def test_text_by_an_encoder(tmp_path):
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog", "naps", "runs"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    folder = tmp_path / "encoder"
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt")).save_pretrained(folder)
    rows = [[f"{w} {v}", w[0]] for w in ("cat", "dog") for v in ("naps", "runs", "naps runs")]
    path = write(tmp_path / "t.csv", ["text", "y"], *rows)
    data = load_data(f"csv:{path},label=y,text=text,encoder={folder}")
    assert data.input_shape == (8,)
    assert torch.allclose(data.train.inputs.mean(0), torch.zeros(8), atol=1e-3)
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_data(f"csv:{path},label=y,text=text,encoder={tmp_path / 'nothing'}")


def test_pictures_by_their_paths(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    (tmp_path / "files").mkdir()
    pixels = rng.integers(0, 255, (6, 8, 8, 3), dtype=np.uint8)
    for k in range(6):
        Image.fromarray(pixels[k]).save(tmp_path / "files" / f"{k}.png")
    (tmp_path / "files" / "5.png").write_bytes(b"no picture")
    rows = [[f"files/{k}.png", "ab"[k % 2], f"p{k}"] for k in range(6)]
    path = write(tmp_path / "t.csv", ["file", "y", "key"], *rows)
    data = load_data(f"csv:{path},label=y,image=file")
    assert data.kind == "image"
    assert data.input_shape == (3, 8, 8)
    assert data.sample_names == [f"files/{k}.png" for k in range(5)]
    assert data.labels.tolist() == [0, 1, 0, 1, 0]
    assert "5.png" in " ".join(data.messages)
    assert np.array_equal(data.train[2][0].numpy(), pixels[2].transpose(2, 0, 1))
    assert data.table == {"path": str(path), "label": "y", "id": "file"}
    named = load_data(f"csv:{path},label=y,image=file,id=key,root={tmp_path},size=4")
    assert named.sample_names == [f"p{k}" for k in range(5)]
    assert named.input_shape == (3, 4, 4)


def test_parquet_is_read_and_written_with_its_types(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "t.parquet"
    table = pa.table({"x": [1.5, None, 2.5, 4.0], "y": [0, 1, 0, 1], "note": ["a", "b", "a", "b"]})
    pq.write_table(table, path)
    data = load_data(f"parquet:{path},label=y")
    assert data.class_names == ["0", "1"]
    assert data.input_shape == (4,)
    read = read_table_file(path)
    out = tmp_path / "out.parquet"
    write_table_file(out, read, [{**row, "y": 1 - row["y"]} for row in read.rows])
    assert pq.read_table(out).schema.equals(table.schema)
    assert pq.read_table(out)["y"].to_pylist() == [1, 0, 1, 0]
    (tmp_path / "broken.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"broken\.parquet cannot be read"):
        load_data(f"parquet:{tmp_path / 'broken.parquet'},label=y")


# ------------------------------------------------------------------------- what others may have put in


def parquet(path, labels, **columns):
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"x": np.arange(len(labels)) % 2 / 3, "y": labels, **columns})
    pytest.importorskip("pyarrow.parquet").write_table(table, path, compression="zstd")
    return path


@pytest.mark.parametrize(
    ("two", "message"),
    [
        ([[0, 1], [1, 0]], "one-hot"),
        ([[1, 1], [1, 0]], "multi-label"),
        ([{"a": 1}, {"a": 2}], "got dict"),
        ([datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)], "got date"),
    ],
)
def test_what_is_no_label_in_a_parquet_file_is_no_class(tmp_path, two, message):
    path = parquet(tmp_path / "t.parquet", two * 10)
    with pytest.raises(TypeError, match=f"labels in column y .*{message}"):
        load_data(f"parquet:{path},label=y")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([b"cat", b"dog"], ["cat", "dog"]),
        ([[0], [1]], ["0", "1"]),
        ([1.0, 2.0], ["1", "2"]),
        ([True, False], ["False", "True"]),
    ],
)
def test_labels_of_a_parquet_file_are_named_as_they_are(tmp_path, labels, names):
    path = parquet(tmp_path / "t.parquet", labels * 10)
    assert load_data(f"parquet:{path},label=y").class_names == names


def test_a_class_is_one_class_however_its_number_is_spelled(tmp_path):
    rows = [[k % 5 / 3, ["1", "1.0", "0.0", "²"][k % 3]] for k in range(30)]
    data = load_data(f"csv:{write(tmp_path / 't.csv', ['x', 'y'], *rows)},label=y")
    assert data.class_names == ["0", "1"]
    rows[0][1] = rows[1][1] = "²"  # a digit that int() does not take
    data = load_data(f"csv:{write(tmp_path / 't.csv', ['x', 'y'], *rows)},label=y")
    assert data.class_names == ["0.0", "1", "1.0", "²"]


def test_a_missing_number_is_no_class(tmp_path):
    rows = [[k % 5 / 3, ["0", "1", "1.#QNAN"][k % 3]] for k in range(30)]
    spec = f"csv:{write(tmp_path / 't.csv', ['x', 'y'], *rows)},label=y"
    with pytest.raises(ValueError, match="10 of 30"):
        load_data(spec)


@pytest.mark.parametrize("kind", ["rows", "text"])
def test_parquet_files_that_stand_for_far_more_than_their_size_are_refused(tmp_path, kind):
    """Before they are unpacked: 2 * 10^7 equal numbers in kilobytes, a text of a megabyte in 20,000 rows."""
    pa = pytest.importorskip("pyarrow")
    if kind == "rows":
        path = parquet(tmp_path / "t.parquet", pa.array(np.zeros(20_000_000, np.int8)))
    else:
        text = pa.DictionaryArray.from_arrays(
            pa.array([0] * 20_000, pa.int32()), pa.array(["w" * 1_000_000])
        )
        path = parquet(tmp_path / "t.parquet", [0, 1] * 10_000, text=text)
    assert path.stat().st_size < 1 << 21
    with pytest.raises(ValueError, match=r"t.parquet cannot be read: .* taken for an attack"):
        load_data(f"parquet:{path},label=y")


def test_a_cell_may_be_a_whole_document(tmp_path):
    path = write(tmp_path / "t.csv", ["t", "y"], *[["cat dog " * 20_000, k % 2] for k in range(4)])
    assert len(load_data(f"csv:{path},label=y,text=t")) == 4


def test_pictures_of_a_table_lie_inside_its_folder(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    (tmp_path / "table").mkdir()
    (tmp_path / "private").mkdir()
    for k in range(4):
        Image.new("RGB", (8, 8), (k * 60, 0, 0)).save(tmp_path / "private" / f"{k}.png")
    for place in ("../private", tmp_path / "private", "a/../../private"):
        rows = [[f"{place}/{k}.png", k % 2] for k in range(4)]
        path = write(tmp_path / "table" / "t.csv", ["file", "y"], *rows)
        with pytest.raises(
            ValueError, match=r"inside .*table, but 4 of 4 lie elsewhere.*,root=DIR"
        ):
            load_data(f"csv:{path},label=y,image=file")
    rows = [[f"{tmp_path}/private/{k}.png", k % 2] for k in range(4)]
    path = write(tmp_path / "table" / "t.csv", ["file", "y"], *rows)
    assert len(load_data(f"csv:{path},label=y,image=file,root={tmp_path}")) == 4


@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_a_pipe_is_never_opened(tmp_path, kind):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is no regular file"):
        load_data(f"{kind}:{tmp_path / 'pipe'}" + (",label=y" if kind == "csv" else ""))
