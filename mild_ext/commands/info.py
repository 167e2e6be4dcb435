"""``mild-ext info``: what was built in, what can be used here, and what to do about what is missing."""

from __future__ import annotations

import argparse
import operator
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

import torch

import mild_ext
from mild_ext.recording._native import _C, driver_problem, has_cuda

_REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)(\[(?P<extras>[^\]]*)\])?\s*(.*?>=\s*(?P<least>[\d.]+))?"
)
_OF_EXTRA = re.compile(r"""extra\s*==\s*["']([\w-]+)["']""")
_OF_PYTHON = re.compile(r"""python_version\s*(<=|>=|<|>|==)\s*["'](\d+)\.(\d+)["']""")
_COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}
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
    needed = requirements_by_extra(requires("mild_ext") or [])
    lines = []
    for extra in sorted(set(needed) - set(_FOR_DEVELOPERS)):
        versions = {r: _version(r.name) for r in needed[extra]}
        missing = sorted({r.name for r, there in versions.items() if there is None})
        old = sorted(
            {
                r.name
                for r, there in versions.items()
                if there and _numbers(there) < _numbers(r.least)
            }
        )
        parts = [f"missing {', '.join(missing)}"] if missing else []
        parts += [f"too old {', '.join(old)}"] if old else []
        text = f"{'; '.join(parts)}: pip install 'mild_ext[{extra}]'" if parts else "complete"
        lines.append((f"extra {extra}", text))
    return lines


class Requirement(NamedTuple):
    """A package that is needed, and its least version."""

    name: str
    least: str


def requirements_by_extra(
    requirements: list[str], python: tuple[int, int] = sys.version_info[:2]
) -> dict[str, list[Requirement]]:
    """What each extra needs on a version of Python; an extra of this package stands for what it needs itself.

    >>> requirements_by_extra(['a>=1; extra == "x"', 'mild_ext[x]; extra == "y"'])["y"]
    [Requirement(name='a', least='1')]
    """
    own: dict[str, list[Requirement]] = {}
    others: dict[str, list[str]] = {}
    for text in requirements:
        found, marker = _REQUIREMENT.match(text), text.partition(";")[2]
        extra, limit = _OF_EXTRA.search(marker), _OF_PYTHON.search(marker)
        if found is None or extra is None:
            continue
        entry = own.setdefault(extra[1], [])
        if limit is not None and not _COMPARE[limit[1]](python, (int(limit[2]), int(limit[3]))):
            continue
        if found["name"].replace("-", "_") == "mild_ext":
            others.setdefault(extra[1], []).extend(found["extras"].replace(" ", "").split(","))
        else:
            entry.append(Requirement(found["name"], found["least"] or "0"))

    def all_of(extra: str, seen: tuple[str, ...] = ()) -> list[Requirement]:
        more = [
            r for o in others.get(extra, []) if o not in seen for r in all_of(o, (*seen, extra))
        ]
        return own.get(extra, []) + more

    return {extra: all_of(extra) for extra in own}


def _version(name: str) -> str | None:
    """The installed version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    """The release of a version: ``2.10.1+cpu`` is (2, 10, 1)."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()
