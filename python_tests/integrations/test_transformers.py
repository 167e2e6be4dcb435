"""`MILDTrainer`: a tiny, randomly initialised text classifier learns from wrong labels."""

from __future__ import annotations

import contextlib
import warnings

import numpy as np
import pytest
import torch
from noisy import keep_even
from ranks import run_on_ranks
from torch.utils.data import DataLoader

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from texts import NUM_SAMPLES, ROUNDS, Texts, make_model, make_trainer, pad  # noqa: E402

from mild_ext.integrations import RoundTracker  # noqa: E402
from mild_ext.integrations.transformers import (  # noqa: E402
    IndexCollator,
    IndexedItems,
    MILDTrainer,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*pin_memory.*"),
]


def plain_loop(rounds, epochs, *, ranks=1, batch_size=16):
    """The same training, written out."""
    model, tracker = make_model().train(), RoundTracker(NUM_SAMPLES, rounds, seed=5)
    sampler = tracker.sampler(num_replicas=1)
    loader = DataLoader(
        IndexedItems(Texts()), batch_size, sampler=sampler, collate_fn=IndexCollator(pad)
    )

    def new_optimizer():
        return torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)

    optimizer = new_optimizer()
    for _ in range(epochs):
        for batch in loader:
            index = batch.pop("index")
            outputs = model(**batch)
            outputs.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            tracker.update(index, outputs.logits, batch["labels"])
            optimizer.step()
            optimizer.zero_grad()
        before = tracker.round
        tracker.end_epoch()
        if tracker.round != before:
            optimizer = new_optimizer()
    return tracker


@pytest.fixture(scope="module")
def expected():
    return plain_loop(ROUNDS, sum(ROUNDS))


def assert_same(tracker, expected):
    assert torch.equal(tracker.status.words, expected.status.words)
    assert torch.equal(tracker.kept, expected.kept)
    assert torch.equal(tracker.round_dropped, expected.round_dropped)
    assert torch.equal(tracker.clean_probability, expected.clean_probability)
    assert (tracker.stop_reason, tracker.epochs) == (expected.stop_reason, expected.epochs)


def test_words_and_selection_equal_those_of_a_plain_loop(expected, tmp_path):
    trainer = make_trainer(tmp_path)
    outputs = trainer.train_rounds()
    assert_same(trainer.mild, expected)
    wrong, dropped = Texts().wrong, ~trainer.mild.kept
    assert wrong[dropped].float().mean() > 0.8
    assert (wrong & dropped).sum() > 0.6 * wrong.sum()
    assert outputs[0].global_step == 8 * 16
    assert outputs[-1].global_step == 3 * -(-int(trainer.mild.selections[0].num_kept) // 16)

    # Evaluation and what follows the rounds leave the status alone.
    words = trainer.mild.status.words.clone()
    metrics = trainer.evaluate()
    final = trainer.train()
    assert metrics["eval_loss"] > 0
    assert final.global_step == 2 * -(-int(trainer.mild.kept.sum()) // 16)
    assert torch.equal(trainer.mild.status.words, words)
    assert trainer.args.num_train_epochs == 2


@pytest.mark.parametrize(
    ("saving", "steps"),
    [
        ({"save_strategy": "epoch"}, 5 * 16),
        ({"save_strategy": "steps", "save_steps": 20}, 60),  # amid an epoch
        ({"save_strategy": "steps", "save_steps": 16}, 48),  # at an epoch's last step
        ({"save_strategy": "steps", "save_steps": 1000}, None),  # at the round's end only
    ],
)
def test_training_resumed_from_a_checkpoint_ends_the_same(saving, steps, expected, tmp_path):
    class StopAt(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == steps:
                control.should_training_stop = True

    trainer = make_trainer(tmp_path, **saving)
    trainer.add_callback(StopAt())
    stopped = pytest.warns(
        UserWarning, match="stopped after . of 8 epochs of round 0, by a callback"
    )
    with stopped if steps else contextlib.nullcontext():
        trainer.train()
    assert trainer.mild.round == (0 if steps else 1)
    resumed = make_trainer(tmp_path, **saving)
    resumed.train_rounds(resume_from_checkpoint=True)
    assert_same(resumed.mild, expected)
    assert (tmp_path / "round-00").is_dir()
    assert (tmp_path / "round-01").is_dir()


@pytest.mark.parametrize("how", ["callback", "interrupt"])
def test_a_round_that_was_stopped_begins_anew_without_a_checkpoint(how, tmp_path):
    class StopOnce(transformers.TrainerCallback):
        done = False

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 40 and not self.done:
                self.done = True
                if how == "interrupt":
                    raise KeyboardInterrupt
                control.should_training_stop = True

    trainer = make_trainer(tmp_path, rounds=[4, 2], save_strategy="no")
    trainer.add_callback(StopOnce())
    if how == "interrupt":
        with pytest.raises(KeyboardInterrupt):
            trainer.train_rounds()
    else:
        with pytest.warns(UserWarning, match="stopped after 3 of 4 epochs of round 0"):
            assert len(trainer.train_rounds()) == 1  # no further round
    assert (trainer.mild.round, trainer.mild.finished) == (0, False)
    assert trainer.args.num_train_epochs == 2
    with pytest.warns(UserWarning, match="round 0 was stopped after . of 4 epochs and begins anew"):
        trainer.train()
    assert (trainer.mild.round, trainer.mild.epochs) == (1, 4)
    assert (trainer.mild.seen == 4).all()  # all of the round, and nothing twice


def test_max_steps_belong_to_what_follows_the_rounds(tmp_path):
    trainer = make_trainer(tmp_path, rounds=[1], max_steps=5)
    with pytest.raises(ValueError, match="max_steps must be -1 while there are rounds, got 5"):
        trainer.train_rounds()
    trainer.args.max_steps = -1
    trainer.train_rounds()
    trainer.args.max_steps = 5
    assert trainer.train().global_step == 5


def test_a_streamed_training_set_is_refused_in_one_sentence(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield {}

    arguments = transformers.TrainingArguments(str(tmp_path), use_cpu=True, max_steps=1)
    with pytest.raises(
        TypeError, match=r"train_dataset must be a map-style data set.*got Stream, a stream"
    ):
        MILDTrainer(make_model(), arguments, train_dataset=Stream(), tracker=RoundTracker(7, [1]))


def test_gradient_accumulation_records_every_micro_batch(tmp_path):
    trainer = make_trainer(tmp_path, rounds=[2], gradient_accumulation_steps=3)
    trainer.train()
    assert (trainer.mild.status.compute().seen == 2).all()


def test_label_smoothing_which_takes_the_labels_away_is_no_problem(tmp_path):
    trainer = make_trainer(tmp_path, rounds=[2], label_smoothing_factor=0.1)
    trainer.train()
    assert (trainer.mild.status.compute().seen == 2).all()


def test_a_checkpoint_of_another_trainer_is_refused(tmp_path):
    trainer = make_trainer(tmp_path)
    with pytest.raises(ValueError, match="no checkpoint to resume from"):
        trainer.train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="was not saved by a MILDTrainer"):
        trainer.train(resume_from_checkpoint=str(tmp_path))


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="tracker is of 7 samples, train_dataset of 250"):
        MILDTrainer(
            model=make_model(),
            args=transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to=[]),
            train_dataset=Texts(),
            tracker=RoundTracker(7, [1]),
        )
    with pytest.raises(ValueError, match="tracker must have reselect='kept', got 'all'"):
        make_trainer(tmp_path, tracker_options={"reselect": "all"})
    with pytest.raises(ValueError, match="train_sampling_strategy must be"):
        make_trainer(tmp_path, train_sampling_strategy="group_by_length")


def _train_on_two(folder):
    warnings.simplefilter("default")
    options = {"rounds": [2, 1], "tracker_options": {"select": keep_even}}
    trainer = make_trainer(folder, **options, per_device_train_batch_size=16, ddp_backend="gloo")
    trainer.train_rounds()
    tracker = trainer.mild
    return (
        tracker.status.words.numpy(),
        tracker.kept.numpy(),
        int(tracker.status.compute().seen.sum()),
    )


def test_two_processes_agree(tmp_path):
    one, two = run_on_ranks(2, _train_on_two, tmp_path)
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first, second)
    assert one[1].sum() == NUM_SAMPLES // 2
    assert one[2] == one[1].sum(), "every kept sample was seen"
