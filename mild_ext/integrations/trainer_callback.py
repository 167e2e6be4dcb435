"""`DynamicsCallback`: training dynamics during an ordinary training of a ``transformers.Trainer``.

The Trainer's callbacks don't see logits; this one hooks itself into the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from mild_ext.integrations.indexed import INDEX, IndexCollator, IndexedItems
from mild_ext.recording._native import has_cuda
from mild_ext.recording.dynamics import Dynamics
from mild_ext.recording.status import LearningStatus
from mild_ext.rounds import epoch_figures

_DYNAMICS = "mild_dynamics.safetensors"


class DynamicsCallback(TrainerCallback):
    """Records training dynamics during an ordinary training of any ``transformers.Trainer``; there are no rounds.

    Use: ``Trainer(train_dataset=IndexedItems(items), data_collator=IndexCollator(collator), callbacks=[callback])``
    with ``remove_unused_columns=False`` in the TrainingArguments: so the samples' ids get to the model, where they are
    taken out again. Checkpoints hold the status; a training resumed from one goes on with it. The figures of every
    epoch are in the Trainer's ``state.log_history``.

    Args:
        tokens: for models that label tokens (logits ``[B, T, K]``, labels ``[B, T]``, padding labelled -100) the
            largest T: token t of item i is the sample ``i * tokens + t``. None: one label an item.
        num_classes: columns of the logits, K; None takes the model's ``config.num_labels``.
        record: see LearningStatus.
        device: where the status lies; None is the training's, or the CPU where this build has no CUDA code.
        path: file that the status is written to at the end of training (`LearningStatus.save`); None: no file.

    Attributes:
        status: LearningStatus of the last ``train()``, of as many epochs as it was to have; None before.

    Raises:
        TypeError, ValueError: at the beginning of ``train()``, where the ids would not arrive; in its first step,
            where there are no labels or logits of the right shape.
    """

    def __init__(
        self,
        *,
        tokens: int | None = None,
        num_classes: int | None = None,
        record: str = "all",
        device: torch.device | str | None = None,
        path: str | Path | None = None,
    ) -> None:
        self.tokens, self.num_classes, self.record = tokens, num_classes, record
        self.device, self.path = device, path
        self.status: LearningStatus | None = None
        self._hooks: list[Any] = []
        self._state: Any = None
        self._batch: tuple[Tensor | None, Tensor | None] = (None, None)

    @property
    def dynamics(self) -> Dynamics:
        """Margin, loss, confidence, variability and so on of every sample, see `mild_ext.Dynamics`."""
        if self.status is None:
            raise RuntimeError("there are no dynamics before train() has begun")
        return self.status.dynamics()

    # ------------------------------------------------------------------- what the Trainer calls

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model, loader = kwargs["model"], kwargs["train_dataloader"]
        self._unhook()  # of a training that was interrupted
        watching = [getattr(hook, "__self__", None) for hook in model._forward_pre_hooks.values()]
        if state is self._state or any(isinstance(one, DynamicsCallback) for one in watching):
            raise ValueError(
                "this training has more than one DynamicsCallback, or one twice: attach one, once, to a Trainer (where "
                "a training with another was interrupted, load the model anew)"
            )
        self._state = state
        dataset, collator = getattr(loader, "dataset", None), getattr(loader, "collate_fn", None)
        if not isinstance(dataset, IndexedItems) or not isinstance(collator, IndexCollator):
            raise TypeError(
                "DynamicsCallback needs train_dataset=IndexedItems(...), data_collator=IndexCollator(...) and "
                f"remove_unused_columns=False, got {type(dataset).__name__} and {type(collator).__name__}"
            )
        if args.n_gpu > 1:
            raise ValueError(
                f"DynamicsCallback needs a process for each device (torchrun), got one for {args.n_gpu}"
            )
        classes = self.num_classes or getattr(getattr(model, "config", None), "num_labels", None)
        self.status = LearningStatus(
            len(dataset) * (self.tokens or 1),
            state.num_train_epochs,
            num_classes=classes,
            record=self.record,
            device=self.device or (args.device if has_cuda() else "cpu"),
        )
        if state.global_step:
            path = self._in_checkpoint(args, state)
            if not path.is_file():
                raise ValueError(
                    f"the checkpoint of step {state.global_step} was not saved with a DynamicsCallback: there is no "
                    f"{path}; leave the callback out, or begin anew"
                )
            self.status.load_state_dict(LearningStatus.load(path).state_dict())
            # One made at the last step of an epoch was made before the epoch's end.
            while self.status.epoch < int(state.epoch):
                self.status.advance()
        self._hooks = [
            model.register_forward_pre_hook(self._take_ids, with_kwargs=True),
            model.register_forward_hook(self._record),
        ]

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.status is not None
        self.status.sync()
        self.status.advance()
        figures = {f"mild_ext/{name}": x for name, x in epoch_figures(self.status).items()}
        state.log_history.append(figures | {"epoch": state.epoch, "step": state.global_step})

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.status is not None
        self.status.sync()
        if args.should_save:
            self.status.save(self._in_checkpoint(args, state))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._unhook()
        if self.path is not None and self.status is not None and args.should_save:
            self.status.save(self.path)

    # ------------------------------------------------------------------------------- details

    @staticmethod
    def _in_checkpoint(args: Any, state: Any) -> Path:
        return Path(args.output_dir) / f"checkpoint-{state.global_step}" / _DYNAMICS

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _take_ids(self, model: Any, inputs: Any, kwargs: dict[str, Any]) -> Any:
        kwargs = dict(kwargs)
        self._batch = (kwargs.pop(INDEX, None), kwargs.get("labels"))
        return inputs, kwargs

    def _record(self, model: Any, inputs: Any, outputs: Any) -> None:
        (index, labels), self._batch = self._batch, (None, None)
        if not model.training or self.status is None:
            return
        if index is not None and labels is None:
            raise ValueError(
                "the model was called without labels, which DynamicsCallback takes from there: leave out "
                "label_smoothing_factor and compute_loss_func, or record with a MILDTrainer"
            )
        logits = logits_of(outputs, index, labels)
        assert index is not None
        assert labels is not None
        ndim = 2 if self.tokens is None else 3
        if logits.ndim != ndim or (self.tokens is not None and logits.shape[1] > self.tokens):
            expected = "[B, K]" if self.tokens is None else f"[B, T, K] with T up to {self.tokens}"
            raise ValueError(
                f"logits must be {expected} (tokens={self.tokens}), got {list(logits.shape)}"
            )
        if self.tokens is not None:
            places = torch.arange(logits.shape[1], device=index.device)
            index = (index[:, None] * self.tokens + places).flatten()
            logits, labels = logits.flatten(0, 1), labels.flatten()
        device = self.status.device
        self.status.update(index.to(device), logits.detach().to(device), labels.to(device))


def logits_of(outputs: Any, index: Tensor | None, labels: Tensor | None) -> Tensor:
    """The model's logits; raises where something of a training batch is not there to be recorded."""
    logits: Tensor | None = outputs.get("logits") if isinstance(outputs, Mapping) else None
    if index is None or labels is None or logits is None:
        raise ValueError(
            "to record a batch, it must have an index and labels, and the model must return a mapping with "
            f"logits; got index {index is not None}, labels {labels is not None}, logits "
            f"{logits is not None}"
        )
    return logits
