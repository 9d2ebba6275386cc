"""Make the pictures of the README: the demo's dashboard, alerts and figures, as TensorBoard shows them in a browser.

Needs Debian's ``chromium`` and ``chromium-driver``, and ``pip install selenium matplotlib``; a minute or two:
``python -m examples.pictures [a run that is there already]`` from the top of the repository.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PICTURES = Path(__file__).parent / "pictures"
CHARTS = "custom_scalars&_smoothingWeight=0"
# name -> (part of the address, text that tells that the page is there, height of the window, left and top edge cut off)
PAGES = {
    "dashboard": (CHARTS, "share of training time", 1380, (356, 66)),
    "dashboard_whole": (CHARTS, "share of training time", 2450, (0, 0)),
    "alerts": ("text", "Training is heading", 900, (0, 0)),
    "figures": ("images", "shockwatch/slice", 900, (0, 0)),
}
WIDTH, COLOURS, MOST_BYTES = 1500, 96, 300_000
# TensorBoard's own setting, "Ignore outliers in chart scaling": off, or peaks are cut
WHOLE_CURVES = "localStorage.setItem('_ignoreYOutliers', 'false')"

OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip

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


@contextmanager
def tensorboard(folder: str | Path) -> Iterator[str]:
    """A TensorBoard of ``folder``: its address."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "0"]
    command += ["--host", "127.0.0.1", "--samples_per_plugin", "images=50,text=50"]
    with tempfile.NamedTemporaryFile("w+", encoding="utf-8") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            yield _address(Path(out.name), server)
        finally:
            server.terminate()
            server.wait(30)


def _address(out: Path, server: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and server.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+", out.read_text(encoding="utf-8")):
            urllib.request.urlopen(found.group(0), timeout=30).close()
            return found.group(0)
        time.sleep(0.3)
    raise TimeoutError(out.read_text(encoding="utf-8"))


@contextmanager
def chromium(profile: str | Path, width: int = WIDTH, height: int = 1400) -> Iterator[Any]:
    """A headless browser, driven by selenium."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    for option in (*OPTIONS, f"--window-size={width},{height}", f"--user-data-dir={profile}"):
        options.add_argument(option)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def text_of(browser: Any, address: str, *awaited: str) -> str:
    """The page's text once it holds all that is awaited, or after a minute."""
    browser.get(address)
    deadline = time.monotonic() + 60
    while True:
        seen = str(browser.execute_script(TEXT))
        if all(text in seen for text in awaited) or time.monotonic() > deadline:
            return seen
        time.sleep(0.5)


def settled(browser: Any) -> bytes:
    """A screenshot that no longer changes: charts are drawn after their titles."""
    before, deadline = b"", time.monotonic() + 30
    while time.monotonic() < deadline:
        time.sleep(2.0)
        after = bytes(browser.get_screenshot_as_png())
        if after == before:
            break
        before = after
    return before


def compressed(picture: bytes, left: int, top: int) -> bytes:
    """The same PNG without what is left of, and above, an edge; with a small palette, a third of the bytes."""
    from PIL import Image

    image = Image.open(io.BytesIO(picture)).convert("RGB")
    small = io.BytesIO()
    image.crop((left, top, *image.size)).quantize(COLOURS).save(small, "PNG", optimize=True)
    return small.getvalue()


def main(run: str | None = None, target: Path = PICTURES) -> list[Path]:
    """Take every picture of ``run``, by default of a fresh demo; the files written."""
    from shockwatch import demo

    files = []
    with tempfile.TemporaryDirectory() as home:
        folder = demo.run(Path(home, "demo")).log_dir if run is None else run
        with tensorboard(folder) as address:
            for name, (tab, awaited, height, edges) in PAGES.items():
                with chromium(Path(home, name), height=height) as browser:
                    browser.get(address)
                    browser.execute_script(WHOLE_CURVES)
                    if awaited not in text_of(browser, f"{address}/#{tab}", awaited):
                        raise TimeoutError(f"{tab}: no {awaited!r} after a minute")
                    picture = settled(browser)
                picture = compressed(picture, *edges)
                if len(picture) > MOST_BYTES:
                    raise ValueError(f"{name}: {len(picture):,} bytes, at most {MOST_BYTES:,} may be kept")
                files.append(target / f"{name}.png")
                files[-1].write_bytes(picture)
    return files


if __name__ == "__main__":
    for file in main(*sys.argv[1:2]):
        print(f"{file}  {file.stat().st_size:,} bytes")
