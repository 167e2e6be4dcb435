"""The command line, end to end on small arrays, and what it says when something is wrong."""

import csv
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from ranks import forks
from safetensors.torch import load_file

from mild_ext import PlantedLabels
from mild_ext.cli import main
from mild_ext.recording.learning_log import read_learning_log
from mild_ext.recording.status import LearningStatus
from mild_ext.training.models import build_model
from mild_ext.training.run_rounds import RoundsResult
from mild_ext.training.summary import against_plain, gap_closed

FAST = [
    "--model=mlp", "--width=32", "--rounds=2", "--first-epochs=15", "--round-epochs=6",
    "--final-epochs=6", "--batch-size=32", "--lr=0.05", "--device=cpu",
]  # fmt: skip


def arrays(count=240, classes=3, seed=0, **extra):
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    inputs = generator.normal(size=(count, 8)) + 3 * np.eye(max(classes, 3), 8)[labels]
    test = generator.normal(size=(60, 8)) + 3 * np.eye(max(classes, 3), 8)[np.arange(60) % classes]
    return {
        "x_train": inputs, "y_train": labels, "x_test": test, "y_test": np.arange(60) % classes,
    } | extra  # fmt: skip


@pytest.fixture
def npz(tmp_path):
    def write(**values):
        path = tmp_path / "data.npz"
        np.savez(path, **{k: v for k, v in values.items() if v is not None})
        return f"npz:{path}"

    return write


def train(*options):
    return main(["train", *FAST, *map(str, options)])


def selection(out):
    return list(csv.DictReader((out / "selection.csv").read_text().splitlines()))


def summary(out):
    return json.loads((out / "summary.json").read_text())


def test_train_writes_everything_a_person_or_program_needs(npz, tmp_path, capsys):
    out = tmp_path / "run"
    spec = npz(**arrays())
    options = [
        "--noise",
        "symmetric:0.4",
        "--seed",
        3,
        "--plant",
        0.1,
    ]  # by default, 240 are too few
    assert train("--data", spec, *options, "--out", out) == 0

    rows = selection(out)
    assert [int(row["id"]) for row in rows] == list(range(240))
    wrong = [row["given_label"] != row["true_label"] for row in rows]
    kept = [row["kept"] == "1" for row in rows]
    assert 0.2 < np.mean(wrong) < 0.35
    for row in rows:
        assert int(row["metric"]) == 2 * int(row["misclassified"]) - int(row["seen"])
        assert 0 <= float(row["clean_probability"]) <= 1
        assert (row["round_dropped"] == "") == (row["kept"] == "1")
        assert 0 <= int(row["predicted_label"]) < 3

    result = RoundsResult.load(out / "result.safetensors")
    assert result.kept.tolist() == kept
    assert result.labels.tolist() == [int(row["given_label"]) for row in rows]

    config = json.loads((out / "config.json").read_text())
    assert config["settings"]["seed"] == 3
    assert config["settings"]["recipe"]["first_epochs"] == 15
    assert config["noise"]["rate"] == pytest.approx(np.mean(wrong))
    assert config["versions"]["torch"] == torch.__version__

    report = summary(out)
    assert [m["model"].split()[0] for m in report["models"]] == ["plain", "MILD", "correct"]
    assert [m["method"] for m in report["models"]] == ["plain", "mild", "clean"]
    assert [m["samples"] for m in report["models"]] == [240, 240, 240 - sum(wrong)]
    epochs, steps = ([m[key] for m in report["models"]] for key in ("epochs", "steps"))
    assert epochs[:2] == [21, 21]  # 15 and 6
    assert steps[0] == steps[1] == 21 * 8
    assert abs(steps[2] - steps[0]) <= 8
    for row in report["models"]:
        assert row["test_interval"][0] < row["test_accuracy"] <= row["test_interval"][1]
    assert set(report["models"][1]["against_plain"]) == {"difference", "low", "high"}
    assert report["against_plain"].startswith("MILD is ")
    assert report["f1"] > 0.85

    model = build_model("mlp", (8,), 3, width=32, mean=torch.zeros(8), std=torch.ones(8)).eval()
    model.load_state_dict(load_file(out / "model.safetensors"))
    with torch.no_grad():
        predicted = model(torch.tensor(arrays()["x_train"], dtype=torch.float32)).argmax(1)
    assert predicted.tolist() == [int(row["predicted_label"]) for row in rows]

    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    rounds = [r for r in history if r["type"] == "round"]
    status = LearningStatus.load(out / "status" / "round-00.safetensors")
    assert status.num_samples == 240
    assert status.epoch == rounds[0]["epochs"]
    assert 10 <= status.epoch <= status.num_epochs == 21  # until labels are memorized
    planted = PlantedLabels.load(out / "planted" / "round-00.safetensors")
    dropped_first = [i for i, row in enumerate(rows) if row["round_dropped"] == "0"]
    counts = status.compute().misclassified
    assert 20 <= len(planted) <= 24  # at most a tenth of each class
    counts[planted.index] = status.misclassified_for(planted.given)[planted.index]
    assert counts[dropped_first].tolist() == [int(rows[i]["misclassified"]) for i in dropped_first]

    assert len(rounds) == report["rounds"]
    stages = {r["stage"] for r in history if r["type"] == "epoch"}
    assert stages == {"MILD", "plain cross-entropy", "correct labels only"}

    printed = capsys.readouterr().out
    for word in ("noise removed", "precision", "test accuracy", "plain cross-entropy", "chance"):
        assert word in printed


@pytest.mark.parametrize("method", ["mild", "mild-rounds"])
def test_without_noise_all_trainings_are_as_long(npz, tmp_path, method):
    out = tmp_path / "run"
    values = arrays()
    spec = npz(**values, y_true=values["y_train"])
    options = ["--first-epochs=1", f"--method={method}"]
    assert train("--data", spec, *options, "--out", out) == 0
    report = summary(out)
    assert report["kept"] == 240
    epochs = {row["epochs"] for row in report["models"]}
    assert epochs == ({7} if method == "mild" else {6})
    assert len({row["steps"] for row in report["models"]}) == 1


def test_a_final_training_on_fewer_samples_makes_as_many_steps(npz, tmp_path):
    out = tmp_path / "run"
    options = ["--noise", "symmetric:0.4", "--method=mild-rounds", "--plant=0", "--rounds=1"]
    assert train("--data", npz(**arrays()), *options, "--out", out) == 0
    plain, mild, _ = summary(out)["models"]
    assert mild["samples"] < 200
    assert mild["epochs"] > plain["epochs"]
    assert abs(mild["steps"] - plain["steps"]) < 8


def test_whether_mild_is_ahead_beyond_chance():
    def models(low, difference, high, method="mild"):
        against = {"low": low, "difference": difference, "high": high}
        return [
            {"method": "plain", "test_accuracy": 0.5},
            {"method": method, "test_accuracy": 0.5 + difference, "against_plain": against},
            {"method": "mild-ssl", "test_accuracy": 0.9},
        ]

    said = against_plain(models(0.02, 0.04, 0.06))
    assert "4.0 points ahead of plain cross-entropy" in said
    assert said.endswith("(95 % interval +2.0 to +6.0 by the test samples): beyond chance")
    said = against_plain(models(-0.06, -0.04, -0.02, "mild-rounds"))
    assert "4.0 points behind" in said
    assert said.endswith(": beyond chance")
    assert against_plain(models(-0.01, 0.01, 0.03)).endswith("no difference beyond chance")
    assert "level with" in against_plain(models(-0.01, 0.0, 0.01))
    assert against_plain([]) is None
    assert against_plain([{"method": "mild", "test_accuracy": 0.5}]) is None


def test_the_share_of_the_gap_to_the_bound_that_is_closed():
    def models(plain, mild, bound=0.9):
        rows = {"plain": plain, "mild": mild, "mild-ssl": 0.85, "clean": bound}
        return [{"method": key, "test_accuracy": value} for key, value in rows.items()]

    assert gap_closed(models(0.5, 0.8)) == pytest.approx(0.75)
    assert gap_closed(models(0.5, 0.8)[:2]) is None  # no bound
    assert gap_closed(models(0.5, None)) is None
    assert gap_closed(models(None, 0.8)) is None
    assert gap_closed(models(0.95, 0.8)) is None  # no gap


@pytest.mark.slow
def test_learning_logs_of_every_round(npz, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--noise", "symmetric:0.4", "--seed", 3, "--learning-logs", "--validation", 0.25]
    options += ["--plant", 0.1]
    assert train("--data", npz(**arrays()), *options, "--out", out) == 0
    assert "logs/" in capsys.readouterr().out.splitlines()[-1]
    logs = sorted((out / "logs").iterdir())
    assert len(logs) == summary(out)["rounds"]
    log = read_learning_log(logs[0])
    planted = PlantedLabels.load(out / "planted" / "round-00.safetensors")
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    (epochs,) = (r["epochs"] for r in history if r["type"] == "round")
    assert log.memorized.shape == (180 - len(planted), epochs)  # neither held out nor planted
    assert not np.isin(log.ids, planted.index).any()
    status = LearningStatus.load(out / "status" / "round-00.safetensors")
    ids = torch.from_numpy(log.ids)
    assert torch.equal(log.status().words, status.words[ids])
    assert np.array_equal(log.given_label, np.load(out / "given_labels.npy")[log.ids])
    assert np.array_equal(log.true_label, arrays()["y_train"][log.ids])
    assert np.array_equal(log.margin > 0, log.memorized)
    assert (log.loss > 0).all()
    assert main(["train", "--resume", "--learning-logs", "--out", str(out)]) == 1
    assert "leave out --learning-logs" in capsys.readouterr().err
    assert main(["select", str(logs[0])]) == 0
    assert "by the true labels" in capsys.readouterr().out


@pytest.mark.slow
def test_users_noisy_labels_with_the_truth_known(npz, tmp_path):
    values = arrays()
    given = values["y_train"].copy()
    given[::4] = (given[::4] + 1) % 3
    spec = npz(**(values | {"y_train": given, "y_true": values["y_train"]}))
    assert train("--data", spec, "--out", tmp_path / "run") == 0
    report = summary(tmp_path / "run")
    assert report["noise_removed"] > 0.7
    assert len(report["models"]) == 3
    assert (
        main(["train", "--data", spec, "--noise", "symmetric:0.5", "--out", str(tmp_path / "b")])
        == 1
    )


@pytest.mark.slow
def test_without_truth_and_without_test_split(npz, tmp_path, capsys):
    values = arrays(x_test=None, y_test=None)
    spec = npz(**values)
    assert train("--data", spec, "--out", tmp_path / "a") == 0
    report = summary(tmp_path / "a")
    assert report["models"] == []
    assert "f1" not in report
    assert "--test-fraction" in capsys.readouterr().out
    header = (tmp_path / "a" / "selection.csv").read_text().splitlines()[0]
    assert "true_label" not in header
    assert train("--data", spec, "--test-fraction", 0.25, "--out", tmp_path / "b") == 0
    assert [m["model"].split()[0] for m in summary(tmp_path / "b")["models"]] == ["plain", "MILD"]


def test_validation_split_is_left_out_of_everything(npz, tmp_path):
    out = tmp_path / "run"
    assert train("--data", npz(**arrays()), "--validation", 0.25, "--out", out) == 0
    rows = selection(out)
    assert len(rows) == 180
    assert summary(out)["samples"] == 180
    assert summary(out)["validation_accuracy"] > 0.8
    assert all(int(row["seen"]) > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "options"),
    [
        (arrays(), ["--noise", "symmetric:0"]),
        (arrays(), ["--noise", "symmetric:1"]),
        (arrays(), ["--noise", "symmetric-other:1"]),
        (arrays(count=10), ["--noise", "symmetric:0.5"]),
        (arrays(), ["--first-epochs", "1", "--noise", "symmetric:0.5"]),
        (arrays(), ["--final-epochs", "0", "--noise", "symmetric:0.5"]),
        (arrays(x_train=np.zeros((240, 8))), ["--noise", "symmetric:0.5"]),
    ],
)
def test_degenerate_runs_end_with_a_selection_and_a_reason(npz, tmp_path, values, options):
    out = tmp_path / "run"
    assert train("--data", npz(**values), *options, "--out", out) == 0
    report = summary(out)
    assert report["kept"] > 0
    assert report["stop_reason"]
    rows = selection(out)
    kept = {row["given_label"] for row in rows if row["kept"] == "1"}
    assert kept == {row["given_label"] for row in rows}


@pytest.mark.parametrize("values", [arrays(classes=1), arrays(count=1)])
def test_one_class_alone_is_refused(npz, tmp_path, capsys, values):
    assert train("--data", npz(**values), "--out", tmp_path / "run") == 1
    assert "there must be two classes at least" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_divergence_is_one_clear_line(npz, tmp_path, capsys):
    assert train("--data", npz(**arrays()), "--out", tmp_path / "run", "--lr", "1e30") == 1
    error = capsys.readouterr().err
    assert "lower lr" in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.slow
def test_output_folder_is_protected(npz, tmp_path, capsys):
    spec = npz(**arrays(count=30))
    out = tmp_path / "run"
    assert train("--data", spec, "--out", out) == 0
    first = (out / "config.json").read_text()
    assert train("--data", spec, "--seed", 1, "--out", out) == 1
    message = capsys.readouterr().err
    assert "--resume" in message
    assert "--overwrite" in message
    assert (out / "config.json").read_text() == first
    assert train("--data", spec, "--seed", 1, "--out", out, "--overwrite") == 0
    assert json.loads((out / "config.json").read_text())["settings"]["seed"] == 1

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    assert train("--data", spec, "--out", mine, "--overwrite") == 1
    assert (mine / "thesis.tex").exists()
    assert train("--data", spec, "--out", mine / "thesis.tex") == 1


def test_nothing_is_made_when_the_input_is_wrong(tmp_path, capsys):
    for options in (
        ["--data", "npz:/nowhere.npz"],
        ["--data", "nonsense"],
        [],
        ["--data", "digits", "--noise", "symmetric:2"],
        ["--data", "digits", "--recipe", "unknown"],
    ):
        assert train(*options, "--out", tmp_path / "run") == 1
        assert "mild-ext: error:" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_resume_of_a_finished_run_gives_the_same_and_takes_no_other_settings(npz, tmp_path, capsys):
    spec = npz(**arrays())
    out = tmp_path / "run"
    assert train("--data", spec, "--noise", "symmetric:0.4", "--out", out) == 0
    before = {name: (out / name).read_bytes() for name in ("selection.csv", "model.safetensors")}
    assert main(["train", "--resume", "--out", str(out)]) == 0
    assert before == {name: (out / name).read_bytes() for name in before}
    assert main(["train", "--resume", "--seed", "1", "--out", str(out)]) == 1
    assert "leave out --seed" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", str(tmp_path / "other")]) == 1
    assert "no run to resume" in capsys.readouterr().err


def _train_alone(arguments):
    sys.exit(main(arguments))


@pytest.mark.slow
def test_killed_twice_and_resumed_ends_as_if_nothing_had_happened(npz, tmp_path):
    """A real kill -9 of a real process, in the rounds and in the final training."""
    spec = npz(**arrays())
    whole, out = tmp_path / "whole", tmp_path / "killed"
    options = ["--data", spec, "--noise", "symmetric:0.4", "--first-epochs=30"]
    options += ["--final-epochs=100", "--threads=1"]  # long enough to be caught in the act
    assert train(*options, "--out", whole) == 0
    command = ["train", "--checkpoint-seconds=0", "--quiet"]
    first = [*command, *FAST, *options, "--out", str(out)]
    history = out / "history.jsonl"
    for reached, arguments in ((20, first), (70, [*command, "--resume", "--out", str(out)])):
        process = forks().Process(target=_train_alone, args=(arguments,), daemon=True)
        process.start()
        while process.is_alive():
            if history.exists() and len(history.read_text().splitlines()) >= reached:
                process.kill()
            process.join(0.01)
        assert process.exitcode == -signal.SIGKILL
    assert main(["train", "--resume", "--quiet", "--out", str(out)]) == 0

    assert (out / "selection.csv").read_bytes() == (whole / "selection.csv").read_bytes()
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, out))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    lines = [(folder / "history.jsonl").read_text().splitlines() for folder in (whole, out)]
    records = [[{**json.loads(line), "seconds": 0} for line in text] for text in lines]
    assert records[0] == records[1]


def test_interrupt_by_the_user_says_how_to_go_on(npz, tmp_path, monkeypatch, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("mild_ext.training.experiment.run_posterior", interrupt)
    assert train("--data", npz(**arrays(count=30)), "--out", tmp_path / "run") == 130
    assert "--resume" in capsys.readouterr().err


def test_truncated_checkpoint_is_refused_with_its_name(npz, tmp_path, capsys):
    out = tmp_path / "run"
    assert train("--data", npz(**arrays(count=30)), "--out", out) == 0
    path = out / "checkpoints" / "training.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert main(["train", "--resume", "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert (
        "training.safetensors cannot be read: it is damaged or no safetensors file, or truncated"
        in error
    )
    assert "delete it" in error
    path.unlink()
    assert main(["train", "--resume", "--out", str(out)]) == 0


def test_a_kill_before_anything_was_written_needs_no_cleaning_up(npz, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / ".config.json.partial").write_text("{")
    assert train("--data", npz(**arrays(count=30)), "--out", out) == 0


def test_recipe_from_a_file_under_the_command_line(npz, tmp_path):
    recipe = tmp_path / "mine.json"
    recipe.write_text('{"recipe": "cifar10-sym20", "augment": "none", "lr": 0.03, "width": 16}')
    out = tmp_path / "run"
    assert train("--data", npz(**arrays(count=30)), "--recipe", recipe, "--out", out) == 0
    merged = json.loads((out / "config.json").read_text())["settings"]["recipe"]
    assert merged["validation"] == 0.1  # the preset's
    assert merged["lr"] == 0.05  # the command line's
    assert merged["momentum"] == 0.9  # the default


def test_missing_matplotlib_does_not_lose_the_run(npz, tmp_path, monkeypatch, capsys):
    for name in list(sys.modules):
        if name.partition(".")[0] == "matplotlib":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = tmp_path / "run"
    assert train("--data", npz(**arrays(count=30)), "--out", out) == 0
    assert capsys.readouterr().out.count("pip install 'mild_ext[plot]'") == 1
    assert (out / "selection.csv").exists()
    assert not (out / "metric.png").exists()


def test_missing_scikit_learn_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert train("--data", "digits", "--out", tmp_path / "run") == 1
    assert "pip install 'mild_ext[digits]'" in capsys.readouterr().err


def test_figure_of_the_metric(npz, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "run"
    assert train("--data", npz(**arrays()), "--noise", "symmetric:0.5", "--out", out) == 0
    assert (out / "metric.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
def test_help_is_quick_to_load_and_names_every_setting(tmp_path):
    code = (
        "import sys, mild_ext.cli\n"
        "try: mild_ext.cli.main(['train', '--help-all'])\n"
        "except SystemExit: pass\n"
        "heavy = {'matplotlib', 'sklearn', 'scipy.optimize', 'scipy.special', 'scipy.stats'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    # Elsewhere than in the checkout, whose mild_ext folder would hide the installed package.
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip().endswith("[]")
    for name in ("--first-epochs", "--ema-decay", "--noise", "--resume"):
        assert name in done.stdout
