"""The review page is safe, fetches nothing, fits every screen and paper, and can be used by everybody."""

import time

import pytest
from browser import NASTY, choose, emulate, focus, names, press, requested

pytestmark = pytest.mark.slow


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
