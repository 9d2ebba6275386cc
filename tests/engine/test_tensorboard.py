from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader as EventFileLoader
from torch.utils.tensorboard import SummaryWriter

from shockwatch.alerts import Alert
from shockwatch.snapshot import Picture
from shockwatch.tags import known_tag
from shockwatch.tensorboard import (
    alert_markdown,
    as_writer,
    escape,
    layout,
    write_layout,
    write_pictures,
    write_scalars,
    write_texts,
)

ALERT = Alert(
    name="near_shock",
    severity="warning",
    step=5,
    tag="shock/proximity",
    value=1.5,
    threshold=1.0,
    forecast=40.0,
    message="<script>x|y*z</script>",
)


def test_layout_names_only_tags_of_the_contract() -> None:
    for charts in layout().values():
        for kind, patterns in charts.values():
            assert kind == "Multiline"
            for pattern in patterns:
                re.compile(pattern)
                tag = pattern.strip("^$").replace(".*", "name")
                assert known_tag(tag), tag


def test_text_cannot_break_out() -> None:
    assert escape("<b>|_*`[x](y)\n#") == "&lt;b&gt;\\|\\_\\*\\`\\[x\\]\\(y\\) \\#"
    text = alert_markdown(ALERT)
    assert "<script>" not in text
    assert "1.5" in text
    assert "forecast 40 steps ahead" in text


def test_written_and_read_back(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    assert as_writer(writer) is writer
    write_layout(writer)
    write_scalars(writer, {"raw/norm": 2.0, "quotient/speed": math.nan}, 3)
    write_texts(writer, [ALERT], ["a note"], 3)
    write_texts(writer, [], [], 4)
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Scalars("raw/norm")[0].step == 3
    assert math.isnan(events.Scalars("quotient/speed")[0].value)
    tags = events.Tags()["tensors"]
    assert "shockwatch/alerts/text_summary" in tags
    assert "shockwatch/notes/text_summary" in tags
    assert len(events.Tensors("shockwatch/notes/text_summary")) == 1
    assert "custom_scalars__config__" in tags


def test_the_scalars_of_a_step_are_one_event(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    write_scalars(writer, {"raw/norm": 2.0, "raw/speed": 1.0}, 3)
    writer.close()
    (file,) = tmp_path.iterdir()
    assert [len(event.summary.value) for event in EventFileLoader(str(file)).Load()] == [0, 2]


def test_a_writer_that_does_something_of_its_own_gets_every_point(tmp_path: Path) -> None:
    class Counting(SummaryWriter):
        count = 0

        def add_scalar(self, *args: Any, **kwargs: Any) -> None:
            self.count += 1
            super().add_scalar(*args, **kwargs)

    own, patched, seen = Counting(str(tmp_path / "own")), SummaryWriter(str(tmp_path / "patched")), []
    patched.add_scalar = lambda *args: seen.append(args)
    for writer in (own, patched):
        write_scalars(writer, {"raw/norm": 2.0, "raw/speed": 1.0}, 3)
        write_pictures(writer, [Picture("shock/slice", b"png", 2, 1)], 3)
        writer.close()
        assert EventAccumulator(writer.log_dir).Reload().Tags()["images"] == ["shock/slice"]
    assert own.count == 2
    assert seen == [("raw/norm", 2.0, 3), ("raw/speed", 1.0, 3)]


def test_other_objects_are_no_writers() -> None:
    assert as_writer(None) is None
    assert as_writer(object()) is None
