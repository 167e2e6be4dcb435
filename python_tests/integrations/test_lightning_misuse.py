"""`MILDCallback` attached twice, with another data set, or with a second training: refused, or begun anew."""

from __future__ import annotations

import pytest
import torch
from noisy import NUM_SAMPLES, Noisy
from torch.utils.data import DataLoader, Subset

pl = pytest.importorskip("lightning.pytorch")

from noisy_lightning import HINTS, Classifier  # noqa: E402

from mild_ext.integrations.lightning import MILDCallback  # noqa: E402

pytestmark = HINTS


def fit(epochs, callbacks, dataset, folder):
    loader = DataLoader(dataset, batch_size=32, sampler=callbacks[0].sampler())
    pl.Trainer(
        max_epochs=epochs,
        callbacks=callbacks,
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Classifier(), loader)


def callback():
    return MILDCallback(NUM_SAMPLES, [3, 1], index=0, labels=2)


def test_a_callback_that_is_attached_twice_is_refused(tmp_path):
    mild = callback()
    with pytest.raises(ValueError, match="attached 2 times"):
        fit(4, [mild, mild], Noisy(), tmp_path)
    assert mild.tracker.epochs == 0


@pytest.mark.parametrize("size", [NUM_SAMPLES - 5, NUM_SAMPLES + 5])
def test_a_data_set_of_another_size_is_refused(tmp_path, size):
    ids = [k % NUM_SAMPLES for k in range(size)]
    with pytest.raises(ValueError, match=rf"has {size} samples, .* num_samples=len\(dataset\)"):
        fit(4, [callback()], Subset(Noisy(), ids), tmp_path)


def test_a_second_training_begins_the_round_anew(tmp_path):
    """Half a round of each of two networks is the course of none."""
    mild = callback()
    fit(2, [mild], Noisy(), tmp_path)
    with pytest.warns(UserWarning, match="left after 2 of 3 epochs of another training"):
        fit(3, [mild], Noisy(), tmp_path)
    assert mild.tracker.epochs == 3
    assert len(mild.tracker.selections) == 1
    assert bool((torch.as_tensor(mild.tracker.seen)[mild.tracker.watched] <= 3).all())
