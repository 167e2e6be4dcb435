"""The fuzz targets over what users hand in, for a few seconds each (MILD_EXT_FUZZ_SECONDS sets how many)."""

from __future__ import annotations

import os

import fuzz_run
import pytest

SECONDS = float(os.environ.get("MILD_EXT_FUZZ_SECONDS", "4"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", sorted(fuzz_run.TARGETS))
def test_nothing_is_taken_for_what_it_is_not(target):
    assert fuzz_run.run(target, SECONDS) > 0
