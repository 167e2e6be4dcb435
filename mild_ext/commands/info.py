"""``mild-ext info``: what was built in, what can be used here, and what to do about what is missing."""

from __future__ import annotations

import argparse
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import torch

import mild_ext
from mild_ext.recording._native import _C, driver_problem, has_cuda

_EXTRA = re.compile(r"[\w.-]+")
_OF_EXTRA = re.compile(r"""extra\s*==\s*["']([\w-]+)["']""")
_BEFORE_PYTHON = re.compile(r"""python_version\s*<\s*["'](\d+)\.(\d+)["']""")
_FOR_DEVELOPERS = ("demo", "test", "lint", "docs")

_REBUILD = "where nvcc is on PATH: MILD_EXT_CUDA=ON pip install --force-reinstall --no-deps . in a checkout"


def main(options: argparse.Namespace) -> int:
    """Print the report; always 0: a missing GPU or extra is no failure."""
    print(report())
    return 0


def report() -> str:
    """The report as text: one subject a line, remedies indented below what they are for."""
    lines = [
        ("mild_ext", f"{mild_ext.__version__} in {Path(mild_ext.__file__).parent}"),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        ("torch", f"{torch.__version__} in {Path(torch.__file__).parent}"),
        ("native module", _built()),
        ("cpu", f"usable; instruction set {_C.isa()}, {torch.get_num_threads()} threads"),
        *_cuda(),
        *_extras(),
    ]
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join(f"{name:<{width}}{text}" for name, text in lines)


def _built() -> str:
    if not has_cuda():
        return "CPU only"
    return f"CPU and CUDA {_C.cuda_version} for {_C.cuda_architectures.replace(',', ', ')}"


def _cuda() -> list[tuple[str, str]]:
    """One line per CUDA device, or why there is none to use and what to do."""
    if torch.version.hip is not None:
        return [
            ("cuda", "not usable: this torch is built for ROCm; the status has to be on the CPU")
        ]
    if torch.version.cuda is None:
        remedy = "" if has_cuda() else f"; then rebuild mild_ext {_REBUILD}"
        return [
            ("cuda", "not usable: this torch is built without CUDA"),
            ("", f"to use a GPU, install a CUDA build of torch (pytorch.org/get-started){remedy}"),
        ]
    if not torch.cuda.is_available():
        return [
            ("cuda", "not usable: torch finds no CUDA device"),
            (
                "",
                "to use a GPU, check that nvidia-smi lists it and that CUDA_VISIBLE_DEVICES is not empty",
            ),
        ]
    lines = []
    problem = driver_problem(_C.cuda_version, _C.cuda_driver()) if has_cuda() else None
    if problem is not None:
        lines.append(("driver", problem))
    elif has_cuda():
        driver = _C.cuda_driver()
        lines.append(("driver", f"knows CUDA up to {driver // 1000}.{driver % 1000 // 10}"))
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = 10 * properties.major + properties.minor
        name = f"{properties.name}, sm_{capability}, {properties.total_memory >> 30} GiB"
        if not has_cuda():
            lines += [
                (f"cuda:{index}", f"{name}: not usable by this build"),
                ("", f"rebuild {_REBUILD}"),
            ]
        elif not runs_on(capability, _C.cuda_architectures.split(",")):
            lines += [
                (f"cuda:{index}", f"{name}: this build has no code for sm_{capability}"),
                ("", f"rebuild with MILD_EXT_CUDA_ARCHITECTURES={capability} set, {_REBUILD}"),
            ]
        elif problem is not None:
            lines.append((f"cuda:{index}", f"{name}: not usable with this driver"))
        else:
            lines.append((f"cuda:{index}", f"{name}: usable; try mild-ext selfcheck --device cuda"))
    return lines


def runs_on(capability: int, architectures: list[str]) -> bool:
    """Whether code for ``architectures`` (CMake's notation: 80-real, 120-virtual, 90) runs on a device.

    Machine code runs on its own major version from its own minor version on; PTX on every newer device.

    >>> runs_on(86, ["80-real"]), runs_on(90, ["80-real"]), runs_on(121, ["80-real", "120-virtual"])
    (True, False, True)
    """
    for architecture in architectures:
        number, _, kind = architecture.partition("-")
        built_for = int("".join(filter(str.isdigit, number)))
        if kind != "virtual" and built_for // 10 == capability // 10 and built_for <= capability:
            return True
        if kind != "real" and built_for <= capability:
            return True
    return False


def _extras() -> list[tuple[str, str]]:
    """Which optional parts are complete, and how to get the others."""
    needed: dict[str, list[str]] = {}
    for requirement in requires("mild_ext") or []:
        # e.g. matplotlib>=3.7; extra == "plot"
        name, extra = _EXTRA.match(requirement), _OF_EXTRA.search(requirement)
        before = _BEFORE_PYTHON.search(requirement)
        if before and sys.version_info >= (int(before[1]), int(before[2])):
            continue
        if name and extra and extra[1] not in _FOR_DEVELOPERS:
            needed.setdefault(extra[1], []).append(name[0])
    lines = []
    for extra_name, names in sorted(needed.items()):
        missing = [name for name in names if not _installed(name)]
        text = (
            f"missing {', '.join(missing)}: pip install 'mild_ext[{extra_name}]'"
            if missing
            else "complete"
        )
        lines.append((f"extra {extra_name}", text))
    return lines


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
