"""The module that tests of the Lightning callback train, and Lightning's hints that a test has no use for."""

from __future__ import annotations

import pytest
from noisy import make_model, make_optimizer
from torch.nn import functional as F

pl = pytest.importorskip("lightning.pytorch")

HINTS = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
    # Of our own, where a test stops early on purpose.
    pytest.mark.filterwarnings("ignore:the rounds need .* more epochs"),
]


class Classifier(pl.LightningModule):
    """Returns index, logits and labels from its training step."""

    def __init__(self):
        super().__init__()
        self.model = make_model()

    def training_step(self, batch, batch_idx):
        index, inputs, labels = batch
        logits = self.model(inputs)
        loss = F.cross_entropy(logits, labels)
        return {"loss": loss, "index": index, "logits": logits, "labels": labels}

    def configure_optimizers(self):
        return make_optimizer(self.model)
