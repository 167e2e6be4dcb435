"""Posterior targets: the labels until wrong ones are memorized, then what the votes and the measurement say."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from mild_ext import LearningStatus, PlantedLabels, PosteriorTargets, plant_labels
from mild_ext.selection.noise_rate import Estimate, NoiseRate
from mild_ext.training.posterior_targets import LATEST_SHARE

N, K, P = 60, 4, 12
GIVEN = torch.arange(N) % K
PLANTED = PlantedLabels(
    torch.where(torch.arange(N) < 8, (GIVEN + 1) % K, GIVEN), torch.arange(8), GIVEN[:8]
)
EVERYONE = torch.arange(N)


def record(status, epochs, seed=0):
    """Random predictions; the same seed gives the same ones."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for index in torch.randperm(N, generator=generator).split(16):
            logits = torch.randn(len(index), K, generator=generator)
            status.update(index, logits, PLANTED.labels[index])
        status.advance()


def measures(rate=0.3, low=0.2, plain_low=0.1, right=None):
    """Stands in for `select_clean`, whose measurement has tests of its own."""
    right = torch.linspace(0, 1, N) if right is None else right

    def select(status, labels, planted=None):
        assert torch.equal(labels, GIVEN)
        assert planted is PLANTED
        found = NoiseRate(rate, low, 0.5, True, Estimate(plain_low, plain_low, plain_low))
        return SimpleNamespace(
            clean_probability=right,
            suspicion=1 - right,
            misclassified=None,
            seen=None,
            noise_rate=found if rate is not None else None,
        )

    return select


def make(epochs=P, **options):
    status = LearningStatus(N, epochs, num_classes=K)
    return status, PosteriorTargets(status, planted=PLANTED, **options)


def test_before_they_begin_they_are_the_labels_trained_on_and_the_loss_is_cross_entropy():
    status, targets = make(begin=3, select=measures())
    record(status, 2)
    assert torch.equal(targets(EVERYONE), PLANTED.labels)
    assert torch.equal(targets(EVERYONE.int()), PLANTED.labels)
    logits = torch.randn(N, K)
    assert torch.equal(targets.loss(EVERYONE, logits), F.cross_entropy(logits, PLANTED.labels))
    assert torch.equal(targets.all(), F.one_hot(PLANTED.labels, K).float())
    assert targets.rate is None
    assert targets.began is None


def test_from_then_on_they_are_what_the_formula_says():
    status, targets = make(begin=3, select=measures())
    record(status, 5)
    found = targets(EVERYONE)
    assert targets.rate == 0.3
    predicted = torch.stack([status.predictions(t) for t in range(5)])
    right = torch.linspace(0, 1, N)
    for i in range(N):
        y = int(GIVEN[i])
        weights = [int((predicted[:, i] == k).sum()) + 1 / K if k != y else 0.0 for k in range(K)]
        expected = [(1 - float(right[i])) * w / sum(weights) for w in weights]
        expected[y] = float(right[i])
        torch.testing.assert_close(found[i], torch.tensor(expected))
    torch.testing.assert_close(found.sum(1), torch.ones(N))
    assert torch.equal(targets.all(), found)


def test_they_follow_the_votes_of_each_epoch_but_the_measurement_is_made_once():
    calls = []

    def select(status, **options):
        calls.append(status.epoch)
        return measures()(status, **options)

    status, targets = make(begin=4, select=select)
    record(status, 4)
    before = targets(EVERYONE)
    record(status, 3, seed=1)
    after = targets(EVERYONE)
    assert calls == [4]
    assert targets.began == 4
    assert not torch.equal(before, after)
    assert torch.equal(before.gather(1, GIVEN[:, None]), after.gather(1, GIVEN[:, None]))


def test_without_a_table_of_all_samples_they_are_the_same(monkeypatch):
    status, targets = make(begin=2, select=measures())
    record(status, 6)
    expected = targets(EVERYONE)
    monkeypatch.setattr("mild_ext.training.posterior_targets._TABLE_BYTES", 0)
    other = PosteriorTargets(status, planted=PLANTED, begin=2, select=measures())
    some = torch.tensor([5, 40, 5, 0])
    torch.testing.assert_close(other(some), expected[some], rtol=1e-5, atol=1e-7)
    assert other._table is None


@pytest.mark.parametrize(
    ("select", "alone"),
    [
        (measures(low=0.0, plain_low=0.0), True),
        (measures(rate=None), True),  # nothing is told apart
        (measures(low=0.1, plain_low=0.0), False),
        (measures(low=0.0, plain_low=0.1), False),  # plain errors, and perhaps more
    ],
)
def test_a_rate_that_cannot_be_told_from_zero_leaves_the_given_labels_alone(select, alone):
    status, targets = make(begin=2, select=select)
    record(status, 3)
    if alone:
        assert torch.equal(targets(EVERYONE), GIVEN)  # those given back, too
        logits = torch.randn(N, K)
        assert torch.equal(targets.loss(EVERYONE, logits), F.cross_entropy(logits, GIVEN))
        assert targets.rate == 0.0
    else:
        assert targets(EVERYONE).shape == (N, K)


def learned(memorized, epochs=P, classes=K):
    """A status whose network predicts the withheld labels, and so large a share of the planted ones."""
    labels = torch.arange(600) % classes
    planted = plant_labels(labels, 0.1, num_classes=classes)
    status = LearningStatus(600, epochs, num_classes=classes)
    predicted = planted.given.clone()
    share = round(memorized * len(planted))
    predicted[planted.index[:share]] = planted.labels[planted.index[:share]]
    return status, planted, predicted


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(("memorized", "began"), [(0.0, None), (0.1, None), (0.25, 4)])
def test_they_begin_once_planted_labels_are_memorized(memorized, began, classes):
    status, planted, predicted = learned(memorized, classes=classes)
    targets = PosteriorTargets(status, planted=planted)
    for _ in range(round(LATEST_SHARE * P) - 1):
        status.update(torch.arange(600), torch.eye(classes)[predicted], planted.labels)
        status.advance()
        targets.refresh()
    assert targets.began == began


def test_where_nothing_is_memorized_given_labels_come_back_in_the_middle_of_the_training():
    status, planted, predicted = learned(0.0)
    targets = PosteriorTargets(status, planted=planted)
    for _ in range(P):
        status.update(torch.arange(600), torch.eye(K)[predicted], planted.labels)
        status.advance()
        targets.refresh()
        late = status.epoch >= LATEST_SHARE * P
        assert torch.equal(targets(torch.arange(600)), planted.given if late else planted.labels)
    assert targets.began == P // 2
    assert targets.selection is not None
    assert (targets.rate, targets.weighs) == (0.0, False)


@pytest.mark.parametrize(("low", "plain_low", "least"), [(0.2, 0.1, 0.2), (0.0, 0.1, 0.1)])
def test_where_little_is_memorized_samples_are_weighed_by_the_measured_probability(
    low, plain_low, least
):
    right = torch.linspace(0.1, 0.9, N)
    status, targets = make(select=measures(right=right, low=low, plain_low=plain_low))
    for _ in range(P // 2):  # every planted label is predicted as the withheld one
        status.update(EVERYONE, torch.eye(K)[GIVEN], PLANTED.labels)
        status.advance()
    # No more is held against the labels than the low end of the interval: log-odds shifted to that mean.
    weight = targets(EVERYONE).gather(1, GIVEN[:, None])[:, 0]
    assert float(weight.mean()) == pytest.approx(1 - least, abs=1e-5)
    torch.testing.assert_close(weight.logit().diff(), right.logit().diff(), rtol=1e-3, atol=1e-4)
    right = weight
    logits = torch.randn(N, K)
    assert torch.equal(targets(EVERYONE), right[:, None] * F.one_hot(GIVEN, K))
    each = F.cross_entropy(logits, GIVEN, reduction="none")
    expected = (right * each).sum() / right.sum()
    torch.testing.assert_close(targets.loss(EVERYONE, logits), expected)
    smooth = F.cross_entropy(logits, GIVEN, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(
        targets.loss(EVERYONE, logits, label_smoothing=0.1), (right * smooth).sum() / right.sum()
    )
    assert targets.weighs
    assert targets.state_dict()["average"] is None  # no term that holds predictions
    again, others = make(select=measures(right=right))
    again.load_state_dict(status.state_dict())
    others.load_state_dict(targets.state_dict())
    torch.testing.assert_close(others.loss(EVERYONE, logits), expected)


def test_the_term_that_holds_predictions_is_that_of_the_paper():
    status, targets = make(begin=1, hold=2.0, select=measures(right=torch.ones(N)))
    generator = torch.Generator().manual_seed(0)
    average = torch.zeros(N, K, dtype=torch.float64)
    for epoch in range(4):
        logits = torch.randn(N, K, generator=generator)
        if epoch == 0:  # predictions that are right, so worth holding to
            logits += 20 * F.one_hot(GIVEN, K)
        logits.requires_grad_()
        loss = targets.loss(EVERYONE, logits)
        p = logits.detach().double().softmax(1)
        labels = PLANTED.labels if epoch == 0 else GIVEN
        expected = F.cross_entropy(logits.detach().double(), labels)
        if epoch > 0:  # there is no average before
            average = 0.7 * average + 0.3 * p
            expected = expected + 2.0 * (1 - (p * average).sum(1)).log().mean()
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
        loss.backward()
        assert torch.isfinite(logits.grad).all()
        status.update(EVERYONE, logits.detach(), PLANTED.labels)
        status.advance()


@pytest.mark.parametrize(("share", "worth"), [(1.0, 1.0), (0.6, 0.5), (0.4, 0.0), (0.2, 0.0)])
def test_predictions_are_held_to_as_far_as_they_are_right(share, worth):
    rate = 0.2
    status, targets = make(begin=1, hold=2.0, select=measures(rate=rate, right=torch.ones(N)))
    predicted = GIVEN.clone()
    index = PLANTED.index
    missed = index[round(share * len(index)) :]
    predicted[missed] = (
        GIVEN[missed] + 1
    ) % K  # neither the withheld label nor, as K > 2, always the planted one
    predicted[missed] = torch.where(
        predicted[missed] == PLANTED.labels[missed], (GIVEN[missed] + 2) % K, predicted[missed]
    )
    status.update(EVERYONE, 9.0 * F.one_hot(predicted, K), PLANTED.labels)
    status.advance()
    targets.refresh()
    # Of the withheld labels a fifth is wrong, so that 0.8 is all that predictions can reach.
    assert targets._worth == pytest.approx(worth, abs=2.5 / len(index) + 1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits_give_a_finite_loss_and_gradient(scale, dtype):
    right = torch.zeros(N)
    right[::2] = 1.0
    status, targets = make(begin=1, select=measures(right=right))
    record(status, 1)
    logits = (scale * torch.eye(K)[GIVEN]).to(dtype).requires_grad_()
    for _ in range(3):
        loss = targets.loss(EVERYONE, logits)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_samples_that_were_never_seen_have_even_votes():
    status, targets = make(begin=1, select=measures(right=torch.full((N,), 0.4)))
    status.update(EVERYONE[:10], torch.eye(K)[GIVEN[:10]], PLANTED.labels[:10])
    status.advance()
    unseen = targets(torch.tensor([20]))[0]
    torch.testing.assert_close(unseen, torch.tensor([0.4, 0.2, 0.2, 0.2]))


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_resumed_they_go_on_the_same(stop):
    def go(status, targets, epochs):
        losses = []
        for epoch in epochs:
            logits = torch.randn(N, K, generator=torch.Generator().manual_seed(epoch))
            losses.append(targets.loss(EVERYONE, logits))
            status.update(EVERYONE, logits, PLANTED.labels)
            status.advance()
        return losses

    status, targets = make(begin=3, select=measures())
    whole = go(status, targets, range(8))
    status, targets = make(begin=3, select=measures())
    go(status, targets, range(stop))
    kept = status.state_dict(), targets.state_dict()
    status, targets = make(begin=3, select=measures())
    status.load_state_dict(kept[0])
    targets.load_state_dict(kept[1])
    assert torch.equal(torch.stack(go(status, targets, range(stop, 8))), torch.stack(whole[stop:]))


def test_a_foreign_state_is_refused():
    _, targets = make(begin=3, select=measures())
    with pytest.raises(ValueError, match="begin=4"):
        targets.load_state_dict({"begin": 4})
    with pytest.raises(ValueError, match="of other labels, or of other planted ones"):
        targets.load_state_dict(targets.state_dict() | {"labels": 0})
    state = targets.state_dict() | {"right": torch.ones(3)}
    with pytest.raises(ValueError, match="3 samples"):
        targets.load_state_dict(state)


def test_what_cannot_be_meant_is_refused():
    status = LearningStatus(N, P, num_classes=K)
    with pytest.raises(TypeError, match="records predicted classes"):
        PosteriorTargets(LearningStatus(N, P), planted=PLANTED)
    with pytest.raises(ValueError, match="neither"):
        PosteriorTargets(status)
    with pytest.raises(ValueError, match="both"):
        PosteriorTargets(status, planted=PLANTED, labels=GIVEN)
    with pytest.raises(ValueError, match=r"60 samples, got shape \[59\]"):
        PosteriorTargets(status, labels=GIVEN[:59])
    with pytest.raises(ValueError, match=r"\[0, 4\)"):
        PosteriorTargets(status, labels=GIVEN + 1)
    with pytest.raises(TypeError, match="integers"):
        PosteriorTargets(status, labels=GIVEN + 0.5)
    with pytest.raises(ValueError, match="hold"):
        PosteriorTargets(status, planted=PLANTED, hold=-1.0)
    for begin in (1.5, -1, P + 1, "late", True):
        with pytest.raises(ValueError, match="begin must be"):
            PosteriorTargets(status, planted=PLANTED, begin=begin)


def test_votes_of_ended_epochs_are_those_of_the_status():
    status, _ = make(select=measures())
    record(status, 7)
    status.update(EVERYONE, torch.eye(K)[GIVEN], GIVEN)  # an open epoch, which does not count
    counts = torch.cat([part for _, part in status.votes(slice(0, 7))])
    some = torch.tensor([59, 3, 3, 31, 32])
    assert torch.equal(status.ended_votes(some), counts[some])
    with pytest.raises(ValueError, match="num_classes"):
        LearningStatus(N, P).ended_votes(some)
