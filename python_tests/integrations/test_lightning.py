"""`MILDCallback` in the real Trainer, in one process and in two, compared with a plain loop."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest
import torch
from noisy import NUM_SAMPLES, Noisy, keep_even, make_optimizer, plain_loop
from ranks import run_on_ranks
from torch.utils.data import BatchSampler, DataLoader
from torch.utils.data.distributed import DistributedSampler

pl = pytest.importorskip("lightning.pytorch")

from noisy_lightning import HINTS, Classifier  # noqa: E402

from mild_ext.integrations.lightning import MILDCallback  # noqa: E402
from mild_ext.integrations.sampler import draws_from  # noqa: E402

pytestmark = [
    *HINTS,
    pytest.mark.filterwarnings("ignore:training ended after .* epochs of round"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty.*"),
]

ROUNDS = [10, 4]


class LossOnly(Classifier):
    """As most modules are: returns nothing but the loss."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx)["loss"]

    def what_mild_needs(self, outputs, batch):
        index, inputs, labels = batch
        with torch.no_grad():
            return index, self.model(inputs), labels


class SeveralForwards(LossOnly):
    def training_step(self, batch, batch_idx):
        self.model(batch[1])
        return super().training_step(batch, batch_idx)


def trainer(epochs, folder, **options):
    options = {"accelerator": "cpu", "devices": 1, "enable_checkpointing": False} | options
    return pl.Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def loader(callback, batch_size=32):
    return DataLoader(Noisy(), batch_size, sampler=callback.sampler())


def assert_same(tracker, expected):
    assert torch.equal(tracker.status.words, expected.status.words)
    assert torch.equal(tracker.kept, expected.kept)
    assert torch.equal(tracker.round_dropped, expected.round_dropped)
    assert torch.equal(tracker.clean_probability, expected.clean_probability)
    assert tracker.stop_reason == expected.stop_reason


@pytest.mark.parametrize("epochs", [7, 10, 12, 16])
def test_words_and_selection_equal_those_of_a_plain_loop(epochs, tmp_path):
    callback = MILDCallback(NUM_SAMPLES, ROUNDS, seed=5)
    trainer(epochs, tmp_path, callbacks=[callback]).fit(Classifier(), loader(callback))
    assert_same(callback.tracker, plain_loop(ROUNDS, epochs))


@pytest.mark.parametrize(
    "where",
    [
        {"index": 0, "labels": 2, "logits": "model"},
        {"index": 0, "labels": -1, "logits": "model.2"},
        {"read": lambda outputs, batch: (batch[0], outputs["logits"], batch[2])},
    ],
)
def test_logits_are_found_in_a_submodule_or_by_a_function(where, tmp_path):
    callback = MILDCallback(NUM_SAMPLES, ROUNDS, seed=5, **where)
    module = Classifier() if "read" in where else LossOnly()
    trainer(11, tmp_path, callbacks=[callback]).fit(module, loader(callback))
    assert_same(callback.tracker, plain_loop(ROUNDS, 11))
    assert not module.model._forward_hooks
    assert not module.model[2]._forward_hooks


def test_a_method_of_the_module_can_be_named(tmp_path):
    callback = MILDCallback(NUM_SAMPLES, ROUNDS, read="what_mild_needs")
    trainer(2, tmp_path, callbacks=[callback]).fit(LossOnly(), loader(callback))
    assert (callback.tracker.status.compute().seen == 2).all()


@pytest.mark.parametrize("stop", [4, 10, 12])
def test_a_run_resumed_from_a_checkpoint_ends_the_same(stop, tmp_path):
    def callbacks():
        mild = MILDCallback(NUM_SAMPLES, ROUNDS, seed=5)
        return mild, [pl.callbacks.ModelCheckpoint(tmp_path, filename="last"), mild]

    mild, both = callbacks()
    options = {"enable_checkpointing": True, "callbacks": both}
    trainer(stop, tmp_path, **options).fit(Classifier(), loader(mild))
    mild, both = callbacks()
    options = {"enable_checkpointing": True, "callbacks": both}
    trainer(15, tmp_path, **options).fit(
        Classifier(), loader(mild), ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    assert_same(mild.tracker, plain_loop(ROUNDS, 15))


def test_a_checkpoint_amid_an_epoch_holds_what_was_recorded(tmp_path):
    mild = MILDCallback(NUM_SAMPLES, ROUNDS)
    saver = pl.callbacks.ModelCheckpoint(tmp_path, filename="step", every_n_train_steps=5)
    options = {"enable_checkpointing": True, "callbacks": [saver, mild], "max_steps": 5}
    trainer(1, tmp_path, **options).fit(Classifier(), loader(mild))
    saved = torch.load(tmp_path / "step.ckpt", weights_only=True)["mild_ext"]
    restored = MILDCallback(NUM_SAMPLES, ROUNDS)
    restored.on_load_checkpoint(None, None, {"mild_ext": saved})
    assert (restored.tracker.status.compute().seen == 1).sum() == 5 * 32


def test_validation_and_schedules_go_on_in_the_shorter_epochs_of_a_later_round(tmp_path):
    class Validated(Classifier):
        def __init__(self):
            super().__init__()
            self.validated, self.rates = [], []

        def validation_step(self, batch, batch_idx):
            self.model(batch[1])

        def on_validation_epoch_end(self):
            self.validated.append(self.current_epoch)

        def on_train_epoch_start(self):
            self.rates.append(self.optimizers().param_groups[0]["lr"])

        def configure_optimizers(self):
            optimizer = make_optimizer(self.model)
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]

    mild, module = (
        MILDCallback(NUM_SAMPLES, [10, 2], index=0, labels=2, logits="model"),
        Validated(),
    )
    options = {"num_sanity_val_steps": 0, "callbacks": [mild]}
    trainer(12, tmp_path, **options).fit(module, loader(mild), DataLoader(Noisy(), 100))
    assert not mild.tracker.kept.all()
    assert module.validated == list(range(12))
    np.testing.assert_allclose(module.rates, [0.05 * 0.5 ** (e % 10) for e in range(12)], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "module", "message"),
    [
        (
            {"index": "id"},
            Classifier,
            "cannot find index='id': training_step returned a mapping with",
        ),
        (
            {"index": 7},
            Classifier,
            "index=7 must be a position in the batch, but the batch is a list of 3",
        ),
        ({}, LossOnly, "Return it from training_step"),
        ({"index": 0, "labels": 2, "logits": "model"}, SeveralForwards, "was called 2 times"),
    ],
)
def test_what_cannot_be_found_is_explained(options, module, message, tmp_path):
    callback = MILDCallback(NUM_SAMPLES, ROUNDS, **options)
    with pytest.raises(ValueError, match=message):
        trainer(1, tmp_path, callbacks=[callback]).fit(module(), loader(callback))
    assert not callback.tracker.status.words.any()


@pytest.mark.parametrize(
    ("rounds", "options", "why"),
    [
        (ROUNDS, {}, "later rounds would train on all"),
        ([1], {"train_ids": torch.arange(9)}, "train_ids has no effect"),
    ],
)
def test_a_loader_that_does_not_draw_from_the_callback_is_refused(rounds, options, why, tmp_path):
    callback = MILDCallback(NUM_SAMPLES, rounds, **options)
    with pytest.raises(ValueError, match=why + r".*sampler=callback.sampler\(\)"):
        trainer(1, tmp_path, callbacks=[callback]).fit(Classifier(), DataLoader(Noisy(), 32))


class InBatches(BatchSampler):
    """Somebody's own batch sampler, with another base attribute."""

    def __init__(self, base):
        self.base_sampler = base

    def __iter__(self):
        batch = []
        for i in self.base_sampler:
            batch.append(i)
            if len(batch) == 32:
                yield batch
                batch = []
        if batch:
            yield batch

    def __len__(self):
        return -(-len(self.base_sampler) // 32)


class Dealt(DistributedSampler):
    """As others wrap a sampler to deal it out to ranks: the sampler is its data set."""

    def __init__(self, sampler, ranks):
        super().__init__(sampler, num_replicas=ranks, rank=0, shuffle=False)

    def __iter__(self):
        ids = list(self.dataset)
        return iter([ids[k] for k in super().__iter__()])


class Plain:
    """A wrapper that is no sampler, with an attribute of any name, or none in ``__dict__``."""

    __slots__ = ("inner",)

    def __init__(self, inner):
        self.inner = inner

    def __iter__(self):
        return iter(self.inner)

    def __len__(self):
        return len(self.inner)


class Several(Plain):
    """Goes through several things, one after the other."""

    def __init__(self, *parts):
        super().__init__(parts)
        self.rest = parts

    def __iter__(self):
        return (i for part in self.rest for i in part)

    def __len__(self):
        return sum(map(len, self.rest))


class Called:
    """What it goes through is known to a function alone."""

    def __init__(self, draw):
        self.draw = draw

    def __iter__(self):
        return iter(self.draw())

    def __len__(self):
        return len(self.draw())


def closes_over(sampler):
    class Batches:
        def __iter__(self):
            return iter(BatchSampler(sampler, 32, drop_last=False))

        def __len__(self):
            return -(-len(sampler) // 32)

    return Batches()


sampler = None  # of the module, where a test sets it


def test_a_sampler_of_the_same_name_is_not_taken_for_the_one_that_is_used(monkeypatch):
    callback = MILDCallback(NUM_SAMPLES, ROUNDS)

    class Other:
        def __init__(self):
            self.sampler = range(NUM_SAMPLES)

        def __iter__(self):
            return iter(BatchSampler(self.sampler, 32, drop_last=False))

    class Global(Other):
        def __iter__(self):
            return (batch for batch in BatchSampler(sampler, 32, drop_last=False))

    monkeypatch.setitem(globals(), "sampler", callback.sampler())
    assert not draws_from(DataLoader(Noisy(), batch_sampler=Other()), callback.tracker)
    assert draws_from(DataLoader(Noisy(), batch_sampler=Global()), callback.tracker)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: DataLoader(
            Noisy(), batch_sampler=Called(lambda: BatchSampler(s, 32, drop_last=False))
        ),
        lambda s: DataLoader(
            Noisy(), batch_sampler=Called(functools.partial(BatchSampler, s, 32, drop_last=False))
        ),
        lambda s: DataLoader(Noisy(), batch_sampler=closes_over(s)),
        lambda s: DataLoader(Noisy(), batch_sampler=InBatches(Plain(Several(Plain(s))))),
        lambda s: DataLoader(Noisy(), batch_sampler=BatchSampler(s, 32, drop_last=False)),
        lambda s: DataLoader(Noisy(), batch_sampler=InBatches(s)),
        lambda s: DataLoader(Noisy(), 32, sampler=Dealt(s, ranks=1)),
        lambda s: DataLoader(Noisy(), batch_sampler=InBatches(Dealt(s, ranks=1))),
        lambda s: {"a": [DataLoader(Noisy(), batch_sampler=InBatches(s))]},
    ],
)
def test_the_sampler_is_found_through_wrappers(wrap, tmp_path):
    callback = MILDCallback(NUM_SAMPLES, ROUNDS, seed=5)
    made = wrap(callback.sampler())
    assert draws_from(made, callback.tracker)
    assert not draws_from(made, MILDCallback(NUM_SAMPLES, ROUNDS).tracker)
    assert not draws_from(DataLoader(Noisy(), 32), callback.tracker)
    if isinstance(made, DataLoader):
        # Torch's DistributedSampler keeps the length it found at first, so with it only to a round's end.
        trainer(10, tmp_path, callbacks=[callback]).fit(Classifier(), made)
        assert_same(callback.tracker, plain_loop(ROUNDS, 10))


def test_samples_that_would_be_dealt_out_twice_are_refused():
    tracker = MILDCallback(NUM_SAMPLES, ROUNDS).tracker
    twice = DataLoader(Noisy(), 32, sampler=Dealt(tracker.sampler(num_replicas=2, rank=0), ranks=2))
    with pytest.raises(
        ValueError, match=r"Dealt deals the samples out .* sampler\(num_replicas=1\)"
    ):
        draws_from(twice, tracker)
    once = DataLoader(Noisy(), 32, sampler=Dealt(tracker.sampler(num_replicas=1), ranks=2))
    assert draws_from(once, tracker)


@pytest.mark.parametrize(
    ("epochs", "message"),
    [
        (7, "need 14 more epochs, but max_epochs=7 leaves 7: no round is finished, so nothing"),
        (12, "but max_epochs=12 leaves 12: only 1 of 2 rounds are finished; set max_epochs=14"),
    ],
)
def test_fewer_epochs_than_the_rounds_need_are_told_at_the_start(epochs, message, tmp_path):
    callback = MILDCallback(NUM_SAMPLES, ROUNDS)
    with pytest.warns(UserWarning, match=message):
        trainer(epochs, tmp_path, callbacks=[callback]).fit(Classifier(), loader(callback))


def test_a_training_that_ends_amid_a_round_says_so(tmp_path):
    callback = MILDCallback(NUM_SAMPLES, ROUNDS)
    with pytest.warns(
        UserWarning, match="ended after 2 of 10 epochs of round 0: no round is finished"
    ):
        trainer(14, tmp_path, callbacks=[callback], max_steps=15).fit(
            Classifier(), loader(callback)
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        callback = MILDCallback(NUM_SAMPLES, [1])
        trainer(1, tmp_path, callbacks=[callback]).fit(Classifier(), loader(callback))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_strategies_that_keep_the_result_in_a_child_are_refused(strategy, tmp_path):
    callback = MILDCallback(NUM_SAMPLES, [1])
    options = {"strategy": strategy, "devices": 2, "callbacks": [callback]}
    with pytest.raises(Exception, match="keep what was recorded to themselves"):  # of a process
        trainer(1, tmp_path, **options).fit(Classifier(), loader(callback))


def _fit_on_two(folder, epochs):
    warnings.simplefilter("default")
    torch.distributed.destroy_process_group()  # Lightning makes its own
    callback = MILDCallback(NUM_SAMPLES, [2, 1], seed=5, select=keep_even)
    saver = pl.callbacks.ModelCheckpoint(folder, filename="last", every_n_train_steps=3)
    options = {
        "strategy": pl.strategies.DDPStrategy(process_group_backend="gloo"),
        "devices": 2,
        "enable_checkpointing": True,
    }
    warnings.filterwarnings("error", message=".*sync_dist.*")
    watcher = pl.callbacks.EarlyStopping(  # raises on a rank that does not know the figure
        "mild_ext/memorized", mode="max", patience=50, check_on_train_epoch_end=True
    )
    trainer(epochs, folder, callbacks=[saver, callback, watcher], **options).fit(
        Classifier(), loader(callback, batch_size=32)
    )
    tracker = callback.tracker
    return tracker.status.words.numpy(), tracker.kept.numpy(), tracker.round_dropped.numpy()


@pytest.mark.slow
def test_two_processes_record_what_one_does(tmp_path):
    expected = plain_loop([2, 1], 4, ranks=2, batch_size=32, select=keep_even)
    for words, kept, round_dropped in run_on_ranks(2, _fit_on_two, tmp_path, 4):
        np.testing.assert_array_equal(words, expected.status.words.numpy())
        np.testing.assert_array_equal(kept, expected.kept.numpy())
        np.testing.assert_array_equal(round_dropped, expected.round_dropped.numpy())
