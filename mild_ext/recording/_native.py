"""The native module `_C`, and what to do where it is missing."""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path

import torch

try:
    from mild_ext import _C
except ImportError as error:
    raise ImportError(
        "mild_ext's native module _C cannot be imported. In a source checkout it has to be built first: "
        "pip install . (or pip install --no-build-isolation -e . for working on it), and Python must not "
        "find the checkout's mild_ext folder before the installed package. "
        f"The import failed with: {error}"
    ) from error

__all__ = ["READS_TENSORS", "_C", "driver_problem", "has_cuda", "load_kernels"]


def _storage_questions() -> tuple[int, int]:
    """Addresses of torch's C functions for a storage's size and a tensor's offset in it; 0: it has none."""
    name = {"win32": "torch_cpu.dll", "darwin": "libtorch_cpu.dylib"}.get(
        sys.platform, "libtorch_cpu.so"
    )
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))  # loaded already
        functions = library.aoti_torch_get_storage_size, library.aoti_torch_get_storage_offset
    except (OSError, AttributeError):
        return 0, 0
    size, offset = (ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions)
    return size, offset


#: Whether the native module can read this torch's tensors by itself (torch 2.10 and newer); see csrc/tensor_view.h.
READS_TENSORS: bool = _C.use_tensor_type(torch.Tensor, *_storage_questions())


def has_cuda() -> bool:
    """Whether this build contains the CUDA kernels."""
    return bool(_C.cuda_architectures)


def driver_problem(built_with: str, driver: int) -> str | None:
    """What stands between CUDA code and the NVIDIA driver, and what to do; None where nothing does.

    Args:
        built_with: version of the CUDA compiler, e.g. "13.0.88".
        driver: the newest CUDA that the driver knows, 1000 major + 10 minor; 0: no driver.

    >>> driver_problem("12.8.93", 13000), driver_problem("13.2.10", 13000)  # the major number decides
    (None, None)
    """
    needed = int(built_with.partition(".")[0])
    if driver >= 1000 * needed:
        return None
    has = f"knows CUDA up to {driver // 1000}.{driver % 1000 // 10}" if driver else "was not found"
    return (
        f"this build of mild_ext has CUDA {needed} code, and the NVIDIA driver {has}: update the driver to one for "
        f"CUDA {needed} or newer, or build mild_ext with an older nvcc (docs/install.md), or keep the status on the "
        "CPU and give it logits.cpu()"
    )


@functools.cache
def load_kernels(device: int) -> None:
    """Load all kernels onto a CUDA device, once.

    Otherwise each would load at its first launch, which must not happen while a CUDA graph is captured.

    Raises:
        RuntimeError: the driver is too old for this build, or the build has no code for the device.
    """
    problem = driver_problem(_C.cuda_version, _C.cuda_driver())
    if problem is not None:
        raise RuntimeError(problem)
    with torch.cuda.device(device):
        _C.load_kernels(device)
