"""A run's model on samples that are new to it: files, texts, rows of a table, inputs."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pytest
import torch

import mild_ext
from mild_ext.cli import main
from mild_ext.sealed import read_sealed_json, write_sealed_json

WORDS = {"fruit": "apple pear plum cherry", "metal": "iron zinc copper lead"}
OPTIONS = ["--plant=0", "--first-epochs=6", "--final-epochs=6", "--no-report", "--no-compare"]


def texts(count, seed=0):
    """Texts of two classes, and their labels."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(["fruit", "metal"] * (count // 2)).tolist()
    return [
        f"the {' and '.join(generator.choice(WORDS[label].split(), 3))} of {k % 7}"
        for k, label in enumerate(labels)
    ], labels


def train(spec, out, *options):
    assert main(["train", "--data", spec, "--out", str(out), *OPTIONS, *options]) == 0


def predicted(out):
    """What the run's own final model said of its samples."""
    classes = read_sealed_json(out / "config.json", "config")["data"]["classes"]
    with open(out / "selection.csv", newline="", encoding="utf-8") as file:
        return [classes[int(row["predicted_label"])] for row in csv.DictReader(file)]


def write(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def test_files_are_read_as_they_were_in_training(tmp_path):
    image = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    paths = []
    for k in range(80):
        kind = ("dark", "light")[k % 2]
        path = tmp_path / "photos" / kind / f"{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Of 24 pixels and more: here the default recipe's first convolution has a stride of its own.
        pixels = generator.integers(90 * (k % 2), 160 + 90 * (k % 2), (32, 40, 3), dtype=np.uint8)
        image.fromarray(pixels).save(path)
        paths.append(path)
    train(f"folder:{tmp_path / 'photos'}", tmp_path / "run", "--batch-size=16")
    model = mild_ext.load_model(tmp_path / "run")
    assert mild_ext.load_model(tmp_path / "run").net[1].features[0][0].stride == (2, 2)
    in_order = sorted(paths)
    assert model.predict(in_order, batch_size=32) == predicted(tmp_path / "run")
    assert predicted(tmp_path / "run").count("light") > 20  # it has learned something
    shares = model.probabilities([str(in_order[0])])
    assert shares.shape == (1, 2)
    assert float(shares.sum()) == pytest.approx(1, abs=1e-6)
    with open(in_order[0], "rb") as file, image.open(in_order[1]) as opened:
        assert torch.equal(model.encode([file, opened]), model.encode(in_order[:2]))
    (tmp_path / "none.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1 of 2 images cannot be read, the first: .*none\.png"):
        model.predict([in_order[0], tmp_path / "none.png"])
    for one in (in_order[0], str(in_order[0])):
        with pytest.raises(TypeError, match="samples must be a list, each an image file"):
            model.predict(one)
    with pytest.raises(TypeError, match="each sample must be an image file"):
        model.predict([{"file": "a.png"}])
    with pytest.raises(ValueError, match="at least one"):
        model.predict([])


def test_texts_are_read_by_the_words_of_training(tmp_path):
    pytest.importorskip("sklearn")
    said, labels = texts(120)
    write(
        tmp_path / "t.csv",
        ["title", "body", "kind"],
        [(t[:9], t[9:], k) for t, k in zip(said, labels, strict=True)],
    )
    spec = f"csv:{tmp_path / 't.csv'},label=kind,text=title+body"
    train(spec, tmp_path / "run", "--test-fraction=0.2")
    model = mild_ext.load_model(tmp_path / "run")
    new, right = texts(60, seed=1)
    found = model.predict(new)
    assert np.mean([a == b for a, b in zip(found, right, strict=True)]) > 0.9
    rows = [{"title": text, "body": ""} for text in new]
    assert model.predict(rows) == found
    assert model.predict(["words that never were"])[0] in ("fruit", "metal")
    with pytest.raises(ValueError, match="row 0 has no column 'body'; it has title"):
        model.predict([{"title": "a"}])
    with pytest.raises(TypeError, match="all texts, or all mappings"):
        model.predict(["a", {"title": "a", "body": "b"}])
    with pytest.raises(ValueError, match="encoder must be None"):
        mild_ext.load_model(tmp_path / "run", encoder="somebody/model")


def test_rows_are_encoded_as_they_were_in_training(tmp_path):
    generator = np.random.default_rng(0)
    rows = [
        {"size": f"{k % 2 + generator.normal(0, 0.2):.3f}", "color": ("red", "blue")[k % 3 > 0]}
        for k in range(100)
    ]
    write(
        tmp_path / "t.csv", ["size", "color", "y"],
        [(r["size"], r["color"], "ab"[k % 2]) for k, r in enumerate(rows)],
    )  # fmt: skip
    train(f"csv:{tmp_path / 't.csv'},label=y", tmp_path / "run")
    model = mild_ext.load_model(tmp_path / "run")
    assert model.predict(rows) == predicted(tmp_path / "run")
    assert model.predict([{"size": 1.1, "color": "green", "more": 1}]) == ["b"]
    with pytest.raises(
        TypeError, match="each sample must be a mapping from column to cell; got a str"
    ):
        model.predict(["1.1"])


@pytest.mark.slow
def test_texts_of_hugging_face_by_words_and_by_an_encoder(tmp_path, capsys):
    datasets = pytest.importorskip("datasets")
    transformers = pytest.importorskip("transformers")
    said, labels = texts(80)
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["fruit", "metal"])}
    )
    table = datasets.Dataset.from_dict({"text": said, "label": labels}, features=features)
    table.save_to_disk(str(tmp_path / "saved"))
    spec = f"hf:{tmp_path / 'saved'},text=text"
    train(spec, tmp_path / "words")
    model = mild_ext.load_model(tmp_path / "words")
    assert model.predict(said) == predicted(tmp_path / "words")

    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "the",
        "of",
        "and",
        *" ".join(WORDS.values()).split(),
    ]
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    train(f"{spec},encoder={folder}", tmp_path / "encoded")
    model = mild_ext.load_model(tmp_path / "encoded")
    with pytest.raises(ValueError, match="a folder is not trusted to say what to load"):
        model.predict(said[:2])
    model = mild_ext.load_model(tmp_path / "encoded", encoder=str(folder))
    assert model.predict(said) == predicted(tmp_path / "encoded")
    with pytest.raises(ValueError, match="encoder must be"):
        mild_ext.load_model(tmp_path / "encoded", encoder="another")


def test_an_encoding_that_was_changed_is_refused(tmp_path):
    pytest.importorskip("sklearn")
    said, labels = texts(60)
    write(tmp_path / "t.csv", ["text", "y"], zip(said, labels, strict=True))
    train(f"csv:{tmp_path / 't.csv'},label=y,text=text", tmp_path / "run")
    path = tmp_path / "run" / "encoding.json"
    encoding = read_sealed_json(path, "encoding")
    wrong = [
        ({"kind": "pickle"}, "no encoding of the kind 'pickle'"),
        ({"words": encoding["words"][1:]}, "a weight for each word"),
        ({"words": encoding["words"][1:], "weights": encoding["weights"][1:]}, "the model takes"),
        ({"words": "iron"}, "words must be of type list"),
        ({"kind": "pictures", "channels": 3, "height": 10**6, "width": 10**6, "margin": 1.0}, "the model takes"),
        ({"kind": "columns", "columns": [{"name": "a", "kind": "number"}]}, "column a: mean is missing"),
    ]  # fmt: skip
    for change, message in wrong:
        write_sealed_json(path, encoding | change)
        with pytest.raises(ValueError, match=message):
            mild_ext.load_model(tmp_path / "run")
    path.write_text(json.dumps({"kind": "words"})[:-3])
    with pytest.raises(ValueError, match=os.fspath(path.name)):
        mild_ext.load_model(tmp_path / "run")
