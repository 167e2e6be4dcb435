"""The sizes of the default recipe, by the data: epochs, batch, learning rate, width and how many scouts.

Counted in optimizer steps: what a network learns in thirty epochs of 50,000 images takes many more of 1,500. How
each number was chosen, on which data, and what it does on others is in benchmarks/selection.md; of the rate of
wide vectors, in docs/find_evidence.md.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from mild_ext.training.recipe import Recipe

#: Optimizer steps of the first training, at least; epochs, at least and at most.
LEAST_STEPS = 2350
LEAST_EPOCHS, MOST_EPOCHS = 30, 120
#: Optimizer steps of all scouts together, at most. That is for images of `SIDE` pixels a side after the first
#: convolution; larger ones take longer a step, and get fewer steps. Scouts, at most.
SCOUTING_STEPS = 7500
SIDE = 16
MOST_SCOUTS = 5
#: Samples from which on a step takes the larger batch, and images keep all their pixels.
MANY = 20_000
SMALL_BATCH, LARGE_BATCH = 32, 128
#: Learning rate of vectors, and that of vectors of so many numbers and more: the words of a text, the features of a
#: pretrained network. At the rate of narrow ones, a step or two lets the network know such a sample's label by heart,
#: the planted ones included, and nothing can be told from how labels are learned.
RATE, WIDE_RATE, WIDE = 0.02, 0.003, 256


#: The settings that follow from the data.
SIZED = (
    *("scouts", "first_epochs", "round_epochs", "final_epochs"),
    *("batch_size", "lr", "weight_decay", "stride"),
)


def sized(
    recipe: Recipe,
    *,
    kind: str,
    num_samples: int,
    input_shape: tuple[int, ...],
    keep: Collection[str] = (),
) -> Recipe:
    """The recipe with the sizes that suit the data.

    Args:
        recipe: what to change.
        kind: ``"image"`` or ``"vector"`` (rows of a table, texts as TF-IDF, features of a frozen network).
        num_samples: that are trained on.
        input_shape: of one sample, ``[C, H, W]`` for images.
        keep: settings that somebody chose; these stay, and others follow from them.

    Returns:
        The recipe; settings that were not in ``keep`` may have changed.
    """
    many = num_samples >= MANY
    values: dict[str, Any] = {"batch_size": LARGE_BATCH if many else SMALL_BATCH}
    if kind == "image":
        values |= {"lr": 0.01 if many else 0.02, "weight_decay": 5e-3 if many else 1e-3}
        if not many and min(input_shape[1:]) >= 24:
            values["stride"] = 2
    else:
        wide = math.prod(input_shape) >= WIDE
        values |= {"lr": WIDE_RATE if wide else RATE, "weight_decay": 5e-3}
    values = {name: value for name, value in values.items() if name not in keep}
    recipe = replace(recipe, **values)
    per_epoch = math.ceil(num_samples / (recipe.batch_size * recipe.accumulate))
    epochs = max(LEAST_EPOCHS, min(MOST_EPOCHS, math.ceil(LEAST_STEPS / per_epoch)))
    if "first_epochs" in keep:
        epochs = recipe.first_epochs
    cost = 1.0
    if kind == "image":
        cost = max(1.0, (min(input_shape[1:]) / (recipe.stride or 1) / SIDE) ** 2)
    values = {
        "first_epochs": epochs,
        "round_epochs": epochs if recipe.round_start == "scratch" else math.ceil(epochs / 3),
        "final_epochs": 2 * epochs,
        "scouts": max(1, min(MOST_SCOUTS, int(SCOUTING_STEPS / (per_epoch * epochs * cost)))),
    }
    return replace(recipe, **{name: value for name, value in values.items() if name not in keep})


def describe_sizes(recipe: Recipe) -> str:
    """The sizes in a line, for people."""
    scouts = f"up to {recipe.scouts} networks" if recipe.scouts > 1 else "one network"
    return (
        f"{scouts} of {recipe.first_epochs} epochs to find wrong labels, batches of {recipe.batch_size}, "
        f"learning rate {recipe.lr:g}, weight decay {recipe.weight_decay:g}"
    )
