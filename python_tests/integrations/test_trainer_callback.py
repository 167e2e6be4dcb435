"""`DynamicsCallback` in a plain Trainer: what it records is what a loop written out sees."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from ranks import run_on_ranks

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from texts import CLASSES, LENGTH, NUM_SAMPLES, Texts, make_model, pad  # noqa: E402

from mild_ext import LearningStatus, select_clean  # noqa: E402
from mild_ext.integrations.transformers import (  # noqa: E402
    DynamicsCallback,
    IndexCollator,
    IndexedItems,
)
from mild_ext.rounds import epoch_figures  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*pin_memory.*")]

EPOCHS = 6


class Visits(transformers.Trainer):
    """A Trainer that notes what every training step saw."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        index = inputs.get("index")
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if model.training:
            seen = (index.clone(), outputs.logits.detach().clone(), inputs["labels"].clone())
            self.__dict__.setdefault("seen", []).append((int(self.state.epoch or 0), *seen))
        return (loss, outputs) if return_outputs else loss


def arguments(folder, **options):
    settings = {
        "per_device_train_batch_size": 16, "learning_rate": 3e-3, "save_strategy": "no",
        "report_to": [], "disable_tqdm": True, "use_cpu": True, "num_train_epochs": EPOCHS,
        "logging_strategy": "no", "dataloader_pin_memory": False, "remove_unused_columns": False,
    }  # fmt: skip
    return transformers.TrainingArguments(output_dir=str(folder), **settings | options)


def make_trainer(folder, callback, kind=Visits, **options):
    return kind(
        model=make_model(),
        args=arguments(folder, **options),
        train_dataset=IndexedItems(Texts()),
        eval_dataset=Texts(),
        data_collator=IndexCollator(pad),
        callbacks=[callback],
    )


def test_what_is_recorded_is_what_the_steps_saw(tmp_path):
    callback = DynamicsCallback(path=tmp_path / "status.safetensors")
    with pytest.raises(RuntimeError, match=r"before train\(\) has begun"):
        callback.dynamics  # noqa: B018
    trainer = make_trainer(tmp_path, callback, eval_strategy="epoch")
    trainer.train()
    expected = LearningStatus(NUM_SAMPLES, EPOCHS, num_classes=CLASSES, record="all")
    for epoch, index, logits, labels in trainer.seen:
        while expected.epoch < epoch:
            expected.advance()
        expected.update(index, logits, labels)
    expected.advance()
    status = callback.status
    assert (status.record, status.epoch, status.num_classes) == ("all", EPOCHS, CLASSES)
    assert torch.equal(status.words, expected.words)
    for name in ("margin", "loss", "confidence", "variability", "el2n"):
        assert torch.equal(getattr(callback.dynamics, name), getattr(expected.dynamics(), name))
    assert (callback.dynamics.seen == EPOCHS).all()
    wrong = Texts().wrong
    assert callback.dynamics.margin[~wrong].mean() > callback.dynamics.margin[wrong].mean()
    dropped = ~select_clean(status).mask
    assert wrong[dropped].float().mean() > 0.7

    saved = LearningStatus.load(tmp_path / "status.safetensors")
    assert torch.equal(saved.dynamics().loss, expected.dynamics().loss)
    found = [log for log in trainer.state.log_history if "mild_ext/memorized" in log]
    assert [log["epoch"] for log in found] == [1, 2, 3, 4, 5, 6]
    assert found[-1]["mild_ext/prediction_changes"] == int(status.label_wave()[-1])
    assert found[-1]["mild_ext/memorized"] == epoch_figures(status)["memorized"]

    # The model is left as it was, evaluation too, and another training begins anew.
    assert not trainer.model._forward_hooks
    assert not trainer.model._forward_pre_hooks
    assert trainer.evaluate()["eval_loss"] > 0
    trainer.train()
    assert callback.status is not status


@pytest.mark.parametrize("saving", [{"save_steps": 20}, {"save_steps": 16}])  # amid, at an end
def test_a_resumed_training_goes_on_with_the_status(saving, tmp_path):
    class StopAt(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3 * saving["save_steps"]

    options = {"num_train_epochs": 5, "save_strategy": "steps", **saving}
    whole = DynamicsCallback()
    make_trainer(tmp_path / "whole", whole, num_train_epochs=5).train()
    trainer = make_trainer(tmp_path / "parts", DynamicsCallback(), **options)
    trainer.add_callback(StopAt())
    trainer.train()
    resumed = DynamicsCallback()
    make_trainer(tmp_path / "parts", resumed, **options).train(resume_from_checkpoint=True)
    assert torch.equal(resumed.status.words, whole.status.words)
    assert torch.equal(resumed.dynamics.loss, whole.dynamics.loss)

    for file in (tmp_path / "parts").glob("checkpoint-*/mild_dynamics.safetensors"):
        file.unlink()
    with pytest.raises(ValueError, match="was not saved with a DynamicsCallback"):
        make_trainer(tmp_path / "parts", DynamicsCallback(), **options).train(
            resume_from_checkpoint=True
        )


def test_token_classification(tmp_path):
    class Tagged(torch.utils.data.Dataset):
        """Each token's label is its number modulo the classes; texts differ in length."""

        def __len__(self):
            return 40

        def __getitem__(self, i):
            ids = Texts().tokens[i, : LENGTH - i % 3]
            return {"input_ids": ids.tolist(), "labels": (ids % CLASSES).tolist()}

    def pad_tokens(features):
        batch = {
            key: torch.full((len(features), LENGTH), value)
            for key, value in (("input_ids", 0), ("labels", -100))
        }
        for i, feature in enumerate(features):
            for key in batch:
                batch[key][i, : len(feature[key])] = torch.tensor(feature[key])
        return batch

    torch.manual_seed(0)
    config = make_model().config
    callback = DynamicsCallback(tokens=LENGTH)
    trainer = Visits(
        model=transformers.BertForTokenClassification(config),
        args=arguments(tmp_path, num_train_epochs=2),
        train_dataset=IndexedItems(Tagged()),
        data_collator=IndexCollator(pad_tokens),
        callbacks=[callback],
    )
    trainer.train()
    lengths = torch.tensor([LENGTH - i % 3 for i in range(40)])
    seen = callback.dynamics.seen.view(40, LENGTH)
    assert torch.equal(seen, 2 * (torch.arange(LENGTH) < lengths[:, None]).int())
    loss = callback.dynamics.loss.view(40, LENGTH)
    sums, counts = torch.zeros(40, LENGTH), torch.zeros(40, LENGTH)
    for _, index, logits, labels in trainer.seen:
        losses = torch.nn.functional.cross_entropy(logits.mT, labels, reduction="none")
        sums[index] += losses
        counts[index] += (labels >= 0).float()
    torch.testing.assert_close(loss, sums / counts, rtol=1e-3, atol=1e-3, equal_nan=True)

    trainer = make_trainer(tmp_path, DynamicsCallback(tokens=LENGTH))
    with pytest.raises(ValueError, match=r"\[B, T, K\] with T up to 6 .*got \[16, 3\]"):
        trainer.train()
    callback.tokens = 3
    with pytest.raises(ValueError, match="T up to 3"):
        Visits(
            model=transformers.BertForTokenClassification(config),
            args=arguments(tmp_path),
            train_dataset=IndexedItems(Tagged()),
            data_collator=IndexCollator(pad_tokens),
            callbacks=[callback],
        ).train()


def test_what_does_not_fit_is_refused(tmp_path):
    def train(kind=transformers.Trainer, dataset=None, collator=None, **options):
        kind(
            model=make_model(),
            args=arguments(tmp_path, **options),
            train_dataset=dataset or IndexedItems(Texts()),
            data_collator=collator or IndexCollator(pad),
            callbacks=[DynamicsCallback()],
        ).train()

    with pytest.raises(TypeError, match=r"needs train_dataset=IndexedItems.*got Texts"):
        train(dataset=Texts())
    with pytest.raises(TypeError, match=r"data_collator=IndexCollator.*got IndexedItems and"):
        train(collator=pad)
    with pytest.raises(TypeError, match=r"remove_unused_columns=False, got IndexedItems and"):
        train(remove_unused_columns=True)
    with pytest.raises(ValueError, match="leave out label_smoothing_factor"):
        train(label_smoothing_factor=0.1)


def _train_on_two(folder):
    warnings.simplefilter("default")
    callback = DynamicsCallback(path=folder / "status.safetensors")
    make_trainer(folder, callback, ddp_backend="gloo", num_train_epochs=2).train()
    return callback.status.words.numpy(), callback.dynamics.loss.numpy()


def test_two_processes_agree(tmp_path):
    one, two = run_on_ranks(2, _train_on_two, tmp_path)
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first, second)
    status = LearningStatus.load(tmp_path / "status.safetensors")
    assert (status.compute().seen == 2).all()


def test_a_callback_attached_twice_or_beside_another_is_refused(tmp_path):
    callback = DynamicsCallback()
    for other in (callback, DynamicsCallback()):
        trainer = make_trainer(tmp_path, callback, num_train_epochs=1)
        trainer.add_callback(other)
        with pytest.raises(ValueError, match="attach one, once, to a Trainer"):
            trainer.train()
    make_trainer(tmp_path, callback, num_train_epochs=1).train()
    assert callback.status.epoch == 1
