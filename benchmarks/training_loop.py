"""Time per epoch of `mild_ext.training.fit` against a bare PyTorch loop doing the same work.

Both train the same model on the same arrays with the same optimizer, batch size and order of samples; ours also
records the learning status, sums the loss and writes the epoch's record. Their final weights are compared first, bit
for bit, so both are known to do the same work. Then they take turns, so that a busy machine disturbs both alike.

    python benchmarks/training_loop.py
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch.nn import functional as F

from mild_ext import ArrayDataset, LearningStatus, Recipe
from mild_ext.training import build_model, fit
from mild_ext.training.loop import derive_seed

CASES = {
    "MLP 784-256-256-10, 4,000 vectors": ("mlp", (784,), 4000),
    "small CNN, 1,000 images 3 x 32 x 32": ("cnn", (3, 32, 32), 1000),
}
RECIPE = Recipe(
    batch_size=128, lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="constant", augment="none"
)


def bare(model, inputs, labels, epochs):
    """What one writes by hand: shuffle, gather, forward, loss, backward, step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RECIPE.lr, momentum=0.9, weight_decay=5e-4)
    model.train()
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(derive_seed(0, "bench", epoch))
        for index in torch.randperm(len(labels), generator=generator).split(RECIPE.batch_size):
            loss = F.cross_entropy(model(inputs[index]), labels[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()


def block(own, spec, inputs, labels, epochs):
    """Seconds per epoch of one training from fresh weights, and the weights it ends with."""
    torch.manual_seed(0)
    model = build_model(spec, tuple(inputs.shape[1:]), 10)
    data, status = ArrayDataset(inputs, labels), LearningStatus(len(labels), epochs)
    started = time.perf_counter()
    if own:
        options = {"epochs": epochs, "stage": "bench", "status": status}
        fit(model, data, labels, RECIPE, **options)
    else:
        bare(model, inputs, labels, epochs)
    seconds = (time.perf_counter() - started) / epochs
    return seconds, torch.cat([p.detach().flatten() for p in model.parameters()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--epochs", type=int, default=5, help="epochs per turn")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{'case':40} {'bare':>10} {'fit':>10} {'ratio of medians':>17} {'of minima':>10}")
    for name, (spec, shape, count) in CASES.items():
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn((count, *shape), generator=generator)
        labels = torch.randint(0, 10, (count,), generator=generator)
        case = (spec, inputs, labels, options.epochs)
        if not torch.equal(block(True, *case)[1], block(False, *case)[1]):
            raise SystemExit("the two loops end with different weights")
        times = {False: [], True: []}
        for repeat in range(options.repeats):
            for own in (False, True) if repeat % 2 else (True, False):
                times[own].append(block(own, *case)[0])
        median = {own: 1e3 * statistics.median(values) for own, values in times.items()}
        least = {own: min(values) for own, values in times.items()}
        print(
            f"{name:40} {median[False]:7.1f} ms {median[True]:7.1f} ms "
            f"{median[True] / median[False]:17.3f} {least[True] / least[False]:10.3f}"
        )


if __name__ == "__main__":
    main()
