"""Forecasts against what happened, beside plain baselines; the runs are in ``forecast_runs.py``.

``OMP_NUM_THREADS=1 python examples/benchmarks/forecast.py --seeds 4``.
Curvature is that of the parameters as they are (an empty quotient): balancing deep linear networks of three layers at
every probe takes longer than the rest of the benchmark.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict

import numpy as np
import torch
from forecast_runs import Setting, settings, train
from torch import nn

from shockwatch.clock import TrainingClock
from shockwatch.engine import Engine
from shockwatch.snapshot import Snapshot
from shockwatch.symmetry import Quotient
from shockwatch.tracing import StepLoss

COLUMNS = ("shockwatch", "-1/lambda_min", "last interval", "growth of |g|")


class Unreduced(Engine):
    """The engine without symmetries."""

    @property
    def quotient(self) -> Quotient:
        if self._quotient is None:
            assert self._trace is not None
            self._quotient = Quotient((), [name for name, _ in self._model.named_parameters()])
            self._dtype = torch.float64
            self._loss = StepLoss(self._trace.in_dtype(torch.float64), self._batch)
        return self._quotient


def probes(setting: Setting) -> tuple[list[dict[str, float]], list[int]]:
    """Scalars of every probe, and the events of the run."""
    problem = setting.make(setting.seed)
    data = tuple(t.double() if t.is_floating_point() else t for t in problem.data)
    engine = Unreduced.build(problem.model.double(), problem.loss, data, horizon=200, seed=0, probe=True)
    clock, found = TrainingClock(), []

    def watch(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if step == 0:
            clock.listen([optimizer])
        if step % setting.every:
            return
        group = optimizer.param_groups[0]
        plain = isinstance(optimizer, torch.optim.SGD)
        effective = group["lr"] / (1 - group.get("momentum", 0.0)) if plain else math.nan
        state = {name: p.detach().clone() for name, p in model.named_parameters()}
        snapshot = Snapshot(step, state, clock.training_time, effective, group["lr"], None)
        found.append({"step": step, **engine.process(snapshot, True).values})

    outcome = train(setting, watch)
    for entry in found:
        entry["gradient"] = outcome.gradients[int(entry["step"])]
    return found, outcome.events(setting.every)


def guesses(found: list[dict[str, float]], index: int, events: list[int]) -> list[float]:
    """Steps left, by us and by the baselines, in the order of ``COLUMNS``."""
    now = found[index]
    past = [0] + [e for e in events if e <= now["step"]]
    interval = past[-1] - past[-2] if len(past) > 1 else math.nan
    growth = math.nan
    if index:
        before = found[index - 1]
        rate = math.log(now["gradient"] / before["gradient"]) / (now["step"] - before["step"])
        largest = max(f["gradient"] for f in found[: index + 1])
        growth = math.log(2 * largest / now["gradient"]) / rate if rate > 0 else math.nan
    bare = now["shock/steps"]
    return [
        now["shock/arrival_steps"],
        bare if math.isfinite(bare) else math.nan,
        past[-1] + interval - now["step"] if past[-1] + interval > now["step"] else math.nan,
        growth,
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--only", default="", help="part of a family's name")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    halves, covered, quiet = defaultdict(list), defaultdict(list), defaultdict(list)
    false: dict[str, list[int]] = defaultdict(list)
    for setting in settings(chosen.seeds):
        if chosen.only not in setting.family:
            continue
        found, events = probes(setting)
        family, last = setting.family, max(events, default=0)
        for index, now in enumerate(found):
            step, arrival = now["step"], now["shock/arrival_steps"]
            ahead = [e - step for e in events if e > step]
            if ahead and math.isfinite(arrival) and ahead[0] >= setting.every:
                covered[family].append(abs(arrival - ahead[0]) <= now["shock/arrival_error"])
            if not ahead:
                quiet[family].append([math.isnan(g) for g in guesses(found, index, events)])
                false[family].append(int(math.isfinite(arrival)))
        for begin, event in zip([0, *events], events, strict=False):
            index = round((begin + event) / 2 / setting.every)
            left = event - found[index]["step"]
            if left > 0:
                halves[family].append([abs(g - left) / left for g in guesses(found, index, events)])
        false[family + " steps"].append(setting.steps - last)
    print(f"{'family':30} {'events':>6}  " + "  ".join(f"{c:>21}" for c in COLUMNS) + "  cover  false/10k")
    print(" " * 39 + "  ".join(f"{'error, given, silent':>21}" for _ in COLUMNS))
    for family in dict.fromkeys(s.family for s in settings(1) if chosen.only in s.family):
        errors = np.array(halves[family]) if halves[family] else np.full((1, 4), math.nan)
        silence = np.array(quiet[family]).mean(axis=0) if quiet[family] else np.full(4, math.nan)
        cells = []
        for column in range(4):
            given = np.isfinite(errors[:, column])
            error = float(np.median(errors[given, column])) if given.any() else math.nan
            cells.append(f"{error:7.1%} {given.mean():6.0%} {silence[column]:6.0%}")
        cover = float(np.mean(covered[family])) if covered[family] else math.nan
        wolf = 1e4 * sum(false[family]) / max(1, sum(false[family + " steps"]))
        print(f"{family:30} {len(halves[family]):6d}  " + "  ".join(cells) + f"  {cover:5.0%}  {wolf:9.1f}")


if __name__ == "__main__":
    main()
