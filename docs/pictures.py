"""The pictures of README and manual, from one short training; run it again whenever they should change.

    cd docs && python pictures.py      writes images/found.png and images/curves.png

The images are scikit-learn's handwritten digits (Alpaydin and Kaynak, UCI, CC BY 4.0). One label in ten is
given a random class, and one in twenty is planted, as `mild-ext find` does it.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import nn

from mild_ext import (
    LearningStatus,
    PlantedLabels,
    Selection,
    corrupt_labels,
    plant_labels,
    select_clean,
)
from mild_ext.data import load_data

matplotlib.use("agg")
import matplotlib.pyplot as plt

EPOCHS = 30
RIGHT, WRONG, PLANTED = "#1b7f4d", "#c0392b", "#8e6bbf"


def record(images: torch.Tensor, planted: PlantedLabels) -> LearningStatus:
    """Train a small network on the planted labels, and record it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    status = LearningStatus(len(images), EPOCHS, num_classes=10)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(images)).split(32):
            logits = model(images[index])
            status.update(index, logits.detach(), planted.labels[index])
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, planted.labels[index]).backward()
            optimizer.step()
        status.advance()
    return status


def draw_found(
    images: torch.Tensor, given: torch.Tensor, selection: Selection, path: Path
) -> np.ndarray:
    """The twelve most suspicious images with their labels; returns their positions."""
    worst = selection.suspicion.argsort(descending=True)[:12].numpy()
    figure, axes = plt.subplots(2, 6, figsize=(7.2, 3.1), dpi=110)
    for axis, i in zip(axes.flat, worst, strict=True):
        axis.imshow(images[i].reshape(8, 8), cmap="gray_r", interpolation="bicubic")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_title(f"labelled {given[i]}", fontsize=9, color=WRONG)
        axis.set_xlabel(f"more likely {selection.suggested_label[i]}", fontsize=9, color=RIGHT)
    figure.tight_layout()
    figure.savefig(path, facecolor="white")
    plt.close(figure)
    return worst


def draw_curves(
    status: LearningStatus, wrong: torch.Tensor, planted: PlantedLabels, path: Path
) -> dict[str, list[float]]:
    """How many labels of each kind the network predicts, epoch by epoch; returns these shares."""
    is_planted = torch.zeros(len(wrong), dtype=torch.bool)
    is_planted[planted.index] = True
    kinds = {
        "right labels": (RIGHT, "-", ~wrong & ~is_planted),
        "wrong labels (unknown to you)": (WRONG, "-", wrong & ~is_planted),
        "planted labels (known)": (PLANTED, "--", is_planted),
    }
    memorized = torch.stack(
        [status.compute(slice(t, t + 1)).memorized.float() for t in range(EPOCHS)]
    )
    shares = {}
    figure, axis = plt.subplots(figsize=(7.2, 3.1), dpi=110)
    for name, (color, line, members) in kinds.items():
        shares[name] = memorized[:, members].mean(1).tolist()
        axis.plot(
            range(1, EPOCHS + 1),
            [100 * x for x in shares[name]],
            line,
            color=color,
            lw=2,
            label=name,
        )
    axis.set(xlabel="epoch", ylabel="label predicted (%)", ylim=(0, 101), xlim=(1, EPOCHS))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="center right")
    figure.tight_layout()
    figure.savefig(path, facecolor="white")
    plt.close(figure)
    return shares


def main(folder: Path) -> None:
    """Write both pictures into ``folder``, and say what is on them."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_data("digits")
    images = torch.stack([digits.train[i][0] for i in range(len(digits))])
    noise = corrupt_labels(digits.labels, "symmetric:0.1", 10, seed=0)
    wrong = noise.labels != digits.labels
    planted = plant_labels(noise.labels)
    status = record(images, planted)
    selection = select_clean(status, labels=noise.labels, planted=planted)
    shown = draw_found(images, noise.labels, selection, folder / "found.png")
    shares = draw_curves(status, wrong, planted, folder / "curves.png")
    print(f"wrong labels among the {len(shown)} shown: {int(wrong[torch.as_tensor(shown)].sum())}")
    print(
        f"noise rate: {float(wrong.float().mean()):.3f} true, {selection.noise_rate.rate:.3f} measured"
    )
    for name, values in shares.items():
        print(f"{name}: {values[4]:.2f} predicted after 5 epochs, {values[-1]:.2f} after {EPOCHS}")


if __name__ == "__main__":
    main(Path("images"))
