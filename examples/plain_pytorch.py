"""A plain PyTorch loop that finds wrong labels and goes on without them.

pip install 'mild_ext[digits]' && python plain_pytorch.py
"""

import torch
from torch import nn
from torch.utils.data import DataLoader

from mild_ext import IndexedDataset, corrupt_labels
from mild_ext.data import load_data
from mild_ext.integrations import RoundTracker
from mild_ext.selection.table import write_table

torch.manual_seed(0)
digits = load_data("digits")
noise = corrupt_labels(digits.labels, "symmetric:0.4", 10, seed=0)  # your labels have their own
dataset = IndexedDataset(digits.train, noise.labels)  # items are (index, input, label)

tracker = RoundTracker(len(dataset), rounds=[20, 10])  # epochs of each round
loader = DataLoader(dataset, batch_size=64, sampler=tracker.sampler())
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

for epoch in range(40):  # 20 and 10 epochs of rounds, then 10 on the samples kept
    for index, inputs, labels in loader:
        logits = model(inputs)
        loss = nn.functional.cross_entropy(logits, labels)
        tracker.update(index, logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    outcome = tracker.end_epoch()
    if outcome is not None:  # a round ended
        print(f"epoch {epoch}: {int(outcome.kept.sum())} of {len(dataset)} samples kept")

print(f"rounds ended: {tracker.stop_reason}")
wrong = noise.labels != digits.labels
print(
    f"wrong labels: {wrong.float().mean():.0%} of all, {wrong[tracker.kept].float().mean():.0%} of kept"
)
write_table(tracker.table(), "label_issues.csv")
