"""Text for spreadsheets."""

from __future__ import annotations

import pytest

from mild_ext.files import spreadsheet_safe


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1", "  =1"]
)
def test_what_a_spreadsheet_would_compute_is_shown(text: str) -> None:
    assert spreadsheet_safe(text) == "'" + text


@pytest.mark.parametrize("text", ["", " ", "cat", "a=b", "1-2", "'=1", "é.png"])
def test_other_text_stays(text: str) -> None:
    assert spreadsheet_safe(text) == text
