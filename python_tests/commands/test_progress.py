"""One display over a whole run."""

from __future__ import annotations

import io
import threading
import time

import pytest

from mild_ext.cli import main
from mild_ext.commands import progress
from mild_ext.commands.progress import Progress, Stage, duration, planned_stages
from mild_ext.training.experiment import RunSettings
from mild_ext.training.recipe import Recipe


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def epoch(stage: str, number: int, seconds: float = 2.0, samples: int = 10) -> dict[str, object]:
    return {
        "type": "epoch", "stage": stage, "epoch": number, "seconds": seconds, "samples": samples,
    }  # fmt: skip


STAGES = [
    Stage("round 0", "first round", 40.0), Stage("round 1", "round 2", 20.0),
    Stage("final", "final training", 40.0),
]  # fmt: skip


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still unless it is moved."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    return clock


def test_share_and_time_left_follow_from_the_work_that_is_done(now: list[float]) -> None:
    shown = Progress(STAGES, stream=io.StringIO())
    assert shown.share == 0
    for number in range(4):
        shown(epoch("round 0", number))
    assert shown.share == pytest.approx(0.4)
    assert shown.seconds_left == pytest.approx(60 * 8 / 40)
    shown({"type": "round", "round": 0})
    shown(epoch("final", 0))  # the rounds ended early
    assert shown.share == pytest.approx(50 / 80)
    assert shown.seconds_left == pytest.approx(30 * 10 / 50)
    for number in range(1, 4):
        shown(epoch("final", number))
    assert shown.share == 1


def test_within_an_epoch_it_goes_on_at_the_pace_so_far(now: list[float]) -> None:
    shown = Progress(STAGES, stream=io.StringIO())
    now[0] = 10  # the first epoch: nothing is known of the pace
    assert shown.share == 0
    shown(epoch("round 0", 0, seconds=20))
    now[0] += 10
    assert shown.share == pytest.approx(0.15)
    assert shown.seconds_left == pytest.approx(170)
    now[0] += 1000  # it takes longer than the others, and is not done before its end
    assert shown.share == pytest.approx(0.195)
    shown.expect("final", 20)
    assert shown.share == pytest.approx(19.5 / 80)


def test_without_a_terminal_there_is_a_line_every_half_minute(now: list[float]) -> None:
    stream = io.StringIO()
    shown = Progress(STAGES, stream=stream)
    for number in range(4):
        now[0] += 20
        shown(epoch("round 0", number, seconds=20))
    assert stream.getvalue().splitlines() == [
        "20% done, about 3 min left (first round, epoch 2)",
        "40% done, about 2 min left (first round, epoch 4)",
    ]


def test_without_a_terminal_there_is_a_line_while_an_epoch_lasts(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "TICK_SECONDS", 0.01)
    stream = io.StringIO()
    shown = Progress(STAGES, stream=stream)

    def wait_for(*lines: str) -> None:
        for _ in range(1000):
            if stream.getvalue().splitlines() == list(lines):
                return
            time.sleep(0.01)
        raise AssertionError(stream.getvalue())

    with shown.going_on():
        now[0] = 31
        first = "0% done (the first epoch)"
        wait_for(first)
        shown(epoch("round 0", 0, seconds=120))
        now[0] = 62  # a quarter of the second one
        wait_for(first, "13% done, about 17 min left (first round, epoch 1)")
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_on_a_terminal_there_is_one_bar_which_goes_away(
    capsys: pytest.CaptureFixture[str], now: list[float]
) -> None:
    stream = Terminal()
    shown = Progress(STAGES, stream=stream)
    shown(epoch("round 0", 0))
    shown.say("a line")
    assert "10%" in stream.getvalue()
    assert "first round, epoch 1" in stream.getvalue()
    assert "about 18 s left" in stream.getvalue()
    assert capsys.readouterr().out == "a line\n"
    shown.close()
    assert stream.getvalue().endswith("\r")


def planned(**changes: object) -> list[tuple[str, float]]:
    recipe = Recipe(first_epochs=3, round_epochs=2, final_epochs=4).override(changes)
    settings = RunSettings("digits", "none", 0, 0.0, True, "cpu", 1, "default", recipe)
    stages = planned_stages(settings, 10, tested=True, truth=True)
    return [(stage.title, stage.work) for stage in stages]


def test_trainings_are_called_what_people_can_understand() -> None:
    more = [
        ("plain cross-entropy, to compare with", 70),
        ("correct labels only, to compare with", 70),
    ]
    assert planned(method="mild") == [("training", 70), *more]
    more = [(title, 40) for title, _ in more]
    assert planned(method="mild-rounds", rounds=1, scouts=3) == [
        *((f"network {k} of up to 3", 30) for k in (1, 2, 3)), ("final training", 40), *more,
    ]  # fmt: skip
    assert planned(method="mild-rounds", rounds=3, scouts=2, ssl="mixmatch", ssl_epochs=2) == [
        ("first round, network 1 of up to 2", 30), ("first round, network 2 of up to 2", 30),
        ("round 2 of up to 3", 20), ("round 3 of up to 3", 20), ("final training", 40),
        ("semi-supervised stage", 80), *more,
    ]  # fmt: skip


def test_a_comparison_has_one_display_over_all_of_its_trainings(
    tmp_path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    out = tmp_path / "compared"
    options = [
        *("compare", "--data", "digits", "--methods", "plain,mild-rounds,clean", "--seeds", "0"),
        *(
            "--noise",
            "symmetric:0.3",
            "--first-epochs",
            "2",
            "--final-epochs",
            "2",
            "--rounds",
            "1",
        ),
        *("--width", "16", "--threads", "1", "--out", str(out)),
    ]
    assert main(options) == 0
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if "% done" in line]
    titles = ["MILD, rounds and retraining", "plain cross-entropy", "correct labels only (bound)"]
    at = [next(k for k, line in enumerate(lines) if title in line) for title in titles]
    assert at == sorted(at)
    shares = [int(line.partition("%")[0]) for line in lines]
    assert shares == sorted(shares)
    assert shares[-1] == 100
    first = " left (symmetric:0.3, seed 0, MILD, rounds and retraining, epoch 1)"
    assert any(line.endswith(first) for line in lines)
    assert printed.out.count("symmetric:0.3  seed 0  ") == 3
    assert main(options) == 0  # all of it is done
    assert "% done" not in capsys.readouterr().err


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Terminal()
    shown = Progress(STAGES, quiet=True, stream=stream)
    shown(epoch("round 0", 0))
    shown.say("a line")
    shown.close()
    assert stream.getvalue() == capsys.readouterr().out == ""


def test_durations_are_words() -> None:
    assert [duration(s) for s in (0.2, 89, 91, 5400)] == ["1 s", "89 s", "2 min", "1 h 30 min"]
