"""The native module `_C`, and what to do where it is missing."""

from __future__ import annotations

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

__all__ = ["READS_TENSORS", "_C", "has_cuda"]

#: Whether the native module can read this torch's tensors by itself (torch 2.10 and newer); see csrc/tensor_view.h.
READS_TENSORS: bool = _C.use_tensor_type(torch.Tensor)


def has_cuda() -> bool:
    """Whether this build contains the CUDA kernels."""
    return bool(_C.cuda_architectures)
