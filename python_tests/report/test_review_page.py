"""The review list in a real browser: found, sorted, marked, kept, downloaded; readable by everybody."""

import csv
import io
import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from browser import emulate, requested, start_browser

from mild_ext.cli import main

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from mild_ext.report import shown
from mild_ext.report.page import gather, write_report
from mild_ext.sealed import SEAL, write_sealed_json

pytestmark = pytest.mark.slow

#: Class folders whose names a page, a spreadsheet or a CSV file could trip over.
CLASSES = ["=SUM(A1)", "<img src=x onerror=hacked=1>", 'three, "quoted"', "four"]
CLASSES_SORTED = sorted(CLASSES)
NASTY = "<script>hacked=2<script>&amp;'\".png"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on handwritten digits as PNG files, a fifth of them in the folder of another class."""
    from PIL import Image
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("review")
    images, labels = load_digits(n_class=len(CLASSES), return_X_y=True)
    random = np.random.default_rng(0)
    for i, (image, label) in enumerate(zip(images[:600], labels[:600], strict=True)):
        wrong = random.random() < 0.2
        given = (label + random.integers(1, len(CLASSES))) % len(CLASSES) if wrong else label
        name = f"{NASTY if i == 0 else ''}{i:03d}-{'wrong' if wrong else 'right'}.png"
        path = folder / "digits" / CLASSES[given] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image.reshape(8, 8) * 15).astype(np.uint8)).save(path)
    out = folder / "run"
    assert main([
        "train", "--data", f"folder:{folder / 'digits'}", "--out", str(out), "--quiet",
        "--model", "mlp", "--width", "64", "--augment", "none", "--first-epochs", "15",
        "--rounds", "1", "--final-epochs", "1", "--no-compare", "--report",
    ]) == 0  # fmt: skip
    return out


@pytest.fixture(scope="module")
def listed(run):
    """The samples in the order of the list."""
    return gather(run, thumbnails=False)["suspects"]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    page = start_browser(tmp_path_factory.mktemp("browser"))
    yield page
    page.quit()


@pytest.fixture
def page(chromium, run):
    """The report, freshly opened, with nothing marked."""
    emulate(chromium)
    chromium.get((run / "report.html").as_uri())
    chromium.execute_script("localStorage.clear()")
    chromium.refresh()
    assert not [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]
    return chromium


def names(page):
    return page.execute_script(
        "return [...document.querySelectorAll('#samples h4')].map(e => e.textContent)"
    )


def choose(page, control, value):
    page.execute_script(
        "const c = document.getElementById(arguments[0]); c.value = arguments[1];"
        "c.dispatchEvent(new Event(c.type === 'search' ? 'input' : 'change'))", control, value
    )  # fmt: skip


def press(page, *keys):
    from selenium.webdriver.common.action_chains import ActionChains

    actions = ActionChains(page)
    for key in keys:
        actions.send_keys(key)
    actions.perform()


def focus(page, position=0):
    page.execute_script(
        "document.querySelectorAll('#samples article')[arguments[0]].focus()", position
    )


def focused(page):
    return page.execute_script(
        "const a = document.activeElement.closest('article'); return a && a.querySelector('h4').textContent"
    )


def decisions(page):
    return page.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('#samples article[data-decision]')]"
        ".map(a => [a.querySelector('h4').textContent, a.querySelector('.decided').textContent]))"
    )


def shown_text(page, element):
    return page.execute_script("return document.getElementById(arguments[0]).textContent", element)


def download(page):
    """The text of corrections.csv, as the browser saved it."""
    profile = page.capabilities["chrome"]["userDataDir"]
    path = Path(profile).parent / "downloads" / "corrections.csv"
    path.unlink(missing_ok=True)
    page.execute_script("document.getElementById('download').click()")
    for _ in range(100):
        if path.is_file():
            return path.read_bytes().decode("utf-8")
        time.sleep(0.1)
    raise AssertionError("nothing was downloaded")


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
    for _ in range(6):
        press(page, Keys.TAB)
        reached.append(
            page.execute_script(
                "return document.activeElement.className || document.activeElement.id"
            )
        )
    assert reached == ["sample-0", "right", "wrong", "suggest", "relabel", "more"]


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


def test_names_are_never_markup(page):
    choose(page, "show", "all")
    choose(page, "search", "000-")
    assert len(names(page)) == 1
    assert NASTY in names(page)[0]
    assert page.execute_script("return typeof hacked") == "undefined"
    assert page.execute_script("return document.querySelectorAll('script').length") == 2
    assert page.execute_script("return document.querySelectorAll('img[onerror]').length") == 0
    # Were a name to become markup all the same, the page's policy would not let it run.
    page.execute_script(
        "document.getElementById('count').innerHTML = '<img src=\"data:,\" onerror=\"hacked = 3\">'"
    )
    time.sleep(0.3)
    assert page.execute_script("return typeof hacked") == "undefined"
    page.get_log("browser")  # the policy's complaint


def test_nothing_is_fetched(page):
    requested(page)
    page.refresh()
    page.execute_script("document.getElementById('more').click()")
    time.sleep(0.3)
    addresses = requested(page)
    assert addresses  # the page itself
    assert {address.partition(":")[0] for address in addresses} <= {"file", "data", "blob"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen(page, width, scheme):
    emulate(page, width=width, height=844, scheme=scheme)
    page.refresh()
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    wide = page.execute_script(
        "return [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, pre, template, .sr') "
        "&& e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []


CONTRAST = """
const parse = (c) => c.match(/[\\d.]+/g).map(Number);
const linear = (v) => v <= 10 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
const light = (c) => { const [r, g, b] = parse(c).map(linear); return .2126 * r + .7152 * g + .0722 * b; };
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor;
    if (parse(c)[3] !== 0) return c;
  }
  return 'rgb(255, 255, 255)';
};
const least = {};
for (const e of document.querySelectorAll('body *')) {
  if (!e.offsetParent || e.disabled || e.closest('.matrix, template')) continue;
  if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
  const a = light(getComputedStyle(e).color), b = light(behind(e));
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < 4.5) least[e.tagName + '.' + e.className] = ratio;
}
return least;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(page, scheme):
    emulate(page, scheme=scheme)
    page.refresh()
    focus(page)
    press(page, "r", "w", "s")
    background = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 19, 24)"}[scheme]
    assert page.execute_script(CONTRAST) == {}


def test_every_control_has_a_name(page):
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {
        "button",
        "combobox",
        "searchbox",
        "image",
        "progressbar",
        "article",
        "group",
        "region",
        "link",
    }
    found = {}
    for node in nodes:
        role = node.get("role", {}).get("value")
        if role in roles and not node.get("ignored"):
            found.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    assert {"button", "combobox", "searchbox", "image", "article"} <= set(found)
    assert {
        role: names for role, names in found.items() if role != "group" and not all(names)
    } == {}


def test_print(page, listed):
    focus(page)
    press(page, "r")
    emulate(page, medium="print", scheme="dark")
    display = "return getComputedStyle(document.querySelector(arguments[0])).display"
    for hidden in (".decide", ".filters", "#download", ".more"):
        assert page.execute_script(display, hidden) == "none"
    assert page.execute_script(display, ".decided") == "block"
    assert (
        page.execute_script("return getComputedStyle(document.body).backgroundColor")
        == "rgb(255, 255, 255)"
    )
    pdf = page.execute_cdp_cmd("Page.printToPDF", {})["data"]
    assert len(pdf) > 10_000


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
