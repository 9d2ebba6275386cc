"""How inference, canonical form, horizontal projection and a whole snapshot grow with the number of parameters.

GPT shapes of growing depth and width, one sequence of 32 tokens, float32. Seconds are CPU seconds of one thread, so
that neighbours on the machine do not count, and a snapshot is also told in plain copies of the parameters; memory is
the peak beyond the model, in units of its parameters.
Run with ``OMP_NUM_THREADS=1 python examples/benchmarks/scaling.py``.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shockwatch.engine import Engine
from shockwatch.snapshot import Snapshot
from shockwatch.symmetry import infer_symmetries

Batch = tuple[Tensor, Tensor]
TOKENS = 32
SNAPSHOTS = 4  # the last one is timed: it follows a run

SHAPES = {
    "1M": {"vocabulary": 1000, "width": 128, "heads": 2, "layers": 4},
    "10M": {"vocabulary": 5000, "width": 320, "heads": 5, "layers": 7},
    "100M": {"vocabulary": 20000, "width": 768, "heads": 12, "layers": 12},
    "GPT-2 small": {"vocabulary": 50257, "width": 768, "heads": 12, "layers": 12},
}


class Layer(nn.Module):
    """One pre-norm causal layer with packed projections; ``(n, t, width)`` to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        parts = self.qkv(self.norm1(x)).chunk(3, -1)
        q, k, v = (part.view(n, t, self.heads, width // self.heads).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Tied embedding, learned positions; tokens ``(n, t)`` to logits ``(n, t, vocabulary)``."""

    def __init__(self, vocabulary: int, width: int, heads: int, layers: int, context: int = 1024) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        return self.norm(x) @ self.embed.weight.T


def language(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of the next token."""
    return F.cross_entropy(model(batch[0]).flatten(0, -2), batch[1].flatten())


def seconds(action: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    action()
    return time.process_time() - start


def measure(shape: str) -> dict[str, Any]:
    """Numbers of one shape; in a fresh process the peak memory is its own."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vocabulary = SHAPES[shape]["vocabulary"]
    small = {"vocabulary": 50, "width": 16, "heads": 2, "layers": 1}
    # what is loaded at the first use is not the model's
    infer_symmetries(GPT(**small), language, (torch.zeros(1, 2).long(), torch.zeros(1, 2).long()))
    model = GPT(**SHAPES[shape])
    batch = torch.randint(vocabulary, (1, TOKENS)), torch.randint(vocabulary, (1, TOKENS))
    parameters = sum(p.numel() for p in model.parameters())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall = time.perf_counter()
    found: list[Any] = []
    infer = seconds(lambda: found.append(infer_symmetries(model, language, batch)))
    wall = time.perf_counter() - wall
    peak = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    quotient = found[0]
    state = {name: p.detach() for name, p in model.named_parameters()}
    copy = min(seconds(lambda: {n: t.clone() for n, t in state.items()}) for _ in range(5))
    points: list[dict[str, Tensor]] = []
    canonicalize = seconds(lambda: points.append(quotient.canonicalize(state)))
    tangent = {name: 1e-3 * torch.randn_like(tensor) for name, tensor in state.items()}
    horizontal = seconds(lambda: quotient.horizontal(points[0], tangent))
    engine = Engine.build(model, language, batch, horizon=100, seed=0, probe=False)
    times = []
    for step in range(SNAPSHOTS):
        moved = {n: t + 1e-3 * step * t.std() * torch.randn_like(t) for n, t in state.items()}
        taken = Snapshot(step, moved, float(step), 1.0, 1.0, 1.0)
        times.append(seconds(functools.partial(engine.process, taken, False)))
    return {
        "shape": shape,
        "parameters": parameters,
        "redundant": quotient.dim,
        "infer": infer,
        "infer_wall": wall,
        "memory": peak / (4 * parameters),
        "copy": copy,
        "canonicalize": canonicalize,
        "snapshot": times[-1],
        "horizontal": horizontal,
    }


def main() -> None:
    """Print the table, one process for each shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=SHAPES, help="one shape, as JSON")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    chosen = parser.parse_args()
    if chosen.only:
        print(json.dumps(measure(chosen.only)))
        return
    titles = ("infer", "wall", "memory", "canonical", "horizontal", "snapshot", "copies", "us/parameter")
    print(f"{'shape':12} {'parameters':>11} " + " ".join(f"{title:>12}" for title in titles), flush=True)
    rows = []
    for shape in SHAPES:
        command = [sys.executable, __file__, "--only", shape]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append(row)
        total = row["snapshot"]
        numbers = [row[key] for key in ("infer", "infer_wall", "memory")]
        numbers += [row[key] for key in ("canonicalize", "horizontal", "snapshot")]
        numbers += [total / row["copy"], 1e6 * total / row["parameters"]]
        print(f"{shape:12} {row['parameters']:11d} " + " ".join(f"{x:12.3f}" for x in numbers), flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
