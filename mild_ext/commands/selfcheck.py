"""``mild-ext selfcheck``: does the native core do on this machine what the reference says?

For users with a device that the project's own tests have not seen. Every operation runs over random batches and
histories and is compared with :mod:`mild_ext.recording.reference` bit for bit; on CUDA also what only a
device can show.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from mild_ext.recording import ops, reference
from mild_ext.recording.status import LearningStatus

LOGIT_TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
WIDTHS = (1, 3, 10, 33, 100, 1000, 4099)


def main(options: argparse.Namespace) -> int:
    """Runs every check on ``options.device`` and prints a verdict; 0 if all passed."""
    device = torch.device(options.device)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError("torch finds no CUDA device; see mild-ext info, or use --device cpu")
        device = torch.device("cuda", device.index or 0)
        print(f"device: {torch.cuda.get_device_name(device)}")
    checks: list[Callable[[torch.device], None]] = [
        check_update,
        check_special_values,
        check_passes,
        check_visits,
        check_epochs,
        check_reading,
    ]
    if device.type == "cuda":
        checks += [check_faults, check_stream, check_graph, check_graph_of_epochs, check_cpu_index]
    failed = 0
    for check in checks:
        start = time.perf_counter()
        try:
            check(device)
            verdict = "ok"
        except Exception as error:  # a verdict for every check, whatever happens in it
            failed += 1
            verdict = f"FAILED: {type(error).__name__}: {error}"
        name = check.__name__.removeprefix("check_").replace("_", " ")
        print(f"  {name:<24}{time.perf_counter() - start:>7.2f} s   {verdict}")
    print(f"{device}: " + ("all checks passed" if not failed else f"{failed} checks FAILED"))
    return int(failed > 0)


def batch(classes: int, dtype: torch.dtype, seed: int, rows: int = 257) -> tuple[Tensor, ...]:
    """Index into 100 samples, logits with ties, NaN and infinities, labels; on the CPU."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randint(-3, 4, (rows, classes), generator=rng).to(dtype)
    logits[::7, 0] = float("nan")
    logits[::5, -1] = float("inf")
    logits[1::2, 0] = 5
    labels = torch.randint(0, classes, (rows,), generator=rng)
    labels[: rows // 2] = 0
    return torch.randint(0, 100, (rows,), generator=rng), logits, labels


def same(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Raises where they differ in any bit."""
    if not torch.equal(ours.cpu(), theirs.cpu()):
        raise AssertionError(f"{what} differs from the reference")


def check_update(device: torch.device) -> None:
    """All types and widths, strided and misaligned rows, epochs around the ends of words."""
    for seed, (dtype, classes) in enumerate((d, c) for d in LOGIT_TYPES for c in WIDTHS):
        index, logits, labels = batch(classes, dtype, seed)
        status = LearningStatus(100, 130, num_classes=classes, record="status", device=device)
        expected = torch.zeros(status.words.shape, dtype=torch.int64)
        for epoch in range(130):
            if epoch in (0, 62, 63, 64, 129):
                pad = torch.zeros((len(index), epoch % 5), dtype=dtype)
                strided = torch.cat([logits, pad], dim=1).to(device)[:, :classes]
                status.update(index.to(device), strided, labels.to(device))
                reference.update_status(expected, epoch, index, logits, labels)
            status.advance()
        same(status.words, expected, f"update of {dtype} x {classes} classes")


def check_special_values(device: torch.device) -> None:
    """Every pattern of 16 bits as a logit."""
    for dtype in (torch.float16, torch.bfloat16):
        patterns = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)
        logits = torch.stack([patterns, torch.ones_like(patterns)], dim=1)
        index, labels = torch.arange(len(logits)), torch.arange(len(logits)) % 2
        status = LearningStatus(len(logits), 1, device=device)
        status.update(index.to(device), logits.to(device), labels.to(device))
        memorized = status.words[:, 0, 1] == 0
        same(memorized, reference.is_memorized(logits, labels), f"{dtype}")


def check_passes(device: torch.device) -> None:
    """Transition times, histogram and look-up, over windows and word counts."""
    rng = torch.Generator().manual_seed(0)
    for epochs in (1, 30, 64, 65, 130, 300):
        words = torch.randint(-(1 << 62), 1 << 62, (3001, -(-epochs // 64), 2), generator=rng)
        words[..., 0] |= torch.randint(-(1 << 62), 1 << 62, words.shape[:2], generator=rng)
        words[::3, :, 0] = -1
        there = words.to(device)
        for start, stop in {(0, epochs), (epochs // 3, epochs)}:
            side = stop - start + 1
            table = torch.rand((side, side), generator=rng)
            for name, arguments in (
                ("transition_times", ()),
                ("status_histogram", ()),
                ("status_lookup", (table,)),
            ):
                theirs = getattr(reference, name)(words, *arguments, start, stop)
                moved = [x.to(device) for x in arguments]
                ours = getattr(ops, name)(there, *moved, start, stop)
                same(ours, theirs, f"{name} over epochs [{start}, {stop})")


def same_visits(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Key and class to the bit; loss and EL2N to one place of their fp16, as sums are rounded differently."""
    fields = zip(reference.visit_fields(ours), reference.visit_fields(theirs), strict=True)
    for field, (a, b) in enumerate(fields):
        if bool(((a - b).abs() > (field >= 2)).any()):
            raise AssertionError(f"{what} differs from the reference")


def check_visits(device: torch.device) -> None:
    """Predicted class, margin, loss and EL2N: all types and widths, strided and misaligned rows."""
    for seed, (dtype, classes) in enumerate((d, c) for d in LOGIT_TYPES for c in WIDTHS):
        index, logits, labels = batch(classes, dtype, seed)
        logits += torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
        for record in ("classes", "all"):
            status = LearningStatus(100, 3, num_classes=classes, record=record, device=device)
            pad = torch.zeros((len(index), seed % 5), dtype=dtype)
            strided = torch.cat([logits, pad], dim=1).to(device)[:, :classes]
            status.update(index.to(device), strided, labels.to(device))
            expected = torch.full((100,), -(1 << 63))
            reference.record_visits(expected, index, logits, labels, record == "all")
            assert status.open_visits is not None
            same_visits(status.open_visits, expected, f"visits of {dtype} x {classes} classes")


def check_epochs(device: torch.device) -> None:
    """Ending epochs: the same bits as on the CPU, given the same visits."""
    for classes, record in ((10, "all"), (128, "classes"), (1000, "all")):
        ours = LearningStatus(100, 70, num_classes=classes, record=record, device=device)
        theirs = LearningStatus(100, 70, num_classes=classes, record=record)
        assert ours.open_visits is not None
        assert theirs.open_visits is not None
        for epoch in range(70):
            theirs.update(*batch(classes, torch.float32, epoch, rows=50))
            ours.open_visits.copy_(theirs.open_visits)
            ours.advance()
            theirs.advance()
        for name, value in theirs.state_dict().items():
            if isinstance(value, Tensor):
                same(ours.state_dict()[name], value, f"{name} after {ours.epoch} epochs")


def check_reading(device: torch.device) -> None:
    """Votes, majority, counts and changes of predictions, and first k-epoch learning."""
    status = LearningStatus(100, 70, num_classes=10, device=device)
    for epoch in range(70):
        status.update(*(x.to(device) for x in batch(10, torch.float32, epoch, rows=50)))
        status.advance()
    planes = status.state_dict()["planes"].cpu()
    labels = torch.arange(100) % 10
    window = (100, 10, 3, 66)
    epochs = slice(3, 66)
    votes = torch.cat([counts for _, counts in status.votes(epochs)])
    same(votes, reference.class_votes(planes, *window), "votes")
    vote = status.majority_vote(epochs, exclude=labels.to(device))
    same(vote.label, reference.majority_vote(planes, labels, *window)[0], "majority vote")
    agree = status.compute(epochs).seen - status.misclassified_for(labels.to(device), epochs)
    same(agree, reference.count_predicted(planes, labels, 3, 66), "misclassified for labels")
    changes, changed = reference.prediction_changes(planes, 100, 3, 66)
    same(status.prediction_changes(epochs), changes, "prediction changes")
    same(status.label_wave(epochs), changed, "label wave")
    ours = torch.ops.mild_ext.first_run(status.words, 3, 66, 2)
    same(ours, reference.first_run(status.words.cpu(), 3, 66, 2), "first k-epoch learning")


def check_faults(device: torch.device) -> None:
    """Bad rows are skipped, counted, and raised at the next read; the others are recorded."""
    index, logits, labels = batch(10, torch.float32, 0)
    status = LearningStatus(100, 5, device=device)
    bad_index, bad_labels = index.clone(), labels.clone()
    bad_index[3], bad_index[4], bad_labels[9] = -1, 100, 10
    status.update(bad_index.to(device), logits.to(device), bad_labels.to(device))
    try:
        status.compute()
    except ValueError:
        pass
    else:
        raise AssertionError("bad rows were not reported")
    good = torch.ones(len(index), dtype=torch.bool)
    good[[3, 4, 9]] = False
    expected = torch.zeros(status.words.shape, dtype=torch.int64)
    reference.update_status(expected, 0, index[good], logits[good], labels[good])
    same(status.words, expected, "update next to bad rows")
    status.compute()


def check_stream(device: torch.device) -> None:
    """Work is put on the current stream."""
    index, logits, labels = batch(10, torch.float32, 1)
    expected = torch.zeros((100, 1, 2), dtype=torch.int64)
    reference.update_status(expected, 0, index, logits, labels)
    status = LearningStatus(100, 5, device=device)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        late = torch.zeros((len(index), 10), device=device)
        torch.cuda._sleep(20_000_000)
        late += logits.to(device)  # were the kernel on another stream, it would read the zeros
        status.update(index.to(device), late, labels.to(device))
    stream.synchronize()
    same(status.words, expected, "update on another stream")


def check_graph(device: torch.device) -> None:
    """A captured update records into the current epoch when replayed."""
    index, logits, labels = (x.to(device) for x in batch(10, torch.float32, 2))
    status = LearningStatus(100, 70, device=device)
    expected = torch.zeros((100, 2, 2), dtype=torch.int64)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        status.update(index, logits, labels)
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        status.update(index, logits, labels)
    for epoch in range(70):
        if epoch % 9 == 0:
            graph.replay()
            reference.update_status(expected, epoch, index.cpu(), logits.cpu(), labels.cpu())
        status.advance()
    same(status.words, expected, "a replayed graph")


def check_graph_of_epochs(device: torch.device) -> None:
    """A captured update and the end of its epoch, replayed epoch after epoch."""
    index, logits, labels = (x.to(device) for x in batch(10, torch.float32, 2))
    statuses = [
        LearningStatus(100, 70, num_classes=10, record="all", device=device) for _ in range(2)
    ]
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        statuses[0].update(index, logits, labels)
    torch.cuda.current_stream(device).wait_stream(stream)
    statuses[0].reset()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        statuses[0].update(index, logits, labels)
        statuses[0].advance()
    for _ in range(5):
        graph.replay()
        statuses[1].update(index, logits, labels)
        statuses[1].advance()
    captured, plain = (
        [status._record.planes, status._record.sums]  # type: ignore[union-attr]
        for status in statuses
    )
    for ours, theirs in zip(captured, plain, strict=True):
        same(ours, theirs.cpu(), "a replayed graph of whole epochs")


def check_cpu_index(device: torch.device) -> None:
    """Index and labels as a DataLoader gives them, on the CPU."""
    index, logits, labels = batch(10, torch.float32, 3)
    status = LearningStatus(100, 5, device=device)
    status.update(index, logits.to(device), labels.pin_memory())
    expected = torch.zeros((100, 1, 2), dtype=torch.int64)
    reference.update_status(expected, 0, index, logits, labels)
    same(status.words, expected, "update with an index on the CPU")
