"""The training loop: one function that trains a model on part of a data set and records status."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from tqdm import tqdm

from mild_ext import processes
from mild_ext.data.augment import augmentation
from mild_ext.data.batches import Batches, batch_ids
from mild_ext.data.random_state import isolated_random_state, seed_cpu, seed_everything
from mild_ext.recording.learning_log import LogRecorder
from mild_ext.recording.status import LearningStatus
from mild_ext.rounds import epoch_figures
from mild_ext.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    resuming,
    save_checkpoint,
)
from mild_ext.training.context import Record, RunContext
from mild_ext.training.recipe import Recipe


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite."""


class Objective(Protocol):
    """What is minimized. Called once a batch; returns the loss (a scalar) and the logits."""

    def start_epoch(self, epoch: int, epochs: int, generator: torch.Generator) -> None:
        """Called before an epoch, with the generator that the epoch's random numbers come from."""

    def __call__(
        self, model: nn.Module, index: Tensor, inputs: Any, labels: Tensor
    ) -> tuple[Tensor, Tensor]: ...

    def end_epoch(self) -> None:
        """Called after an epoch, when the status has taken it in on all ranks."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs beyond the model."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class CrossEntropy:
    """Mean cross-entropy in nats.

    Args:
        label_smoothing: share of the target spread over all classes.
        learn: bool ``[N]`` or None; samples outside are watched, but nothing is learned from them.
    """

    def __init__(self, label_smoothing: float = 0.0, learn: Tensor | None = None) -> None:
        self.label_smoothing = label_smoothing
        self.learn = learn

    def start_epoch(self, epoch: int, epochs: int, generator: torch.Generator) -> None:
        pass

    def __call__(
        self, model: nn.Module, index: Tensor, inputs: Any, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = model(inputs)
        if self.learn is None:
            loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
            return loss, logits
        losses = F.cross_entropy(
            logits, labels, label_smoothing=self.label_smoothing, reduction="none"
        )
        weights = self.learn[index].to(losses)
        return (losses * weights).sum() / weights.sum().clamp(min=1), logits

    def end_epoch(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@dataclass
class FitResult:
    """What `fit` did: one record per epoch, and the averaged weights where they were asked for."""

    history: list[Record] = field(default_factory=list)
    averaged: nn.Module | None = None


def derive_seed(seed: int, *parts: str | int) -> int:
    """A seed in [0, 2^63) for one purpose, the same on every machine.

    >>> derive_seed(0, "round 0", 1) == derive_seed(0, "round 0", 1) != derive_seed(1, "round 0", 1)
    True
    """
    digest = hashlib.sha256(repr((seed, *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def learning_rate(recipe: Recipe, epoch: int, epochs: int) -> float:
    """Learning rate of an epoch: constant, or a cosine from ``lr`` to zero over ``epochs``."""
    if recipe.schedule == "constant":
        return recipe.lr
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def steps_per_epoch(samples: int, recipe: Recipe) -> int:
    """Optimizer steps of a pass over so many samples."""
    batches = len(batch_ids(torch.arange(samples), recipe.batch_size, None, split=True))
    return -(-batches // recipe.accumulate)


def make_optimizer(
    model: nn.Module, recipe: Recipe, weight_decay: float | None = None
) -> torch.optim.Optimizer:
    """The recipe's optimizer over all parameters."""
    decay = recipe.weight_decay if weight_decay is None else weight_decay
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=decay)
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=decay,
    )


def fit(
    model: nn.Module,
    dataset: Dataset[Any],
    labels: Tensor,
    recipe: Recipe,
    context: RunContext | None = None,
    *,
    epochs: int,
    stage: str,
    checkpoint: str = "training.safetensors",
    ids: Tensor | None = None,
    status: LearningStatus | None = None,
    recorder: LogRecorder | None = None,
    objective: Objective | None = None,
    weight_decay: float | None = None,
) -> FitResult:
    """Train ``model`` in place for ``epochs`` epochs.

    The learning status is read off the logits of the training forward pass, before the optimizer
    step. Everything random in an epoch follows from ``(seed, stage, epoch)``, so a training resumed
    at an epoch's end goes on exactly as it would have.

    Args:
        model: moved to the context's device.
        dataset: map-style data set of ``(input, label)``; only its inputs are used.
        labels: int64 ``[N]``, the labels to learn.
        recipe: optimizer, learning rate, augmentation, precision and so on.
        context: seed, device, checkpoints, who hears of each epoch; None is a `RunContext` as it
            comes: seed 0, on the CPU, without checkpoints.
        epochs: number of epochs.
        stage: name of this training within the run, e.g. ``"round 0"``.
        checkpoint: file in the context's folder to resume from, where it exists and is of this
            stage, and to save to.
        ids: int64 ids of the samples to train on; None for all.
        status: recorder to update and advance, of at least ``epochs`` epochs; None records nothing.
        recorder: records loss and margin beside ``status``, for a learning log.
        objective: what to minimize; None is the recipe's cross-entropy.
        weight_decay: in place of the recipe's.

    Returns:
        FitResult.

    Raises:
        TrainingDiverged: the mean loss of an epoch is not finite.
        CheckpointError: the checkpoint is damaged, or of another run.
    """
    context = context or RunContext()
    device = torch.device(context.device)
    model.to(device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = Batches(
        dataset,
        labels,
        ids=ids,
        batch_size=recipe.batch_size,
        shuffle=True,
        device=device,
        workers=recipe.workers,
    )
    trainer = _Trainer(model, recipe, objective, status, recorder, weight_decay, device)
    result = FitResult(averaged=trainer.average.module if trainer.average is not None else None)
    saver = _Saver(context, checkpoint, stage)
    result.history = saver.resume(trainer)
    processes.barrier()  # before the first process saves anew, all have read
    for record in result.history:
        context.note(record)

    saver.start_clock()
    bar = tqdm(
        total=epochs,
        initial=len(result.history),
        desc=stage,
        unit="epoch",
        leave=False,
        disable=None if context.progress else True,
    )
    with isolated_random_state(), bar:
        for epoch in range(len(result.history), epochs):
            started = time.monotonic()
            lr = learning_rate(recipe, epoch, epochs)
            seed = derive_seed(context.seed, stage, epoch)
            loss = trainer.train_epoch(batches, lr, epoch, epochs, seed)
            if not math.isfinite(loss):
                raise TrainingDiverged(
                    f"the loss became {loss} in epoch {epoch} of {stage} (learning rate {lr:g}); "
                    "lower lr, or set clip_norm"
                )
            if status is not None:
                status.sync()
                status.advance()
            trainer.objective.end_epoch()
            record = {
                "type": "epoch",
                "stage": stage,
                "epoch": epoch,
                "loss": loss,
                "lr": lr,
                "samples": len(batches.ids),
                "steps": -(-len(batches) // recipe.accumulate),
                "seconds": round(time.monotonic() - started, 4),
            }
            if status is not None:
                record |= epoch_figures(status)
            result.history.append(record)
            context.note(record)
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}")
            saver.save(trainer, result.history, last=epoch + 1 == epochs)
    return result


class _Saver:
    """Keeps the checkpoint of one training: resumes from it, and saves when it is time."""

    def __init__(self, context: RunContext, name: str, stage: str) -> None:
        self.context = context
        self.path = context.checkpoint(name)
        self.stage = stage
        self.start_clock()

    def start_clock(self) -> None:
        """Count the time to the next save from now."""
        self.saved_at = time.monotonic()

    def resume(self, trainer: _Trainer) -> list[Record]:
        """Load what was saved of this stage into the trainer; returns the records of its epochs."""
        if self.path is None or not self.path.exists():
            return []
        saved = load_checkpoint(self.path)
        with resuming(self.path):
            return self._take(saved, trainer)

    def _take(self, saved: dict[str, Any], trainer: _Trainer) -> list[Record]:
        if saved["fingerprint"] != self.context.fingerprint:
            raise CheckpointError(
                f"{self.path} belongs to a run with other settings or data; start again in "
                "another folder, or run with the settings in its config.json"
            )
        if saved["stage"] != self.stage:
            return []
        if trainer.recorder is not None and saved["trainer"].get("recorder") is None:
            raise CheckpointError(
                f"{self.path} was saved without learning logs, so their first epochs are lost; "
                "go on without learning_logs, or start again in another folder"
            )
        trainer.load_state_dict(saved["trainer"])
        history: list[Record] = saved["history"]
        return history

    def save(self, trainer: _Trainer, history: list[Record], *, last: bool) -> None:
        """Save if this was the last epoch, or the last save is long enough ago."""
        due = time.monotonic() - self.saved_at >= self.context.checkpoint_seconds
        if self.path is None or not (due or last):
            return
        state = {
            "fingerprint": self.context.fingerprint,
            "stage": self.stage,
            "history": history,
            "trainer": trainer.state_dict(),
        }
        save_checkpoint(self.path, state)
        self.start_clock()


class _Trainer:
    """Model, optimizer and what else changes while training; runs one epoch at a time."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        objective: Objective | None,
        status: LearningStatus | None,
        recorder: LogRecorder | None,
        weight_decay: float | None,
        device: torch.device,
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.objective = objective or CrossEntropy(recipe.label_smoothing)
        self.status = status
        self.recorder = recorder
        self.device = device
        self.optimizer = make_optimizer(model, recipe, weight_decay)
        # The compiled module shares its parameters with the model, whose names stay clean.
        forward: Any = processes.data_parallel(model)
        self.forward: Any = torch.compile(forward) if recipe.compile else forward
        self.precision = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(
            recipe.precision
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision is torch.float16)
        self.average: torch.optim.swa_utils.AveragedModel | None = None
        if recipe.ema_decay is not None:
            self.average = torch.optim.swa_utils.AveragedModel(
                model,
                multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.ema_decay),
                use_buffers=True,
            )

    def train_epoch(self, batches: Batches, lr: float, epoch: int, epochs: int, seed: int) -> float:
        """One pass over the batches; returns the mean loss in nats."""
        recipe, device = self.recipe, self.device
        # One order of the samples for all processes, but other augmentation in each.
        (seed_cpu if device.type == "cpu" else seed_everything)(seed + processes.rank())
        generator = torch.Generator().manual_seed(seed + processes.rank())
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.objective.start_epoch(epoch, epochs, generator)
        self.model.train()
        total, visits = torch.zeros((), device=device), 0
        count = len(batches)
        augment = None
        autocast: Any = contextlib.nullcontext()
        if self.precision is not None:
            autocast = torch.autocast(device.type, self.precision)
        for step, (index, inputs, labels) in enumerate(batches.epoch(seed)):
            if step == 0 and isinstance(inputs, Tensor):
                augment = augmentation(recipe.augment, tuple(inputs.shape[1:]))
            if augment is not None:
                inputs = augment(inputs, generator)
            if recipe.channels_last and inputs.ndim == 4:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            with autocast:
                loss, logits = self.objective(self.forward, index, inputs, labels)
            if self.status is not None:
                self.status.update(index, logits.detach(), labels)
            if self.recorder is not None:
                self.recorder.update(epoch, index, logits, labels)
            total.add_(loss.detach(), alpha=len(labels))
            visits += len(labels)
            # The last group may hold fewer batches; its gradient is their mean all the same.
            first = step - step % recipe.accumulate
            group_size = min(recipe.accumulate, count - first)
            self.scaler.scale(loss / group_size if group_size > 1 else loss).backward()
            if step - first + 1 == group_size:
                self._step()
        loss_sum, visits_sum = processes.add_up([float(total), visits], device)
        return loss_sum / visits_sum

    def _step(self) -> None:
        if self.recipe.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else dict(self.average.state_dict()),
            "status": None if self.status is None else self.status.state_dict(),
            "recorder": None if self.recorder is None else self.recorder.state_dict(),
            "objective": self.objective.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.status is not None:
            self.status.load_state_dict(state["status"])
        if self.recorder is not None:
            self.recorder.load_state_dict(state["recorder"])
        self.objective.load_state_dict(state["objective"])


@torch.no_grad()
def predict(
    model: nn.Module,
    dataset: Dataset[Any],
    *,
    ids: Tensor | None = None,
    batch_size: int = 512,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> tuple[Tensor, Tensor]:
    """Logits in evaluation mode, without augmentation.

    Returns:
        float32 ``[n, K]`` logits and int64 ``[n]`` labels of the data set, both on the CPU, in the
        order of ``ids`` (None: all samples).
    """
    was_training = model.training
    model.eval()
    batches = Batches(dataset, ids=ids, batch_size=batch_size, device=device, workers=workers)
    logits, labels = [], []
    for _, inputs, given in batches.epoch():
        logits.append(model(inputs).float().cpu())
        labels.append(given.cpu())
    model.train(was_training)
    return torch.cat(logits), torch.cat(labels)


def accuracy(model: nn.Module, dataset: Dataset[Any], **options: Any) -> float:
    """Share of samples, in [0, 1], whose largest logit is the data set's label; see `predict`."""
    logits, labels = predict(model, dataset, **options)
    return float((logits.argmax(1) == labels).double().mean())
