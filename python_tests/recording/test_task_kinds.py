"""More kinds of task than one class a sample: padding, binary and multi-label models, token classification."""

from __future__ import annotations

import pytest
import torch
from buffers import generator
from torch import Tensor

from mild_ext import LearningStatus
from mild_ext.recording import status as status_module

RECORDS = ["status", "classes", "all"]


@pytest.fixture(params=["fast lane", "operator"])
def lane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways an eager update can take."""
    if request.param == "operator":
        monkeypatch.setattr(status_module, "READS_TENSORS", False)
    return str(request.param)


def same(one: LearningStatus, other: LearningStatus) -> bool:
    a, b = one.open_visits, other.open_visits
    return torch.equal(one.words, other.words) and (a is None or b is None or torch.equal(a, b))


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_rows_labelled_as_ignored_are_skipped(lane: str, record: str, dtype: torch.dtype) -> None:
    rng = generator(0)
    logits = torch.randn((50, 4), generator=rng)
    labels = torch.randint(0, 4, (50,), generator=rng).to(dtype)
    index = torch.arange(50)
    padded = torch.rand(50, generator=rng) < 0.4
    status, expected = (LearningStatus(50, 3, num_classes=4, record=record) for _ in range(2))
    expected.update(index[~padded], logits[~padded], labels[~padded])
    status.update(index.where(~padded, -1), logits, labels.where(~padded, -100))
    assert same(status, expected)
    status.update(index, logits, torch.full((50,), -100, dtype=dtype))  # nothing but padding
    assert same(status, expected)


def test_what_is_not_ignored_must_be_good(lane: str) -> None:
    status = LearningStatus(5, 3)
    labels = torch.tensor([-100, 2, 4])
    with pytest.raises(ValueError, match=r"labels\[2\] is 4"):
        status.update(torch.arange(3), torch.randn(3, 4), labels)
    with pytest.raises(ValueError, match=r"index\[1\] is 5"):
        status.update(torch.tensor([9, 5, 1]), torch.randn(3, 4), labels.clamp(max=3))
    assert not status.words.any()


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("columns", [False, True])
def test_a_binary_model(lane: str, record: str, dtype: torch.dtype, columns: bool) -> None:
    z = torch.tensor([2.0, -1.0, 0.0, 0.0, float("nan"), 3.0], dtype=dtype)
    labels = torch.tensor([1, 1, 0, 1, 0, 0])
    status = LearningStatus(6, 3, num_classes=2, record=record)
    status.update(torch.arange(6), z[:, None] if columns else z, labels)
    assert status.compute().memorized.tolist() == [1, 0, 1, 0, 0, 0]
    if record == "status":
        return
    assert status.predictions(0).tolist() == [1, 0, 0, 0, -1, 1]
    if record == "classes":
        return
    dynamics = status.dynamics()
    probability = torch.where(labels == 1, z.float().sigmoid(), 1 - z.float().sigmoid())
    good = ~z.isnan()
    torch.testing.assert_close(dynamics.confidence[good], probability[good], rtol=1e-3, atol=1e-3)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        z.float(), labels.float(), reduction="none"
    )
    torch.testing.assert_close(dynamics.loss[good], loss[good], rtol=1e-3, atol=1e-3)


def test_a_binary_status_needs_no_number_of_classes(lane: str) -> None:
    status = LearningStatus(2, 1)
    status.update(torch.arange(2), torch.tensor([1.0, -1.0]), torch.tensor([1, 1]))
    assert status.compute().memorized.tolist() == [1, 0]


def test_token_classification() -> None:
    """Every token is a sample of its own: ids from the sentence's, padding labelled -100."""
    sentences, length, classes = 6, 5, 4
    rng = generator(1)
    logits = torch.randn((sentences, length, classes), generator=rng)
    lengths = torch.tensor([5, 3, 1, 4, 2, 5])
    labels = torch.randint(0, classes, (sentences, length), generator=rng)
    labels[torch.arange(length) >= lengths[:, None]] = -100
    status = LearningStatus(sentences * length, 1, num_classes=classes, record="all")
    for ids in torch.arange(sentences).split(2):
        tokens = ids[:, None] * length + torch.arange(length)
        status.update(tokens.flatten(), logits[ids].flatten(0, 1), labels[ids].flatten())
    seen = status.compute().seen.view(sentences, length)
    assert torch.equal(seen.sum(1).long(), lengths)
    right = (logits.argmax(2) == labels).sum()
    assert int(status.compute().memorized.sum()) == int(right)


def test_multi_label() -> None:
    """Every pair of sample and class is a binary sample of its own."""
    samples, classes = 8, 3
    rng = generator(2)
    z = torch.randn((samples, classes), generator=rng)
    targets = torch.randint(0, 2, (samples, classes), generator=rng)
    status = LearningStatus(samples * classes, 1, num_classes=2)
    for ids in torch.arange(samples).split(4):
        pairs = ids[:, None] * classes + torch.arange(classes)
        status.update(pairs.flatten(), z[ids].flatten(), targets[ids].flatten())
    right = ((z > 0).long() == targets).flatten()
    assert torch.equal(status.compute().memorized.bool(), right)


def test_an_examples_loss_in_fine_tuning() -> None:
    """Next tokens as samples; an example's loss is the mean over its tokens."""
    examples, length, vocabulary = 4, 6, 50
    rng = generator(3)
    logits = torch.randn((examples, length, vocabulary), generator=rng)
    tokens = torch.randint(0, vocabulary, (examples, length), generator=rng)
    labels = tokens.clone()
    labels[:, :2] = -100  # the prompt
    next_logits, next_labels = logits[:, :-1], labels[:, 1:]
    width = length - 1
    status = LearningStatus(examples * width, 1, num_classes=vocabulary, record="all")
    for ids in torch.arange(examples).split(2):
        places = ids[:, None] * width + torch.arange(width)
        status.update(places.flatten(), next_logits[ids].flatten(0, 1), next_labels[ids].flatten())
    loss = status.dynamics().loss.view(examples, width).nanmean(1)
    expected = torch.stack(
        [
            torch.nn.functional.cross_entropy(x, y, ignore_index=-100)
            for x, y in zip(next_logits, next_labels, strict=True)
        ]
    )
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-3)


def test_one_class_stays_one_class() -> None:
    status = LearningStatus(2, 1, num_classes=1)
    logits: Tensor = torch.tensor([[-3.0], [2.0]])
    status.update(torch.arange(2), logits, torch.zeros(2, dtype=torch.int64))
    assert status.predictions(0).tolist() == [0, 0]
