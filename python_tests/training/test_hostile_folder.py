"""A run's folder that somebody means harm with: nothing in it is imported, called, followed or deleted."""

from __future__ import annotations

import json
import os
import shutil
import sys

import numpy as np
import pytest

from mild_ext.cli import main
from mild_ext.report import page
from mild_ext.sealed import read_sealed_json, write_sealed_json

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
pytestmark = pytest.mark.slow

FAST = ["--model=mlp", "--rounds=1", "--first-epochs=3", "--final-epochs=1", "--no-compare",
        "--device=cpu", "--quiet", "--threads=1"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(0)
    np.savez(folder / "d.npz", x_train=rng.normal(size=(40, 5)), y_train=np.arange(40) % 2)
    assert (
        main(["train", *FAST, "--data", f"npz:{folder / 'd.npz'}", "--out", str(folder / "r")]) == 0
    )
    return folder / "r"


@pytest.fixture
def hostile(run, tmp_path, monkeypatch):
    """A copy of the run, a module that notes that it was imported, and how to change the config."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (tmp_path / "trap.py").write_text(
        f"open({str(tmp_path / 'sprung')!r}, 'w').close()\ndef load(**options): raise SystemExit(3)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "trap", raising=False)

    def change(**settings):
        config = read_sealed_json(copy / "config.json", "config")
        config["settings"] |= {k: v for k, v in settings.items() if k != "model"}
        config["settings"]["recipe"] |= {k: v for k, v in settings.items() if k == "model"}
        write_sealed_json(copy / "config.json", config)  # whoever means harm can seal as well
        return copy

    return change


CODE = ["os:system,command=touch sprung", "trap:load", "trap:load,a=b", "hf:trap", "trap.load:x"]


@pytest.mark.parametrize("data", CODE)
def test_data_that_runs_code_is_never_taken_from_a_folder(data, hostile, tmp_path, capsys):
    copy = hostile(data=data)
    assert main(["train", "--resume", "--out", str(copy)]) == 1
    message = capsys.readouterr().err
    assert "runs code" in message
    assert "--resume --data" in message
    assert main(["report", str(copy)]) == 0
    assert "runs code" in (copy / "report.html").read_text()
    assert not (tmp_path / "sprung").exists()
    assert "trap" not in sys.modules


@pytest.mark.parametrize("model", ["trap:load", "os:system", "timm:hf-hub:someone/something"])
def test_a_model_that_runs_code_is_never_taken_from_a_folder(model, hostile, tmp_path, capsys):
    copy = hostile(model=model)
    assert main(["train", "--resume", "--out", str(copy)]) == 1
    assert "--resume --model" in capsys.readouterr().err
    assert main(["report", str(copy)]) == 0
    assert not (tmp_path / "sprung").exists()


def test_what_is_given_again_must_be_the_same(hostile, tmp_path, capsys):
    copy = hostile(data="trap:load")
    assert main(["train", "--resume", "--data", "trap:other", "--out", str(copy)]) == 1
    assert "has --data trap:load, not trap:other" in capsys.readouterr().err
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(SystemExit):  # the module's own, once a person has named it
        main(["train", "--resume", "--data", "trap:load", "--out", str(copy)])
    assert (tmp_path / "sprung").exists()


def test_a_run_of_a_module_is_resumed_when_it_is_named_again(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_own_data.py").write_text(
        "import torch\ndef load(n='30'):\n    n = int(n)\n"
        "    return torch.utils.data.TensorDataset(torch.randn(n, 4), torch.arange(n) % 2)\n"
    )
    monkeypatch.chdir(tmp_path)
    spec = "my_own_data:load,n=40"
    assert main(["train", *FAST, "--data", spec, "--out", "r"]) == 0
    before = (tmp_path / "r" / "selection.csv").read_bytes()
    assert main(["train", "--resume", "--out", "r"]) == 1
    assert f"--data {spec}" in capsys.readouterr().err
    assert main(["train", "--resume", "--data", spec, "--quiet", "--out", "r"]) == 0
    assert len((tmp_path / "r" / "selection.csv").read_bytes()) == len(before)


def test_a_data_set_that_is_given_again_needlessly_must_be_the_same(run, capsys):
    spec = f"npz:{run.parent / 'd.npz'}"
    assert main(["train", "--resume", "--data", spec, "--quiet", "--out", str(run)]) == 0
    assert main(["train", "--resume", "--data", "digits", "--out", str(run)]) == 1
    assert "leave out --data" in capsys.readouterr().err


def test_the_report_shows_no_file_that_a_link_leads_to(hostile, tmp_path, capsys):
    copy = hostile()
    secret = tmp_path / "secret"
    secret.write_text("the secret")
    shown = len((copy / "figures" / "round-00.png").read_bytes())
    (copy / "figures" / "round-00.png").unlink()
    (copy / "figures" / "round-00.png").symlink_to(secret)
    assert page._picture(copy / "figures" / "round-00.png") is None
    (copy / "figures" / "round-00.png").unlink()
    (copy / "figures" / "round-00.png").write_text("the secret" * shown)
    assert main(["report", str(copy)]) == 0
    import base64

    assert base64.b64encode(b"the secret")[:-4].decode() not in (copy / "report.html").read_text()


LINES = {
    "history.jsonl": ["[]\n", "{}\n", '{"type": "round"}\n', '{"type": 3}\n', "[" * 9000 + "\n", "\0\n",
                      '{"type": "round", "round": "../../x", "supported": true}\n', '"round"\n'],
    "summary.json": ["[]", "{}", '{"models": 3}', "[" * 9000, "nan", '{"models": [{}]}'],
    "selection.csv": ["id\n1\n", "\0", "id,kept\n" + "9" * 200_000, "\xff\xfe", "id,given_label\n1,2\n"],
    "config.json": ["[]", "{}", '{"settings": 3, "data": {"classes": 1}, "noise": 0}', "[" * 9000,
                    '{"settings": {"recipe": {}, "data": 3}, "data": {"classes": [], "name": 1}, "noise": null}'],
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), [(n, t) for n, texts in LINES.items() for t in texts])
@pytest.mark.parametrize("command", ["report", "resume"])
def test_a_file_of_anything_is_a_line_or_a_page(name, text, command, run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    options = (
        ["report", str(copy)] if command == "report" else ["train", "--resume", "--out", str(copy)]
    )
    status = main(options)
    error = capsys.readouterr().err
    assert status in (0, 1)
    if status:
        assert error.startswith("mild-ext: error: ")
        assert error.count("\n") == 1
        assert str(copy) in error


def test_overwrite_leaves_what_is_not_a_runs_and_says_so(run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "thesis.tex").write_text("years of work")
    (copy / "checkpoints" / "mine.safetensors").write_text("mine")
    spec = f"npz:{run.parent / 'd.npz'}"
    assert main(["train", *FAST, "--data", spec, "--overwrite", "--out", str(copy)]) == 0
    printed = capsys.readouterr().out
    assert "2 files in" in printed
    assert "thesis.tex" in printed
    assert (copy / "thesis.tex").read_text() == "years of work"
    assert (copy / "checkpoints" / "mine.safetensors").read_text() == "mine"


def test_overwrite_leaves_a_model_of_somebody_elses_alone(run, tmp_path, capsys):
    """A folder with a config.json that no run of ours has written."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "settings": {}}))
    (tmp_path / "model.safetensors").write_text("weights")
    (tmp_path / "thesis.tex").write_text("years of work")
    spec, before = f"npz:{run.parent / 'd.npz'}", sorted(os.listdir(tmp_path))
    for options in (["--overwrite"], []):
        assert main(["train", *FAST, "--data", spec, *options, "--out", str(tmp_path)]) == 1
    assert main(["train", "--resume", "--out", str(tmp_path)]) == 1
    assert main(["train", *FAST, "--data", spec, "--overwrite", "--out", str(tmp_path)]) == 1
    assert sorted(os.listdir(tmp_path)) == before
    assert "not made by mild_ext" in capsys.readouterr().err


def test_a_folder_of_ours_that_was_given_another_use_is_left_alone(run, tmp_path, capsys):
    """The hidden marker is still there when somebody else's model comes to lie in the folder."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (copy / "model.safetensors").write_text("weights")
    spec, before = f"npz:{run.parent / 'd.npz'}", sorted(os.listdir(copy))
    assert main(["train", *FAST, "--data", spec, "--overwrite", "--out", str(copy)]) == 1
    assert "not written by this version of mild_ext" in capsys.readouterr().err
    assert sorted(os.listdir(copy)) == before
    (copy / "config.json").write_text('{"settings": ')  # a run's, damaged: the marker counts
    assert main(["train", *FAST, "--data", spec, "--overwrite", "--out", str(copy)]) == 0


def test_a_tensorboard_folder_loses_only_what_tensorboard_wrote(run, tmp_path):
    pytest.importorskip("tensorboard")
    from mild_ext.report.tensorboard import TensorBoardLog

    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "events.out.tfevents.1.host").write_text("old")
    with TensorBoardLog(tmp_path):
        pass
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "events.out.tfevents.1.host").exists()
