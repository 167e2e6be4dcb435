"""A tiny, randomly initialised text classifier, texts with wrong labels, and a Trainer for both."""

from __future__ import annotations

import torch
import transformers
from torch.utils.data import Dataset

from mild_ext.integrations import RoundTracker
from mild_ext.integrations.transformers import MILDTrainer

NUM_SAMPLES, CLASSES, VOCABULARY, LENGTH = 250, 3, 40, 6
ROUNDS = [8, 3]


class Texts(Dataset):
    """Token ids, of which one names the class; a third of the labels are wrong."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.true = torch.randint(CLASSES, (NUM_SAMPLES,), generator=generator)
        self.tokens = torch.randint(10, VOCABULARY, (NUM_SAMPLES, LENGTH), generator=generator)
        self.tokens[:, 0] = self.true
        self.wrong = torch.rand(NUM_SAMPLES, generator=generator) < 0.33
        self.labels = torch.where(self.wrong, (self.true + 1) % CLASSES, self.true)

    def __len__(self):
        return NUM_SAMPLES

    def __getitem__(self, i):
        # Texts differ in length: the collator pads them.
        return {
            "input_ids": self.tokens[i, : LENGTH - i % 3].tolist(),
            "labels": int(self.labels[i]),
        }


def pad(features):
    ids = torch.zeros(len(features), LENGTH, dtype=torch.int64)
    for row, feature in zip(ids, features, strict=True):
        assert "index" not in feature
        row[: len(feature["input_ids"])] = torch.tensor(feature["input_ids"])
    return {"input_ids": ids, "labels": torch.tensor([f["labels"] for f in features])}


def make_model():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=LENGTH,
        num_labels=CLASSES,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.BertForSequenceClassification(config)


def make_trainer(folder, *, rounds=ROUNDS, tracker_options=None, **arguments):
    settings = {
        "per_device_train_batch_size": 16,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "num_train_epochs": 2,
        "logging_strategy": "no",
        "dataloader_pin_memory": False,
    }
    return MILDTrainer(
        model=make_model(),
        args=transformers.TrainingArguments(output_dir=str(folder), **settings | arguments),
        train_dataset=Texts(),
        eval_dataset=Texts(),
        data_collator=pad,
        tracker=RoundTracker(NUM_SAMPLES, rounds, seed=5, **tracker_options or {}),
    )
