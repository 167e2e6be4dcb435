"""The native module, or what to do where it is missing."""

from __future__ import annotations

import torch

try:
    from mild_ext import _C as C
except ImportError as error:
    raise ImportError(
        f"mild_ext's native module could not be loaded ({error}). Build it with 'pip install .' in a clone of the "
        "repository (a C++17 compiler is needed); Python run from inside the clone may pick up the sources "
        "instead of the installed package."
    ) from error

__all__ = ["C", "FAST_LANE", "cuda_architectures", "cuda_built"]

#: Whether this torch lets the native module read tensors directly (torch 2.10 and newer); see csrc/tensor_view.h.
FAST_LANE: bool = C.use_tensor_type(torch.Tensor)


def cuda_built() -> bool:
    """Whether the native module was built with CUDA."""
    return C.cuda_built


def cuda_architectures() -> list[str]:
    """The architectures of that build in CMake's notation, such as ``["80-real", "120-virtual"]``."""
    return C.cuda_architectures.split(",") if C.cuda_architectures else []
