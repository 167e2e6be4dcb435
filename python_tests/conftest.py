"""Settings for all tests."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from on_host import kernels

__all__ = ["kernels"]  # a fixture

# The same examples in every run, so that CI fails for a change and not by luck. To look for new ones:
# HYPOTHESIS_PROFILE=search pytest ...
settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Small models run fastest on one thread, and in one fixed order of summation."""
    torch.set_num_threads(1)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Go away from the source tree: processes that tests start would import its mild_ext, which was not built."""
    os.chdir(Path(__file__).parent)
