"""A small run saved on disk, and the module that builds its model."""

from __future__ import annotations

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
