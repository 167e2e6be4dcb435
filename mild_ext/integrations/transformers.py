"""Transformers: `MILDTrainer` records, selects and trains in rounds with ``transformers.Trainer``.

The Trainer's callbacks don't see logits, so this is a mixin. A round is one call of ``train()``, in
which the Trainer counts epochs, steps and checkpoints as ever; the next call gets a new optimizer and
schedule, and the samples that were kept.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from mild_ext.data.map_style import require_map_style
from mild_ext.integrations.indexed import INDEX, IndexCollator, IndexedItems
from mild_ext.integrations.sampler import KeptSampler
from mild_ext.integrations.tracker import RoundTracker

try:
    from transformers import Trainer, TrainerCallback
    from transformers.trainer_utils import get_last_checkpoint

    from mild_ext.integrations.trainer_callback import DynamicsCallback, logits_of
except ImportError as error:
    raise ImportError(
        "mild_ext.integrations.transformers needs Transformers with its Trainer: "
        "pip install 'mild_ext[transformers]'"
    ) from error

__all__ = ["DynamicsCallback", "IndexCollator", "IndexedItems", "MILDTrainer", "MILDTrainerMixin"]

_STATE = "mild_tracker.safetensors"


class MILDTrainerMixin:
    """Finds wrong labels while a Trainer trains, round by round; put it before the Trainer class.

    ``train()`` trains the tracker's current round, for as many epochs as it has, on the samples kept
    so far, and selects at its end; `train_rounds` does that until the tracker is finished.
    After that ``train()`` goes on with the samples kept, for the ``num_train_epochs`` of the
    TrainingArguments. Checkpoints go to ``output_dir/round-00`` and so on, ``output_dir/final``
    at last, and hold the tracker's state.

    Args:
        tracker: a RoundTracker for the training set. Its device is the CPU unless you say otherwise.
        *args, **kwargs: for the Trainer. The training set and the collator are wrapped in
            `IndexedItems` and `IndexCollator` where they are not yet; with a tracker that plants labels, its
            ``training_labels`` take the place of those under ``labels`` or ``label``.

    Raises:
        ValueError: the training set's size is not the tracker's, the Trainer is to sample other than
            at random, or the tracker watches samples that must not be learned from (reselect="all").
    """

    def __init__(self, *args: Any, tracker: RoundTracker, **kwargs: Any) -> None:
        self.mild = tracker
        super().__init__(*args, **kwargs)
        trainer: Any = self
        if trainer.train_dataset is not None:
            require_map_style(trainer.train_dataset, "train_dataset")
            if len(trainer.train_dataset) != tracker.num_samples:
                raise ValueError(
                    f"tracker is of {tracker.num_samples} samples, train_dataset of "
                    f"{len(trainer.train_dataset)}"
                )
            if not isinstance(trainer.train_dataset, IndexedItems):
                trainer.train_dataset = _indexed(trainer.train_dataset, tracker)
        if tracker.reselect != "kept":
            raise ValueError(
                f"tracker must have reselect='kept', got {tracker.reselect!r}: the loss of a Trainer's model "
                "is of all samples in a batch, those dropped too"
            )
        strategy = getattr(trainer.args, "train_sampling_strategy", "random")
        if strategy not in ("random", "sequential"):
            raise ValueError(
                "train_sampling_strategy must be 'random' or 'sequential', for the tracker draws the samples; "
                f"got {strategy!r}"
            )
        self._shuffle = strategy == "random"
        if not isinstance(trainer.data_collator, IndexCollator):
            trainer.data_collator = IndexCollator(trainer.data_collator)
        self._own_optimizer = trainer.optimizer is None
        trainer.add_callback(_EndEpochs(tracker, self._log_figures))

    # ----------------------------------------------------------------------------- rounds

    def train_rounds(self, resume_from_checkpoint: str | bool | None = None) -> list[Any]:
        """Train the rounds that are left; returns what each ``train()`` returned.

        It ends early where a callback stops a round.
        """
        outputs, number = [self.train(resume_from_checkpoint)], -1
        while not self.mild.finished and self.mild.round != number and not self._begun():
            number = self.mild.round
            outputs.append(self.train())
        return outputs

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Train one round, or what follows the rounds; as ``Trainer.train``.

        A round that was stopped before its end (by early stopping, Ctrl-C or an error) is not selected from.
        The next call goes on where it was if given a checkpoint, and otherwise begins the round anew.

        Args:
            resume_from_checkpoint: a checkpoint's folder, or True for the last one of the last round.

        Raises:
            ValueError: ``max_steps`` is set while there are rounds, or the checkpoint is none of a MILDTrainer's.

        Warns:
            UserWarning: a round was stopped before its end, or begins anew.
        """
        trainer: Any = self
        checkpoint = resume_from_checkpoint or None
        if checkpoint is True:
            checkpoint = _last_checkpoint(Path(trainer.args.output_dir))
        if checkpoint is not None:
            state = Path(str(checkpoint)) / _STATE
            if not state.is_file():
                raise ValueError(f"{checkpoint} was not saved by a MILDTrainer: it has no {_STATE}")
            self.mild.restore(state)
        if self._own_optimizer:
            trainer.optimizer = None
        epochs = trainer.args.num_train_epochs
        recording = not self.mild.finished
        if recording and trainer.args.max_steps > 0:
            raise ValueError(
                f"max_steps must be -1 while there are rounds, got {trainer.args.max_steps}: a round is made of whole "
                "epochs, those of the tracker; set trainer.args.max_steps for what comes after them"
            )
        if recording and checkpoint is None and self._begun():
            warnings.warn(
                f"round {self.mild.round} was stopped after {self.mild.status.epoch} of "
                f"{self.mild.status.num_epochs} epochs and begins anew, with the weights as they are; to go on where "
                "it was, train(resume_from_checkpoint=True)",
                UserWarning,
                stacklevel=2,
            )
            self.mild.restart_round()
        try:
            if recording:
                trainer.args.num_train_epochs = self.mild.rounds[self.mild.round]
            output = super().train(checkpoint, *args, **kwargs)  # type: ignore[misc]
        finally:
            trainer.args.num_train_epochs = epochs
        if recording and self.mild.round_complete:
            self.mild.end_round()
            self._log_figures()
        elif recording:
            warnings.warn(
                f"training was stopped after {self.mild.status.epoch} of {self.mild.status.num_epochs} epochs of round "
                f"{self.mild.round}, by a callback (early stopping, say): nothing is selected, for a round is judged "
                "by its whole course. train(resume_from_checkpoint=True) goes on where it was, train() begins "
                "the round anew",
                UserWarning,
                stacklevel=2,
            )
        return output

    def _begun(self) -> bool:
        """Whether the current round has recorded something."""
        status = self.mild.status
        return status.epoch > 0 or bool(status.words.any())

    def _log_figures(self) -> None:
        trainer: Any = self
        figures = self.mild.figures()
        if figures and trainer.args.logging_strategy != "no":
            trainer.log(figures)

    # -------------------------------------------------------------- what the Trainer calls

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The Trainer's loss; in training the batch is recorded."""
        trainer: Any = self
        index = inputs.pop(INDEX, None)
        watch = model.training and not self.mild.finished
        labels = inputs.get(trainer.label_names[0]) if watch else None
        loss, outputs = super().compute_loss(  # type: ignore[misc]
            model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        if watch:
            self._record(index, outputs, labels)
        return (loss, outputs) if return_outputs else loss

    def _record(self, index: Tensor | None, outputs: Any, labels: Tensor | None) -> None:
        logits = logits_of(outputs, index, labels)
        assert index is not None
        assert labels is not None
        if logits.ndim != 2:
            raise ValueError(
                f"logits must be [B, K], one label per sample, got {list(logits.shape)}; models that label "
                "tokens are not supported"
            )
        self.mild.update(index, logits, labels)

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The Trainer's, without the samples' ids, which the model does not know."""
        inputs = {k: v for k, v in inputs.items() if k != INDEX}
        return super().prediction_step(model, inputs, *args, **kwargs)  # type: ignore[misc]

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> KeptSampler:
        # The Trainer's own way to deal batches out to ranks comes on top.
        return self.mild.sampler(shuffle=self._shuffle, num_replicas=1)

    def _set_signature_columns_if_needed(self) -> None:
        trainer: Any = self
        super()._set_signature_columns_if_needed()  # type: ignore[misc]
        if INDEX not in trainer._signature_columns:
            trainer._signature_columns.append(INDEX)

    def _get_output_dir(self, *args: Any, **kwargs: Any) -> str:
        folder: str = super()._get_output_dir(*args, **kwargs)  # type: ignore[misc]
        return os.path.join(folder, _stage(self.mild))

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        trainer: Any = self
        self.mild.sync()
        # First, so that whatever counts as a checkpoint for the Trainer has it.
        if trainer.args.should_save:
            name = f"checkpoint-{trainer.state.global_step}"
            folder = Path(self._get_output_dir(trial=kwargs.get("trial"))) / name
            folder.mkdir(parents=True, exist_ok=True)
            self.mild.save(folder / _STATE)
        super()._save_checkpoint(*args, **kwargs)  # type: ignore[misc]


class MILDTrainer(MILDTrainerMixin, Trainer):
    """``transformers.Trainer`` with `MILDTrainerMixin`."""


class _EndEpochs(TrainerCallback):
    """Ends the tracker's epochs with the Trainer's."""

    def __init__(self, tracker: RoundTracker, log_figures: Callable[[], None]) -> None:
        self.tracker, self.log_figures = tracker, log_figures

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A checkpoint made at the last step of an epoch was made before the epoch's end.
        ended = sum(self.tracker.rounds[: self.tracker.round]) + int(state.epoch or 0)
        while self.tracker.epochs < ended:
            self.tracker.advance()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.tracker.advance()
        if not self.tracker.round_complete:  # else with the figures of the round
            self.log_figures()


def _indexed(dataset: Any, tracker: RoundTracker) -> IndexedItems:
    if not tracker.plants:
        return IndexedItems(dataset)
    keys = [key for key in ("labels", "label") if key in dataset[0]]
    if not keys:
        raise ValueError(
            f"with planted labels, items need a label under 'labels' or 'label', got {sorted(dataset[0])}; wrap "
            "them: IndexedItems(dataset, labels=tracker.training_labels, label_key=...)"
        )
    return IndexedItems(dataset, tracker.training_labels, keys[0])


def _stage(tracker: RoundTracker) -> str:
    return "final" if tracker.finished else f"round-{tracker.round:02d}"


def _last_checkpoint(output_dir: Path) -> str:
    stages = [*sorted(output_dir.glob("round-*"), reverse=True)]
    for folder in [output_dir / "final", *stages]:
        checkpoint = get_last_checkpoint(str(folder)) if folder.is_dir() else None
        if checkpoint is not None:
            return str(checkpoint)
    raise ValueError(f"there is no checkpoint to resume from in {output_dir}")
