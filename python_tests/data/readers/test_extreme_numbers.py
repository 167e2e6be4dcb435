"""Numbers that are far out: they neither break the arithmetic nor make a column worthless without a word."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from mild_ext.data import load_data

COUNT = 240


def columns(tmp_path, first):
    rng = np.random.default_rng(0)
    values = [f"{x:.4f}" for x in rng.normal(size=COUNT)]
    values[3] = first
    rows = [f"{x},{k % 5},{'ab'[k % 2]}" for k, x in enumerate(values)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["x,y,label", *rows]) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_data(f"csv:{path},label=label")


@pytest.mark.parametrize("far", ["1e308", "-1.7e308", "1e30", "1e6"])
def test_a_number_that_is_far_out_is_said(tmp_path, far):
    data = columns(tmp_path, far)
    (told,) = [text for text in data.messages if "so far out" in text]
    assert "column x" in told
    assert f"{float(far):g}" in told


def test_ordinary_columns_are_passed_over_in_silence(tmp_path):
    assert not [text for text in columns(tmp_path, "8.0").messages if "far out" in text]


def test_the_word_that_spoils_a_column_of_numbers_is_named(tmp_path):
    (told,) = [text for text in columns(tmp_path, "inf").messages if "column x" in text]
    assert "although most of its values are numbers: 'inf' is none" in told
    assert "text=x" not in told


def test_numbers_too_large_for_float32_are_called_that(tmp_path):
    x = np.ones((20, 3))
    x[3, 1] = 1e300
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(20) % 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="1 samples hold NaN, infinity, or numbers above 3e38"):
            load_data(f"npz:{tmp_path / 'a.npz'}")
