"""The analysis that keeps sketches, beside the one that keeps points."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shockwatch import ShockMonitor, memory
from shockwatch.engine import Engine, SketchedEngine
from shockwatch.engine import sketched as module
from shockwatch.memory import FEWEST_PRODUCTS, PROBE_COPIES
from shockwatch.sketches import SignFrame
from shockwatch.snapshot import Snapshot, State
from shockwatch.symmetry import infer_symmetries
from tests.runs.modules import NETWORKS, data

LR, EVERY = 0.05, 5
PATH = ("quotient/norm", "quotient/speed", "quotient/path_length", "quotient/distance_from_start")


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def wide_transformer() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.TransformerEncoderLayer(32, 2, 128, 0.0, batch_first=True, norm_first=True) for _ in range(2)
    ]
    return nn.Sequential(*layers, nn.LayerNorm(32), nn.Flatten(), nn.Linear(32 * 4, 5))


def wide_mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 300), nn.Tanh(), nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 5))


WIDE = {
    "transformer": (wide_transformer, lambda: torch.randn(64, 4, 32)),
    "mlp": (wide_mlp, lambda: torch.randn(64, 40)),
}


def train(model: nn.Module, batch: Any, snapshots: int) -> list[State]:
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.5)
    states = []
    for step in range(snapshots * EVERY):
        if step % EVERY == 0:
            tensors = (*model.named_parameters(), *model.named_buffers())
            states.append({n: t.detach().clone() for n, t in tensors if t.is_floating_point()})
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        optimizer.step()
    return states


def narrow(name: str) -> tuple[nn.Module, Any, list[State]]:
    torch.manual_seed(0)
    model = NETWORKS[name]().double()
    x, y = next(iter(data(name)))
    batch = (x.double() if x.is_floating_point() else x, y)
    return model, batch, train(model, batch, 5)


def wide(name: str, snapshots: int = 8) -> tuple[nn.Module, Any, list[State]]:
    make, points = WIDE[name]
    model = make()
    torch.manual_seed(1)
    batch = (points(), torch.randint(5, (64,)))
    return model, batch, train(model, batch, snapshots)


def snapshot(index: int, state: State) -> Snapshot:
    return Snapshot(index * EVERY, state, index * EVERY * LR, LR, LR, 1.0)


def watch(engine: Engine, states: list[State], probe: bool = False, start: int = 0) -> list[dict[str, float]]:
    seen = [engine.process(snapshot(start + k, state), probe) for k, state in enumerate(states)]
    assert [s.error for s in seen] == [None] * len(seen)
    return [s.values for s in seen]


def build(kind: type[Engine], model: nn.Module, batch: Any, probe: bool = False) -> Engine:
    return kind.build(model, loss_fn, batch, horizon=200, seed=0, probe=probe)


def bytes_of(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return sum(map(bytes_of, parts))


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_where_all_is_kept_the_path_is_that_in_full(name: str) -> None:
    """No rotation to be read from signs, fewer parameters than a sketch has numbers: equal, viscosity included."""
    model, batch, states = narrow(name)
    full, sketched = (watch(build(kind, model, batch), states) for kind in (Engine, SketchedEngine))
    tags = (*PATH, "quotient/viscosity", "raw/norm", "raw/speed")
    assert sum(t.numel() for t in states[0].values()) <= module._FEWEST
    for here, there in zip(full, sketched, strict=True):
        for tag in tags:
            assert there[tag] == pytest.approx(here[tag], rel=1e-9, abs=1e-9, nan_ok=True), tag


@pytest.mark.parametrize("name", list(WIDE))
def test_speed_and_distance_are_near_those_in_full(name: str) -> None:
    """Within four standard deviations of a sketch, sqrt(1 / 2k), and the five per cent that turning may add."""
    model, batch, states = wide(name)
    engine = build(SketchedEngine, model, batch)
    full, sketched = watch(build(Engine, model, batch), states), watch(engine, states)
    assert isinstance(engine, SketchedEngine)
    assert engine._project is not None
    size = engine._project.size
    assert size < sum(p.numel() for p in model.parameters()) / 10
    allowed = 4 * (1 / (2 * size)) ** 0.5 + 0.05
    for here, there in zip(full[1:], sketched[1:], strict=True):
        for tag in PATH:
            assert there[tag] == pytest.approx(here[tag], rel=allowed), tag
        for tag in ("quotient/measure_speed", "raw/drift"):
            assert math.isnan(there[tag]), tag
        assert {t: v for t, v in here.items() if t.startswith("block/")} == pytest.approx(
            {t: v for t, v in there.items() if t.startswith("block/")}, rel=1e-3, nan_ok=True
        )


@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer"])
def test_no_gauge_shows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every snapshot in another random gauge, units reordered: the same sketches, as they are of the turned point."""
    monkeypatch.setattr(module, "_FEWEST", 61)
    monkeypatch.setattr(module, "_RENEW", 0.02)
    model, batch, states = narrow(name)
    quotient = infer_symmetries(model, loss_fn, batch)
    generator = torch.Generator().manual_seed(5)
    moved = [quotient.random_transform(state, generator) for state in states]
    here, there = (watch(build(SketchedEngine, model, batch, True), s, True) for s in (states, moved))
    for one, other in zip(here, there, strict=True):
        assert set(one) == set(other)
        for tag in one:
            if tag.startswith(("quotient/", "shock/", "block/", "phase/")):
                assert other[tag] == pytest.approx(one[tag], rel=1e-6, abs=1e-9, nan_ok=True), tag
        assert other["raw/norm"] != pytest.approx(one["raw/norm"], rel=0.1)


def test_a_network_that_only_changes_its_gauge_stands_still() -> None:
    model, batch, states = narrow("transformer")
    quotient = infer_symmetries(model, loss_fn, batch)
    generator = torch.Generator().manual_seed(5)
    moved = [quotient.random_transform(states[0], generator) for _ in range(4)]
    for values in watch(build(SketchedEngine, model, batch), moved)[1:]:
        assert values["quotient/path_length"] < 1e-6 * values["quotient/norm"]
        assert values["quotient/distance_from_start"] < 1e-6 * values["quotient/norm"]


def test_what_is_kept_is_a_twentieth_of_the_parameters() -> None:
    """All tensors of the state, which is all that the engine has of earlier snapshots."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 700), nn.Tanh(), nn.Linear(700, 700), nn.Tanh(), nn.Linear(700, 10))
    batch = (torch.randn(32, 100), torch.randint(10, (32,)))
    engine = build(SketchedEngine, model, batch)
    watch(engine, train(model, batch, 3))
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    assert 0.02 * size < bytes_of(engine.state_dict()) <= 0.05 * size
    assert engine._previous is not None
    assert not engine._previous.canonical
    assert not engine._previous.raw


def test_a_run_goes_on_where_it_was_interrupted() -> None:
    model, batch, states = wide("transformer", 6)
    whole = watch(build(SketchedEngine, model, batch), states)
    first, second = build(SketchedEngine, model, batch), build(SketchedEngine, model, batch)
    watch(first, states[:3])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    rest = watch(second, states[3:], start=3)
    for here, there in zip(whole[3:], rest, strict=True):
        for tag in (*PATH, "quotient/viscosity", "raw/speed"):
            assert there[tag] == pytest.approx(here[tag], rel=1e-5, nan_ok=True), tag


@pytest.mark.parametrize(("before", "after"), [(Engine, SketchedEngine), (SketchedEngine, Engine)])
def test_in_the_other_mode_the_path_keeps_its_length(before: type[Engine], after: type[Engine]) -> None:
    model, batch, states = wide("mlp", 4)
    first, second = build(before, model, batch), build(after, model, batch)
    last = watch(first, states[:3])[-1]
    second.load_state_dict(first.state_dict())
    (values,) = watch(second, states[3:], start=3)
    assert values["quotient/path_length"] == pytest.approx(last["quotient/path_length"])
    assert values["quotient/distance_from_start"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("kind", [Engine, SketchedEngine])
def test_a_probe_needs_room(kind: type[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch, states = narrow("mlp")
    needed = sum(p.numel() * 8 for p in model.parameters()) * (PROBE_COPIES + 2 * FEWEST_PRODUCTS)
    engine = build(kind, model, batch, True)
    for free, measured in ((needed - 1, False), (needed, True)):
        monkeypatch.setattr(memory, "available_bytes", lambda free=free: free)
        (values,) = watch(engine, states[:1], True)
        assert ("shock/lambda_min" in values) == measured
    assert (engine._look._recycled is None) == (kind is SketchedEngine)
    assert (engine._look._gradient is None) == (kind is SketchedEngine)


def test_that_there_is_no_room_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch, states = narrow("mlp")
    engine = build(Engine, model, batch, True)
    monkeypatch.setattr(memory, "available_bytes", lambda: 0)
    notes = [
        note
        for step in range(2)
        for note in engine.process(Snapshot(step, states[step], float(step), 1.0, 1.0, 1.0), True).notes
    ]
    assert len([note for note in notes if "would not fit in free memory" in note]) == 1


def test_signs_point_the_way() -> None:
    """One bit an entry, of all: the sign times the mean size; zero where the share leaves no room."""
    model, batch, states = narrow("transformer")
    quotient = infer_symmetries(model, loss_fn, batch)
    point = quotient.canonicalize(states[0])
    frame = SignFrame(quotient, point, 1.0)
    reference = frame.reference(point)
    assert set(reference) == set(point)
    for name, (_, scale, density) in frame._bits.items():
        assert density == 1.0
        assert scale == pytest.approx(float(point[name].abs().mean()))
        large = point[name].abs() > 1e-6 * scale
        assert torch.equal(reference[name][large], scale * point[name].sign()[large])
    kept = bytes_of(SignFrame(quotient, point, 0.01).state_dict())
    assert kept <= 0.01 * bytes_of({n: point[n] for n in quotient.names}) + len(point)


def test_a_monitor_keeps_no_copy_between_snapshots() -> None:
    model, batch, _ = wide("mlp", 1)
    optimizer = torch.optim.SGD(model.parameters(), LR)
    monitor = ShockMonitor(model, loss_fn, optimizer, 1, budget=1.0, probe="off", memory="sketch")
    for _ in range(4):
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        optimizer.step()
        monitor.step(batch, loss)
    assert monitor._session is not None
    assert monitor._session.settle(60.0)
    capture = monitor._session._capture
    assert capture is not None
    assert len(capture._free) == 3
    assert all(slot.state == {} for slot in capture._free)
    monitor.close()
    assert monitor.values["quotient/path_length"] > 0.0
    assert monitor.values["shockwatch/errors"] == 0.0
