"""Host memory that the analysis takes, in copies of the parameters: between two snapshots, and at its peak.

A process for each row, beyond what the same training takes without shockwatch, batch of four. ``resident`` counts the
storages of all tensors alive after the last snapshot (in full two of the three sets of capture buffers, though never
written), ``peak`` is of the resident set (with some 20 MB of libraries that are loaded on the way), ``first`` that of
the first snapshot, where the groups are measured. On two models of 5.3 and 3.2 million parameters, probes off:

    full    resident 7.0 and 7.3 (5.0 and 5.3 of them written), peak 11.3 and 15.2, first 6.5 and 8.9
    sketch  resident 0.023 and 0.031, peak 6.9 and 9.7, first 16.4 and 11.3

Run with ``OMP_NUM_THREADS=1 python -m examples.benchmarks.memory`` from the top of the repository; Linux only.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from examples.benchmarks.snapshot_cost import Batch, CharTransformer, classify
from shockwatch.capture import Capture, named_state
from shockwatch.engine import Engine, SketchedEngine
from shockwatch.replica import private_copy
from shockwatch.snapshot import Snapshot

_SNAPSHOTS = 4
_SMALL = (torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))


def _mlp() -> tuple[nn.Module, Batch]:
    layers = (nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 10))
    return nn.Sequential(*layers), (torch.randn(4, 512), torch.randint(10, (4,)))


def _transformer() -> tuple[nn.Module, Batch]:
    return CharTransformer(256), (torch.randint(64, (4, 64)), torch.randint(64, (4, 64)))


MODELS = {"MLP 512-2048-2048-10": _mlp, "transformer 4x256": _transformer}


def _kilobytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status says nothing of {key}")


def _kilobytes_of_tensors() -> float:
    gc.collect()
    tensors = [held for held in gc.get_objects() if type(held) in (torch.Tensor, nn.Parameter)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.is_cpu}
    return sum(storages.values()) / 1024


def measure(name: str, memory: str, probe: str) -> dict[str, float]:
    """One row, in this process."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, batch = MODELS[name]()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = classify(model, batch)
        loss.backward()
        optimizer.step()
        return loss.detach()

    for _ in range(3):
        step()
    # the libraries' own pages do not count: a small run first
    small = Engine.build(nn.Linear(3, 3), classify, _SMALL, horizon=200, seed=0, probe=True)
    small.process(Snapshot(0, named_state(nn.Linear(3, 3)), 0.0, 0.01, 0.01, 1.0), True)
    base, held = _kilobytes("VmRSS"), _kilobytes_of_tensors()
    copy = sum(p.numel() * p.element_size() for p in model.parameters()) / 1024
    kind = SketchedEngine if memory == "sketch" else Engine
    engine = kind.build(private_copy(model), classify, batch, horizon=200, seed=0, probe=probe == "on")
    capture = Capture(lambda: named_state(model), keep=not kind.sketched)
    peaks = []
    for index in range(_SNAPSHOTS):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        slot = capture.acquire()
        assert slot is not None
        capture.fill(slot, step())
        seen = engine.process(Snapshot(index, slot.state, 0.01 * index, 0.01, 0.01, 1.0), probe == "on")
        assert seen.error is None, seen.error
        capture.release(slot)
        peaks.append((_kilobytes("VmHWM") - base) / copy)
    resident = (_kilobytes_of_tensors() - held) / copy
    return {"parameters": copy * 256, "resident": resident, "first": peaks[0], "peak": max(peaks[1:])}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help="part of a model's name")
    chosen = parser.parse_args()
    if chosen.row:
        print(json.dumps(measure(*chosen.row)))
        return
    print(
        f"{'model':22} {'parameters':>10} {'memory':>7} {'probe':>6} {'resident':>9} {'peak':>6} {'first':>6}"
    )
    # what is freed goes back to the system
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    for name in (name for name in MODELS if chosen.only in name):
        for memory in ("full", "sketch"):
            for probe in ("off", "on"):
                command = [sys.executable, "-m", "examples.benchmarks.memory", "--row", name, memory, probe]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                row = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"{name:22} {row['parameters']:10.0f} {memory:>7} {probe:>6} {row['resident']:9.2f} "
                    f"{row['peak']:6.1f} {row['first']:6.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
