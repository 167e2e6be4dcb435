"""Four 16-byte loads of a row are in flight at once: read off the machine code, where the tools for that are."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    if not (BENCHMARKS / "loads_in_flight.py").exists():
        pytest.skip("needs benchmarks/ of the repository")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        sys.modules.pop("kernel_resources", None)
        return importlib.import_module("loads_in_flight")


@pytest.mark.parametrize("architecture", ["80", "90", "100"])
def test_rows_are_read_with_four_loads_in_flight(script: ModuleType, architecture: str) -> None:
    nvcc, nvdisasm = script.find_nvcc(), script.find_nvdisasm()
    if nvcc is None or nvdisasm is None:
        pytest.skip("needs nvcc and nvdisasm (package nvidia-cuda-nvdisasm)")
    rows = script.row_loads(nvcc, nvdisasm, architecture)
    assert len(rows) == 16, "two kernels, four types, warps and blocks"
    assert [row for row in rows if row.in_flight < script.WANTED] == []


def test_counting(script: ModuleType) -> None:
    body = """
        /*0010*/  LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/  IADD3 R3, R2, 0x10, RZ ;
        /*0030*/  LDG.E.128 R8, desc[UR4][R2.64+0x10] ;
        /*0040*/  FSETP.GE.AND P0, PT, R0, R5, PT ;
        /*0050*/  @P1 LDG.E.128 R12, [R2.64+0x20] ;
        /*0060*/  FSETP.GE.AND P0, PT, R0, R9, PT ;
    """
    assert script.most_in_flight(body) == 2
    assert (
        script.most_in_flight("/*0010*/ LDG.E.128 R4, [R2.64] ; /*0020*/ LDG.E.128 R8, [R4.64] ;")
        == 1
    )
