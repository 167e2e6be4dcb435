"""The README's examples run as they stand."""

import re
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from mild_ext import ArrayDataset, RoundsResult

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)

LABELS = torch.arange(256) % 2
INPUTS = torch.randn(256, 4, generator=torch.Generator().manual_seed(0)) + LABELS[:, None]


def make_model():
    return torch.nn.Linear(4, 2)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda text: text.split("\n")[0])
def test_example(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dataset = ArrayDataset(INPUTS, LABELS)
    names = {"dataset": dataset, "model": make_model(), "make_model": make_model}
    names |= {"labels": LABELS, "DataLoader": DataLoader}
    exec(block, names | {"device": "cpu"}, names)
    if "selection" in names:
        assert names["selection"].mask.shape == LABELS.shape
        assert int(names["status"].compute().seen.min()) == 30
        assert names["selection"].summary() in capsys.readouterr().out
    else:
        assert isinstance(names["result"], RoundsResult)
        assert names["result"].kept.any()


def test_there_are_the_two_examples():
    assert len(BLOCKS) == 2
