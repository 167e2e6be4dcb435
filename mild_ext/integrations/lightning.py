"""Lightning: `MILDCallback` records, selects and narrows down the samples inside ``Trainer.fit``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mild_ext.integrations.sampler import KeptSampler, draws_from
from mild_ext.integrations.tracker import RoundTracker

try:
    import lightning.pytorch as pl
except ImportError:
    try:
        import pytorch_lightning as pl
    except ImportError as error:
        raise ImportError(
            "mild_ext.integrations.lightning needs Lightning: pip install 'mild_ext[lightning]'"
        ) from error

Source = str | int
Read = Callable[[Any, Any], tuple[Tensor, Tensor, Tensor]]


class MILDCallback(pl.Callback):
    """Finds wrong labels while Lightning's Trainer trains, round by round.

    Index, logits and labels of a batch are taken from what ``training_step`` returns, from the
    batch, or from the output of a submodule. At the end of a round the samples with wrong labels
    are dropped from `sampler`, which belongs into the training DataLoader, and optimizers and
    learning-rate schedules start anew. The state is part of Lightning's checkpoints, and the figures of every
    epoch and round (`RoundTracker.figures`) go to its loggers. Under DDP every process calls everything, and all
    keep the same samples.

    Args:
        num_samples: samples in the training set.
        rounds: epochs of each round; the Trainer's ``max_epochs`` is their sum, or more to go
            on with the samples kept.
        index, logits, labels: where to find them. A text is a key of what ``training_step`` returns,
            else of the batch; a number is a position in the batch; for ``logits`` a text may
            also be the name of a submodule (as in ``named_modules``) called once per step.
        read: name of a method of the LightningModule, or a function, in place of those three: from
            what ``training_step`` returned and the batch to ``(index, logits, labels)``.
        restart_optimizers: call ``configure_optimizers`` anew after each round.
        given_labels: integers ``[N]``, ``labels`` of `RoundTracker`; None takes them from the batches.
        tracker_options: ``train_ids``, ``reselect``, ``min_removed``, ``select``, ``device``,
            ``group``, ``seed``, ``plant``, ``num_classes``, ``record`` of `RoundTracker`. With ``plant`` the data set
            must give ``tracker.training_labels``. With ``reselect="all"`` it is for ``training_step`` to
            leave samples that are not ``tracker.kept`` out of the loss.

    Attributes:
        tracker: the RoundTracker: ``kept``, ``round_dropped``, ``selections``, ``stop_reason``, ...

    Raises:
        TypeError, ValueError: in the first training batch, where the three cannot be found.
        RuntimeError: at the start of fit, under a strategy that starts its processes inside fit.

    Warns:
        UserWarning: the Trainer has, or had, fewer epochs than the rounds need.
    """

    def __init__(
        self,
        num_samples: int,
        rounds: Sequence[int],
        *,
        index: Source = "index",
        logits: Source = "logits",
        labels: Source = "labels",
        read: str | Read | None = None,
        restart_optimizers: bool = True,
        given_labels: Tensor | None = None,
        **tracker_options: Any,
    ) -> None:
        try:
            self.tracker = RoundTracker(num_samples, rounds, labels=given_labels, **tracker_options)
        except (TypeError, ValueError) as error:
            if given_labels is None or not str(error).startswith("labels "):
                raise
            raise type(error)(f"given_{error}") from error  # labels= is something else here
        self.index, self.logits, self.labels = index, logits, labels
        self.read = read
        self.restart_optimizers = restart_optimizers
        self._captured: list[Tensor] = []
        self._warned = False
        self._hook: Any = None

    def sampler(self, *, shuffle: bool = True, drop_last: bool = False) -> KeptSampler:
        """For ``DataLoader(dataset, sampler=callback.sampler(), ...)``; deals out to DDP's ranks too."""
        return self.tracker.sampler(shuffle=shuffle, drop_last=drop_last)

    # ------------------------------------------------------------------------- Lightning's hooks

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse to record twice, and in processes whose results nobody gets to see."""
        attached = sum(callback is self for callback in trainer.callbacks)
        if attached > 1:
            raise ValueError(
                f"this callback is attached {attached} times, and would end each epoch as often; attach it once "
                "(callbacks= of the Trainer, or configure_callbacks)"
            )
        launcher = getattr(trainer.strategy, "launcher", None)
        if stage == "fit" and type(launcher).__name__ == "_MultiProcessingLauncher":
            raise RuntimeError(
                "strategies that start their processes inside fit (ddp_spawn, ddp_fork, ddp_notebook) keep what was "
                'recorded to themselves: use strategy="ddp" in a script, or one device in a notebook'
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch the submodule that makes the logits, where one is named."""
        if self.read is None and isinstance(self.logits, str):
            module = dict(pl_module.named_modules()).get(self.logits)
            if module is not None:
                self._hook = module.register_forward_hook(self._capture)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the module as it was."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make sure that the rounds have an effect."""
        mine = draws_from(trainer.train_dataloader, self.tracker)
        everybody = bool(self.tracker.taking_part.all())
        if not mine and (len(self.tracker.rounds) > 1 or not everybody):
            what = (
                "later rounds would train on all samples again"
                if everybody
                else "train_ids has no effect"
            )
            raise ValueError(
                f"the training DataLoader must draw from this callback, or {what}: "
                "DataLoader(dataset, sampler=callback.sampler(), ...)"
            )
        self._require_size(trainer.train_dataloader)
        if trainer.current_epoch == 0 and self.tracker.status.epoch > 0:
            self._begin_anew()
        self._warned = False
        last = trainer.max_epochs
        needed = sum(self.tracker.rounds) - self.tracker.epochs
        if not self.tracker.finished and last is not None and last >= 0:
            epochs = last - trainer.current_epoch
            if epochs < needed:
                self._warned = True
                warnings.warn(
                    f"the rounds need {needed} more epochs, but max_epochs={last} leaves {epochs}: "
                    f"{self._outlook(epochs)}; set max_epochs={trainer.current_epoch + needed}, or go on later from "
                    "a checkpoint (ckpt_path=...)",
                    UserWarning,
                    stacklevel=2,
                )

    def _require_size(self, loader: Any) -> None:
        """The sampler draws positions: of a longer data set it would never reach the rest."""
        dataset: Any = getattr(loader, "dataset", None)
        drawn = isinstance(getattr(loader, "sampler", None), KeptSampler)
        if drawn and hasattr(dataset, "__len__") and len(dataset) != self.tracker.num_samples:
            raise ValueError(
                f"the training DataLoader's data set has {len(dataset)} samples, but num_samples of this callback is "
                f"{self.tracker.num_samples}; make the callback with num_samples=len(dataset)"
            )

    def _begin_anew(self) -> None:
        """A round that another fit began is judged by its whole course, so it begins with this one."""
        status = self.tracker.status
        if self.tracker.finished:
            return
        warnings.warn(
            f"round {self.tracker.round} was left after {status.epoch} of {status.num_epochs} epochs of another "
            "training and begins anew; to go on where that was, fit(..., ckpt_path=...)",
            UserWarning,
            stacklevel=2,
        )
        self.tracker.restart_round()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so where training ends before the rounds do, as by max_steps or early stopping."""
        tracker = self.tracker
        if tracker.finished or self._warned:
            return
        warnings.warn(
            f"training ended after {tracker.status.epoch} of {tracker.status.num_epochs} epochs of round "
            f"{tracker.round}: {self._outlook(0)}; rounds run whole, so leave max_steps and early stopping out until "
            "they are done, or go on from a checkpoint (ckpt_path=...)",
            UserWarning,
            stacklevel=2,
        )

    def _outlook(self, epochs: int) -> str:
        """What so many more epochs come to."""
        done = sum(
            sum(self.tracker.rounds[: k + 1]) <= self.tracker.epochs + epochs
            for k in range(len(self.tracker.rounds))
        )
        if done == 0:
            return "no round is finished, so nothing is selected and no sample dropped"
        return f"only {done} of {len(self.tracker.rounds)} rounds are finished"

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Forget the forward passes before this step (of a validation, say)."""
        self._captured.clear()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Record the batch."""
        if not self.tracker.finished:
            self.tracker.update(*self._read(pl_module, outputs, batch))
        self._captured.clear()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merge the ranks, end the round where this was its last epoch, and log."""
        round_ended = self.tracker.end_epoch() is not None
        # Alike on all ranks; joined all the same, so that all ranks know them and Lightning does not warn.
        self.log_dict(self.tracker.figures(), sync_dist=True)
        # Lightning counts the batches of an epoch when it sets up the loader: it has to look again.
        self._reload(trainer, round_ended)
        if round_ended and self.restart_optimizers:
            trainer.strategy.setup_optimizers(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the state of all ranks into the checkpoint, which Lightning writes on one of them."""
        self.tracker.sync()
        checkpoint["mild_ext"] = self.tracker.state_dict()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on from a checkpoint's state."""
        if "mild_ext" in checkpoint:
            self.tracker.load_state_dict(checkpoint["mild_ext"])

    # ------------------------------------------------------------------------------- details

    def _reload(self, trainer: pl.Trainer, changed: bool) -> None:
        if not hasattr(self, "_reload_every"):
            self._reload_every = trainer.reload_dataloaders_every_n_epochs
        trainer.reload_dataloaders_every_n_epochs = 1 if changed else self._reload_every

    def _capture(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if module.training:
            self._captured.append(output.detach())

    def _read(self, module: pl.LightningModule, outputs: Any, batch: Any) -> tuple[Tensor, ...]:
        if self.read is not None:
            read = getattr(module, self.read) if isinstance(self.read, str) else self.read
            index, logits, labels = read(outputs, batch)
            return index, logits, labels
        return (
            self._find("index", self.index, outputs, batch),
            self._logits(outputs, batch),
            self._find("labels", self.labels, outputs, batch),
        )

    def _logits(self, outputs: Any, batch: Any) -> Tensor:
        if self._hook is None:
            return self._find("logits", self.logits, outputs, batch)
        if len(self._captured) != 1:
            raise ValueError(
                f"the submodule {self.logits!r} must be called once per training step to give the logits, "
                f"but was called {len(self._captured)} times; return the logits from training_step instead"
            )
        return self._captured[0]

    @staticmethod
    def _find(name: str, source: Source, outputs: Any, batch: Any) -> Tensor:
        if isinstance(source, int):
            if isinstance(batch, (tuple, list)) and -len(batch) <= source < len(batch):
                value = batch[source]
            else:
                raise ValueError(
                    f"{name}={source} must be a position in the batch, but the batch is "
                    f"{_describe(batch)}"
                )
        else:
            for place in (outputs, batch):
                if isinstance(place, Mapping) and source in place:
                    value = place[source]
                    break
            else:
                raise ValueError(
                    f"cannot find {name}={source!r}: training_step returned {_describe(outputs)}, the batch "
                    f"is {_describe(batch)}. Return it from training_step, e.g. "
                    "{'loss': loss, 'index': index, 'logits': logits, 'labels': labels}, or say "
                    f"where it is with {name}=... or read=..."
                )
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
        return value


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a mapping with keys {sorted(map(str, value))}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
