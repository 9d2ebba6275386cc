from __future__ import annotations

import random
import threading

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.data import TensorDataset

from shockwatch.replica import preserved_randomness, private_batch, private_copy


def test_shares_storage_and_nothing_else() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    twin = private_copy(net)
    assert twin[0] is not net[0]  # type: ignore[index]
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        assert a is not b
        assert a.data_ptr() == b.data_ptr()
        assert a.requires_grad == b.requires_grad
    twin(torch.randn(5, 3)).sum().backward()
    assert all(p.grad is None for p in net.parameters())
    assert int(net[1].num_batches_tracked) == 0
    assert torch.equal(net[1].running_mean, torch.zeros(4))


def test_swapping_parameters_of_the_copy_leaves_the_live_module_alone() -> None:
    net = nn.Linear(2, 2)
    seen = []
    twin = private_copy(net)
    twin.register_forward_hook(lambda *_: seen.append(net.weight))
    functional_call(twin, {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, torch.ones(1, 2))
    assert seen[0] is net.weight


def test_tied_weights_stay_tied() -> None:
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    net["b"].weight = net["a"].weight
    twin = private_copy(net)
    assert twin["b"].weight is twin["a"].weight  # type: ignore[index]


def test_awkward_attributes() -> None:
    net = nn.Linear(2, 2)
    net.lock = threading.Lock()  # type: ignore[assignment]
    net.history = []  # type: ignore[assignment]
    net.cached = net(torch.ones(1, 2))  # type: ignore[assignment]
    net.rng = torch.Generator().manual_seed(1)  # type: ignore[assignment]
    net.dataset = TensorDataset(torch.ones(1))  # type: ignore[assignment]
    net.inner = nn.Sequential(nn.ReLU())
    twin = private_copy(net)
    twin.history.append(1)  # type: ignore[union-attr, operator]
    torch.rand(2, generator=twin.rng)  # type: ignore[call-overload]
    assert net.history == []
    assert torch.equal(net.rng.get_state(), torch.Generator().manual_seed(1).get_state())
    assert twin.dataset is net.dataset
    assert twin.weight.data_ptr() == net.weight.data_ptr()
    assert twin.weight is not net.weight
    assert twin.inner is not net.inner
    twin(torch.ones(1, 2))


def test_inner_compiled_modules_are_unwrapped() -> None:
    net = nn.Sequential(torch.compile(nn.Linear(2, 2), backend="eager"), nn.ReLU())
    twin = private_copy(net)
    assert [name for name, _ in twin.named_parameters()] == ["0.weight", "0.bias"]
    assert twin[0].weight.data_ptr() == net[0].weight.data_ptr()  # type: ignore[index]


def test_batch_is_private() -> None:
    weight = torch.ones(2, requires_grad=True)
    batch = {"x": torch.ones(2), "deep": [weight * 2, "label"]}
    twin = private_batch(batch)
    batch["x"].zero_()  # type: ignore[attr-defined]
    assert torch.equal(twin["x"], torch.ones(2))
    assert twin["deep"][1] == "label"
    assert twin["deep"][0].is_leaf


def test_global_generators_are_restored() -> None:
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    with preserved_randomness():
        torch.rand(5), np.random.rand(5), random.random()
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
