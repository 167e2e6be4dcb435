"""DistributedDataParallel: every process records its part, and all keep the same samples.

pip install 'mild_ext[digits]' && torchrun --nproc_per_node=2 ddp.py
"""

import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from mild_ext import IndexedDataset, corrupt_labels
from mild_ext.data import load_data
from mild_ext.integrations import RoundTracker

dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
device = torch.device("cpu")
if torch.cuda.is_available():
    device = torch.device("cuda", dist.get_rank() % torch.cuda.device_count())
    torch.cuda.set_device(device)

digits = load_data("digits")
noise = corrupt_labels(digits.labels, "symmetric:0.4", 10, seed=0)
dataset = IndexedDataset(digits.train, noise.labels)

tracker = RoundTracker(len(dataset), rounds=[20], device=device)
loader = DataLoader(dataset, batch_size=32, sampler=tracker.sampler())  # this process' part
torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
model = DistributedDataParallel(model.to(device))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

for _ in range(25):
    for index, inputs, labels in loader:
        inputs, labels = inputs.to(device), labels.to(device)
        logits = model(inputs)
        loss = nn.functional.cross_entropy(logits, labels)
        tracker.update(index, logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tracker.end_epoch()  # merges what the processes have seen

wrong = noise.labels != digits.labels
share = wrong[tracker.kept].float().mean()
# One string, written at once, so that the lines of two processes do not mix.
line = f"rank {dist.get_rank()}: {int(tracker.kept.sum())} samples kept, {share:.0%} of them wrong"
print(line, flush=True)
dist.barrier()
# One of gloo's threads still clears up after this, for which it needs the GIL; at the interpreter's end it would abort.
time.sleep(0.1)
dist.destroy_process_group()
