"""CPU time per epoch of `mild_ext.training.fit` against a bare PyTorch loop doing the same work.

Both train the same model on the same arrays with the same optimizer, batch size and order of samples; ours also
records the learning status, sums the loss and writes the epoch's record. Their final weights are compared first, bit
for bit, so both are known to do the same work. ``targets`` is MILD's training after it has begun to learn posterior
targets, beside a bare loop that learns such targets and records nothing. They take turns, so that a busy machine
disturbs all alike.

    python benchmarks/training_loop.py
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch.nn import functional as F

from mild_ext import ArrayDataset, LearningStatus, PosteriorTargets, Recipe, plant_labels
from mild_ext.training import build_model, fit
from mild_ext.training.context import RunContext
from mild_ext.training.loop import derive_seed
from mild_ext.training.posterior_targets import LEAST_EPOCHS
from mild_ext.training.recipe import TRAINING_PLANT
from mild_ext.training.run_posterior import PosteriorLoss

CASES = {
    "MLP 784-256-256-10, 4,000 vectors": ("mlp", (784,), 4000),
    "small CNN, 1,000 images 3 x 32 x 32": ("cnn", (3, 32, 32), 1000),
}
RECIPE = Recipe(
    batch_size=128, lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="constant", augment="none"
)


def bare(model, inputs, labels, epochs, targets=None):
    """What one writes by hand: shuffle, gather, forward, loss, backward, step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RECIPE.lr, momentum=0.9, weight_decay=5e-4)
    model.train()
    plain = targets is None
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(derive_seed(0, "bench", epoch))
        for index in torch.randperm(len(labels), generator=generator).split(RECIPE.batch_size):
            logits = model(inputs[index])
            loss = F.cross_entropy(logits, labels[index]) if plain else targets.loss(index, logits)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()


def learnable(shape, count):
    """Inputs of ten classes, and labels of which a third is wrong."""
    generator = torch.Generator().manual_seed(0)
    true = torch.randint(10, (count,), generator=generator)
    inputs = torch.randn((10, *shape), generator=generator)[true]
    inputs = inputs + torch.randn((count, *shape), generator=generator)
    wrong = torch.rand(count, generator=generator) < 1 / 3
    return inputs, torch.where(wrong, torch.randint(10, (count,), generator=generator), true)


def block(way, spec, inputs, labels, epochs):
    """CPU seconds of an epoch in one training from fresh weights, and the weights it ends with."""
    torch.manual_seed(0)
    model, count = build_model(spec, tuple(inputs.shape[1:]), 10), len(labels)
    data, options = ArrayDataset(inputs, labels), {"epochs": epochs, "stage": "bench"}
    started = time.process_time()
    if way == "bare":
        bare(model, inputs, labels, epochs)
    elif way == "fit":
        fit(model, data, labels, RECIPE, status=LearningStatus(count, epochs), **options)
    else:
        before, after = LEAST_EPOCHS, epochs if way == "targets" else 0
        planted = plant_labels(labels, TRAINING_PLANT, num_classes=10)
        status = LearningStatus(count, before + after, num_classes=10)
        targets = PosteriorTargets(status, planted=planted, begin=before)

        def mark(record):
            nonlocal started
            if record["epoch"] == before - 1:
                started = time.process_time()

        fit(
            model, data, planted.labels, RECIPE, RunContext(on_record=mark), status=status,
            objective=PosteriorLoss(targets), **options | {"epochs": before + after},
        )  # fmt: skip
        if not targets.rate or targets.weighs:
            raise SystemExit("the targets have not begun: there is nothing to time")
        if not after:
            bare(model, inputs, labels, epochs, targets)
    seconds = (time.process_time() - started) / epochs
    return seconds, torch.cat([p.detach().flatten() for p in model.parameters()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--epochs", type=int, default=5, help="epochs per turn")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs = (("bare", "fit"), ("bare targets", "targets"))
    ways = [way for pair in pairs for way in pair]
    print(f"{'case':36} {'training':9} {'bare':>10} {'ours':>11} {'ratio':>7}")
    for name, (spec, shape, count) in CASES.items():
        inputs, labels = learnable(shape, count)
        case = (spec, inputs, labels, options.epochs)
        if not torch.equal(block("fit", *case)[1], block("bare", *case)[1]):
            raise SystemExit("the two loops end with different weights")
        times: dict[str, list[float]] = {way: [] for way in ways}
        for repeat in range(options.repeats):
            for way in ways if repeat % 2 else reversed(ways):
                times[way].append(block(way, *case)[0])
        for without, ours in pairs:
            bare_ms, our_ms = (1e3 * statistics.median(times[way]) for way in (without, ours))
            print(
                f"{name:36} {ours:9} {bare_ms:7.1f} ms {our_ms:8.1f} ms {our_ms / bare_ms:7.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
