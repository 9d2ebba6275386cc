"""TensorBoard in a real browser shows what we write: the charts, an alert, the pictures.

Needs Debian's ``chromium`` and ``chromium-driver``; ``.ci/run`` installs them. The browser is driven by the script
that makes the pictures of the README.
"""

from __future__ import annotations

import io
import re
import shutil

import matplotlib.image
import pytest

from examples.pictures import CHARTS, MOST_BYTES, chromium, compressed, settled, tensorboard, text_of
from shockwatch import Alert
from shockwatch.tensorboard import layout, open_writer, write_layout, write_scalars, write_texts

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="chromium and chromium-driver are missing"
)


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
    with tensorboard(tmp_path / "logs") as address:
        yield address


@pytest.fixture
def browser(tmp_path):
    with chromium(tmp_path / "profile") as driver:
        yield driver


@needs_browser
def test_charts_tags_and_alert_are_seen(board, browser):
    sections = layout()
    charts = [chart for section in sections.values() for chart in section]
    seen = text_of(browser, f"{board}/#{CHARTS}", *sections, *charts[:3])
    for title in (*sections, *charts):
        assert title in seen, title
    whole = settled(browser)
    picture = compressed(whole, 356, 66)
    assert len(picture) < min(MOST_BYTES, len(whole))
    cut, uncut = (matplotlib.image.imread(io.BytesIO(p), format="png") for p in (picture, whole))
    assert cut.shape[:2] == (uncut.shape[0] - 66, uncut.shape[1] - 356)
    # the orange of the run: a curve is drawn
    assert ((cut[..., 0] > 0.9) & (cut[..., 1] < 0.6) & (cut[..., 2] < 0.4)).sum() > 100
    seen = text_of(browser, f"{board}/#timeseries", "shock/proximity")
    assert "shock/proximity" in seen
    assert "quotient/speed" in seen
    seen = text_of(browser, f"{board}/#text", "transition ahead")
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
