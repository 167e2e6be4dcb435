"""The fuzz targets over what users hand in; how long and from where on, see `mutations.seconds` and `first_seed`."""

from __future__ import annotations

import fuzz_run
import pytest
from mutations import first_seed, seconds


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", sorted(fuzz_run.TARGETS))
def test_nothing_is_taken_for_what_it_is_not(target):
    assert fuzz_run.run(target, seconds(), first_seed()) > 0
