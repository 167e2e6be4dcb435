"""Registers, spills, stack, shared memory and occupancy of every kernel, for each architecture.

    python benchmarks/kernel_resources.py [75 80 90 ...]

Compiles csrc/*_cuda.cu with nvcc (on PATH, or named by NVCC) and reads what ptxas says. Exits with 1 if a kernel
spills or keeps a stack in local memory.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

#: As CMakeLists.txt has them; the texts are only printed.
DEFINES = (
    "-DMILD_EXT_WITH_CUDA",
    '-DMILD_EXT_CUDA_VERSION=""',
    '-DMILD_EXT_CUDA_ARCHITECTURES=""',
)
SOURCES = sorted((Path(__file__).parents[1] / "csrc").glob("*_cuda.cu"))
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
THREADS = 256  # kBlock in csrc/row_kernels.cuh

# Per multiprocessor (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"):
# threads, blocks, bytes of shared memory, bytes of it reserved for each block. All have 65,536 registers.
LIMITS = {
    "75": (1024, 16, 64 << 10, 0),
    "80": (2048, 32, 164 << 10, 1024),
    "86": (1536, 16, 100 << 10, 1024),
    "89": (1536, 24, 100 << 10, 1024),
    "90": (2048, 32, 228 << 10, 1024),
    "100": (2048, 32, 228 << 10, 1024),
    "120": (1536, 24, 100 << 10, 1024),
}


@dataclass(frozen=True)
class Kernel:
    """What ptxas says of one kernel on one architecture; sizes in bytes."""

    name: str
    architecture: str
    registers: int
    stack: int
    spills: int

    def occupancy(self, shared: int = 0) -> float:
        """Share of a multiprocessor's threads that can be resident, with ``shared`` bytes a block."""
        threads, blocks, memory, reserved = LIMITS[self.architecture]
        registers_of_block = -(-self.registers * 32 // 256) * 256 * (THREADS // 32)
        fits = min(blocks, threads // THREADS, 65536 // registers_of_block)
        if shared:
            fits = min(fits, memory // (shared + reserved))
        return fits * THREADS / threads


def find_nvcc() -> str | None:
    """The compiler, if there is one."""
    return os.environ.get("NVCC") or shutil.which("nvcc")


def kernels(nvcc: str, architectures: tuple[str, ...] = ARCHITECTURES) -> list[Kernel]:
    """Compiles for the architectures and reports every kernel of each."""
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    report = ""
    for source in SOURCES:
        with tempfile.TemporaryDirectory() as folder:
            command = [nvcc, "-std=c++17", "-O3", *DEFINES, "-Xptxas=-v", *targets]
            command += ["-c", str(source), "-o", str(Path(folder) / "out.o")]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"nvcc failed:\n{done.stderr}")
        report += done.stdout + done.stderr
    found = re.findall(
        r"Compiling entry function '(\w+)' for 'sm_(\w+)'.*?"
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
        r"Used (\d+) registers",
        report,
        flags=re.DOTALL,
    )
    names = demangled([entry[0] for entry in found])
    return [
        Kernel(name, arch, int(registers), int(stack), int(stores) + int(loads))
        for name, (_, arch, stack, stores, loads, registers) in zip(names, found, strict=True)
    ]


def demangled(symbols: list[str]) -> list[str]:
    """Short readable names, such as ``update_kernel<float, 32>``."""
    tool = shutil.which("c++filt") or shutil.which("cu++filt")
    if tool is None:
        return symbols
    text = subprocess.run([tool, *symbols], capture_output=True, text=True, check=True).stdout
    return [
        re.sub(r"^(void )?mild::cuda::|\(.*\)$", "", line).replace("mild::", "")
        for line in text.splitlines()
    ]


def main(architectures: tuple[str, ...]) -> int:
    nvcc = find_nvcc()
    if nvcc is None:
        print("nvcc was found neither on PATH nor in NVCC", file=sys.stderr)
        return 2
    print(
        f"{'kernel':<36}{'sm':>5}{'registers':>11}{'spills':>8}{'stack':>7}{'shared':>8}{'occupancy':>11}"
    )
    bad = 0
    for kernel in sorted(kernels(nvcc, architectures), key=lambda k: (k.name, int(k.architecture))):
        # Dynamic shared memory for 64 epochs.
        shared = {"histogram_kernel": 65 * 65 * 4, "changes_kernel": 64 * 4}
        dynamic = shared.get(kernel.name, 0)
        print(
            f"{kernel.name:<36}{kernel.architecture:>5}{kernel.registers:>11}{kernel.spills:>8}"
            f"{kernel.stack:>7}{dynamic:>8}{kernel.occupancy(dynamic):>11.0%}"
        )
        bad += kernel.spills > 0 or kernel.stack > 0
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:]) or ARCHITECTURES))
