from __future__ import annotations

import pytest
import torch
from torch import nn

from shockwatch.capture import Capture, CaptureError, named_state


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_copies_parameters_and_floating_buffers_at_that_moment() -> None:
    net = model()
    capture = Capture(lambda: named_state(net))
    slot = capture.acquire()
    assert slot is not None
    capture.fill(slot, torch.tensor(0.5))
    expected = {name: tensor.detach().clone() for name, tensor in named_state(net).items()}
    assert "1.num_batches_tracked" not in slot.state
    assert "1.running_mean" in slot.state
    with torch.no_grad():
        net[0].weight.add_(1.0)  # type: ignore[operator, union-attr]
    slot.wait()
    assert slot.state.keys() == expected.keys()
    for name, tensor in slot.state.items():
        assert torch.equal(tensor, expected[name])
        assert not tensor.requires_grad
    assert float(slot.loss) == 0.5


def test_allocates_once_and_recycles() -> None:
    net = model()
    capture = Capture(lambda: named_state(net), slots=2)
    first, second = capture.acquire(), capture.acquire()
    assert first is not None
    assert second is not None
    assert capture.acquire() is None
    pointers = [t.data_ptr() for t in first.state.values()]
    capture.release(first)
    again = capture.acquire()
    assert again is first
    capture.fill(again)
    assert [t.data_ptr() for t in again.state.values()] == pointers
    assert not again.loss_known
    capture.fill(again, torch.tensor(torch.nan))
    assert again.loss_known
    assert torch.isnan(again.loss)


def test_does_not_touch_gradients_or_autograd() -> None:
    net = model()
    net(torch.randn(5, 3)).sum().backward()
    grads = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    versions = [p._version for p in net.parameters()]
    capture = Capture(lambda: named_state(net))
    slot = capture.acquire()
    assert slot is not None
    capture.fill(slot)
    assert [p._version for p in net.parameters()] == versions
    assert all(torch.equal(a, p.grad) for a, p in zip(grads, net.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda net: net.append(nn.Linear(2, 2)), "added 3.weight"),
        (lambda net: net.__delitem__(2), "removed 2.weight"),
        (lambda net: net.__setitem__(2, nn.Linear(4, 5)), r"2.weight: \(2, 4\) .* -> \(5, 4\)"),
        (lambda net: net.double(), "float32.* -> .*float64"),
    ],
)
def test_changed_tensors_are_named(change: object, says: str) -> None:
    net = model()
    capture = Capture(lambda: named_state(net))
    slot = capture.acquire()
    assert slot is not None
    change(net)  # type: ignore[operator]
    with pytest.raises(CaptureError, match=says):
        capture.fill(slot)


def test_refuses_nothing_to_copy_and_one_slot() -> None:
    with pytest.raises(CaptureError, match="no parameters"):
        Capture(dict)
    with pytest.raises(ValueError, match="slots=1"):
        Capture(lambda: named_state(model()), slots=1)


def test_compiled_names_are_plain() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    net[0] = torch.compile(net[0], backend="eager")
    assert list(named_state(net)) == ["0.weight", "0.bias"]


def test_a_slot_that_came_back_is_the_next_to_be_used() -> None:
    capture = Capture(lambda: named_state(nn.Linear(2, 2)), slots=3)
    first = capture.acquire()
    assert first is not None
    for _ in range(5):
        capture.release(first)
        # spare ones are never written, and take no memory
        assert capture.acquire() is first


def test_buffers_that_are_not_kept_go_with_the_slot() -> None:
    net = model()
    capture = Capture(lambda: named_state(net), keep=False)
    slot = capture.acquire()
    assert slot is not None
    assert slot.state == {}
    capture.fill(slot)
    held = slot.state
    assert all(torch.equal(held[name], tensor) for name, tensor in named_state(net).items())
    capture.release(slot)
    assert held == {}, "whoever still has the dictionary holds no tensors"
    assert capture.acquire() is slot
    capture.fill(slot)
    assert held.keys() == named_state(net).keys()
