"""KeyboardInterrupt and SystemExit anywhere; the end of the interpreter with work left."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from shockwatch import ShockMonitor, session
from shockwatch.callbacks._publisher import Publisher
from tests.engine.shockwatch_fakes import FakeAnalysis
from tests.faults.processes import run
from tests.faults.recipes import Memory, Recipe, ours
from tests.faults.survival import listening

HOOKS = [
    "setup", "on_fit_start", "on_sanity_check_start", "on_train_start", "on_train_epoch_start",
    "on_train_batch_start", "on_before_backward", "on_after_backward", "on_before_optimizer_step",
    "on_before_zero_grad", "on_train_batch_end", "on_validation_start", "on_validation_batch_end",
    "on_validation_epoch_end", "on_validation_end", "on_train_epoch_end", "on_save_checkpoint", "on_train_end",
    "on_fit_end", "teardown",
]  # fmt: skip


@pytest.fixture(autouse=True)
def interrupts_as_before() -> Iterator[None]:
    """Lightning ignores further interrupts after the first; other tests want them."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


class Steps(Memory):
    """The x of every value of ours that was written."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        if "raw/norm" in metrics:
            self.steps.append(step or 0)


def interrupting(hook: str, error: type[BaseException], from_step: int) -> pl.Callback:
    """A user's callback that raises in ``hook``, once ``from_step`` steps were taken where the hook is a late one."""

    class Interrupting(pl.Callback):
        done = False

    def raise_(self: Any, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        early = hook in ("setup", "on_fit_start", "on_sanity_check_start", "on_train_start")
        if not self.done and (early or trainer.global_step >= from_step):
            self.done = True
            raise error

    setattr(Interrupting, hook, raise_)
    return Interrupting()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("hook", HOOKS)
def test_an_interrupt_in_any_hook_loses_nothing_that_was_accepted(
    hook: str, error: type[BaseException], fake: FakeAnalysis, tmp_path: Path, roomy: None
) -> None:
    logger, watch = Steps(), ours(every_n_steps=1)
    recipe = Recipe("interrupted", validate=True, callbacks=lambda: [interrupting(hook, error, 3)])
    before = set(threading.enumerate())
    options: dict[str, Any] = {"enable_checkpointing": True, "default_root_dir": tmp_path}
    with pytest.raises(BaseException) as caught, listening() as heard:  # noqa: PT011
        recipe.run(*watch, logger=logger, **options)
    assert caught.type in (error, SystemExit)
    assert heard == []
    # all that was taken was analysed, and all that was analysed was written, once, in order
    assert logger.steps == [step - 1 for step in fake.steps]
    assert watch[0].values["shockwatch/dropped"] == 0.0 if fake.steps else True
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("where", ["take", "collect", "close", "_log"])
def test_an_interrupt_inside_of_ours(
    where: str, fake: FakeAnalysis, monkeypatch: pytest.MonkeyPatch, roomy: None
) -> None:
    owner: Any = Publisher if where == "_log" else session.Session
    whole, calls = getattr(owner, where), [0]

    def interrupted(self: Any, *arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == (1 if where == "close" else 3):
            raise KeyboardInterrupt
        return whole(self, *arguments)

    monkeypatch.setattr(owner, where, interrupted)
    logger, watch = Steps(), ours(every_n_steps=1)
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        Recipe("interrupted").run(*watch, logger=logger)
    assert caught.type in (KeyboardInterrupt, SystemExit)
    assert logger.steps == [step - 1 for step in fake.steps]
    assert len(logger.steps) > 0


def test_a_close_that_was_interrupted_can_be_called_again(fake: FakeAnalysis) -> None:
    """``Thread.join`` would now say that the thread has ended."""
    fake.gate = threading.Event()
    model = nn.Linear(2, 1)
    monitor = ShockMonitor(model, lambda m, b: m(b).sum(), torch.optim.SGD(model.parameters(), 0.1), 1)
    monitor.step(torch.ones(2))
    assert fake.entered.wait(10)
    monitor.step(torch.ones(2))
    timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        monitor.close()
    timer.join()
    fake.gate.set()
    monitor.close(30)
    assert fake.steps == [1, 2]
    assert monitor.values["raw/norm"] == fake.norms[2]


def test_interrupts_at_random_moments_never_block(fake: FakeAnalysis) -> None:
    """A signal every few hundred microseconds, while snapshots are taken, collected and closed."""

    def strike(*_: Any) -> None:
        if armed[0]:
            raise KeyboardInterrupt

    def unraisable(problem: Any) -> None:
        # a signal that arrives inside a finalizer can reach nobody: Python reports it, and pytest would fail for it
        if not issubclass(problem.exc_type, KeyboardInterrupt):
            hook(problem)

    armed, struck, hook = [False], 0, sys.unraisablehook
    sys.unraisablehook = unraisable
    old, interval = signal.signal(signal.SIGALRM, strike), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    deadline = time.perf_counter() + 4.0
    try:
        while time.perf_counter() < deadline:
            monitor = ShockMonitor(model, lambda m, b: m(b).sum(), optimizer, 1)
            monitor.step(torch.ones(2))
            for _ in range(20):
                try:
                    armed[0] = True
                    monitor.step(torch.ones(2))
                    armed[0] = False
                except KeyboardInterrupt:
                    struck += 1
                finally:
                    armed[0] = False
            start = time.perf_counter()
            monitor.close(20)
            assert time.perf_counter() - start < 15
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, old)
        sys.setswitchinterval(interval)
        sys.unraisablehook = hook
    assert struck > 20


UNCLOSED = """
import time
import torch
from shockwatch import ShockMonitor, session, worker
from tests.engine.shockwatch_fakes import FakeAnalysis

worker._EXIT_SECONDS = 5.0
fake = FakeAnalysis(seconds={seconds})
session.build_engine = lambda *_: fake

class Writer:
    def add_scalar(self, tag, value, step):
        if tag == "raw/norm":
            open(ROOT + "/written", "a").write(f"{{step}} ")
    def add_text(self, *_): pass
    def add_custom_scalars(self, *_): pass

model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
monitor = ShockMonitor(model, lambda m, b: m(b).sum(), optimizer, 1, writer=Writer(), shutdown_timeout={limit})
for _ in range(3):
    optimizer.step()
    monitor.step(torch.ones(2))
{end}
"""


def test_the_interpreter_ends_with_a_full_queue_and_everything_is_written(tmp_path: Path) -> None:
    run(UNCLOSED.format(seconds=0.3, limit=60.0, end=""), tmp_path)
    assert (tmp_path / "written").read_text() == "1 2 3 "


def test_the_interpreter_ends_though_the_analysis_hangs(tmp_path: Path) -> None:
    start = time.perf_counter()
    _, said = run(UNCLOSED.format(seconds=10_000, limit=0.1, end="monitor.close()"), tmp_path)
    assert "3 snapshots were not analysed within 0.1 s and are lost" in said
    assert time.perf_counter() - start < 120


def test_a_watch_nobody_holds_any_more_ends_its_thread(fake: FakeAnalysis) -> None:
    model = nn.Linear(2, 1)
    monitor = ShockMonitor(model, lambda m, b: m(b).sum(), torch.optim.SGD(model.parameters(), 0.1))
    monitor.step(torch.ones(2))
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "shockwatch"]
    del monitor
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
