"""Tables of selections: their columns, their files, and the tools that read them."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from noisy import NUM_SAMPLES, Noisy, plain_loop

from mild_ext import LearningStatus, plant_labels, select_clean
from mild_ext.selection.table import to_cleanlab, to_frame, write_table

COLUMNS = [
    "id", "dropped", "clean_probability", "suspicion", "given_label", "predicted_label", "metric",
    "misclassified", "memorized", "first_memorized", "memorization_events", "forgetting_events",
    "longest_memorized_run", "seen", "round_dropped", "reason",
]  # fmt: skip


@pytest.fixture(scope="module")
def tracker():
    return plain_loop([10], 10)


@pytest.fixture(scope="module")
def table(tracker):
    predicted = Noisy().true
    return tracker.selections[0].table(given_labels=Noisy().labels, predicted_labels=predicted)


def test_columns_say_what_the_selection_and_the_times_say(tracker, table):
    selection, times = tracker.selections[0], tracker.status.compute()
    assert list(table) == COLUMNS
    assert {len(values) for values in table.values()} == {NUM_SAMPLES}
    np.testing.assert_array_equal(table["id"], np.arange(NUM_SAMPLES))
    np.testing.assert_array_equal(table["dropped"], ~selection.mask)
    np.testing.assert_array_equal(table["clean_probability"], selection.clean_probability)
    np.testing.assert_array_equal(table["given_label"], Noisy().labels)
    for name in COLUMNS[6:14]:
        np.testing.assert_array_equal(table[name], getattr(times, name))
    np.testing.assert_array_equal(table["round_dropped"], np.where(selection.mask, -1, 0))
    issue = int(np.flatnonzero(table["dropped"])[0])
    m, probability = table["misclassified"][issue], table["clean_probability"][issue]
    assert (
        table["reason"][issue]
        == f"misclassified in {m} of 10 epochs; probability {probability:.3f} that the label is right"
    )
    assert (table["reason"] == "").sum() == selection.num_kept


def test_what_a_measured_selection_suggests_is_in_the_table():
    given = torch.arange(600) % 3
    planted = plant_labels(given, num_classes=3)
    status = LearningStatus(600, num_epochs=12, num_classes=3)
    predicted = given.clone()
    predicted[:30] = (given[:30] + 1) % 3  # labels that the network contradicts
    for _ in range(12):
        status.update(torch.arange(600), torch.eye(3)[predicted], planted.labels)
        status.advance()
    selection = select_clean(status, planted=planted)
    table = selection.table(given_labels=given)
    np.testing.assert_array_equal(table["suspicion"], selection.suspicion)
    np.testing.assert_array_equal(table["suggested_label"], selection.suggested_label)
    np.testing.assert_array_equal(table["suggestion_confidence"], selection.suggestion_confidence)
    assert (table["suggested_label"][:30] >= 0).any()


def test_labels_that_are_not_known_have_no_column(tracker):
    table = tracker.selections[0].table(ids=[f"img{i}" for i in range(NUM_SAMPLES)])
    assert list(table) == [name for name in COLUMNS if "label" not in name]
    assert table["id"][7] == "img7"


def test_a_selection_of_transition_times_has_the_same_table(tracker):
    selection = select_clean(tracker.status.compute())
    from_times = selection.table()
    for name, values in tracker.selections[0].table().items():
        np.testing.assert_array_equal(from_times[name], values)


def test_rounds_have_one_table(tracker):
    table = tracker.table()
    np.testing.assert_array_equal(table["dropped"], ~tracker.kept)
    np.testing.assert_array_equal(table["round_dropped"], tracker.round_dropped)
    np.testing.assert_array_equal(table["metric"], tracker.status.compute().metric)


def test_csv_and_parquet_hold_the_same(table, tmp_path):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    write_table(table, tmp_path / "selection.csv")
    write_table(table, tmp_path / "selection.parquet")
    assert {p.name for p in tmp_path.iterdir()} == {"selection.csv", "selection.parquet"}
    frame = to_frame(table)
    assert frame.index.name == "id"
    assert frame["round_dropped"].isna().sum() == (~frame["dropped"]).sum()

    parquet = pd.read_parquet(tmp_path / "selection.parquet").set_index("id")
    pd.testing.assert_frame_equal(parquet, frame, check_dtype=False)
    read = pd.read_csv(tmp_path / "selection.csv", keep_default_na=False).set_index("id")
    rounded = ["clean_probability", "suspicion"]
    for name in frame.columns.drop([*rounded, "round_dropped"]):
        np.testing.assert_array_equal(read[name], frame[name])
    for name in rounded:
        np.testing.assert_allclose(read[name], frame[name], rtol=1e-5)


def test_csv_needs_no_other_library(table, tmp_path):
    write_table(table, tmp_path / "selection.csv")
    with open(tmp_path / "selection.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    assert [int(row["id"]) for row in rows] == list(range(NUM_SAMPLES))
    assert {row["round_dropped"] for row in rows} == {"", "0"}


def test_an_unfinished_file_replaces_nothing(table, tmp_path, monkeypatch):
    path = tmp_path / "selection.csv"
    path.write_text("before")
    monkeypatch.setattr(csv, "writer", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_table(table, path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_does_not_fit_is_refused(tracker, table, tmp_path):
    selection = tracker.selections[0]
    with pytest.raises(ValueError, match="given_labels must have one entry for each of the 403"):
        selection.table(given_labels=[1, 2])
    with pytest.raises(ValueError, match="ids must be unique"):
        selection.table(ids=[0] * NUM_SAMPLES)
    with pytest.raises(ValueError, match=r"must end in .csv or .parquet, got 'a.xlsx'"):
        write_table(table, tmp_path / "a.xlsx")


def test_a_status_that_changed_since_the_selection_is_noticed():
    tracker = plain_loop([10], 10)
    selection, times = tracker.selections[0], tracker.status.compute()
    _ = selection.clean_probability
    tracker.status.reset()
    with pytest.raises(ValueError, match="has changed since the selection was made"):
        selection.table()
    assert len(selection.table(times=times)["id"]) == NUM_SAMPLES


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_cleanlab_takes_the_frame_as_its_label_issues(tracker):
    pytest.importorskip("pandas")
    cleanlab = pytest.importorskip("cleanlab.classification")
    linear = pytest.importorskip("sklearn.linear_model")
    data = Noisy()
    frame = to_cleanlab(tracker.selections[0].to_frame(given_labels=data.labels))

    learning = cleanlab.CleanLearning(linear.LogisticRegression())
    learning.fit(data.inputs.numpy(), data.labels.numpy(), label_issues=frame)

    on_all = linear.LogisticRegression().fit(data.inputs.numpy(), data.labels.numpy())
    right = [
        (model.predict(data.inputs.numpy()) == data.true.numpy()).mean()
        for model in (on_all, learning)
    ]
    assert right[1] >= right[0]
    kept = linear.LogisticRegression().fit(
        data.inputs[tracker.kept].numpy(), data.labels[tracker.kept].numpy()
    )
    np.testing.assert_array_equal(
        kept.predict(data.inputs.numpy()), learning.predict(data.inputs.numpy())
    )
    assert torch.equal(torch.from_numpy(~frame["is_label_issue"].to_numpy()), tracker.kept)
