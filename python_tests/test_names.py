"""Files and classes whose names are no text: they survive to every table, page and terminal, whatever its encoding."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from mild_ext import cli
from mild_ext.files import as_name

pytestmark = pytest.mark.slow
Image = pytest.importorskip("PIL.Image")

OPTIONS = ["--model=mlp", "--rounds=1", "--first-epochs=4", "--final-epochs=1", "--no-compare"]


def make_folder(root: bytes) -> set[bytes]:
    """Two classes of images, with bytes in their names that are no UTF-8; returns their paths below ``root``."""
    rng, paths = np.random.default_rng(0), set()
    for name, level in ((b"caf\xe9", 60), (b"d\xc3\xb6g", 180)):
        os.makedirs(root + b"/" + name)
        for k in range(30):
            path = name + b"/%d%s.png" % (k, b"\xff" if k % 7 == 3 else b"")
            pixels = np.clip(rng.normal(level, 20, (8, 8)), 0, 255).astype(np.uint8)
            with open(root + b"/" + path, "wb") as file:
                Image.fromarray(pixels).save(file, "png")
            paths.add(path)
    # A wrong label, so that a name is printed.
    os.rename(root + b"/caf\xe9/5.png", root + b"/d\xc3\xb6g/5wrong\xfe.png")
    return paths - {b"caf\xe9/5.png"} | {b"d\xc3\xb6g/5wrong\xfe.png"}


def test_a_run_and_its_resume_keep_every_name(tmp_path):
    encoding = "ascii"  # the least that a terminal can have
    paths = make_folder(os.fsencode(tmp_path / "photos"))
    environment = os.environ | {"PYTHONIOENCODING": encoding, "LC_ALL": "C", "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "mild_ext"]
    first = ["train", "--data", "folder:photos", *OPTIONS, "--out", "run", "--threads=1"]
    if cli_has_report():
        first.append("--report")
    for command in (first, ["train", "--resume", "--out", "run"]):
        done = subprocess.run(
            [*start, *command], cwd=tmp_path, env=environment, capture_output=True, timeout=300
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        done.stdout.decode(encoding)
        with open(tmp_path / "run" / "selection.csv", encoding="utf-8", newline="") as file:
            names = {os.fsencode(as_name(row["name"])) for row in csv.DictReader(file)}
        assert names == paths
    config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert sorted(map(os.fsencode, config["data"]["classes"])) == [b"caf\xe9", b"d\xc3\xb6g"]
    if cli_has_report():
        assert "caf\\udce9" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def cli_has_report() -> bool:
    import importlib.util

    return all(importlib.util.find_spec(name) for name in ("jinja2", "matplotlib"))


def test_an_error_that_nobody_expected_is_one_line(monkeypatch, capsys):
    def fail(options):
        raise KeyError("caf\udce9")

    monkeypatch.setattr(cli, "_run_info", fail)
    assert cli.main(["info"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("mild-ext: unexpected error: KeyError: ")
    assert "--traceback" in error
    assert error.count("\n") == 1
    with pytest.raises(KeyError):
        cli.main(["--traceback", "info"])
