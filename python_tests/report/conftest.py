"""A run on handwritten digits as PNG files, and a browser to look at its report with."""

import numpy as np
import pytest
from browser import CLASSES, NASTY, emulate, start_browser


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run on handwritten digits as PNG files, a fifth of them in the folder of another class."""
    for package in ("jinja2", "matplotlib", "sklearn"):
        pytest.importorskip(package)
    from PIL import Image
    from sklearn.datasets import load_digits

    from mild_ext.cli import main

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


@pytest.fixture(scope="session")
def listed(run):
    """The samples in the order of the list."""
    from mild_ext.report.page import gather

    return gather(run, thumbnails=False)["suspects"]


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    page = start_browser(tmp_path_factory.mktemp("browser"))
    yield page
    page.quit()


@pytest.fixture
def page(chromium, run):
    """The report, freshly opened, with nothing marked."""
    emulate(chromium)
    chromium.get_log("browser")  # of the test before
    chromium.get((run / "report.html").as_uri())
    chromium.execute_script("localStorage.clear()")
    chromium.refresh()
    assert not [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]
    return chromium
