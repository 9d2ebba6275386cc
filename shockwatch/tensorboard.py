"""What goes to TensorBoard beyond scalars: the layout of the charts, alerts and notes as text."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, cast

from tensorboard.compat.proto.summary_pb2 import Summary

from shockwatch.alerts import Alert
from shockwatch.snapshot import Picture

ALERTS_TAG = "shockwatch/alerts"
NOTES_TAG = "shockwatch/notes"

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|>-])")


class Writer(Protocol):
    """The part of ``torch.utils.tensorboard.SummaryWriter`` that is used."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Write one point."""
        ...

    def add_text(self, tag: str, text_string: str, global_step: int) -> None:
        """Write one Markdown text."""
        ...

    def add_custom_scalars(self, layout: dict[str, dict[str, list[Any]]]) -> None:
        """Describe charts; once per writer."""
        ...


def as_writer(candidate: object) -> Writer | None:
    """``candidate`` if it can write text and layouts like a ``SummaryWriter``, else None."""
    methods = ("add_scalar", "add_text", "add_custom_scalars")
    if all(callable(getattr(candidate, method, None)) for method in methods):
        return cast(Writer, candidate)
    return None


@contextmanager
def open_writer(folder: str) -> Iterator[Writer]:
    """A writer of our own in ``folder``, closed at the end; a run with a logger uses that logger's instead."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(folder)  # type: ignore[no-untyped-call]
    try:
        yield writer
    finally:
        writer.close()  # type: ignore[no-untyped-call]


def layout() -> dict[str, dict[str, list[Any]]]:
    """The custom-scalars charts, by the question they answer; tags are regular expressions, as that dashboard wants."""
    return {
        "1. Shock clock: is a transition near?": {
            "proximity (from 1 on: near)": _lines("shock/proximity"),
            "forecast: steps left (none: ▲)": _lines("shock/arrival_steps"),
            "± of the forecast (steps)": _lines("shock/arrival_error"),
        },
        "2. Stability: curvature of the reduced loss": {
            "lowest curvature (below 0: unstable)": _lines("shock/lambda_min"),
            "highest curvature (1 / time)": _lines("shock/lambda_max"),
            "lr × highest curvature (2: the edge)": _lines("shock/lr_lambda_max", "raw/lr_lambda_max"),
        },
        "3. Quotient against raw: what moves, and what only seems to": {
            "speed: quotient, raw (units / time)": _lines("quotient/speed", "raw/speed"),
            "norm: quotient, raw (units)": _lines("quotient/norm", "raw/norm"),
            "share of motion that changes nothing": _lines("raw/drift"),
        },
        "4. Heads and layers": {
            "spectral norm of each block": ["Multiline", ["^block/.*/spectral_norm$"]],
            "directions used by each block": ["Multiline", ["^block/.*/effective_rank$"]],
            "imbalance of each symmetry (raw)": ["Multiline", ["^raw/imbalance/.*"]],
        },
        "5. Phase: 0 smooth, 1 approaching, 2 shock, 3 relaxed, 4 converged, 5 diverging": {
            "phase": _lines("phase/state"),
            "change points of the speed": _lines("phase/changepoint"),
            "early warning: variance, memory, trend": _lines(
                "phase/variance", "phase/autocorrelation", "phase/trend"
            ),
        },
        "6. Cost of watching": {
            "share of training time": _lines("shockwatch/overhead"),
            "steps until results are there": _lines("shockwatch/lag_steps"),
            "snapshots dropped, errors": _lines("shockwatch/dropped", "shockwatch/errors"),
        },
    }


def escape(text: str) -> str:
    """``text`` such that TensorBoard's Markdown shows it as it is."""
    return _MARKDOWN.sub(r"\\\1", html.escape(text, quote=False).replace("\n", " "))


def alert_markdown(alert: Alert) -> str:
    """One alert as a short Markdown paragraph."""
    forecast = "" if alert.forecast is None else f", forecast {alert.forecast:.0f}"
    forecast += "" if alert.error is None else f" ± {alert.error:.0f}"
    forecast += " steps ahead" if forecast else ""
    heading = f"{escape(alert.severity)}: {escape(alert.name)}"
    tag = " ".join(alert.tag.replace("`", "").split())
    return (
        f"**{heading}** at step {alert.step}: {escape(alert.message)}  \n"
        f"`{tag}` = {alert.value:.4g} (threshold {alert.threshold:.4g}{forecast})"
    )


def write_layout(writer: Writer) -> None:
    """Describe the charts. Call once per writer."""
    writer.add_custom_scalars(layout())


def write_scalars(writer: Writer, values: Mapping[str, float], step: int) -> None:
    """Write every value at ``step``, NaN included: a gap in the curve is information.

    To torch's own writer all go as one event: a fiftieth of the time that one event for each would take.
    """
    get_file_writer = getattr(writer, "_get_file_writer", None)
    if get_file_writer is not None and _adds_plainly(writer):
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        get_file_writer().add_summary(Summary(value=points), step)
    else:
        for tag, value in values.items():
            writer.add_scalar(tag, value, step)


def write_texts(writer: Writer, alerts: Iterable[Alert], notes: Iterable[str], step: int) -> None:
    """Write alerts and notes as text at ``step``; several of one kind become one text."""
    # one text per tag and step: TensorBoard keeps a handful per tag
    if alert_texts := [alert_markdown(alert) for alert in alerts]:
        writer.add_text(ALERTS_TAG, "\n\n".join(alert_texts), step)
    if note_texts := [escape(note) for note in notes]:
        writer.add_text(NOTES_TAG, "\n\n".join(note_texts), step)


def write_pictures(writer: Writer, pictures: Iterable[Picture], step: int) -> None:
    """Write PNG data as they are: nothing is decoded or drawn on this thread. Other writers than TensorBoard's: no."""
    get_file_writer = getattr(writer, "_get_file_writer", None)
    if get_file_writer is None:
        return
    for picture in pictures:
        image = Summary.Image(
            height=picture.height, width=picture.width, colorspace=4, encoded_image_string=picture.png
        )
        get_file_writer().add_summary(Summary(value=[Summary.Value(tag=picture.tag, image=image)]), step)


def _adds_plainly(writer: Writer) -> bool:
    """Whether ``add_scalar`` is that of torch's own ``SummaryWriter``, and not one that wants to be called."""
    from torch.utils.tensorboard import SummaryWriter

    own = isinstance(writer, SummaryWriter) and "add_scalar" not in vars(writer)
    return own and type(writer).add_scalar is SummaryWriter.add_scalar


def _lines(*tags: str) -> list[Any]:
    return ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]]
