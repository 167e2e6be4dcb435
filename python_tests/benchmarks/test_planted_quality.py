"""What the benchmark of planted labels computes, on small examples and on the packed recordings."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from recordings import FOLDER, NAMES

from mild_ext.selection.quality import best_threshold

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def quality() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("planted_quality")
    sys.path.remove(str(BENCHMARKS))


def test_the_best_cut_is_the_best_threshold(quality: ModuleType) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        clean = rng.random(50) < 0.7
        count = rng.integers(0, 8, 50) + 3 * ~clean
        assert quality.best_cut(count, clean) == pytest.approx(best_threshold(count, clean)[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_packed_recording_is_judged(quality: ModuleType, name: str) -> None:
    recording = quality.read(FOLDER / f"{name}.npz")
    row = quality.judged(recording)
    stored = recording.arrays["shortfall"].astype(float)
    np.testing.assert_allclose(recording.shortfall.mean(axis=1), stored, atol=0.01)
    assert row["domain"] == ("digits" if "digits" in name else "mnist")
    assert row["held"]
    assert (row["share"] or row["kept"]) > 0.98
    assert quality.compared(recording, {}) == {}  # no loss, no margin


@pytest.fixture(scope="module")
def constants(quality: ModuleType) -> ModuleType:
    return importlib.import_module("planted_constants")


def test_a_constant_that_is_moved_comes_back(constants: ModuleType) -> None:
    before = [getattr(module, name) for module, name in constants.CONSTANTS]
    changes = [(module, name, 0) for module, name in constants.CONSTANTS]
    with pytest.raises(KeyError), constants.replaced(changes):
        raise KeyError
    assert before == [getattr(module, name) for module, name in constants.CONSTANTS]
    assert constants.moved("LEAST_VOTES", 3, 1.2) == 4
    assert constants.moved("FAR_TAIL", 0.8, 1.2) == 0.95


def test_what_is_read_once_is_judged_as_what_is_read_anew(
    quality: ModuleType, constants: ModuleType
) -> None:
    recordings = [quality.read(FOLDER / f"{name}.npz") for name in NAMES]
    known = constants.Known(recordings)
    rows = constants.jittered(known, 1)
    for recording, first, moved in zip(recordings, *rows, strict=True):
        row = quality.judged(recording)
        assert first == pytest.approx(row["kept"] if row["share"] is None else row["share"])
        assert 0.5 < moved < 1.5
    shortfall = [(constants.suspicion, "SHORTFALL_LIMIT", float("inf"))]
    changed = [constants.short_figures(*one)[0] for one in known.each(shortfall)]
    assert changed != rows[0].tolist()


def test_all_that_is_asked_is_measured(quality: ModuleType, capsys: pytest.CaptureFixture) -> None:
    asked = importlib.import_module("planted_asked")
    asked.DRAWS = 1
    asked.table([FOLDER])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"| | asked | {FOLDER.name} | ")
    assert f"| {len(NAMES)} |" in lines[2]
    assert [line.split(" | ")[0][2:] for line in lines[3:]] == [what for what, _, _ in asked.ASKED]
