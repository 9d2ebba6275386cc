"""Nothing stays behind a run, and nothing grows during one.

Scaled down here. SHOCKWATCH_LONG=1 (.ci/long_faults) runs 2,000 fits, 100,000 steps and 1,000 cycles of start,
stop and exception, and looks at the memory of the process, too.
"""

from __future__ import annotations

import gc
import linecache
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from shockwatch import ShockMonitor
from tests.engine.shockwatch_fakes import FakeAnalysis
from tests.faults.recipes import Plain, ours, points

LONG = bool(os.environ.get("SHOCKWATCH_LONG"))
FITS = 2_000 if LONG else 24
STEPS = 100_000 if LONG else 4_000
CYCLES = 1_000 if LONG else 150
# After warm-up an allocator still breathes; a leak of one snapshot (0.5 kB) a fit would show as 1 MB in 2,000.
BREATH = 8 << 20

pytestmark = [pytest.mark.timeout(7200 if LONG else 200), pytest.mark.filterwarnings("ignore")]


def handles() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tensors() -> int:
    gc.collect()
    return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())


def sources() -> int:
    """Texts that are kept for tracebacks: torch registers one for every graph."""
    return len([name for name in linecache.cache if name.startswith("<eval_with_key>")])


def report(what: str, **numbers: Any) -> None:
    if LONG:
        print(what, numbers, file=sys.__stderr__, flush=True)


def test_fits_leave_no_thread_no_handle_and_no_tensor() -> None:
    def fit() -> None:
        trainer = pl.Trainer(
            callbacks=list(ours()), accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Plain(), points())

    seen: list[tuple[int, int, int, int, int]] = []
    for number in range(FITS):
        fit()
        if number % (FITS // 8) == FITS // 8 - 1:
            seen.append((threading.active_count(), handles(), tensors(), sources(), resident()))
            report(
                "fits",
                done=number + 1,
                threads=seen[-1][0],
                handles=seen[-1][1],
                tensors=seen[-1][2],
                mib=seen[-1][4] >> 20,
            )
    warm = seen[len(seen) // 2 :]
    for name, column in zip(
        ("threads", "handles", "tensors", "sources"), zip(*warm, strict=True), strict=False
    ):
        assert len(set(column)) == 1, f"{name}: {column}"
    if LONG:
        assert warm[-1][4] - warm[0][4] < BREATH


def test_memory_is_flat_over_many_steps() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(module.parameters(), 0.01)
    x, y = torch.randn(8, 6), torch.randint(0, 4, (8,))

    def loss_fn(model: nn.Module, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    seen: list[tuple[int, int, int]] = []
    with ShockMonitor(module, loss_fn, optimizer, every_n_steps=20) as monitor:
        for step in range(STEPS):
            loss = loss_fn(module, (x + 0.1 * torch.randn(8, 6), y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.step((x, y), loss)
            if step % (STEPS // 8) == STEPS // 8 - 1:
                monitor.state_dict()  # nothing in work now
                seen.append((tensors(), handles(), resident()))
                report(
                    "steps", done=step + 1, tensors=seen[-1][0], handles=seen[-1][1], mib=seen[-1][2] >> 20
                )
    warm = seen[len(seen) // 2 :]
    # the forecast remembers the last few probes and no more
    assert max(count for count, _, _ in warm) - min(count for count, _, _ in warm) <= 8, seen
    assert len({count for _, count, _ in warm}) == 1
    if LONG:
        assert warm[-1][2] - warm[0][2] < BREATH


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns every microsecond."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_no_deadlock_whatever_ends_the_watch(
    fake: FakeAnalysis, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.fail_at = set(range(0, 10_000, 3))
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def watched(steps: int, ending: str) -> None:
        with ShockMonitor(model, lambda m, b: m(b).sum(), optimizer, 1) as monitor:
            for _ in range(steps):
                monitor.step(torch.ones(2))
                if ending == "state":
                    monitor.state_dict()
            if ending == "exception":
                raise ArithmeticError("the user's")
            if ending == "impatient":
                monitor.close(0.0)

    warnings.simplefilter("ignore")
    for cycle in range(CYCLES):
        ending = ("normal", "exception", "state", "impatient")[cycle % 4]
        before = len(fake.steps)
        try:
            watched(cycle % 11, ending)
        except ArithmeticError:
            assert ending == "exception"
        assert len(fake.steps) >= before
    for thread in threading.enumerate():
        if thread.name == "shockwatch":  # given up by an impatient close
            thread.join(10)
            assert not thread.is_alive()
    report("cycles", done=CYCLES)
