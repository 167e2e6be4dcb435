"""The CUDA kernels' text compiled for the host (cpp/): the library as a fixture, and its arguments."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

CPP = Path(__file__).parents[1] / "cpp"
CSRC = Path(__file__).parents[2] / "csrc"
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
LOGIT_CODES = {torch.float64: 0, torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}

MARKS = [
    pytest.mark.slow,  # compiles the kernels
    pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler"),
    pytest.mark.skipif(not CSRC.exists(), reason="needs the native sources"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fibers need ucontext"),
]


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels as a library; set MILD_EXT_TEST_CXXFLAGS to add flags, such as a sanitizer's."""
    library = tmp_path_factory.mktemp("kernels") / "libkernels.so"
    flags = [
        "-std=c++17",
        "-O1",
        "-g",
        "-fPIC",
        "-shared",
        "-Wall",
        "-Wextra",
        "-Wno-unknown-pragmas",
        "-ffp-contract=off",
    ]
    extra = os.environ.get("MILD_EXT_TEST_CXXFLAGS", "").split()
    source = CPP / "kernels_on_host.cpp"
    command = [str(COMPILER), *flags, *extra, "-Werror", "-I", CSRC, source, "-o", library]
    subprocess.run(list(map(str, command)), check=True)
    loaded = ctypes.CDLL(str(library))
    source_text = source.read_text()
    for name in re.findall(r"^const char\* (host_\w+)", source_text, flags=re.MULTILINE):
        getattr(loaded, name).restype = ctypes.c_char_p
    return loaded


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def int64(value: int) -> ctypes.c_int64:
    return ctypes.c_int64(value)


def buffer(words: Tensor) -> tuple[ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]:
    return pointer(words), int64(words.shape[0]), int64(words.shape[1])
