"""Hugging Face Accelerate, on one device or many.

pip install 'mild_ext[digits,accelerate]' && accelerate launch accelerate_loop.py
"""

import time

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from mild_ext import IndexedDataset, corrupt_labels
from mild_ext.data import load_data
from mild_ext.integrations import RoundTracker

accelerator = Accelerator()
digits = load_data("digits")
noise = corrupt_labels(digits.labels, "symmetric:0.4", 10, seed=0)
dataset = IndexedDataset(digits.train, noise.labels)

tracker = RoundTracker(len(dataset), rounds=[20], device=accelerator.device)
# Accelerate deals out the batches to the processes by itself: here the sampler must not.
loader = DataLoader(dataset, batch_size=32, sampler=tracker.sampler(num_replicas=1))
torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

for _ in range(25):
    for index, inputs, labels in loader:
        logits = model(inputs)
        loss = nn.functional.cross_entropy(logits, labels)
        tracker.update(index, logits, labels)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
    tracker.end_epoch()  # merges what the processes have seen

wrong = noise.labels != digits.labels
share = wrong[tracker.kept].float().mean()
accelerator.print(
    f"{int(tracker.kept.sum())} of {len(dataset)} samples kept, {share:.0%} of them wrong"
)
accelerator.wait_for_everyone()
# On CPUs one of gloo's threads still clears up after this; at the interpreter's end it would abort.
time.sleep(0.1)
accelerator.end_training()
