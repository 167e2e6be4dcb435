"""What the command line says before anything runs: one line, and what was meant."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest

from mild_ext.cli import SELECTION_RULES, main
from mild_ext.data.noise import KINDS
from mild_ext.selection.decide import RULES
from mild_ext.training.recipe import Recipe

NEEDED = ["--out", "nowhere"]


def usage_error(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fidn"], "did you mean find?"),
        (["find", "--data", "digits", *NEEDED, "--rule", "postrior"], "did you mean posterior?"),
        (["find", "--data", "digits", *NEEDED, "--lr", "fast"], "number value: 'fast'"),
        (["find", "--dat", "digits", *NEEDED], "there is no argument --dat; did you mean --data?"),
        (["find", "--data", "digits", *NEEDED, "--first-epoch=3"], "did you mean --first-epochs?"),
        (["find", "--data", "digits", *NEEDED, "more"], "there is no argument more"),
        (["find", "--data", "digits"], "required: --out"),
        (["select", "x", "--rule", "quantil"], "did you mean quantile?"),
        (["fix", "run", "--auto", "--undo", *NEEDED], "not allowed with"),
        (["fix", "run", *NEEDED], "--corrections --auto --undo is required"),
    ],
)
def test_wrong_usage_is_one_line(capsys, arguments, message):
    assert message in usage_error(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "digits", "--recipe", "digitz"], "did you mean digits?"),
        (["--data", "digits", "--noise", "symetric:0.2"], "did you mean symmetric?"),
        (["--data", "digitz"], "did you mean digits?"),
        (["--data", "photos"], "did you mean folder:photos?"),
        (["--data", "data.npz"], "did you mean npz:data.npz?"),
        (["--data", "my.csv"], "did you mean csv:my.csv,label=COLUMN?"),
    ],
)
def test_values_that_there_are_not_come_with_what_was_meant(
    tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "my.csv").write_text("a,b\n")
    np.savez("data.npz", x_train=np.zeros(3))
    assert main(["find", *arguments, "--out", "run"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_no_command_shows_the_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    for name in ("find", "fix", "train", "report", "select", "compare", "info"):
        assert f"\n    {name} " in printed


def help_of(capsys, command, option):
    with pytest.raises(SystemExit) as stopped:
        main([command, option])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["find", "train"])
def test_the_help_fits_a_screen_and_the_whole_help_has_it_all(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "100")
    short = help_of(capsys, command, "--help")
    assert len(short.splitlines()) <= 40
    for option in ("--data", "--out", "--recipe", "--lr", "--resume", "--help-all", "folder:DIR"):
        assert option in short
    assert "--clip-norm" not in short
    whole = help_of(capsys, command, "--help-all")
    for option in ("--clip-norm", "--plant", "--checkpoint-seconds"):
        assert option in whole
    assert f"[{Recipe().momentum}]" in whole  # values, not "the recipe's"
    first = whole[whole.index("--first-epochs") :].partition("--round-epochs")[0]
    assert "[by the size of the data]" in " ".join(first.split())  # and not what it comes from
    assert f"[{Recipe().first_epochs}]" not in first
    for kind in KINDS:
        assert kind in whole
    if command == "train":
        for item in fields(Recipe):
            assert f"--{item.name.replace('_', '-')}" in whole


def test_rules_are_those_there_are():
    assert SELECTION_RULES == RULES
    [rule] = [item for item in fields(Recipe) if item.name == "rule"]
    assert rule.metadata["choices"] == RULES
    with pytest.raises(ValueError, match="rule must be one of"):
        Recipe(rule="postrior")


@pytest.mark.slow
def test_the_package_loads_nothing_before_it_is_used(tmp_path):
    """So that an interrupt while torch is loaded is caught, and is one word."""
    code = (
        "import sys, mild_ext, mild_ext.cli\n"
        "assert 'torch' not in sys.modules\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'torch': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "sys.exit(mild_ext.cli.main(['find', '--data', 'digits', '--out', 'run']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 130
    assert done.stderr.strip() == "interrupted"
