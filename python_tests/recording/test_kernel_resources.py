"""No kernel may spill registers or keep a stack in local memory, on any default architecture."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kernel_resources.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    if not SCRIPT.exists():
        pytest.skip("needs benchmarks/ of the repository")
    spec = importlib.util.spec_from_file_location("kernel_resources", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kernel_resources"] = module
    spec.loader.exec_module(module)
    return module


def test_no_spills_and_no_stack(script: ModuleType) -> None:
    nvcc = script.find_nvcc()
    if nvcc is None:
        pytest.skip("needs nvcc")
    architectures = ("75", "90", "120")  # oldest, commonest, newest; the script itself does all
    kernels = script.kernels(nvcc, architectures)
    for architecture in architectures:
        mine = [kernel for kernel in kernels if kernel.architecture == architecture]
        assert len(mine) == 43, f"every kernel is compiled for sm_{architecture}"
    bad = [kernel for kernel in kernels if kernel.spills or kernel.stack]
    assert bad == []


def test_occupancy(script: ModuleType) -> None:
    light = script.Kernel("k", "80", registers=32, stack=0, spills=0)
    heavy = script.Kernel("k", "80", registers=128, stack=0, spills=0)
    assert light.occupancy() == 1.0
    assert heavy.occupancy() == 0.25
    assert light.occupancy(shared=48 << 10) == 3 * 256 / 2048
