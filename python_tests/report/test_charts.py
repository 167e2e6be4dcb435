"""The report's charts: what is drawn is what was recorded."""

import csv
import shutil

import numpy as np
import pytest
import torch

from mild_ext.recording.status import LearningStatus

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from mild_ext.report import charts
from mild_ext.report.page import write_report
from mild_ext.report.run_data import read_selection
from mild_ext.selection import PlantedLabels


def test_status_picture_averages_neighbours(tmp_path, monkeypatch):
    """Four samples in two rows; one of them not seen in the second epoch."""
    monkeypatch.setattr(charts, "LARGEST_HEIGHT", 2)
    status = LearningStatus(4, 2)
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    status.update(
        torch.arange(4), torch.tensor([right, right, wrong, wrong]), torch.zeros(4).long()
    )
    status.advance()
    status.update(torch.arange(3), torch.tensor([right, wrong, wrong]), torch.zeros(3).long())
    status.advance()
    starts = np.array([0, 2])
    order = np.arange(4)
    np.testing.assert_array_equal(charts._row_means(status, 0, order, starts), [1, 0])
    np.testing.assert_array_equal(charts._row_means(status, 1, order, starts), [0.5, 0])
    np.testing.assert_array_equal(
        charts._row_means(status, 1, np.array([0, 1, 2, 3]), np.array([0, 3])), [1 / 3, np.nan]
    )
    (tmp_path / "status").mkdir()
    status.save(tmp_path / "status" / "round-00.safetensors")
    figure = charts.status_figure(tmp_path, [])
    assert figure["rows"] == 2
    assert figure["per_row"] == 2
    assert figure["samples"] == 4


@pytest.mark.slow
def test_planted_samples_of_several_networks_are_drawn_together(run, tmp_path):
    copy = tmp_path / "scouted"
    shutil.copytree(run, copy)
    samples = read_selection(run)
    alone = charts.planted_figure(run, 0, samples)
    assert alone["planted"] >= 50
    assert alone["networks"] == 1
    assert alone["left_out"] == alone["planted"]
    with open(run / "selection.csv", encoding="utf-8", newline="") as file:
        dropped = {int(row["id"]) for row in csv.DictReader(file) if row["kept"] == "0"}
    planted = PlantedLabels.load(run / "planted" / "round-00.safetensors")
    ids = set(planted.mask.nonzero().flatten().tolist())
    assert alone["left_out_flagged"] == len(ids & dropped)
    for folder in ("status", "planted"):
        shutil.copy(copy / folder / "round-00.safetensors", copy / folder / "scout-1.safetensors")
    both = charts.planted_figure(copy, 0, samples)
    assert (both["planted"], both["networks"]) == (2 * alone["planted"], 2)
    text = write_report(copy, thumbnails=False).read_text(encoding="utf-8")
    assert (both["left_out"], both["left_out_flagged"]) == (
        alone["left_out"], alone["left_out_flagged"]
    )  # fmt: skip
    assert f"{both['planted']} labels were made wrong on purpose" in text
    assert "2 networks were trained on" in text
    assert f"{both['left_out']} had their label made wrong on purpose for it" in text
    assert charts.planted_figure(copy, 7, samples) is None
