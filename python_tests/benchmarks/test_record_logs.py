"""The logs that selection rules are compared on can be recorded again, each by its name."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from recordings import FOLDER

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "record_logs.py"


@pytest.fixture(scope="module")
def record_logs() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPT.parent))  # as where a script is run from
    spec = importlib.util.spec_from_file_location("record_logs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPT.parent))


def test_every_run_of_the_sets_has_a_name_of_its_own(record_logs: ModuleType) -> None:
    names = [run.name for runs in record_logs.SETS.values() for run in runs()]
    assert len(names) == len(set(names)) == 290


@pytest.mark.parametrize(
    ("rate", "model"), [("cosine", "mlp8"), ("warm", "one256"), ("adam", "mlp8-4")]
)
def test_a_run_is_the_same_every_time(record_logs: ModuleType, rate: str, model: str) -> None:
    run = record_logs.Run("digits", "sym50", "tiny", 3, 3, "digits:5:120", model, rate, folds=False)
    log, again = record_logs.record(run, None), record_logs.record(run, None)
    assert log.memorized.shape == (120, 3)
    assert np.array_equal(log.memorized, again.memorized)
    assert 0.3 < (log.given_label != log.true_label).mean() < 0.6
    # Memorized means that no other logit is larger.
    assert np.array_equal(log.memorized, log.margin > 0)
    np.testing.assert_allclose(np.exp(-log.loss.astype(float)), log.label_prob, atol=2e-3)


@pytest.mark.slow
def test_the_recordings_of_the_tests_can_be_made_again(record_logs: ModuleType) -> None:
    runs = {run.name: run for run in record_logs.planted_set()}
    assert set(runs) == {path.stem for path in FOLDER.glob("*.npz")}
    name = "digits_sym40_easy_s300"
    again = record_logs.record_planted(runs[name])
    with np.load(FOLDER / f"{name}.npz") as stored:
        assert set(again) == set(stored.files)
        for array in ("num_epochs", "planted", "given_label", "trained_label", "true_label"):
            assert np.array_equal(again[array], stored[array])
        # Another processor adds in another order; that is all that may differ.
        assert (again["predicted"] == stored["predicted"]).mean() > 0.95
