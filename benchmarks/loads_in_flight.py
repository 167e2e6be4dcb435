"""Whether a row's loads are in flight together: read off the machine code of the row kernels.

    python benchmarks/loads_in_flight.py [75 80 90 ...]

A warp that waits for one load before it asks for the next moves a quarter of what it could. What is written as four
loads in a row need not stay so in the compiler. So this compiles csrc/*_cuda.cu, disassembles it with nvdisasm (on
PATH, named by NVDISASM, or from the package nvidia-cuda-nvdisasm), and counts, for every kernel that gives a row to a
warp or a block, the 16-byte loads that are issued before the first instruction that needs one of them. Exits with 1 if
a kernel has fewer than four.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kernel_resources import ARCHITECTURES, DEFINES, SOURCES, demangled, find_nvcc

WANTED = 4  # kUnroll in csrc/row_kernels.cuh
_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(.*?);")
_LOAD = re.compile(r"LDG\.E\.128\S*\s+R(\d+), (.*)")


@dataclass(frozen=True)
class RowLoads:
    """One kernel on one architecture."""

    name: str
    architecture: str
    in_flight: int  # 16-byte loads issued before one is needed, at most
    instructions: int  # of the whole kernel


def find_nvdisasm() -> str | None:
    """The disassembler, if there is one."""
    named = os.environ.get("NVDISASM") or shutil.which("nvdisasm")
    if named:
        return named
    packages = Path(sysconfig.get_paths()["purelib"])
    places = [packages, *(Path(entry) for entry in sys.path if entry.endswith("site-packages"))]
    for place in places:
        for found in sorted(place.glob("nvidia/*/bin/nvdisasm")):
            return str(found)
    return None


def row_loads(nvcc: str, nvdisasm: str, architecture: str) -> list[RowLoads]:
    """The kernels that give a row to a warp or a block."""
    listing = ""
    for source in SOURCES:
        with tempfile.TemporaryDirectory() as folder:
            binary = Path(folder) / "kernels.cubin"
            command = [
                nvcc,
                "-std=c++17",
                "-O3",
                *DEFINES,
                f"-arch=sm_{architecture}",
            ]
            subprocess.run([*command, "-cubin", source, "-o", binary], check=True)
            done = subprocess.run(
                [nvdisasm, "-c", binary], check=True, capture_output=True, text=True
            )
        listing += done.stdout
    pieces = re.findall(
        r"^\.text\.(_Z\w+):\n(.*?)(?=^\s*\.section|\Z)", listing, flags=re.MULTILINE | re.DOTALL
    )
    names = demangled([symbol for symbol, _ in pieces])
    return [
        RowLoads(name, architecture, most_in_flight(body), len(_INSTRUCTION.findall(body)))
        for name, (_, body) in zip(names, pieces, strict=True)
        if re.search(r"<.*, (32|256)>", name)
    ]


def most_in_flight(body: str) -> int:
    """The longest series of 16-byte loads in which none waits for another; body: disassembly of a kernel."""
    most, waiting = 0, set[int]()
    loads = 0
    for _, text in _INSTRUCTION.findall(body):
        load = _LOAD.search(text)
        used = {int(r) for r in re.findall(r"\bR(\d+)\b", load.group(2) if load else text)}
        if used & waiting:
            loads, waiting = 0, set()
        if load:
            first = int(load.group(1))
            loads += 1
            waiting |= set(range(first, first + 4))
            most = max(most, loads)
    return most


def main(architectures: tuple[str, ...]) -> int:
    nvcc, nvdisasm = find_nvcc(), find_nvdisasm()
    if nvcc is None or nvdisasm is None:
        print("nvcc and nvdisasm are needed (NVCC, NVDISASM, or on PATH)", file=sys.stderr)
        return 2
    print(f"{'kernel':<36}{'sm':>5}{'loads in flight':>17}{'instructions':>14}")
    bad = 0
    for architecture in architectures:
        for row in row_loads(nvcc, nvdisasm, architecture):
            print(f"{row.name:<36}{architecture:>5}{row.in_flight:>17}{row.instructions:>14}")
            bad += row.in_flight < WANTED
    if bad:
        print(f"{bad} kernels have fewer than {WANTED} loads in flight", file=sys.stderr)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:]) or ARCHITECTURES))
