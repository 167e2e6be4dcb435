"""What is read of a status' words: transition times, counts, and a look-up for every sample."""

from __future__ import annotations

import torch
from torch import Tensor

from mild_ext.recording import ops
from mild_ext.recording.sync import fault_error
from mild_ext.recording.transitions import TransitionTimes


class CountsReading:
    """The part of `mild_ext.LearningStatus` that reads seen and memorized epochs.

    ``epochs`` is a window of epochs, e.g. ``slice(10, 20)``; None: all.
    """

    _words: Tensor
    _faults: Tensor
    _num_epochs: int

    @property
    def words(self) -> Tensor:
        """The status buffer, int64 ``[N, ceil(P / 64), 2]``; see `mild_ext.LearningStatus`."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the words are."""
        return self._words.device

    def compute(self, epochs: slice | None = None) -> TransitionTimes:
        """Transition times of every sample.

        Args:
            epochs: window of epochs, e.g. ``slice(10, 20)``; None: all.

        Returns:
            TransitionTimes, on the status' device.

        Raises:
            ValueError: an empty window, or one with a step. On CUDA also if an earlier `update` met bad values.
        """
        start, stop = self._window(epochs)
        fields = ops.transition_times(self.words, start, stop)
        self._raise_faults()
        return TransitionTimes(*fields.unbind(0), stop - start)  # type: ignore[call-arg, arg-type]

    def histogram(self, epochs: slice | None = None) -> Tensor:
        """How many samples were misclassified m times and seen n times: all that the mixture needs.

        Args:
            epochs: window of epochs; None: all.

        Returns:
            int64 ``[P + 1, P + 1]`` on the CPU, P the window's length; entry ``[m, n]``. ``[0, 0]`` counts the
            samples that were never seen.

        Raises:
            ValueError: as `compute`.
        """
        start, stop = self._window(epochs)
        counts = ops.status_histogram(self.words, start, stop).cpu()
        self._raise_faults()
        return counts

    def lookup(self, table: Tensor, epochs: slice | None = None) -> Tensor:
        """``table[misclassified, seen]`` of every sample, e.g. the mask of a selection.

        Args:
            table: bool or float32 ``[P + 1, P + 1]``, P the window's length.
            epochs: window of epochs; None: all.

        Returns:
            ``[N]``, of the table's dtype, on the status' device.

        Raises:
            TypeError, ValueError: a table of the wrong dtype or shape; otherwise as `compute`.
        """
        start, stop = self._window(epochs)
        values = ops.status_lookup(self.words, table.to(self.device), start, stop)
        self._raise_faults()
        return values

    def _window(self, epochs: slice | None) -> tuple[int, int]:
        if epochs is None:
            return 0, self._num_epochs
        if not isinstance(epochs, slice):
            raise TypeError(
                f"epochs must be a slice, e.g. slice(0, 10), got {type(epochs).__name__}"
            )
        start, stop, step = epochs.indices(self._num_epochs)
        if step != 1 or start >= stop:
            raise ValueError(
                f"epochs must be a non-empty window without a step inside [0, {self._num_epochs}), got "
                f"{epochs}"
            )
        return start, stop

    def _raise_faults(self) -> None:
        """Raise for what kernels had to skip; counting begins anew. Only here does the host wait for the device."""
        if self._words.is_cpu:
            return
        counts = self._faults.tolist()
        if any(counts):
            self._faults.zero_()
            raise fault_error(counts)
