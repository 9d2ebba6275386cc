"""Checkpoints of every common format, and the damaged ones."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from torch import nn

from shockwatch.offline import CheckpointError, fit_to, read_checkpoint
from shockwatch.offline.checkpoint import read_step


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mask", torch.ones(4), persistent=False)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Tied()


def same(model, state):
    wanted = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    wanted = {n: t for n, t in wanted.items() if t.is_floating_point()}
    assert set(state) == set(wanted)
    assert all(torch.equal(state[n], wanted[n]) for n in wanted)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "global_step": 12},
        lambda s: {"state_dict": {f"model.{n}": t for n, t in s.items()}, "global_step": 12},
        lambda s: {"model_state_dict": {f"module.{n}": t for n, t in s.items()}, "step": 12},
        lambda s: {f"net._orig_mod.{n}": t for n, t in s.items()},
        lambda s: {n: t for n, t in s.items() if n != "embed.weight"},  # the tied twin is enough
        lambda s: {n: t.double() for n, t in s.items()},
        lambda s: {**s, "extra": torch.zeros(3)},
    ],
    ids=["plain", "lightning", "prefixed", "nested", "compiled", "tied", "other type", "more than needed"],
)
def test_layouts(model, tmp_path, wrap):
    content = wrap(model.state_dict())
    torch.save(content, tmp_path / "c.ckpt")
    checkpoint = read_checkpoint(tmp_path / "c.ckpt")
    same(model, fit_to(model, checkpoint))
    assert checkpoint.step == (12 if "state_dict" in content or "model_state_dict" in content else None)
    assert read_step(tmp_path / "c.ckpt") == checkpoint.step
    torch.save(content, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    assert read_step(tmp_path / "old.ckpt") == checkpoint.step


def test_a_prefix_of_the_model_is_cut(model, tmp_path):
    whole = nn.ModuleDict({"net": model})
    torch.save(model.state_dict(), tmp_path / "c.pt")
    state = fit_to(whole, read_checkpoint(tmp_path / "c.pt"))
    assert torch.equal(state["net.embed.weight"], model.embed.weight)


def test_safetensors_and_folders(model, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    state = {n: t.clone() for n, t in model.state_dict().items() if n != "head.weight"}
    safetensors.save_file(state, tmp_path / "model.safetensors")
    same(model, fit_to(model, read_checkpoint(tmp_path / "model.safetensors")))
    same(model, fit_to(model, read_checkpoint(tmp_path)))


def test_a_folder_in_parts(model, tmp_path):
    folder = tmp_path / "checkpoint-300"
    folder.mkdir()
    state = model.state_dict()
    weight_map = {}
    for number, (name, tensor) in enumerate(state.items()):
        torch.save({name: tensor}, folder / f"part-{number}.bin")
        weight_map[name] = f"part-{number}.bin"
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    checkpoint = read_checkpoint(folder)
    assert checkpoint.step == 300
    same(model, fit_to(model, checkpoint))
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"weight_map": {"a": "../../etc/passwd"}})
    )
    with pytest.raises(CheckpointError, match="not a file of this folder"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "step"),
    [("epoch=3-step=1200.ckpt", 1200), ("iter_40.pt", 40), ("last.pt", None), ("v2-step_7-x9.pt", 7)],
)
def test_the_name_tells_the_step(model, tmp_path, name, step):
    torch.save(model.state_dict(), tmp_path / name)
    assert read_checkpoint(tmp_path / name).step == step


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("code in a checkpoint ran",))


def test_nothing_is_unpickled(model, tmp_path):
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": Evil()}, tmp_path / "c.ckpt")
    with pytest.raises(CheckpointError, match="never unpickles"):
        read_checkpoint(tmp_path / "c.ckpt")
    (tmp_path / "p.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match=r"p\.pt"):
        read_checkpoint(tmp_path / "p.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", bytes(range(256)) * 20])
def test_damaged_files(tmp_path, content):
    (tmp_path / "c.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"c\.ckpt"):
        read_checkpoint(tmp_path / "c.ckpt")


def test_every_truncation_is_refused(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for length in range(1, len(whole), 97):
        (tmp_path / "c.pt").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("norm.bias"), r"lacks norm\.bias"),
        (
            lambda s: s.update({"norm.bias": torch.zeros(5)}),
            r"norm\.bias has shape \(5,\), the model's \(4,\)",
        ),
    ],
)
def test_a_checkpoint_of_another_model(model, tmp_path, change, message):
    state = dict(model.state_dict())
    change(state)
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=message):
        fit_to(model, read_checkpoint(tmp_path / "c.pt"))


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {}, 3])
def test_no_tensors_by_name(tmp_path, content):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"c\.pt: holds"):
        read_checkpoint(tmp_path / "c.pt")


def test_missing_file_and_empty_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(tmp_path / "nothing.ckpt")
    with pytest.raises(CheckpointError, match="holds none of"):
        read_checkpoint(tmp_path)
