"""A small run saved on disk, and the module that builds its model."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

MODULE = """
import torch, torch.nn.functional as F
from torch import nn

def build():
    g = torch.Generator().manual_seed(0)
    batch = torch.randn(32, 6, generator=g), torch.randint(0, 4, (32,), generator=g)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    return model.double(), lambda m, b: F.cross_entropy(m(b[0].to(m[0].weight)), b[1]), batch
"""


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """Checkpoints ``step=0 .. step=40`` of a run of the model that ``saved_run:build`` builds."""
    (tmp_path / "saved_run.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "saved_run", raising=False)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(32, 6, generator=generator).double()
    labels = torch.randint(0, 4, (32,), generator=generator)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).double()
    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    for step in range(41):
        if step % 20 == 0:
            torch.save({"state_dict": model.state_dict(), "global_step": step}, f"step={step}.ckpt")
        loss = F.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return tmp_path


@pytest.fixture
def built(run_folder):
    """What ``saved_run:build`` returns: model, loss function, batch."""
    sys.path.insert(0, str(run_folder))
    try:
        return importlib.import_module("saved_run").build()
    finally:
        sys.path.remove(str(run_folder))
        del sys.modules["saved_run"]
