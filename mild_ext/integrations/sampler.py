"""`KeptSampler`: draws the samples that a tracker watches, each rank its part."""

from __future__ import annotations

import contextlib
import dis
import functools
import types
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Sampler
from torch.utils.data.distributed import DistributedSampler

from mild_ext import processes


class Watcher(Protocol):
    """What the sampler asks of a `mild_ext.integrations.RoundTracker`."""

    seed: int
    epochs: int
    group: processes.Group

    @property
    def watched(self) -> Tensor: ...

    def require_own_process(self) -> None: ...


class KeptSampler(DistributedSampler[int]):
    """Goes through the samples a tracker watches (its kept ones), each rank through its part.

    The order follows from the tracker's seed and its number of epochs ended, so it changes with every
    epoch without ``set_epoch``, and a resumed training draws what it would have drawn. As
    in torch's DistributedSampler, every rank gets equally many ids: a few are repeated to fill up, or
    some left out with ``drop_last``; neither disturbs the status.

    Args:
        tracker: whose ``watched`` and ``epochs`` count, at the time of iteration.
        shuffle: False: in the order of ids.
        num_replicas, rank: None asks torch.distributed at the time of iteration. Accelerate, and with it
            the Transformers Trainer, deals out batches by itself: give ``num_replicas=1`` there.
        drop_last: leave out the remainder.
    """

    def __init__(
        self,
        tracker: Watcher,
        *,
        shuffle: bool = True,
        num_replicas: int | None = None,
        rank: int | None = None,
        drop_last: bool = False,
    ) -> None:
        # Not DistributedSampler.__init__, which wants to know the process group at once. Being one makes
        # Lightning leave the sampler alone.
        if num_replicas == 1 and rank is None:
            rank = 0
        if (num_replicas is None) != (rank is None):
            raise ValueError("num_replicas and rank must be given together")
        self.tracker, self.shuffle, self.drop_last = tracker, shuffle, drop_last
        self._given = None if num_replicas is None or rank is None else (rank, num_replicas)

    @property
    def rank(self) -> int:  # type: ignore[override]
        """Which part is drawn."""
        return self._given[0] if self._given else processes.rank(self.tracker.group)

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        """Into how many parts the samples are dealt."""
        return self._given[1] if self._given else processes.world_size(self.tracker.group)

    def __len__(self) -> int:
        """Ids that one rank gets."""
        count, parts = int(self.tracker.watched.sum()), self.num_replicas
        return count // parts if self.drop_last else -(-count // parts)

    def __iter__(self) -> Iterator[int]:
        self.tracker.require_own_process()
        ids = self.tracker.watched.nonzero().flatten()
        if self.shuffle:
            order = torch.Generator().manual_seed(self.tracker.seed + self.tracker.epochs)
            ids = ids[torch.randperm(len(ids), generator=order)]
        positions = torch.arange(len(self)) * self.num_replicas + self.rank
        return iter(ids[positions % len(ids)].tolist())

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: the tracker knows the epoch."""


#: How deep wrappers are looked through, and how many things may lie side by side.
_DEEPEST, _MOST_TOGETHER = 6, 64


def draws_from(loader: Any, tracker: Watcher) -> bool:
    """Whether a DataLoader, or what wraps one, draws from a sampler of this tracker.

    Samplers, batch samplers and loaders are looked through, whatever wraps them: a wrapper holds what it
    wraps in an attribute, or a function of its own closes over it.

    Raises:
        ValueError: a wrapper deals the samples out to the ranks, as the tracker's sampler has already done.
    """
    return _search(loader, tracker, [], _DEEPEST)


def _search(thing: Any, tracker: Watcher, around: list[Any], depth: int) -> bool:
    if isinstance(thing, KeptSampler):
        if thing.tracker is not tracker:
            return False
        for wrapper in around:
            deals = isinstance(wrapper, DistributedSampler) and wrapper.num_replicas > 1
            if deals and thing.num_replicas > 1:
                raise ValueError(
                    f"{type(wrapper).__name__} deals the samples out to the ranks, as the tracker's sampler has "
                    "already done; leave that to one of them: sampler(num_replicas=1)"
                )
        return True
    if depth == 0 or any(thing is wrapper for wrapper in around):
        return False
    return any(_search(value, tracker, [*around, thing], depth - 1) for value in _wrapped(thing))


def _wrapped(thing: Any) -> list[Any]:
    """What an object may be a wrapper of: values of attributes that are called so, or that are gone through."""
    if isinstance(thing, Mapping):
        return list(thing.values())
    if isinstance(thing, list | tuple):
        return list(thing)
    if isinstance(thing, _FUNCTIONS):
        return _held_by(thing)
    own = dict(getattr(thing, "__dict__", {}))
    for kind in type(thing).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            own[name] = getattr(thing, name, None)
    found = []
    for name, value in own.items():
        called = any(word in name for word in ("sampler", "loader", "iterable"))
        # A DistributedSampler that wraps a sampler takes it for its data set.
        if called or (name == "dataset" and isinstance(thing, Sampler)) or _is_gone_through(value):
            found.append(value)
    found += [value for value in own.values() if isinstance(value, _FUNCTIONS)]
    if _is_gone_through(thing):
        found += _held_by(type(thing).__iter__)
    return found


def _held_by(function: Any) -> list[Any]:
    """What a function can go through: what it closes over, what it is bound to, samplers of its module."""
    if isinstance(function, functools.partial):
        return [function.func, *function.args, *function.keywords.values()]
    if isinstance(function, types.MethodType):
        return [function.__self__, function.__func__]
    if not isinstance(function, types.FunctionType):
        return []
    found = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not filled yet
            found.append(cell.cell_contents)
    found += [function.__globals__.get(name) for name in _globals_of(function.__code__)]
    return [
        value
        for value in found
        if isinstance(value, (Sampler, *_FUNCTIONS)) or _is_gone_through(value)
    ]


def _globals_of(code: types.CodeType) -> list[str]:
    """Names of the module that a function looks up, also in functions inside it."""
    names = [i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"]
    inner = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return names + [name for part in inner for name in _globals_of(part)]


_FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)


def _is_gone_through(value: Any) -> bool:
    """A sampler, or something like it, rather than data: it is iterated and has no positions; or a few of those."""
    if isinstance(value, Mapping | list | tuple):
        return len(value) <= _MOST_TOGETHER
    return hasattr(type(value), "__iter__") and not hasattr(type(value), "__getitem__")
