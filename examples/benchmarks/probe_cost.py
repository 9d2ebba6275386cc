"""What one full probe costs beside other tools' eigenvalues, at the same points of the same run.

    OMP_NUM_THREADS=1 python -m examples.benchmarks.probe_cost              # all workloads
    OMP_NUM_THREADS=1 python -m examples.benchmarks.probe_cost --only W1

A full probe of ours is both ends of the spectrum of the reduced loss, the gradient's spectral measure, the slices and
the forecast, and all that a snapshot takes besides. Beside it: PyHessian's top eigenvalue, and both ends by `eigsh` on
the products of curvlinops; both of the raw loss. Every tool is asked for 2 %; how far its top
eigenvalue is off is told by `eigsh` at 1e-4. CPU time of one thread in training steps,
median over the looks; our first probe, which starts from nothing, is a column of its own.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from examples.benchmarks.overhead.workloads import WORKLOADS, Workload, classify
from examples.benchmarks.snapshot_cost import Batch
from shockwatch.capture import named_state
from shockwatch.clock import TrainingClock
from shockwatch.engine import Engine
from shockwatch.moments import adam_moments
from shockwatch.shock.probe import LOOSE
from shockwatch.snapshot import Snapshot

_EVERY = {"W1": 500, "W2": 50, "W3": 50}
_LOOKS = 4


class _Flat(nn.Module):
    """Logits of all places as rows."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        return logits.reshape(-1, logits.shape[-1])


def pyhessian(model: nn.Module, batch: Batch) -> float:
    """Its top eigenvalue."""
    module: Any = importlib.import_module("pyhessian")
    data = batch[0], batch[1].reshape(-1)
    hessian = module.hessian(_Flat(model), nn.functional.cross_entropy, data=data, cuda=False)
    return float(hessian.eigenvalues(top_n=1, tol=LOOSE)[0][0])


def curvlinops(model: nn.Module, batch: Batch) -> float:
    """Both ends by ``eigsh``; the upper one."""
    return _eigsh(model, batch, k=2, which="BE", tol=LOOSE)


def _eigsh(model: nn.Module, batch: Batch, **how: Any) -> float:
    module: Any = importlib.import_module("curvlinops")
    eigsh: Any = importlib.import_module("scipy.sparse.linalg").eigsh
    flat = _Flat(model)
    parameters = [p for p in flat.parameters() if p.requires_grad]
    data = [(batch[0], batch[1].reshape(-1))]
    hessian = module.HessianLinearOperator(flat, nn.CrossEntropyLoss(), parameters, data)
    return float(max(eigsh(hessian.to_scipy(), return_eigenvectors=False, **how)))


Peer = Callable[[nn.Module, Batch], float]
PEERS: dict[str, Peer] = {"PyHessian": pyhessian, "curvlinops + eigsh": curvlinops}


def measure(workload: Workload, peers: dict[str, Peer]) -> dict[str, float]:
    """Training steps that a look takes, by tool, and the error of the others' top eigenvalue at the last look."""
    model = workload.model()
    optimizer = workload.optimizer(model)
    clock = TrainingClock()
    clock.listen([optimizer])
    batches = workload.batches(_EVERY[workload.name] * (_LOOKS + 1))
    fixed = workload.batch(torch.Generator().manual_seed(2))
    engine = Engine.build(copy.deepcopy(model), classify, fixed, horizon=200, seed=0, probe=True)
    steps: list[float] = []
    looks: dict[str, list[float]] = {"shockwatch": [], **{name: [] for name in peers}}
    found: dict[str, float] = {}

    def step(batch: Batch) -> float:
        optimizer.zero_grad()
        loss = classify(model, batch)
        loss.backward()
        optimizer.step()
        return loss.item()

    for number, batch in enumerate(batches, 1):
        start = time.process_time()
        loss = step(batch)
        steps.append(time.process_time() - start)
        if number % _EVERY[workload.name]:
            continue
        state = {n: t.detach().clone() for n, t in named_state(model).items()}
        moments = adam_moments(named_state(model), [optimizer])
        held = moments and {n: m.holding(t.clone() for t in m.tensors()) for n, m in moments.items()}
        snapshot = Snapshot(number, state, loss=loss, moments=held, **clock.reading)
        if number == _EVERY[workload.name]:
            engine.prepare(snapshot)
        start = time.process_time()
        engine.process(snapshot, True)
        looks["shockwatch"].append(time.process_time() - start)
        with sdpa_kernel(SDPBackend.MATH):  # others have no second derivative
            for name, peer in peers.items():
                start = time.process_time()
                found[name] = peer(copy.deepcopy(model).eval(), fixed)
                looks[name].append(time.process_time() - start)
    with sdpa_kernel(SDPBackend.MATH):
        truth = _eigsh(copy.deepcopy(model).eval(), fixed, k=1, which="LA", tol=1e-4) if peers else 0.0
    one = statistics.median(steps)
    first, *others = looks.pop("shockwatch")
    return {
        "step, ms": 1e3 * one,
        "first probe": first / one,
        "probe": statistics.median(others) / one,
        **{name: statistics.median(times) / one for name, times in looks.items()},
        **{f"{name}: error, %": 100.0 * abs(value / truth - 1.0) for name, value in found.items()},
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of a workload's name")
    parser.add_argument("--peers", default=",".join(PEERS), help="which of the other tools, by comma")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    peers = {name: PEERS[name] for name in options.peers.split(",") if name}
    for workload in WORKLOADS:
        if options.only in workload.name:
            row = measure(workload, peers)
            print(workload.name, "  ".join(f"{name} {value:.1f}" for name, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
