"""One display over a whole run."""

from __future__ import annotations

import io

import pytest

from mild_ext.commands import progress
from mild_ext.commands.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def epoch(stage: str, number: int, seconds: float = 2.0, samples: int = 10) -> dict[str, object]:
    return {
        "type": "epoch", "stage": stage, "epoch": number, "seconds": seconds, "samples": samples,
    }  # fmt: skip


STAGES = [("round 0", 40.0), ("round 1", 20.0), ("final", 40.0)]


def test_share_and_time_left_follow_from_the_work_that_is_done() -> None:
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


def test_without_a_terminal_there_is_a_line_every_half_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    shown = Progress(STAGES, stream=stream)
    for number in range(4):
        now[0] += 20
        shown(epoch("round 0", number, seconds=20))
    assert stream.getvalue().splitlines() == [
        "20% done, about 3 min left (round 0, epoch 2)",
        "40% done, about 2 min left (round 0, epoch 4)",
    ]


def test_on_a_terminal_there_is_one_bar_which_goes_away(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = Terminal()
    shown = Progress(STAGES, stream=stream)
    shown(epoch("round 0", 0))
    shown.say("a line")
    assert "10%" in stream.getvalue()
    assert "round 0, epoch 1" in stream.getvalue()
    assert "about 18 s left" in stream.getvalue()
    assert capsys.readouterr().out == "a line\n"
    shown.close()
    assert stream.getvalue().endswith("\r")


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Terminal()
    shown = Progress(STAGES, quiet=True, stream=stream)
    shown(epoch("round 0", 0))
    shown.say("a line")
    shown.close()
    assert stream.getvalue() == capsys.readouterr().out == ""


def test_durations_are_words() -> None:
    assert [duration(s) for s in (0.2, 89, 91, 5400)] == ["1 s", "89 s", "2 min", "1 h 30 min"]
