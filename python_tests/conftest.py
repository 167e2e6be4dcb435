"""Settings for all tests."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Small models run fastest on one thread, and in one fixed order of summation."""
    torch.set_num_threads(1)
