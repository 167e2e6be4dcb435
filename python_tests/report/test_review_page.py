"""The review list in a real browser: filtered, sorted, marked, kept, downloaded, loaded again."""

import csv
import io
import json
import re
import shutil
import time

import pytest
from browser import (
    CLASSES_SORTED,
    choose,
    decisions,
    download,
    emulate,
    focus,
    focused,
    names,
    press,
    shown_text,
)

from mild_ext.report import shown
from mild_ext.report.page import write_report
from mild_ext.sealed import SEAL, write_sealed_json

pytestmark = pytest.mark.slow


def test_the_verdict_comes_first_and_then_the_flagged_samples(page, run, listed):
    body = page.execute_script("return document.body.innerText")
    assert re.search(r"About \d+ of the 600 labels are probably wrong", body)
    assert (
        body.index("probably wrong")
        < body.index("Suggested label")
        < body.index("How this was found")
    )
    flagged = [s.id for s in listed if s.dropped]
    assert len(flagged) > 60
    assert names(page) == flagged[:48]
    assert sum("-wrong" in name for name in names(page)) > 40
    loaded = "return [...document.querySelectorAll('#samples img')].slice(0, 4).map(i => [i.complete, i.naturalWidth])"
    assert page.execute_script(loaded) == [[True, 8]] * 4


def test_more_are_shown_when_asked_for(page, listed):
    page.execute_script("document.getElementById('more').click()")
    flagged = [s.id for s in listed if s.dropped]
    assert names(page) == flagged[:96]
    assert focused(page) == flagged[48]
    choose(page, "show", "all")
    assert shown_text(page, "count") == "48 of 600 samples shown"


def test_filter_search_and_sort(page, listed):
    choose(page, "show", "all")
    choose(page, "given", "1")
    assert names(page) == [s.id for s in listed if s.given_label == 1][:48]
    choose(page, "suggested", "2")
    both = [s for s in listed if (s.given_label, s.suggested_label) == (1, 2)]
    assert names(page) == [s.id for s in both][:48]
    choose(page, "given", "")
    choose(page, "suggested", "")
    choose(page, "search", "hacked=2 000")
    assert names(page) == [s.id for s in listed if "000-" in s.id and "hacked=2" in s.id]
    choose(page, "search", "no such file")
    assert names(page) == []
    assert shown_text(page, "count") == "No sample matches these filters."
    choose(page, "search", "")
    choose(page, "sort", "least")
    assert names(page) == [s.id for s in listed[::-1]][:48]
    choose(page, "sort", "confidence")
    surest = sorted(listed, key=lambda s: -round(s.suggestion_confidence or -1, 4))
    assert names(page) == [s.id for s in surest][:48]


def test_marks_by_key_survive_a_reload(page, listed):
    flagged = [s for s in listed if s.dropped]
    focus(page)
    press(page, "r", "w", "s")
    expected = {
        flagged[0].id: "label is right",
        flagged[1].id: "label is wrong",
        flagged[2].id: f"is {CLASSES_SORTED[flagged[2].suggested_label]}",
    }
    assert decisions(page) == expected
    assert focused(page) == flagged[3].id  # the next one, ready to be marked
    assert f"3 of {len(flagged)} flagged samples marked; 2 of 3 labels were wrong" in shown_text(
        page, "said"
    )
    page.refresh()
    assert decisions(page) == expected
    focus(page, 1)
    press(page, "u")
    del expected[flagged[1].id]
    assert decisions(page) == expected
    choose(page, "show", "open")
    assert not set(expected) & set(names(page))


def test_relabel_by_key_and_moving(page, listed):
    from selenium.webdriver.common.keys import Keys

    flagged = [s for s in listed if s.dropped]
    other = next(
        k for k in range(4) if k not in (flagged[0].given_label, flagged[0].suggested_label)
    )
    focus(page)
    press(page, "l", CLASSES_SORTED[other][:3])
    press(page, Keys.ENTER)
    assert decisions(page) == {flagged[0].id: f"is {CLASSES_SORTED[other]}"}
    assert focused(page) == flagged[1].id
    press(page, Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert focused(page) == flagged[0].id
    press(page, Keys.ARROW_DOWN)
    assert focused(page) == flagged[5].id  # five columns
    press(page, Keys.END, Keys.ARROW_RIGHT)
    assert focused(page) == flagged[48].id  # which was not there before
    press(page, Keys.HOME)
    assert focused(page) == flagged[0].id


def test_tab_leads_into_one_card_and_on(page):
    from selenium.webdriver.common.keys import Keys

    reached = []
    page.execute_script("document.querySelector('.keys summary').focus()")
    for _ in range(7):
        press(page, Keys.TAB)
        reached.append(
            page.execute_script(
                "return document.activeElement.className || document.activeElement.id"
            )
        )
    assert reached == ["sr", "sample-0", "right", "wrong", "suggest", "relabel", "more"]


def test_marks_by_mouse(page, listed):
    from selenium.webdriver.common.by import By

    flagged = [s for s in listed if s.dropped]
    first = page.find_element(By.CSS_SELECTOR, "#samples article")
    right = first.find_element(By.CSS_SELECTOR, "button.right")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", right)
    right.click()
    assert right.get_attribute("aria-pressed") == "true"
    assert decisions(page) == {flagged[0].id: "label is right"}
    right.click()  # again: taken back
    assert decisions(page) == {}


def test_corrections_file(page, listed):
    by_given = {k: [s for s in listed if s.given_label == k and s.dropped] for k in range(4)}
    chosen = [by_given[k][0] for k in range(4)]
    choose(page, "show", "all")
    for s, key in zip(chosen, "rwsr", strict=True):
        choose(page, "search", s.id)
        focus(page)
        press(page, key)
    text = download(page)
    assert text.startswith("id,given_label,decision,label\r\n")
    assert text.endswith("\r\n")
    assert text.count("\r\n") == text.count("\n") == 5

    def shown_by_a_spreadsheet(cell):
        return "'" + cell if cell.startswith("=") else cell

    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    ranks = {s.id: k for k, s in enumerate(listed)}
    expected = []
    for s, key in sorted(zip(chosen, "rwsr", strict=True), key=lambda pair: ranks[pair[0].id]):
        given = CLASSES_SORTED[s.given_label]
        label = {"r": given, "w": "", "s": CLASSES_SORTED[s.suggested_label or 0]}[key]
        decision = {"r": "right", "w": "wrong", "s": "relabel"}[key]
        cells = [s.id, given, decision, label]
        names = ["id", "given_label", "decision", "label"]
        expected.append(dict(zip(names, map(shown_by_a_spreadsheet, cells), strict=True)))
    assert rows == expected
    assert any(row["id"].startswith("'=SUM") for row in rows)


def test_an_earlier_file_is_loaded_again(page, listed, tmp_path):
    flagged = [s for s in listed if s.dropped]
    assert flagged[0].id.startswith("=")
    focus(page)
    press(page, "r", "w", "s")
    before = decisions(page)
    path = tmp_path / "corrections.csv"
    path.write_text(download(page) + "nobody.png,four,right,four\r\n", encoding="utf-8", newline="")
    page.execute_script("localStorage.clear()")
    page.refresh()
    assert decisions(page) == {}
    page.find_element("id", "load").send_keys(str(path))
    for _ in range(50):
        if said := shown_text(page, "loaded"):
            break
        time.sleep(0.1)
    assert said == (
        "Loaded 3 decisions from corrections.csv. 1 lines are of no sample or class in this list."
    )
    assert decisions(page) == before
    page.refresh()
    assert decisions(page) == before


def test_a_confusion_leads_to_its_samples(page, listed):
    page.execute_script("document.querySelector('.matrix button').click()")
    button = page.execute_script(
        "const b = document.querySelector('.matrix button');"
        "return [b.dataset.given, b.dataset.suggested, b.textContent]"
    )
    given, suggested, count = map(int, button)
    pair = [
        s.id
        for s in listed
        if s.dropped and (s.given_label, s.suggested_label) == (given, suggested)
    ]
    assert len(pair) == count
    assert names(page) == pair[:48]


def test_pictures_beside_the_page(chromium, run, tmp_path, monkeypatch):
    """Where there are too many for the page they lie in a folder, and a page without them still works."""
    monkeypatch.setattr(shown, "EMBEDDED_BYTES", 2000)
    path = write_report(run, tmp_path / "page.html")
    files = sorted((tmp_path / "page_pictures").iterdir())
    assert len(files) > 500
    emulate(chromium)
    chromium.get(path.as_uri())
    chromium.execute_script("document.querySelector('#samples li:nth-child(40)').scrollIntoView()")
    time.sleep(0.5)
    source, width = chromium.execute_script(
        "const i = document.querySelector('#samples li:nth-child(40) img');"
        "return [i.getAttribute('src'), i.naturalWidth]"
    )
    assert source == "page_pictures/000039.png"
    assert width == 8
    shutil.rmtree(tmp_path / "page_pictures")
    chromium.refresh()
    assert len(names(chromium)) == 48


def test_undo_takes_back_the_last_mark_wherever_the_focus_is(chromium, run):
    emulate(chromium)
    chromium.get((run / "report.html").as_uri())
    chromium.execute_script("localStorage.clear()")
    chromium.refresh()
    focus(chromium)
    first = focused(chromium)
    press(chromium, "r", "w")
    assert len(decisions(chromium)) == 2
    press(chromium, "u")  # the focus is on the third card, which has no mark
    assert list(decisions(chromium)) == [first]
    focus(chromium)
    press(chromium, "u")
    assert decisions(chromium) == {}


def test_two_runs_keep_their_marks_apart(chromium, run, tmp_path):
    emulate(chromium)
    chromium.get((run / "report.html").as_uri())
    chromium.execute_script("localStorage.clear()")
    chromium.refresh()
    focus(chromium)
    press(chromium, "r")
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = json.loads((copy / "config.json").read_text())
    config["settings"]["seed"] = 1
    config.pop(SEAL)
    write_sealed_json(copy / "config.json", config)
    chromium.get(write_report(copy).as_uri())
    assert decisions(chromium) == {}
    chromium.get((run / "report.html").as_uri())
    assert len(decisions(chromium)) == 1


def test_hundreds_of_classes(chromium, run, listed, tmp_path):
    """The options of a card are made when they are needed."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = json.loads((copy / "config.json").read_text())
    config["data"]["classes"] += [f"more {k}" for k in range(400)]
    config.pop(SEAL)
    write_sealed_json(copy / "config.json", config)
    emulate(chromium)
    chromium.get(write_report(copy).as_uri())
    assert (
        chromium.execute_script("return document.querySelectorAll('#samples option').length") == 48
    )
    focus(chromium)
    press(chromium, "l", "more 37")
    assert list(decisions(chromium).values()) == ["is more 37"]
    chromium.refresh()
    assert list(decisions(chromium).values()) == ["is more 37"]
    chromium.execute_script("localStorage.clear()")


def test_a_browser_that_keeps_nothing_says_so(page):
    hidden = "return document.getElementById('not-kept').hidden"
    assert page.execute_script(hidden)
    page.execute_script("Storage.prototype.setItem = () => { throw new DOMException('full') }")
    focus(page)
    press(page, "r")
    assert not page.execute_script(hidden)
    assert len(decisions(page)) == 1


def test_what_is_downloaded_can_be_applied(page, run, listed, tmp_path):
    """From the page to corrected labels: every decision reaches the samples it was made for."""
    import numpy as np

    from mild_ext.cli import main

    flagged = [s for s in listed if s.dropped]
    focus(page)
    press(page, "r", "s", "s", "s", "w")
    corrections = tmp_path / "corrections.csv"
    corrections.write_text(download(page), encoding="utf-8", newline="")
    labels = tmp_path / "labels.npy"
    command = ["fix", str(run), "--corrections", str(corrections), "--wrong", "keep"]
    assert main([*command, "--out", str(labels)]) == 0
    before, after = np.load(run / "given_labels.npy"), np.load(labels)
    changed = {s.number: s.suggested_label for s in flagged[1:4]}
    for number, label in changed.items():
        assert after[number] == label != before[number]
    untouched = np.ones(len(before), dtype=bool)
    untouched[list(changed)] = False
    np.testing.assert_array_equal(after[untouched], before[untouched])
