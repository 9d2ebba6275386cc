"""``shockwatch scan``: a run read from its checkpoints, after it ended."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from shockwatch.inspection.subject import (
    InspectionError,
    Subject,
    current_directory_importable,
    load,
    one_line,
)
from shockwatch.offline.checkpoint import CheckpointError, read_step
from shockwatch.offline.reader import CheckpointReader, Measurement
from shockwatch.snapshot import State
from shockwatch.tensorboard import open_writer, write_layout, write_scalars
from shockwatch.tracing import Trace, TraceError, trace_step

Job = tuple[Path, int | None, Path, Path]
"""A checkpoint, its step, the one before it, and the first."""

_COLUMNS = {
    "loss": "loss",
    "quotient/norm": "quotient norm",
    "quotient/distance_from_start": "from start",
    "scan/distance": "from previous",
    "raw/distance": "raw",
    "shock/lambda_min": "lambda_min",
    "shock/lambda_max": "lambda_max",
    "shock/time": "shock time",
}


def main(
    target: str, paths: Sequence[str], root: str | None, workers: int | None, curvature: bool = True
) -> int:
    """Measure every checkpoint, print the table and write TensorBoard scalars under ``root``.

    Args:
        target: ``my_module:build``, which returns ``(model, loss_fn, batch)``.
        paths: files and folders; they are put in the order of their steps.
        root: folder for the event file; None writes none.
        workers: processes; None: one a core, at most one a checkpoint.
        curvature: whether to measure the spectrum.

    Returns:
        0, or 1 if some checkpoint could not be measured.

    Raises:
        InspectionError: if ``target`` cannot be built or traced, or no checkpoint can be read.
    """
    jobs, rows = _jobs(paths)
    if not jobs:
        raise InspectionError("; ".join(row.error or "" for row in rows) or "no checkpoints given")
    if root is not None:
        # a folder that cannot be written must fail before the work, not after it
        Path(root).mkdir(parents=True, exist_ok=True)
    count = min(len(jobs), (os.cpu_count() or 1) if workers is None else workers)
    with tqdm(total=len(jobs), desc="scan", unit="checkpoint", disable=None) as bar:
        for row in _measured(target, jobs, count, curvature):
            rows.append(row)
            bar.update()
    order = {path: position for position, (path, *_) in enumerate(jobs)}
    rows.sort(key=lambda row: order.get(row.path, -1))
    rows = _with_path_length(rows)
    print(table(rows))
    if root is not None:
        _write(root, rows)
        print(f"\ntensorboard --logdir {root}")
    return int(any(row.error is not None for row in rows))


def table(rows: Sequence[Measurement]) -> str:
    """One line a checkpoint; what could not be measured says why."""
    shown = {tag: name for tag, name in _COLUMNS.items() if any(tag in row.values for row in rows)}
    cells = [["step", *shown.values(), "checkpoint"]]
    for row in rows:
        step = "?" if row.step is None else f"{row.step:,}"
        numbers = [f"{row.values[tag]:.5g}" if tag in row.values else "-" for tag in shown]
        cells.append([step, *numbers, str(row.path)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([*(c.rjust(w) for c, w in zip(line[:-1], widths, strict=False)), line[-1]])
        for line in cells
    ]
    return "\n".join([*lines, *(f"not measured: {row.error}" for row in rows if row.error is not None)])


def _jobs(paths: Sequence[str]) -> tuple[list[Job], list[Measurement]]:
    """The checkpoints in the order of their steps, and a row for each that cannot be read."""
    known: list[tuple[Path, int | None]] = []
    unreadable = []
    for path in dict.fromkeys(map(Path, paths)):
        try:
            known.append((path, read_step(path)))
        except CheckpointError as error:
            unreadable.append(Measurement(path, None, error=str(error)))
    if all(step is not None for _, step in known):
        known.sort(key=lambda entry: entry[1] or 0)
    return [
        (path, step, known[max(position - 1, 0)][0], known[0][0])
        for position, (path, step) in enumerate(known)
    ], unreadable


def _measured(target: str, jobs: Sequence[Job], count: int, curvature: bool) -> Iterator[Measurement]:
    if count == 1:
        with _reader(target) as reader:
            yield from (_measure(reader, job, curvature) for job in jobs)
        return
    # A bad target must fail here, with its reason, not in every process; what it costs to infer is left to them.
    with _subject(target):
        pass
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _start, (target,)) as pool:
        futures = [pool.submit(_measure_in_process, job, curvature) for job in jobs]
        yield from (future.result() for future in as_completed(futures))


@contextmanager
def _subject(target: str) -> Iterator[tuple[Subject, Trace]]:
    with current_directory_importable():
        subject = load(target)
        try:
            trace = trace_step(subject.model, subject.loss_fn, subject.batch)
        except TraceError as error:
            raise InspectionError(f"{target}: {error}") from error
        yield subject, trace


@contextmanager
def _reader(target: str) -> Iterator[CheckpointReader]:
    with _subject(target) as (subject, trace):
        yield CheckpointReader(subject, trace)


_process_reader: CheckpointReader | None = None


def _start(target: str) -> None:
    global _process_reader
    torch.set_num_threads(1)
    with _reader(target) as reader:
        _process_reader = reader


def _measure_in_process(job: Job, curvature: bool) -> Measurement:
    assert _process_reader is not None
    return _measure(_process_reader, job, curvature)


def _measure(reader: CheckpointReader, job: Job, curvature: bool) -> Measurement:
    path, step, previous, first = job
    # The oldest first: the reader then still has them when the next checkpoint asks.
    references = {other: _reference(reader, other) for other in (first, previous) if other != path}
    try:
        state = reader.state(path)
        values = reader.measure(state, curvature)
    except CheckpointError as error:
        return Measurement(path, step, error=str(error))
    except Exception as error:
        return Measurement(path, step, error=f"{path}: {one_line(error)}")
    for tag, raw_tag, other in (
        ("quotient/distance_from_start", None, first),
        ("scan/distance", "raw/distance", previous),
    ):
        if other == path:
            values[tag] = 0.0
        elif (reference := references[other]) is not None:
            values[tag] = reader.quotient.distance(state, reference)
            if raw_tag is not None:
                values[raw_tag] = reader.quotient.euclidean(state, reference)
    return Measurement(path, step, values)


def _reference(reader: CheckpointReader, path: Path) -> State | None:
    """A checkpoint to measure distances from; what is wrong with it is told in its own row."""
    try:
        return reader.state(path)
    except CheckpointError:
        return None


def _with_path_length(rows: Sequence[Measurement]) -> list[Measurement]:
    length, result = 0.0, []
    for row in rows:
        if row.error is None:
            length += row.values.get("scan/distance", 0.0)
            row = replace(row, values={**row.values, "quotient/path_length": length})
        result.append(row)
    return result


def _write(root: str, rows: Sequence[Measurement]) -> None:
    with open_writer(root) as writer:
        write_layout(writer)
        for position, row in enumerate(rows):
            finite = {tag: value for tag, value in row.values.items() if not math.isinf(value)}
            write_scalars(writer, finite, position if row.step is None else row.step)
