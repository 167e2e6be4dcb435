"""Text for spreadsheets."""

from __future__ import annotations

import pytest

from mild_ext.files import as_name, as_text, spreadsheet_safe, without_apostrophe


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1",
        "-1+cmd|' /C calc'!A0",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "  =1",
        "\n=1",
        "\u00a0=1",
        "\ufeff=1",
        "\u3000\uff1d1",
        "\uff0b1",
        "\uff0d1",
        "\uff20a",
        "'=1",
        "''=1",
        "' +1",
    ],
)
def test_what_a_spreadsheet_would_compute_is_shown(text: str) -> None:
    assert spreadsheet_safe(text) == "'" + text
    assert without_apostrophe(spreadsheet_safe(text)) == text


@pytest.mark.parametrize("text", ["", " ", "cat", "a=b", "1-2", "'tis", "'", "é.png"])
def test_other_text_stays(text: str) -> None:
    assert spreadsheet_safe(text) == without_apostrophe(text) == text


@pytest.mark.parametrize(
    "name",
    [
        "a.png",
        "caf\udce9",
        "a\nb",
        "\u202egpj.exe",
        "\u2028",
        "\\",
        r"\u1234",
    ],
)
def test_a_name_is_printable_and_comes_back(name: str) -> None:
    spelled = as_text(name)
    assert as_name(spelled) == name
    assert not set("\n\u202e\u2028\udce9") & set(spelled)
    assert as_text(spelled) == spelled
