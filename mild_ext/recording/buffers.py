"""The tensors that a recording owns: memory of its own, at an address that stays."""

from __future__ import annotations

import copy
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from mild_ext.recording._native import _C, load_kernels

_Owner = TypeVar("_Owner", bound="OwnsBuffers")


def new_buffer(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory for ``shape``, uninitialized.

    An ordinary tensor even inside torch.inference_mode(): it is going to be written to outside of it. On the CPU the
    system is asked for large pages; on a CUDA device the kernels are loaded.

    Raises:
        RuntimeError: a CUDA device that this build has no code for, or whose driver is too old for it.
    """
    with torch.inference_mode(False):
        buffer = torch.empty(shape, dtype=dtype, device=device)
        if buffer.is_cpu:  # before it is touched
            _C.advise_large_pages(buffer.data_ptr(), buffer.nbytes)
    if buffer.is_cuda:
        load_kernels(buffer.device.index)
    # What torch._dynamo.mark_static_address(buffer) sets, without importing torch._dynamo, which takes longer than
    # all of mild_ext. Inductor puts a step that changes its inputs into a CUDA graph only where it knows that these
    # stay where they are.
    buffer._dynamo_static_input_type = "unguarded"  # type: ignore[attr-defined]
    return buffer


def private_copy(tensor: Tensor) -> Tensor:
    """A buffer with the same content."""
    return new_buffer(tuple(tensor.shape), tensor.dtype, tensor.device).copy_(tensor)


class OwnsBuffers:
    """Of an object whose tensors are buffers: every copy of it gets memory of its own.

    Sent to another process, a tensor is moved into memory that both share: there the two processes would go on writing
    to one and the same buffer, and count each other's epochs. So to a process the numbers are sent.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        ForkingPickler.register(cls, _for_another_process)  # it looks for exactly this class

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, private_copy(value) if isinstance(value, Tensor) else value)

    def __deepcopy__(self: _Owner, memo: dict[int, Any]) -> _Owner:
        twin = memo[id(self)] = object.__new__(type(self))
        twin.__setstate__(  # which copies the tensors
            {
                name: value if isinstance(value, Tensor) else copy.deepcopy(value, memo)
                for name, value in vars(self).items()
            }
        )
        return twin

    def __copy__(self: _Owner) -> _Owner:
        return copy.deepcopy(self)


class _Sent(NamedTuple):
    """A tensor on its way to another process."""

    numbers: np.ndarray[Any, Any]
    device: torch.device


def _for_another_process(owner: OwnsBuffers) -> tuple[Any, ...]:
    state = {
        name: _Sent(value.cpu().numpy(), value.device) if isinstance(value, Tensor) else value
        for name, value in vars(owner).items()
    }
    return _received, (type(owner), state)


def _received(kind: type[_Owner], state: dict[str, Any]) -> _Owner:
    owner = object.__new__(kind)
    owner.__setstate__(
        {
            name: torch.tensor(value.numbers, device=value.device)
            if isinstance(value, _Sent)
            else value
            for name, value in state.items()
        }
    )
    return owner
