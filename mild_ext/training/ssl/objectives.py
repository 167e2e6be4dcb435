"""FixMatch and MixMatch as objectives of `mild_ext.training.fit`.

The loop goes over the unlabeled samples; an objective draws a batch of labeled ones for each batch
of those. Labels of unlabeled samples are never looked at, true labels only for the report.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mild_ext.data.augment import Augment
from mild_ext.data.batches import Batches


class PseudoLabels:
    """Watches the pseudo-labels given to samples without a label, over one epoch.

    Args:
        unlabeled: bool ``[N]``, the samples to watch.
        num_classes: K.
        true_labels: int64 ``[N]`` or None; for the accuracy in the report only.
    """

    def __init__(self, unlabeled: Tensor, num_classes: int, true_labels: Tensor | None) -> None:
        self.unlabeled = unlabeled
        self.true_labels = true_labels
        self.counts = torch.zeros(num_classes, dtype=torch.int64)
        self.tally = torch.zeros(3, dtype=torch.int64)  # asked, given, given correctly

    def reset(self) -> None:
        self.counts.zero_()
        self.tally.zero_()

    def add(self, index: Tensor, pseudo: Tensor, used: Tensor) -> None:
        """Count a batch.

        Args:
            index: int64 ``[B]`` ids.
            pseudo: int64 ``[B]`` pseudo-labels.
            used: bool ``[B]``, whether the pseudo-label is used.
        """
        if self.counts.device != pseudo.device:
            for name in ("unlabeled", "true_labels", "counts", "tally"):
                value = getattr(self, name)
                setattr(self, name, None if value is None else value.to(pseudo.device))
        index = index.to(pseudo.device)
        asked = self.unlabeled[index]
        used = used & asked
        self.counts += F.one_hot(pseudo, len(self.counts)).mul(used[:, None]).sum(0)
        right = used
        if self.true_labels is not None:
            right = used & (pseudo == self.true_labels[index])
        self.tally += torch.stack([asked.sum(), used.sum(), right.sum()])

    def report(self) -> dict[str, Any]:
        """Of the samples without a label: the share that got a pseudo-label, its classes, accuracy.

        ``pseudo_rate``, ``pseudo_accuracy`` in [0, 1] and ``pseudo_classes`` (shares ``[K]``); None
        where undefined.
        """
        asked, used, right = self.tally.tolist()
        known = used and self.true_labels is not None
        return {
            "pseudo_rate": used / asked if asked else None,
            "pseudo_accuracy": right / used if known else None,
            "pseudo_classes": [count / used for count in self.counts.tolist()] if used else None,
        }


class DistributionAlignment:
    """Guard against pseudo-labels that run off to a few classes (ReMixMatch, Berthelot et al., 2020).

    Predictions are multiplied by ``target / running mean of the predictions`` and normalized, which
    holds their mean close to the target.

    Args:
        target: float32 ``[K]``, the class shares to hold; sums to 1.
        decay: of the running mean, per batch.
    """

    def __init__(self, target: Tensor, decay: float = 0.99) -> None:
        self.target = target
        self.decay = decay
        self.mean = target.clone()

    def __call__(self, probability: Tensor) -> Tensor:
        if self.mean.device != probability.device:
            self.mean = self.mean.to(probability.device)
            self.target = self.target.to(probability.device)
        self.mean = self.decay * self.mean + (1 - self.decay) * probability.mean(0)
        aligned = probability * (self.target + 1e-6) / (self.mean + 1e-6)
        return aligned / aligned.sum(1, keepdim=True)


class SemiSupervised:
    """What FixMatch and MixMatch share: the stream of labeled batches, the schedule, the report.

    Args:
        labeled: batches of the labeled samples.
        weak, strong: augmentations.
        pseudo: watches the pseudo-labels.
        weight: final weight of the loss on unlabeled samples.
        ramp: share of the training over which that weight rises linearly from 0; in [0, 1].
        align: guard of the pseudo-labels' distribution, or None.

    Attributes:
        key: the method's name in recipes and files.
        title: its name for people.
        default_weight: the weight that its paper gives the loss on unlabeled samples.
    """

    key = ""
    title = ""
    default_weight = 1.0

    def __init__(
        self,
        labeled: Batches,
        weak: Augment,
        strong: Augment,
        pseudo: PseudoLabels,
        *,
        weight: float,
        ramp: float,
        align: DistributionAlignment | None,
    ) -> None:
        self.labeled = labeled
        self.weak, self.strong = weak, strong
        self.pseudo = pseudo
        self.weight, self.ramp = weight, ramp
        self.align = align

    def start_epoch(self, epoch: int, epochs: int, generator: torch.Generator) -> None:
        self.generator = generator
        self.pseudo.reset()
        self.stream = self._endless()
        risen = (epoch + 1) / (self.ramp * epochs) if self.ramp > 0 else 1.0
        self.current_weight = self.weight * min(1.0, risen)

    def end_epoch(self) -> None:
        pass

    def _endless(self) -> Iterator[tuple[Tensor, Any, Tensor]]:
        while True:
            seed = int(torch.randint(0, 2**62, (), generator=self.generator))
            yield from self.labeled.epoch(seed)

    def __call__(
        self, model: nn.Module, index: Tensor, inputs: Any, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {} if self.align is None else {"align": self.align.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.align is not None:
            self.align.mean = state["align"]


class FixMatch(SemiSupervised):
    """Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning", NeurIPS 2020, equations 3-4.

    A prediction on the weakly augmented sample that is more certain than ``confidence`` becomes the
    label of its strongly augmented copy.
    """

    key = "fixmatch"
    title = "FixMatch"
    default_weight = 1.0

    def __init__(self, *args: Any, confidence: float = 0.95, **options: Any) -> None:
        super().__init__(*args, **options)
        self.confidence = confidence

    def __call__(
        self, model: nn.Module, index: Tensor, inputs: Any, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        _, x, y = next(self.stream)
        x = self.weak(x, self.generator)
        weak, strong = self.weak(inputs, self.generator), self.strong(inputs, self.generator)
        # One forward pass, so that batch norm sees labeled and unlabeled samples together.
        logits = model(torch.cat([x, weak, strong])).float()
        of_x, of_weak, of_strong = logits.split([len(x), len(weak), len(strong)])

        probability = of_weak.detach().softmax(1)
        if self.align is not None:
            probability = self.align(probability)
        certainty, pseudo = probability.max(1)
        used = certainty >= self.confidence
        self.pseudo.add(index, pseudo, used)

        supervised = F.cross_entropy(of_x, y)
        unsupervised = (F.cross_entropy(of_strong, pseudo, reduction="none") * used).mean()
        return supervised + self.current_weight * unsupervised, of_weak


class MixMatch(SemiSupervised):
    """Berthelot et al., "MixMatch: A Holistic Approach to Semi-Supervised Learning", NeurIPS 2019.

    Labels of unlabeled samples are guessed from two weak augmentations, sharpened, and everything
    is mixed with everything (algorithm 1).
    """

    key = "mixmatch"
    title = "MixMatch"
    default_weight = 75.0

    def __init__(
        self, *args: Any, temperature: float = 0.5, alpha: float = 0.75, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.temperature = temperature
        self.alpha = alpha

    def __call__(
        self, model: nn.Module, index: Tensor, inputs: Any, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        _, x, y = next(self.stream)
        x = self.weak(x, self.generator)
        first, second = self.weak(inputs, self.generator), self.weak(inputs, self.generator)
        with torch.no_grad(), frozen_running_statistics(model):
            both = model(torch.cat([first, second])).float()
            guess = both.softmax(1).reshape(2, len(first), -1).mean(0)
            if self.align is not None:
                guess = self.align(guess)
            guess = guess ** (1 / self.temperature)
            guess = guess / guess.sum(1, keepdim=True)
        pseudo = guess.argmax(1)
        self.pseudo.add(index, pseudo, torch.ones_like(pseudo, dtype=torch.bool))

        samples = torch.cat([x, first, second]).to(torch.float32)
        targets = torch.cat([F.one_hot(y, guess.shape[1]).to(guess), guess, guess])
        order = torch.randperm(len(samples), generator=self.generator).to(samples.device)
        share = self._shares(len(samples)).to(samples.device)
        mixed = _mix(samples, samples[order], share)
        targets = _mix(targets, targets[order], share)
        logits = model(mixed).float()

        log_probability = logits.log_softmax(1)
        supervised = -(targets * log_probability)[: len(x)].sum(1).mean()
        unsupervised = (log_probability.exp() - targets)[len(x) :].square().mean()
        return supervised + self.current_weight * unsupervised, both[: len(first)]

    def _shares(self, count: int) -> Tensor:
        """Share of the sample itself in each mix, in [0.5, 1]."""
        seed = int(torch.randint(0, 2**62, (), generator=self.generator))
        drawn = np.random.default_rng(seed).beta(self.alpha, self.alpha, count)
        return torch.from_numpy(np.maximum(drawn, 1 - drawn).astype(np.float32))


#: The methods by key; everything that names one to people or in files looks here.
METHODS: dict[str, type[SemiSupervised]] = {method.key: method for method in (FixMatch, MixMatch)}


def _mix(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    share = share.reshape(-1, *[1] * (first.ndim - 1))
    return share * first + (1 - share) * second


@contextlib.contextmanager
def frozen_running_statistics(model: nn.Module) -> Iterator[None]:
    """Normalize by batch statistics as in training, but leave the running averages alone."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    for module in norms:
        module.momentum = 0.0
    try:
        yield
    finally:
        for module, momentum in zip(norms, momenta, strict=True):
            module.momentum = momentum
