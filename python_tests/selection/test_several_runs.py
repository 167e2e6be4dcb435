"""Selections of several runs of the same samples: what is pooled, and who judges whom."""

import copy

import pytest
import torch

from mild_ext import LearningStatus, plant_labels, select_clean
from mild_ext.selection.measure_noise import measure
from mild_ext.selection.suspicion import _planted_over_runs, _suspicion
from mild_ext.selection.votes import PlantedEvidence

N, CLASSES, EPOCHS = 1200, 5, 20


def paper_runs(count, *, noise=0.2, hard=0.3, seed=0, epochs=EPOCHS, share=0.05):
    """Runs of networks that mistake hard samples, each for other ones in part, and memorize late.

    Returns statuses, planted labels, given and true labels; a sample's hardness is its own, what a network makes of
    it is drawn anew in each run.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator)

    true = torch.arange(N) % CLASSES
    wrong = uniform(N) < noise
    given = torch.where(wrong, (true + 1 + (uniform(N) * (CLASSES - 1)).long()) % CLASSES, true)
    is_hard, own = uniform(N) < hard, uniform(N)
    ids, statuses, planted = torch.arange(N), [], []
    for run in range(count):
        planted.append(plant_labels(given, share, seed=3, repeat=run))
        trained = planted[-1].labels
        of_network = 0.5 * own + 0.5 * uniform(N)
        right = torch.where(is_hard, 0.95 - 0.7 * of_network, 0.95)  # chance of the true class
        memorized = torch.where(trained == true, 0.7, 0.15 + 0.2 * of_network)
        status = LearningStatus(N, epochs, num_classes=CLASSES)
        for epoch in range(epochs):
            knows = uniform(N) < right * min(1.0, 4 * (epoch + 1) / epochs)
            predicted = torch.where(knows, true, (uniform(N) * CLASSES).long())
            late = uniform(N) < memorized * epoch / epochs
            predicted = torch.where(late, trained, predicted)
            logits = torch.nn.functional.one_hot(predicted, CLASSES) * 3.0
            status.update(ids, logits + 0.5 * uniform(N, CLASSES), trained)
            status.advance()
        statuses.append(status)
    return statuses, planted, given, true


@pytest.fixture(scope="module")
def four():
    return paper_runs(4)


def planted_labels_are_false(planted, true):
    """Of the planted rows, run by run, those whose label is not the true one by chance."""
    return torch.cat([p.labels[p.index] != true[p.index] for p in planted])


def ranked_right(suspicion, wrong):
    """Share of pairs of a wrong and a right label in which the wrong one is the more suspicious."""
    order = suspicion.argsort().argsort().double()
    bad = int(wrong.sum())
    return float(order[wrong].sum() - bad * (bad - 1) / 2) / (bad * int((~wrong).sum()))


def test_one_run_in_a_list_is_that_run(four):
    statuses, planted, given, _ = four
    alone = select_clean(statuses[0], planted=planted[0], labels=given)
    listed = select_clean(statuses[:1], planted=planted[:1], labels=given)
    assert alone.noise_rate == listed.noise_rate
    for name in ("mask", "suspicion", "clean_probability", "suggested_label", "misclassified"):
        assert torch.equal(getattr(alone, name), getattr(listed, name)), name


def test_several_runs_say_more_than_one(four):
    statuses, planted, given, true = four
    wrong = given != true
    alone = [
        select_clean(s, planted=p, labels=given) for s, p in zip(statuses, planted, strict=True)
    ]
    pooled = select_clean(statuses, planted=planted, labels=given)
    rate = pooled.noise_rate
    assert rate.low <= float(wrong.double().mean()) <= rate.high
    ranked = [ranked_right(one.suspicion, wrong) for one in alone]
    assert ranked_right(pooled.suspicion, wrong) > max(ranked)
    right = [float((one.suggested_label == true)[wrong].double().mean()) for one in alone]
    assert float((pooled.suggested_label == true)[wrong].double().mean()) > max(right)
    recall = float((~pooled.mask)[wrong].double().mean())
    assert pooled.estimated_recall.value == pytest.approx(recall, abs=0.1)
    assert "in 4 trainings" in pooled.summary()


def test_a_planted_sample_is_judged_by_the_other_runs(four):
    statuses, planted, given, _ = four
    evidence = PlantedEvidence(statuses[:2], planted[:2], EPOCHS)
    rows = _suspicion(evidence, measure(evidence)).view(2, N)
    pooled = select_clean(statuses[:2], planted=planted[:2], labels=given).suspicion
    for run, other in ((0, 1), (1, 0)):
        assert torch.equal(pooled[planted[run].index], rows[other][planted[run].index])
    ordinary = ~(planted[0].mask | planted[1].mask)
    assert torch.allclose(pooled[ordinary], rows.mean(0)[ordinary])


def test_a_sample_planted_in_all_runs_is_judged_by_the_label_withheld(four):
    statuses, planted, given, _ = four
    twice = paper_runs(1, seed=5)
    if not torch.equal(twice[2], given):
        statuses, planted, given, _ = twice
    again = copy.deepcopy(statuses[0])
    pooled = select_clean([statuses[0], again], planted=[planted[0]] * 2, labels=given)
    alone = select_clean(statuses[0], planted=planted[0], labels=given)
    index = planted[0].index
    assert len(pooled.suspicion) == N
    # Ranked among themselves like in the one run, whose evidence is there twice.
    assert torch.equal(pooled.suspicion[index].argsort(), alone.suspicion[index].argsort())


def test_a_run_that_is_there_twice_is_refused(four):
    statuses, planted, given, _ = four
    with pytest.raises(ValueError, match="give each run once"):
        select_clean([statuses[0]] * 2, planted=[planted[0]] * 2, labels=given)


def test_the_scatter_of_single_runs_is_taken_out_of_planted_labels():
    statuses, planted, given, true = paper_runs(6, seed=1)
    evidence = PlantedEvidence(statuses, planted, EPOCHS)
    rows = _suspicion(evidence, measure(evidence))
    suspicion = evidence.over_runs(rows)
    as_mean = _planted_over_runs(evidence, rows, suspicion, 0.2)
    one_run = rows[evidence.index]
    wrong = (given != true) & evidence.ordinary
    false = planted_labels_are_false(planted, true)
    one_run, as_mean = one_run[false], as_mean[false]
    assert as_mean.mean() == pytest.approx(float(one_run.mean()), abs=0.02)
    # What it stands for: the means over runs of labels that are wrong indeed.
    gap = abs(float(as_mean.std() - suspicion[wrong].std()))
    assert gap < 0.5 * float(one_run.std() - suspicion[wrong].std())


def test_counts_are_means_over_runs(four):
    statuses, planted, given, _ = four
    pooled = select_clean(statuses, planted=planted, labels=given)
    assert pooled.histogram.sum() == N
    assert int(pooled.seen.min()) == int(pooled.seen.max()) == len(pooled.histogram) - 1
    window = pooled.epochs
    counts = torch.stack([s.compute(window).misclassified for s in statuses]).double()
    used = torch.stack([~p.mask for p in planted])
    mean = (counts * used).sum(0) / used.sum(0)
    assert (pooled.misclassified - mean).abs().max() <= 0.5 + 1e-4
    table = pooled.table()
    assert (table["misclassified"] + table["memorized"] == table["seen"]).all()


def test_what_does_not_belong_together_is_refused(four):
    statuses, planted, given, _ = four
    with pytest.raises(ValueError, match=r"one for each of the 2 runs, at least one, got 1"):
        select_clean(statuses[:2], planted=planted[:1], labels=given)
    with pytest.raises(ValueError, match="at least one"):
        select_clean([], planted=[], labels=given)
    with pytest.raises(TypeError, match="a list of statuses with a list of PlantedLabels"):
        select_clean(statuses[0], planted=planted[:1], labels=given)
    with pytest.raises(TypeError, match="a list of statuses with a list of PlantedLabels"):
        select_clean(statuses[:1], planted=planted[0], labels=given)
    short, its_planted, same, _ = paper_runs(1, epochs=EPOCHS - 2)
    assert torch.equal(same, given)
    with pytest.raises(ValueError, match=r"as many epochs, got \[18, 20\]"):
        select_clean([statuses[0], *short], planted=[planted[0], *its_planted], labels=given)
    small = LearningStatus(10, EPOCHS, num_classes=CLASSES)
    with pytest.raises(ValueError, match="of the same samples and classes"):
        select_clean([statuses[0], small], planted=planted[:2])
    others, others_planted, _, _ = paper_runs(1, seed=9)
    with pytest.raises(ValueError, match="plant from the same labels"):
        select_clean([statuses[0], *others], planted=[planted[0], *others_planted])


def test_repeats_plant_other_samples_until_all_have_been():
    labels = torch.arange(1000) % 4
    drawn = [plant_labels(labels, 0.1, seed=1, repeat=r).index for r in range(11)]
    assert torch.cat(drawn[:10]).sort().values.equal(torch.arange(1000))
    assert drawn[10].equal(drawn[0])
    assert all(torch.bincount(labels[index], minlength=4).tolist() == [25] * 4 for index in drawn)
    first, again = (plant_labels(labels, 0.1, seed=1, repeat=r) for r in (0, 10))
    assert not first.labels.equal(again.labels)  # the same samples, other wrong labels
    with pytest.raises(ValueError, match="repeat must not be negative"):
        plant_labels(labels, repeat=-1)
