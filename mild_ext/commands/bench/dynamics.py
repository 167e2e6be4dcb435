"""``mild-ext bench``: what the levels of recording cost, against torch doing the same and the ``aum`` package."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mild_ext.commands.bench.timing import Row, Settings, medians, rows
from mild_ext.recording.status import LearningStatus

SIZES = ((128, 10), (256, 100), (1024, 1000))
SAMPLES = 50_000
#: What the torch version keeps of a visit, a buffer each.
KEPT = ("class", "margin", "loss", "probability", "probability squared")


def bench_dynamics(settings: Settings) -> list[Row]:
    """``update`` with ``record="all"`` and ``"classes"``, against plain torch and the aum package."""
    results = []
    for batch, classes in SIZES:
        rng = torch.Generator().manual_seed(0)
        index = torch.randperm(SAMPLES, generator=rng)[:batch]
        logits = torch.randn((batch, classes), generator=rng)
        labels = torch.randint(0, classes, (batch,), generator=rng)
        labels[::2] = logits.argmax(1)[::2]  # half of them memorized, as in the middle of training
        index, logits, labels = (x.to(settings.device) for x in (index, logits, labels))
        measured = medians(recorders(index, logits, labels), settings)
        results += rows("training dynamics", f"batch {batch} x {classes} classes", measured)
    return results


def in_torch(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """The values of `KEPT`, float32 ``[B]`` each: argmax, margin, log-softmax."""
    own = logits.gather(1, labels[:, None])
    margin = own[:, 0] - logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    loss = -F.log_softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]
    probability = torch.exp(-loss)
    return logits.argmax(1).float(), margin, loss, probability, probability.square()


def recorders(index: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Callable[[], object]]:
    """The alternatives on one batch, after a check that they find the same."""
    device, classes = logits.device, logits.shape[1]
    kinds = {"num_classes": classes, "device": device}
    everything = LearningStatus(SAMPLES, 64, record="all", **kinds)  # type: ignore[arg-type]
    predictions = LearningStatus(SAMPLES, 64, record="classes", **kinds)  # type: ignore[arg-type]
    buffers = torch.zeros((len(KEPT), SAMPLES), device=device)

    def ours() -> None:
        everything.update(index, logits, labels)

    def theirs() -> None:
        for buffer, values in zip(buffers, in_torch(logits, labels), strict=True):
            buffer[index] = values

    ours()
    theirs()
    dynamics = everything.dynamics()
    same = torch.equal(everything.predictions(0)[index].float(), buffers[0, index])
    for values, buffer in zip(
        (dynamics.margin, dynamics.loss, dynamics.confidence), buffers[1:], strict=False
    ):
        same &= torch.allclose(values[index], buffer[index], rtol=1e-3, atol=1e-3)
    if not same:
        raise RuntimeError("the recorders disagree; nothing was measured")
    found: dict[str, Callable[[], object]] = {
        'update, record="all"': ours,
        'update, record="classes"': lambda: predictions.update(index, logits, labels),
        "torch: the same, five index writes": theirs,
    }
    try:
        from aum import AUMCalculator
    except ImportError:
        return found
    calculator = AUMCalculator(save_dir=".", compressed=True)
    ids = index.tolist()
    found["aum package (margin alone)"] = lambda: calculator.update(logits, labels, ids)
    return found


def bench_advance(settings: Settings, samples: int) -> list[Row]:
    """Ending an epoch, every sample visited, at 10 and 1000 classes, against a plain read of as many bytes."""
    results = []
    for classes in (10, 1000):
        steps: dict[str, Callable[[], object]] = {}
        for record in ("all", "classes"):
            status = LearningStatus(
                samples, 64, num_classes=classes, record=record, device=settings.device
            )
            visits = status.open_visits
            assert visits is not None
            status.state_dict()["planes"].add_(0)  # every page is there, as after the first epochs
            logits = torch.randn((1024, classes), device=settings.device)
            labels = torch.randint(0, classes, (1024,), device=settings.device)
            for index in torch.arange(samples, device=settings.device).split(1024):
                status.update(index, logits[: len(index)], labels[: len(index)])
            filled = visits.clone()

            def end(
                status: LearningStatus = status, visits: Tensor = visits, filled: Tensor = filled
            ) -> None:
                if status.epoch == status.num_epochs:
                    status.reset()
                visits.copy_(filled)
                status.advance()

            steps[f'refill and advance(), "{record}"'] = end
            if record == "all":
                steps["refill alone"] = lambda visits=visits, filled=filled: visits.copy_(filled)  # type: ignore[misc]
        measured = medians(steps, settings)
        results += rows("ending an epoch", f"{samples:,} samples, {classes} classes", measured)
    return results


def memory_line() -> str:
    """Bytes a sample of each level, 64 epochs."""
    parts = []
    for classes in (10, 100, 1000):
        sizes = [
            LearningStatus(3200, 64, num_classes=classes, record=record).nbytes // 3200
            for record in ("status", "classes", "all")
        ]
        parts.append(f"{classes} classes {' / '.join(map(str, sizes))}")
    return '\nmemory, bytes a sample, 64 epochs, "status" / "classes" / "all"\n  ' + " | ".join(
        parts
    )
