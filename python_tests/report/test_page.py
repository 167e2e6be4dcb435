"""The report: one page, nothing fetched, and its numbers are those of the run."""

import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from mild_ext.cli import main

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from mild_ext.report import shown
from mild_ext.report.by_class import class_noise, confusion_matrix, flows
from mild_ext.report.page import gather, write_report
from mild_ext.report.review import as_script_data
from mild_ext.report.run_data import Sample, Suspect, read_suspects
from mild_ext.report.verdict import verdict

NAMES = ["zero", '<script>alert("one")</script>', "two & a half"]
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Collects what the tests ask about, and checks that every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run on pictures of three kinds, with names that must not get into the markup."""
    folder = tmp_path_factory.mktemp("report")
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 180)
    x = random.integers(0, 60, (180, 8, 8, 3)).astype(np.uint8)
    for k in range(3):
        x[y == k, 2 * k : 2 * k + 3, :, k] += 150
    data = folder / "pictures & <b>more.npz"
    np.savez(data, x_train=x[:150], y_train=y[:150], x_test=x[150:], y_test=y[150:],
             class_names=np.array(NAMES))  # fmt: skip
    out = folder / "run"
    assert main([
        "train", "--data", f"npz:{data}", "--noise", "symmetric:0.4", "--out", str(out), "--quiet",
        "--model", "mlp", "--width", "32", "--augment", "none", "--lr", "0.05",
        "--first-epochs", "8", "--round-epochs", "3", "--rounds", "2", "--final-epochs", "6",
        "--ssl", "fixmatch", "--ssl-epochs", "2", "--ssl-confidence", "0.4", "--batch-size", "32",
        "--report",
    ]) == 0  # fmt: skip
    return out


@pytest.fixture(scope="module")
def page(run):
    return Page((run / "report.html").read_text(encoding="utf-8"))


def test_nothing_is_fetched(run, page):
    text = (run / "report.html").read_text(encoding="utf-8")
    assert [attrs.get("type") for attrs in page.all("script")] == ["application/json", None]
    assert not page.all("link")
    for attrs in page.all("img"):
        assert attrs.get("src", "data:").startswith("data:")
    for attrs in page.all("a"):
        assert attrs["href"].startswith("#")
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert len(text) < 5_000_000


def test_user_text_is_escaped(run, page):
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "<b>more" not in text
    assert NAMES[1] in page.words  # shown as text
    assert "pictures & <b>more" in page.words


def test_data_for_the_script_cannot_end_it():
    nasty = ["</script><script>alert(1)</script>", "<!--", "\u2028\u2029", 'a "b" \\ &amp;']
    text = as_script_data(nasty)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == nasty


def test_pictures_have_alternatives_and_tables_have_headers(page):
    assert all(attrs.get("alt") for attrs in page.all("img") if "src" in attrs)
    assert page.all("html")[0]["lang"] == "en"
    assert any(attrs.get("name") == "viewport" for attrs in page.all("meta"))
    assert len(page.all("caption")) == len(page.all("table")) >= 4
    assert all("scope" in attrs for attrs in page.all("th"))
    links = {attrs["href"][1:] for attrs in page.all("a")}
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert links <= set(ids)
    assert len(ids) == len(set(ids))


def test_numbers_are_those_of_the_run(run, page):
    lines = (run / "history.jsonl").read_text(encoding="utf-8").splitlines()
    rounds = [json.loads(line) for line in lines]
    rounds = [record for record in rounds if record["type"] == "round"]
    for record in rounds:
        for key in ("precision", "recall", "f1", "test_accuracy"):
            assert f"{record[key]:.1%}" in page.words
        assert record["reason"] in page.words
    summary = json.loads((run / "summary.json").read_text())
    for row in summary["models"]:
        assert row["model"] in page.words
        assert f"{row['test_accuracy']:.1%}" in page.words
    assert summary["stop_reason"] not in page.words  # of a single round there is nothing to stop
    config = json.loads((run / "config.json").read_text())
    assert config["versions"]["torch"] in page.words
    assert '"first_epochs": 8' in page.words


def test_the_least_probable_dropped_samples_come_first(run):
    facts = gather(run, suspicious=5)
    with open(run / "selection.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kept"] == "0"]
    assert rows, "the run was meant to drop something"
    lowest = sorted(float(row["clean_probability"]) for row in rows)[:5]
    probabilities = {s.id: s.clean_probability for s in facts["samples"]}
    assert [probabilities[s.number] for s in facts["listed"]] == lowest
    assert facts["flagged"] == facts["dropped"] == len(rows)
    listed = facts["review"]["rows"]
    assert [row[0] for row in listed] == [s.id for s in facts["listed"]]
    assert all(row[6].startswith("data:image/png;base64,") for row in listed)
    assert len(gather(run, thumbnails=False)["listed"]) == 150


SUSPECTS = """\
id,given_label,suggested_label,suggestion_confidence,suspicion,dropped
7,two & a half,zero,0.75,2.5,1
0,zero,,,0.5,0
"""


def test_suspects_file_is_read_in_its_order(run, tmp_path):
    copy = tmp_path / "found"
    shutil.copytree(run, copy)
    (copy / "suspects.csv").write_text(SUSPECTS)
    facts = gather(copy, thumbnails=False)
    first, second = facts["suspects"]
    truth = {s.id: s.true_label for s in facts["samples"]}
    assert first == Suspect("7", 7, 2, 0, 0.75, 2.5, True, truth[7])
    assert second == Suspect("0", 0, 0, None, None, 0.5, False, truth[0])
    assert facts["flagged"] == 1
    assert facts["list_file"] == "suspects.csv"
    (copy / "suspects.csv").write_text(
        SUSPECTS.replace("7,", "'=7.png,")
    )  # as a spreadsheet shows it
    assert read_suspects(copy, facts["samples"], NAMES)[0].id == "=7.png"
    (copy / "suspects.csv").write_text(SUSPECTS.replace("zero", "nobody"))
    with pytest.raises(ValueError, match="'nobody' is no class of the run"):
        read_suspects(copy, facts["samples"], NAMES)


def test_rounds_come_from_the_result_where_there_is_no_history(run, tmp_path):
    copy = tmp_path / "found"
    shutil.copytree(run, copy)
    (copy / "history.jsonl").unlink()
    before, after = (gather(folder, thumbnails=False)["verdict"] for folder in (run, copy))
    assert before == after


def test_estimates_per_class():
    def sample(i, given, probability, kept, true, predicted=0, suggested=None):
        return Sample(
            i, given, 1, 4, -2, probability, kept, None, predicted, true, 0.0, suggested
        )  # fmt: skip

    samples = [
        sample(0, 0, 1.0, True, 0),
        sample(1, 0, 0.5, False, 1, predicted=1),
        sample(2, 1, 0.1, False, 0, predicted=0, suggested=2),
        sample(3, 1, 0.3, False, 1, predicted=0),
    ]
    first, second, third = class_noise(samples, 3)
    assert first == {"label": 1, "count": 2, "dropped": 1.0, "estimated": 0.8, "wrong": 0.5}
    assert second == {"label": 0, "count": 2, "dropped": 0.5, "estimated": 0.25, "wrong": 0.5}
    assert third["count"] == 0
    assert third["estimated"] is None
    assert class_noise(samples, 3, estimated=False)[0]["estimated"] is None
    assert flows(samples, suggested=False) == [
        {"given": 1, "other": 0, "count": 2, "right": 0.5},
        {"given": 0, "other": 1, "count": 1, "right": 1.0},
    ]
    assert flows(samples, suggested=True) == [{"given": 1, "other": 2, "count": 1, "right": 0.0}]


def test_confusion_matrix():
    def suspect(given, suggested, dropped=True):
        return Suspect("x", 0, given, suggested, 0.5, 1.0, dropped)

    suspects = [suspect(0, 2), suspect(0, 2), suspect(2, 0), suspect(1, 0, False), suspect(1, None)]
    matrix = confusion_matrix(suspects)
    assert matrix["columns"] == [0, 2]
    assert [[cell["count"] for cell in row["cells"]] for row in matrix["rows"]] == [[0, 2], [1, 0]]
    assert [cell["part"] for cell in matrix["rows"][0]["cells"]] == [0, 60]
    assert confusion_matrix([suspect(k, k + 1) for k in range(20)]) is None
    assert confusion_matrix([]) is None


MEASURED = {"measured": True, "rate": 0.2, "low": 0.15, "high": 0.25}
FOUND = {
    "round": 0, "planted": 100, "supported": True, "reason": "words", "noise_rate": MEASURED,
    "estimated_precision": {"value": 0.9, "low": 0.8, "high": 1.0},
    "estimated_recall": {"value": 0.7, "low": 0.6, "high": 0.8},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({}, "found", ["About 200 of the 1,000 labels", "between 150 and 250", "flags 160 labels",
                       "about 144 of them", "(128 to 160)", "about 70%", "You can trust the list"]),
        ({"noise_rate": MEASURED | {"low": 0.01, "high": 0.4}}, "found", ["more than its length"]),
        ({"doubt": "it has not settled"}, "found", ["Be careful: it has not settled"]),
        ({"estimated_precision": {"value": 0.5, "low": 0.1, "high": 1.0}}, "found", ["is open"]),
        ({"noise_rate": MEASURED | {"rate": 0.0, "low": 0.0, "high": 0.04}}, "none",
         ["no clear evidence", "probably none is wrong, at most 40 of the 1,000.", "as they are"]),
        ({"noise_rate": MEASURED | {"rate": 0.02, "low": 0.0, "high": 0.04}}, "none",
         ["perhaps 20, and at most 40 of the 1,000 are wrong."]),
        ({"noise_rate": MEASURED | {"low": 0.0}, "doubt": "it has not settled"}, "unknown",
         ["too little to tell", "at most 250 of the 1,000", "160 labels are flagged", "it has not settled"]),
        ({"noise_rate": MEASURED | {"low": 0.0, "high": 0.56}}, "unknown",
         ["perhaps 200, and at most 560", "believe what you see"]),
        ({"noise_rate": None, "reason": "it cannot be told which labels are wrong: too early"},
         "unknown", ["cannot tell which labels are wrong", "Why: too early."]),
        ({"noise_rate": MEASURED | {"measured": False}, "planted": 0, "planting_note": "few samples"},
         "guess", ["Perhaps 200 of the 1,000", "This is a guess: few samples"]),
    ],
)  # fmt: skip
def test_verdict(change, kind, words):
    said = verdict([FOUND | change], num_samples=1000, num_dropped=160)
    assert said.kind == kind
    assert 1 <= len(said.lines) <= 3
    for word in words:
        assert word in " ".join(said.lines)


def test_the_verdict_says_what_is_contradicted_beyond_what_is_plainly_wrong():
    rate = {"rate": 0.25, "low": 0.2, "high": 0.3, "measured": True}
    parts = {"plainly_wrong": {"value": 0.12, "low": 0.08, "high": 0.17}}
    alone = verdict([FOUND], num_samples=1000, num_dropped=250, noise_rate=rate).lines
    both = verdict([FOUND], num_samples=1000, num_dropped=250, noise_rate=rate | parts).lines
    assert "plainly wrong" not in alone[0]
    assert "You can trust the list" in alone[2]
    assert "About 120 are plainly wrong; the others the network contradicts" in both[0]
    assert "Trust the order of the list more than its length" in both[2]


def test_the_verdict_is_that_of_the_round_that_measured(run):
    later = FOUND | {"round": 1, "noise_rate": MEASURED | {"rate": 0.0, "low": 0.0}}
    assert verdict([FOUND, later], num_samples=1000, num_dropped=160).kind == "found"
    rate = {"rate": 0.3, "low": 0.2, "high": 0.4}  # that of a summary goes before
    said = verdict([FOUND], num_samples=1000, num_dropped=160, noise_rate=rate)
    assert "About 300" in said.lines[0]


def test_run_that_is_not_finished(run, tmp_path):
    """What a killed run leaves: no summary, no selection, half a line of history."""
    copy = tmp_path / "killed"
    shutil.copytree(run, copy)
    for name in ("summary.json", "selection.csv", "suspects.csv", "report.html"):
        (copy / name).unlink()
    lines = (copy / "history.jsonl").read_text().splitlines()
    last = next(i for i, line in enumerate(lines) if '"round"' in line[:20])
    (copy / "history.jsonl").write_text("\n".join(lines[: last + 1]) + '\n{"type": "ep')
    page = Page(write_report(copy).read_text(encoding="utf-8"))
    assert "not finished" in page.words
    assert "Suggested label" not in page.words
    # Killed during the final training: the list is there already.
    shutil.copy(run / "suspects.csv", copy)
    facts = gather(copy, suspicious=3)
    assert all(s.number is not None for s in facts["listed"])
    assert all(row[6] for row in facts["review"]["rows"])
    assert "Suggested label" in Page(write_report(copy).read_text(encoding="utf-8")).words


def test_run_of_an_earlier_version(run, page, tmp_path):
    """Its history does not say what the semi-supervised method is called; its key does."""
    assert "FixMatch, 2 epochs" in page.words
    copy = tmp_path / "old"
    shutil.copytree(run, copy)
    lines = (copy / "history.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert {r.pop("title", None) for r in records} == {None, "FixMatch"}
    text = "".join(json.dumps(record) + "\n" for record in records)
    (copy / "history.jsonl").write_text(text)
    summary = json.loads((copy / "summary.json").read_text())
    for row in summary["models"]:
        del row["method"]
    (copy / "summary.json").write_text(json.dumps(summary))
    old = Page(write_report(copy).read_text(encoding="utf-8"))
    assert "fixmatch, 2 epochs" in old.words
    assert "MILD + FixMatch (dropped ones unlabeled)" in old.words


def test_data_that_is_gone(run, tmp_path):
    copy = tmp_path / "moved"
    shutil.copytree(run, copy)
    config = json.loads((copy / "config.json").read_text())
    config["settings"]["data"] = f"npz:{tmp_path}/gone.npz"
    del config["crc32"]  # as of an earlier version: a changed one would be refused
    (copy / "config.json").write_text(json.dumps(config))
    page = Page(write_report(copy, tmp_path / "page.html").read_text(encoding="utf-8"))
    moved = json.loads((run / "config.json").read_text())["settings"]["data"]
    assert "No pictures" not in write_report(copy, tmp_path / "b.html", data=moved).read_text()
    assert "No pictures: the data cannot be read any more" in page.words
    assert "Suggested label" in page.words


def test_figures_are_optional(run, tmp_path):
    copy = tmp_path / "bare"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "figures")
    shutil.rmtree(copy / "status")
    page = Page(write_report(copy).read_text(encoding="utf-8"))
    assert "No figure was drawn" in page.words
    assert "Learning status" not in page.words


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "there is no run"),
        ({"config.json": "{}"}, "not the config of a run"),
        ({"config.json": "{}", "results.json": "{}"}, "holds a comparison"),
    ],
)
def test_folders_without_a_run(files, message, tmp_path, capsys):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert main(["report", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_missing_packages_are_found_before_training(tmp_path, monkeypatch, capsys):
    from mild_ext.report import page as page_module

    monkeypatch.setattr(page_module.importlib.util, "find_spec", lambda name: None)
    out = tmp_path / "run"
    assert main(["train", "--data", "digits", "--out", str(out), "--quiet", "--report"]) == 1
    assert "pip install 'mild_ext[report]'" in capsys.readouterr().err
    assert not (out / "history.jsonl").exists()


def test_run_without_a_round(run, tmp_path):
    shutil.copy(run / "config.json", tmp_path)
    with pytest.raises(ValueError, match="has not finished its first round"):
        write_report(tmp_path)


def test_pictures_come_from_the_files_the_data_was_read_from(tmp_path):
    """As large as they are useful, turned as their camera says; and never from outside the data's folder."""
    from PIL import Image

    root = tmp_path / "data"
    (root / "train" / "cat").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (640, 320), "red").save(root / "train" / "cat" / "a.jpg", exif=exif)
    Image.new("RGBA", (20, 10), (0, 0, 0, 0)).save(root / "b.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    files = shown._SourceFiles(f"folder:{root},size=32")

    def size(name):
        picture = files.picture(name)
        return picture and (picture.kind, Image.open(io.BytesIO(picture.content)).size)

    assert size("cat/a.jpg") == ("jpeg", (112, 224))
    assert size("b.png") == ("png", (20, 10))
    assert Image.open(io.BytesIO(files.picture("b.png").content)).getpixel((0, 0)) == (255,) * 3
    assert size("../secret.png") is None
    assert size(str(tmp_path / "secret.png")) is None
    assert size("cat/missing.jpg") is None
    (root / "broken.jpg").write_bytes(b"no picture")
    assert size("broken.jpg") is None


def test_rows_and_texts_are_shown_in_words(tmp_path):
    assert shown._row(torch.tensor([1.0, 0.25])) == "1, 0.25"
    assert shown._row(torch.arange(20.0)).endswith("11, … (20 values)")
    assert shown._shorten("a" * 700) == "a" * 600 + " …"


def test_texts_and_rows_of_a_table_are_shown(tmp_path):
    lines = [f'"{w} a <b>, {k}",{w},{k}\n' for k in range(6) for w in ("good", "bad")]
    (tmp_path / "t.csv").write_text("text,kind,size\n" + "".join(lines))
    suspects = [Suspect(str(k), k, 0, 1, 0.5, 1.0, True) for k in (3, 0)]

    def texts(spec):
        config = {"settings": {"data": spec, "test_fraction": 0.0}, "data": {"samples": 12}}
        return shown.show_samples(config, suspects, tmp_path / "pictures").texts

    table = f"csv:{tmp_path / 't.csv'},label=kind"
    assert texts(f"{table},text=text") == ["bad a <b>, 1", "good a <b>, 0"]
    assert texts(f"{table},columns=size") == ["size=1", "size=0"]
    assert not (tmp_path / "pictures").exists()
