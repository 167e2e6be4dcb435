"""The training methods by name, and what MILD is compared with: small-loss selection and ELR.

These two are objectives for `mild_ext.training.fit`, after their papers and at their standard
settings. `METHODS` lists all that a run or a comparison can train.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mild_ext.training.loop import Objective

_Array = np.ndarray[Any, np.dtype[np.float64]]


class SmallLoss:
    """Cross-entropy on the samples whose loss is small.

    After a warm-up on all samples, each epoch starts with a Gaussian mixture of two components
    fitted to the losses of the epoch before, and trains on the samples that belong to the component
    of smaller mean with probability above ``threshold``. This is the selection step of Arazo et al.
    (ICML 2019) and of DivideMix (Li et al., ICLR 2020), with the losses read off the training
    forward pass. A selection that would be empty is replaced by all samples.

    Args:
        num_samples: N, the size of the data set that ids refer to.
        warmup: share of the epochs spent on all samples first.
        threshold: probability in [0, 1).
    """

    def __init__(self, num_samples: int, warmup: float = 0.1, threshold: float = 0.5) -> None:
        self.warmup = warmup
        self.threshold = threshold
        self.losses = torch.full((num_samples,), float("nan"))
        self.kept = torch.ones(num_samples, dtype=torch.bool)

    def start_epoch(self, epoch: int, epochs: int, generator: torch.Generator) -> None:
        if epoch < max(1, round(self.warmup * epochs)):
            return
        losses = self.losses.cpu().numpy().astype(np.float64)
        seen = np.isfinite(losses)
        kept = np.ones(len(losses), dtype=bool)
        if seen.any():
            kept[seen] = small_component(losses[seen]) > self.threshold
        if not kept[seen].any():
            kept[:] = True
        self.kept = torch.from_numpy(kept).to(self.losses.device)

    def __call__(
        self, model: nn.Module, index: Tensor, inputs: Any, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = model(inputs)
        losses = F.cross_entropy(logits.float(), labels, reduction="none")
        if self.losses.device != losses.device:
            self.losses, self.kept = self.losses.to(losses.device), self.kept.to(losses.device)
        index = index.to(losses.device)
        self.losses[index] = losses.detach()
        weights = self.kept[index].to(losses)
        return (losses * weights).sum() / weights.sum().clamp(min=1), logits

    def end_epoch(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses, "kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses, self.kept = state["losses"], state["kept"]


def small_component(values: _Array, iterations: int = 100) -> _Array:
    """Probability of belonging to the component of smaller mean, in a Gaussian mixture of two.

    Values are scaled to [0, 1] first, and variances are at least 5e-4 on that scale, as DivideMix
    does it. Fitted by expectation maximisation from the two ends.

    Args:
        values: float64 ``[n]``, finite.

    Returns:
        float64 ``[n]`` in [0, 1]; all ones where the values do not differ.
    """
    low, high = values.min(), values.max()
    if not high > low:
        return np.ones_like(values)
    x = (values - low) / (high - low)
    mean = np.array([0.0, 1.0])
    variance = np.array([x.var(), x.var()]) + 5e-4
    weight = np.array([0.5, 0.5])
    for _ in range(iterations):
        log_joint = (
            np.log(weight) - 0.5 * np.log(variance) - (x[:, None] - mean) ** 2 / (2 * variance)
        )
        log_joint -= log_joint.max(1, keepdims=True)
        joint = np.exp(log_joint)
        posterior = joint / joint.sum(1, keepdims=True)
        mass = posterior.sum(0) + 1e-12
        moved = (posterior * x[:, None]).sum(0) / mass
        variance = (posterior * (x[:, None] - moved) ** 2).sum(0) / mass + 5e-4
        weight = mass / mass.sum()
        converged = np.abs(moved - mean).max() < 1e-6
        mean = moved
        if converged:
            break
    chosen: _Array = posterior[:, int(mean.argmin())]
    return chosen


class EarlyLearningRegularization:
    """Cross-entropy plus a term that holds predictions to their own running average.

    Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy Labels", NeurIPS
    2020: ``loss = CE + strength * mean(log(1 - <p, t>))``, where ``t`` is each sample's running
    average of its own normalized predictions.

    Args:
        num_samples: N, the size of the data set that ids refer to.
        strength: weight of the regularizer (3 for CIFAR-10, 7 for CIFAR-100 in the paper).
        memory: decay of the running average (0.7 and 0.9).
    """

    def __init__(self, num_samples: int, strength: float = 3.0, memory: float = 0.7) -> None:
        self.num_samples = num_samples
        self.strength = strength
        self.memory = memory
        self.targets: Tensor | None = None

    def start_epoch(self, epoch: int, epochs: int, generator: torch.Generator) -> None:
        pass

    def __call__(
        self, model: nn.Module, index: Tensor, inputs: Any, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = model(inputs)
        probability = logits.float().softmax(1).clamp(1e-4, 1 - 1e-4)
        if self.targets is None:
            self.targets = torch.zeros(
                self.num_samples, probability.shape[1], device=probability.device
            )
        self.targets = self.targets.to(probability.device)
        index = index.to(probability.device)
        now = probability.detach()
        target = self.memory * self.targets[index] + (1 - self.memory) * (
            now / now.sum(1, keepdim=True)
        )
        self.targets[index] = target
        agreement = (probability * target).sum(1).clamp(max=1 - 1e-4)
        loss = F.cross_entropy(logits.float(), labels)
        return loss + self.strength * (1 - agreement).log().mean(), logits

    def end_epoch(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {"targets": self.targets}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.targets = state["targets"]


@dataclass(frozen=True)
class Method:
    """A way to train a model on labels of which some are wrong.

    Attributes:
        key: its name in files and on the command line.
        title: its name in a comparison.
        run_title: its name among the models of one run; ``{ssl}`` stands for the title of the
            semi-supervised method.
        stage: name of its training in a run's history, where it has one of its own there.
        objective: makes what it minimizes, from the number of samples; None is the recipe's
            cross-entropy.
        needs_true_labels: learns from the right labels only, so these have to be known.
        finds: the recipe's ``method`` that finds the wrong labels on the way, or first; None for others.
        semi_supervised: goes on with the samples that were dropped, without their labels.
    """

    key: str
    title: str
    run_title: str = ""
    stage: str = ""
    objective: Callable[[int], Objective] | None = None
    needs_true_labels: bool = False
    finds: str | None = None
    semi_supervised: bool = False


#: Every method that a run or a comparison trains, by key, in the order of a comparison's table.
METHODS = {
    method.key: method
    for method in (
        Method(
            "plain",
            "plain cross-entropy",
            run_title="plain cross-entropy (all samples)",
            stage="plain cross-entropy",
        ),
        Method("small-loss", "small loss (Gaussian mixture)", objective=SmallLoss),
        Method("elr", "ELR", objective=EarlyLearningRegularization),
        Method("mild", "MILD", run_title="MILD (posterior targets)", stage="MILD", finds="mild"),
        Method(
            "mild-rounds",
            "MILD, rounds and retraining",
            run_title="MILD (kept samples)",
            finds="mild-rounds",
        ),
        Method(
            "mild-ssl",
            "MILD, rounds + semi-supervised",
            run_title="MILD + {ssl} (dropped ones unlabeled)",
            finds="mild-rounds",
            semi_supervised=True,
        ),
        Method(
            "clean",
            "correct labels only (bound)",
            run_title="correct labels only (bound)",
            stage="correct labels only",
            needs_true_labels=True,
        ),
    )
}
