"""Lightning: one callback, one sampler.

pip install 'mild_ext[digits,lightning]' && python lightning_trainer.py
"""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from mild_ext import IndexedDataset, corrupt_labels
from mild_ext.data import load_data
from mild_ext.integrations.lightning import MILDCallback


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch, batch_idx):
        index, inputs, labels = batch
        logits = self.model(inputs)
        loss = nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "index": index, "logits": logits, "labels": labels}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


pl.seed_everything(0)
digits = load_data("digits")
noise = corrupt_labels(digits.labels, "symmetric:0.4", 10, seed=0)
dataset = IndexedDataset(digits.train, noise.labels)

mild = MILDCallback(len(dataset), rounds=[20, 10])
loader = DataLoader(dataset, batch_size=64, sampler=mild.sampler())
trainer = pl.Trainer(
    max_epochs=35,
    callbacks=[mild],
    accelerator="cpu",
    devices=1,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
)
trainer.fit(Classifier(), loader)

kept = mild.tracker.kept
wrong = noise.labels != digits.labels
print(
    f"{int(kept.sum())} of {len(dataset)} samples kept, {wrong[kept].float().mean():.0%} of them wrong"
)
