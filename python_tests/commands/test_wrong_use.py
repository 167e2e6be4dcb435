"""Commands that are used wrongly, or on data and runs that are not what they were: told so, and nothing is written."""

from __future__ import annotations

import pytest

from mild_ext.cli import main

FAST = ["--model=mlp", "--width=16", "--first-epochs=1", "--batch-size=32", "--no-report"]
ROWS = [f"{k % 7}.{k},{(k * k) % 11},{'ant' if k % 2 else 'bee'}" for k in range(40)]


def table(path, rows, header="x,y,label"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def run_of(source, out):
    assert main(["find", "--data", f"csv:{source},label=label", *FAST, "--out", str(out)]) == 0
    return str(out)


@pytest.mark.parametrize(
    "now",
    [
        ROWS[1:],
        [ROWS[1], ROWS[0], *ROWS[2:]],
        [ROWS[0].replace("bee", "wasp"), *ROWS[1:]],
        ROWS[:9],
    ],
    ids=["row removed", "rows swapped", "class renamed", "cut off"],
)
def test_a_table_whose_rows_changed_since_is_not_corrected(tmp_path, capsys, now):
    source = table(tmp_path / "t.csv", ROWS)
    run, out = run_of(source, tmp_path / "run"), tmp_path / "fixed.csv"
    decided = table(tmp_path / "c.csv", ["5,bee"], header="id,label")
    table(source, now)
    assert main(["fix", run, "--corrections", str(decided), "--out", str(out)]) == 1
    assert "are not those of the run any more" in capsys.readouterr().err
    assert not out.exists()
    table(source, ROWS)
    assert main(["fix", run, "--corrections", str(decided), "--out", str(out)]) == 0


def test_the_precision_is_looked_at_before_anything_is_judged(tmp_path, capsys):
    run = run_of(table(tmp_path / "t.csv", ROWS), tmp_path / "run")
    for wrong in ("nan", "2", "0.5"):
        out = tmp_path / "fixed.csv"
        assert main(["fix", run, "--auto", "--precision", wrong, "--out", str(out)]) == 1
        assert "--precision must lie in (0.5, 1]" in capsys.readouterr().err


@pytest.mark.parametrize("fraction", ["nan", "1", "-0.1"])
def test_a_share_for_testing_is_named_as_the_option(tmp_path, capsys, fraction):
    out = tmp_path / "run"
    options = ["--data", "digits", f"--test-fraction={fraction}", "--out", str(out)]
    assert main(["train", *options]) == 1
    assert "--test-fraction must be a share in [0, 1)" in capsys.readouterr().err
    assert not out.exists()


def test_methods_and_noises_are_named_once(tmp_path, capsys):
    compare = ["compare", "--data", "digits", "--out", str(tmp_path / "run")]
    assert main([*compare, "--methods", "plain,plain"]) == 1
    assert "--methods must name each method once" in capsys.readouterr().err
    assert main([*compare, "--noise", "symmetric:0.2", "symmetric:0.2"]) == 1
    assert "--noise must name each noise once" in capsys.readouterr().err


def test_a_run_that_has_not_got_far_enough_is_not_called_damaged(tmp_path, capsys):
    run = run_of(table(tmp_path / "t.csv", ROWS), tmp_path / "run")
    (tmp_path / "run" / "history.jsonl").write_text("")
    assert main(["report", run]) == 1
    error = capsys.readouterr().err
    assert "has not finished its first round; report on it later" in error
    assert "damaged" not in error
    assert main(["report", str(tmp_path / "none")]) == 1
    assert "damaged" not in capsys.readouterr().err


def test_an_interrupted_comparison_says_how_it_goes_on(tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mild_ext.commands.compare.compare", interrupt)
    folder = str(tmp_path / "run")
    arguments = ["compare", "--data", "digits", "--seeds", "0", "--methods", "plain"]
    assert main([*arguments, "--out", folder]) == 130
    assert "interrupted; give the same command again to go on with it" in capsys.readouterr().err
