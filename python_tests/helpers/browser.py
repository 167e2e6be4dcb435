"""A real headless browser for the tests of the page; absent, these tests are shown as skipped."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

FLAGS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


def start_browser(folder: Path):
    """Chromium with a profile of its own in ``folder``, which downloads into ``folder / "downloads"``."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    from selenium.webdriver.chrome.service import Service

    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in [*FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1280,900"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    page = webdriver.Chrome(options=options, service=Service(driver))
    page.set_page_load_timeout(60)
    downloads = folder / "downloads"
    downloads.mkdir()
    page.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)}
    )
    return page


def emulate(page, *, width=1280, height=900, scheme="light", medium="screen"):
    """The page as on a screen of that size, light or dark, or as printed."""
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium, "features": features})


def requested(page) -> list[str]:
    """The addresses that the page has asked for since this was called last."""
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


# ------------------------------------------------------------------------------ the review page

#: Class folders whose names a page, a spreadsheet or a CSV file could trip over.
CLASSES = ["=SUM(A1)", "<img src=x onerror=hacked=1>", 'three, "quoted"', "four"]
CLASSES_SORTED = sorted(CLASSES)
NASTY = "<script>hacked=2<script>&amp;'\".png"


def names(page):
    return page.execute_script(
        "return [...document.querySelectorAll('#samples .name')].map(e => e.textContent)"
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
        "const a = document.activeElement.closest('article'); return a && a.querySelector('.name').textContent"
    )


def decisions(page):
    return page.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('#samples article[data-decision]')]"
        ".map(a => [a.querySelector('.name').textContent, a.querySelector('.decided').textContent]))"
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
