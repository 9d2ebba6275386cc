from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from shockwatch import session
from tests.callbacks.lightning_cases import Fit, Net, data
from tests.engine.shockwatch_fakes import FakeAnalysis


@pytest.fixture(autouse=True)
def no_zombie_threads() -> Iterator[None]:
    """Every test ends the worker threads it started."""
    yield
    alive = [thread.name for thread in threading.enumerate() if thread.name == "shockwatch"]
    assert not alive, "the test leaves a worker thread behind"


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    """Fit a net with the given callbacks; everything quiet, seeded and under ``tmp_path``."""

    def run(
        callbacks: list[L.Callback],
        module: L.LightningModule | None = None,
        val: bool = False,
        **options: Any,
    ) -> tuple[L.Trainer, L.LightningModule]:
        ckpt_path = options.pop("ckpt_path", None)
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        module = module if module is not None else Net()
        defaults: dict[str, Any] = {
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
        }
        if not options.get("barebones"):
            options = defaults | options
        else:
            options = {"max_epochs": 1, "accelerator": "cpu"} | options
        trainer = L.Trainer(callbacks=callbacks, **options)
        trainer.fit(module, data(), data() if val else None, ckpt_path=ckpt_path)
        return trainer, module

    return run


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeAnalysis:
    """The analysis every ``ShockWatch`` of the test runs; ``fake.built`` holds what it was built from."""
    analysis = FakeAnalysis()
    analysis.built = []  # type: ignore[attr-defined]

    def build(model: nn.Module, loss_fn: Any, batch: Any, settings: Any, probe: bool) -> FakeAnalysis:
        # a build that draws, as a careless trace would
        torch.rand(3), np.random.rand(3), random.random()
        analysis.built.append((model, loss_fn, batch, settings, probe))  # type: ignore[attr-defined]
        return analysis

    monkeypatch.setattr(session, "build_engine", build)
    return analysis
