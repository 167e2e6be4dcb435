"""`PosteriorTargets` in other people's loops: two ranks, Lightning and Transformers, against a plain loop."""

from __future__ import annotations

import pytest
import torch
from noisy import CLASSES, NUM_SAMPLES, Noisy, make_model, make_optimizer
from ranks import run_on_ranks
from torch.utils.data import DataLoader

from mild_ext import LearningStatus, PosteriorTargets, plant_labels

EPOCHS, BEGIN = 14, 10
pytestmark = pytest.mark.slow


def batches(epoch, ranks=1, rank=0, size=32):
    """Ids of one rank's batches of an epoch; every rank has as many, though the last may differ in size."""
    order = torch.randperm(NUM_SAMPLES, generator=torch.Generator().manual_seed(epoch))
    return order[rank::ranks].split(size)


def loop(ranks=1, *, stop=EPOCHS, state=None):
    """What one writes by hand; with ``ranks`` each step's gradient is the mean of the ranks', as DDP computes it."""
    data, model = Noisy(), make_model()
    planted = plant_labels(data.labels, 0.1)
    status = LearningStatus(NUM_SAMPLES, EPOCHS, num_classes=CLASSES)
    targets = PosteriorTargets(status, planted=planted, begin=BEGIN)
    optimizer = make_optimizer(model)
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        status.load_state_dict(state["status"])
        targets.load_state_dict(state["targets"])
    for epoch in range(status.epoch, stop):
        for step in zip(*(batches(epoch, ranks, r) for r in range(ranks)), strict=True):
            optimizer.zero_grad()
            for index in step:
                logits = model(data.inputs[index])
                status.update(index, logits, planted.labels[index])
                (targets.loss(index, logits) / ranks).backward()
            optimizer.step()
        status.advance()
        targets.refresh()
    kept = {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(),
        "status": status.state_dict(), "targets": targets.state_dict(),
    }  # fmt: skip
    return model, targets, kept


def test_a_loop_of_ones_own_resumes_the_same():
    model, targets, _ = loop()
    assert targets.rate > 0.2  # a third of the labels is wrong
    assert targets(torch.arange(4)).shape == (4, CLASSES)
    for stop in (4, BEGIN, BEGIN + 2):
        _, _, kept = loop(stop=stop)
        resumed, again, _ = loop(state=kept)
        assert torch.equal(again.all(), targets.all())
        for mine, theirs in zip(resumed.parameters(), model.parameters(), strict=True):
            assert torch.equal(mine, theirs)


def _rank(ranks):
    import torch.distributed as dist

    data, model = Noisy(), torch.nn.parallel.DistributedDataParallel(make_model())
    planted = plant_labels(data.labels, 0.1)
    status = LearningStatus(NUM_SAMPLES, EPOCHS, num_classes=CLASSES)
    targets = PosteriorTargets(status, planted=planted, begin=BEGIN)
    optimizer = make_optimizer(model)
    for epoch in range(EPOCHS):
        for index in batches(epoch, ranks, dist.get_rank()):
            logits = model(data.inputs[index])
            status.update(index, logits, planted.labels[index])
            optimizer.zero_grad()
            targets.loss(index, logits).backward()
            optimizer.step()
        status.sync()
        status.advance()
        targets.refresh()
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    state = targets.state_dict()
    return targets.all().numpy(), state["average"].numpy(), weights.numpy(), targets.rate


def test_two_ranks_have_the_same_targets_which_are_those_of_one_process():
    first, second = run_on_ranks(2, _rank, 2)
    for mine, theirs in zip(first[:3], second[:3], strict=True):
        assert (mine == theirs).all()
    assert first[3] == second[3]
    model, targets, kept = loop(ranks=2)
    assert first[3] == pytest.approx(targets.rate, abs=1e-6)
    torch.testing.assert_close(torch.from_numpy(first[0]), targets.all(), atol=1e-5, rtol=1e-4)
    average = kept["targets"]["average"]
    torch.testing.assert_close(torch.from_numpy(first[1]), average, atol=2e-3, rtol=1e-2)
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(torch.from_numpy(first[2]), weights, atol=2e-3, rtol=2e-2)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:.*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty.*")
def test_lightning(tmp_path):
    pl = pytest.importorskip("lightning.pytorch")

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = make_model()
            self.planted = plant_labels(Noisy().labels, 0.1)
            self.status = LearningStatus(NUM_SAMPLES, EPOCHS, num_classes=CLASSES)
            self.targets = PosteriorTargets(self.status, planted=self.planted, begin=BEGIN)

        def training_step(self, batch, batch_idx):
            index, inputs, _ = batch
            logits = self.net(inputs)
            self.status.update(index, logits, self.planted.labels[index])
            return self.targets.loss(index, logits)

        def on_train_epoch_end(self):
            self.status.sync()
            self.status.advance()
            self.targets.refresh()

        def on_save_checkpoint(self, checkpoint):
            checkpoint["status"] = self.status.state_dict()
            checkpoint["targets"] = self.targets.state_dict()

        def on_load_checkpoint(self, checkpoint):
            self.status.load_state_dict(checkpoint["status"])
            self.targets.load_state_dict(checkpoint["targets"])

        def configure_optimizers(self):
            return make_optimizer(self.net)

    class InOrder(torch.utils.data.Sampler):
        epoch = 0

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            return iter(torch.cat(batches(self.epoch)).tolist())

        def __len__(self):
            return NUM_SAMPLES

    def fit(epochs, checkpoint=None):
        module = Module()
        saver = pl.callbacks.ModelCheckpoint(
            tmp_path, filename="last", save_on_train_epoch_end=True
        )
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", devices=1, logger=False, callbacks=[saver],
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        loader = DataLoader(Noisy(), 32, sampler=InOrder())
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=checkpoint and False)
        return module

    model, targets, _ = loop()
    fit(BEGIN + 1)
    for module in (fit(EPOCHS, tmp_path / "last.ckpt"), fit(EPOCHS)):
        assert torch.equal(module.targets.all(), targets.all())
        for mine, theirs in zip(module.net.parameters(), model.parameters(), strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
def test_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from mild_ext.integrations import RoundTracker
    from mild_ext.integrations.transformers import MILDTrainer

    class Output(dict):
        pass

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = make_model()

        def forward(self, inputs, labels=None):
            logits = self.net(inputs)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    class PosteriorTrainer(MILDTrainer):
        targets = None

        def compute_loss(self, model, inputs, return_outputs=False, **options):
            index = inputs.get("index")
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **options)
            if model.training:
                loss = self.targets.loss(index, outputs["logits"])
            return (loss, outputs) if return_outputs else loss

    data = Noisy()
    rows = [
        {"inputs": data.inputs[i].tolist(), "labels": int(data.labels[i])} for i in range(len(data))
    ]
    tracker = RoundTracker(
        NUM_SAMPLES, [EPOCHS], labels=data.labels, plant=0.1, num_classes=CLASSES
    )
    trainer = PosteriorTrainer(
        model=Model(),
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=32, learning_rate=0.02,
            save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, logging_strategy="no",
            dataloader_pin_memory=False, remove_unused_columns=False,
        ),
        train_dataset=rows,
        tracker=tracker,
    )  # fmt: skip
    status, planted = tracker.status, tracker.planted
    trainer.targets = targets = PosteriorTargets(status, planted=planted, begin=BEGIN)
    seen = []
    call = targets.loss

    def noted(index, logits):
        seen.append((status.epoch, targets(index).ndim))
        return call(index, logits)

    targets.loss = noted
    trainer.train()
    assert {ndim for epoch, ndim in seen if epoch < BEGIN} == {1}
    assert {ndim for epoch, ndim in seen if epoch >= BEGIN} == {2}
    assert {epoch for epoch, _ in seen} == set(range(EPOCHS))
    right = targets.all().argmax(1) == data.true
    assert right.sum() > (data.labels == data.true).sum() + 0.1 * NUM_SAMPLES
