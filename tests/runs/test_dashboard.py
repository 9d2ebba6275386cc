"""TensorBoard in a real browser shows what we write: the charts, an alert, the pictures.

Needs Debian's ``chromium`` and ``chromium-driver``; ``.ci/run`` installs them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from shockwatch import Alert
from shockwatch.tensorboard import layout, open_writer, write_layout, write_scalars, write_texts

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="chromium and chromium-driver are missing"
)

# Text of the page, through every shadow root.
TEXT = """
const seen = [];
(function walk(node) {
  if (node.shadowRoot) walk(node.shadowRoot);
  for (const child of node.childNodes) {
    if (child.nodeType === 3) seen.push(child.textContent); else walk(child);
  }
})(document.body);
return seen.join(' ').replace(/\\s+/g, ' ');
"""

OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1600,1400",
)  # fmt: skip


@pytest.fixture
def board(tmp_path):
    """Address of a TensorBoard that serves one run with everything we write."""
    with open_writer(str(tmp_path / "logs")) as writer:
        write_layout(writer)
        for step in range(0, 200, 20):
            values = {
                "shock/proximity": step / 100,
                "quotient/speed": 1.0 / (step + 1),
                "raw/speed": 2.0 / (step + 1),
            }
            write_scalars(writer, values, step)
        alert = Alert(
            "transition ahead",
            "warning",
            120,
            "shock/proximity",
            1.2,
            1.0,
            80.0,
            "heading for <b>x</b> *now*",
        )
        write_texts(writer, [alert], [], 120)
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path / "logs"), "--port", "0"]
    with open(tmp_path / "out", "w+") as out:
        server = subprocess.Popen([*command, "--host", "127.0.0.1"], stdout=out, stderr=subprocess.STDOUT)
        try:
            yield address(tmp_path / "out", server)
        finally:
            server.terminate()
            server.wait(30)


def address(out, server):
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and server.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+", out.read_text()):
            urllib.request.urlopen(found.group(0), timeout=30).close()
            return found.group(0)
        time.sleep(0.3)
    raise TimeoutError(out.read_text())


@pytest.fixture
def browser(tmp_path):
    options = Options()
    options.binary_location = BROWSER
    for option in (*OPTIONS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(option)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def shows(browser, url, *texts):
    """The page's text once it holds all of ``texts``, or after a minute."""
    browser.get(url)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        seen = browser.execute_script(TEXT)
        if all(text in seen for text in texts):
            return seen
        time.sleep(0.5)
    return seen


@needs_browser
def test_charts_tags_and_alert_are_seen(board, browser):
    charts = list(layout()["shockwatch"])
    seen = shows(browser, f"{board}/#custom_scalars", *charts[:3])
    for chart in charts:
        assert chart in seen, chart
    seen = shows(browser, f"{board}/#timeseries", "shock/proximity")
    assert "shock/proximity" in seen
    assert "quotient/speed" in seen
    seen = shows(browser, f"{board}/#text", "transition ahead")
    assert "transition ahead" in seen
    # what an alert says is text, not markup
    assert "heading for <b>x</b> *now*" in seen


def test_the_layout_names_tags_that_exist():
    from shockwatch.tags import known_tag

    for charts in layout().values():
        for kind, patterns in charts.values():
            assert kind in {"Multiline", "Margin"}
            for pattern in patterns:
                example = re.sub(r"\\(.)", r"\1", pattern.strip("^$").replace(".*", "name"))
                assert known_tag(example), pattern
