"""Transformers: a text classifier, from scratch so that nothing has to be downloaded.

pip install 'mild_ext[transformers]' && python transformers_trainer.py
"""

import random

import torch
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from mild_ext import corrupt_labels
from mild_ext.integrations import RoundTracker
from mild_ext.integrations.transformers import MILDTrainer

TOPICS = [
    "the {match|team|coach|striker} {won|lost|played|scored} {again|at home|last night}",
    "add {salt|flour|butter|sugar} and {stir|bake|knead|cook} {gently|for an hour|well}",
    "the {kernel|compiler|server|patch} {crashed|builds|runs|leaks memory} {again|fast|at night}",
]


def sentence(template: str) -> str:
    while "{" in template:
        start, end = template.index("{"), template.index("}")
        choice = random.choice(template[start + 1 : end].split("|"))
        template = template[:start] + choice + template[end + 1 :]
    return template


random.seed(0)
true_labels = torch.arange(600) % 3
texts = [sentence(TOPICS[label]) for label in true_labels.tolist()]
noise = corrupt_labels(true_labels, "symmetric:0.4", 3, seed=0)
words = sorted({word for text in texts for word in text.split()})
encoded = [[1 + words.index(word) for word in text.split()] for text in texts]
dataset = [
    {"input_ids": ids, "labels": label}
    for ids, label in zip(encoded, noise.labels.tolist(), strict=True)
]


def pad(features: list[dict]) -> dict:
    ids = [torch.tensor(feature["input_ids"]) for feature in features]
    input_ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    labels = torch.tensor([feature["labels"] for feature in features])
    return {"input_ids": input_ids, "attention_mask": (input_ids > 0).long(), "labels": labels}


torch.manual_seed(0)
config = BertConfig(
    vocab_size=len(words) + 1,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    num_labels=3,
)
trainer = MILDTrainer(
    model=BertForSequenceClassification(config),
    args=TrainingArguments(
        output_dir="runs",
        per_device_train_batch_size=32,
        learning_rate=2e-3,
        num_train_epochs=3,  # of the training after the rounds
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        use_cpu=True,
    ),
    train_dataset=dataset,
    data_collator=pad,
    tracker=RoundTracker(len(dataset), rounds=[10, 5]),
)
trainer.train_rounds()
trainer.train()  # goes on with the samples kept

kept = trainer.mild.kept
wrong = noise.labels != true_labels
print(f"rounds ended: {trainer.mild.stop_reason}")
print(
    f"{int(kept.sum())} of {len(dataset)} samples kept, {wrong[kept].float().mean():.0%} of them wrong"
)
