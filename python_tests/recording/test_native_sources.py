"""What the CUDA sources must not do, and what the build names: looked at where there is no device to see it on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mild_ext.commands.info import runs_on

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
pytestmark = pytest.mark.skipif(not CSRC.exists(), reason="needs the native sources")


def code(path: Path) -> str:
    return re.sub(r"//.*", "", path.read_text())


def test_no_native_code_sets_the_device() -> None:
    """To set it back creates a context on device 0, in a thread that never chose one; torch's own guard does not."""
    assert not [path.name for path in CSRC.iterdir() if "cudaSetDevice" in code(path)]


def test_every_kernel_is_loaded_before_its_first_launch() -> None:
    sources = "".join(code(path) for path in CSRC.glob("*.cu"))
    kernels = set(re.findall(r"(\w+_kernel)\(", "".join(map(code, CSRC.glob("*_kernels.cuh")))))
    loaded = set(re.findall(r"(\w+_kernel)\b(?!<<<|<T, kLanes>)", sources))
    assert kernels
    assert kernels <= loaded


def test_default_architectures_run_on_every_newer_device() -> None:
    text = (ROOT / "CMakeLists.txt").read_text()
    listed = re.search(r"foreach\(arch ([\d ]+)\)", text)
    assert listed is not None
    numbers = listed[1].split()
    assert "list(GET cuda_architectures 0 oldest)" in text
    built = [f"{number}-real" for number in numbers] + [f"{numbers[0]}-virtual"]
    for capability in (75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121, 130):
        assert runs_on(capability, built), f"sm_{capability}"
