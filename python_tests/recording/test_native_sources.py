"""What the CUDA sources must not do, and what the build names: looked at where there is no device to see it on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from mild_ext.commands.info import runs_on
from mild_ext.recording import buffers

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


def test_a_buffer_on_a_device_comes_with_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded at the first launch they would fail inside the capture of a CUDA graph."""

    class OnDevice(torch.Tensor):
        is_cpu, is_cuda, device = False, True, torch.device("cuda", 1)

    loaded: list[int] = []
    monkeypatch.setattr(buffers, "load_kernels", loaded.append)
    there = torch.zeros(2).as_subclass(OnDevice)
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: there)
    buffers.new_buffer((2,), torch.int64, torch.device("cuda", 1))
    assert loaded == [1]


def test_default_architectures_run_on_every_newer_device() -> None:
    text = (ROOT / "CMakeLists.txt").read_text()
    listed = re.search(r"foreach\(arch ([\d ]+)\)", text)
    assert listed is not None
    numbers = listed[1].split()
    assert "list(GET cuda_architectures 0 oldest)" in text
    built = [f"{number}-real" for number in numbers] + [f"{numbers[0]}-virtual"]
    for capability in (75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121, 130):
        assert runs_on(capability, built), f"sm_{capability}"
