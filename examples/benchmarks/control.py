"""Does the control pay? Runs that diverge without it, and runs that did not need it.

    OMP_NUM_THREADS=1 python -m examples.benchmarks.control       # from the repository root, about half an hour

Four families are set up to fail, ten seeds each, of which the last five are held out: a small tanh network whose
constant rate is 2 to 5 times the edge of stability at its start; a ReLU classifier with momentum and small batches, the
same after a warm-up; three linear layers whose rate is 2 to 5 times what the minimum behind a plateau bears; a warm-up
that never ends. All their losses have a floor (noise in the targets, classes that overlap), so that a ratio of final
losses means something. Three families of smooth runs, those of the labelled benchmark, three seeds each and two held
out, must not be harmed.

Each run is made (a) without any callback; (b) at constant rates a factor of two apart, the best of which at the end
is "tuned by hand"; (c) with ``ShockWatch`` and ``ShockLRController()`` as they come, but for a snapshot every five
steps; (d) with ``ShockEarlyStopping("shock/lr_lambda_max", threshold=2, patience=2)``. A run *needed* control if it
diverges in (a): the loss is not finite, or above five times its largest value in the first five steps. In (c) and (d)
the trainer waits for the analysis at every snapshot, so that the result does not hang on the speed of the machine. The
final loss is that on all the data, averaged over the last 20 steps; "cost" is its excess over the run without control.

The rule for small batches with momentum (``LossRise``, and the bound it puts into force) was worked out on seeds 0 to 4
of that family, with the smallest factor let down from 0.01 to 0.001; nothing was tuned on the held-out seeds, 5 to 9.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader

from examples.benchmarks.labelled.families import (
    Batch,
    Case,
    entropy,
    full_batch,
    logistic,
    smooth_mlp,
    squared,
)
from examples.benchmarks.labelled.labels import diverged
from shockwatch import ShockEarlyStopping, ShockLRController, ShockWatch

FOLDER = Path(__file__).parent / "results"
EVERY = 5


def _sharpness(case: Case) -> float:
    """The largest eigenvalue of the Hessian on all the data, at the raw parameters; dense."""
    names, values = zip(*((n, p.detach()) for n, p in case.model.named_parameters()), strict=True)

    def loss(vector: Tensor) -> Tensor:
        parts = [
            part.view_as(v) for part, v in zip(vector.split([v.numel() for v in values]), values, strict=True)
        ]
        state = dict(zip(names, parts, strict=True))
        return case.loss_fn(lambda x: functional_call(case.model, state, (x,)), case.data)  # type: ignore[arg-type]

    hessian = torch.autograd.functional.hessian(loss, torch.cat([v.flatten() for v in values]))
    return float(torch.linalg.eigvalsh(hessian)[-1])


def _at_rate(case: Case, rate: float) -> Case:
    for group in case.optimizer.param_groups:
        group["lr"] = group["initial_lr"] = rate
    case.rate = None
    return case


def _excess(seed: int) -> float:
    """How many times the edge: 2, 3, 4, 5, 2.5, by seed."""
    return (2.0, 3.0, 4.0, 5.0, 2.5)[seed % 5]


def rate_from_start(seed: int) -> Case:
    """A tanh network on a noisy regression, full batch."""
    x = torch.randn(96, 5).double()
    y = torch.stack([torch.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2], x[:, 3].abs()], 1)
    y = y + 0.5 * torch.randn(96, 2).double()
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    case = Case(model, squared, torch.optim.SGD(model.parameters(), 0.01), 400, (x, y), lambda _: (x, y))
    return _at_rate(case, _excess(seed) * 2.0 / _sharpness(case))


def rate_small_batches(seed: int) -> Case:
    """A ReLU classifier, four classes that overlap, momentum 0.9, batches of 32; warmed up in 100 steps."""
    y = torch.arange(384) % 4
    data = (1.2 * torch.randn(4, 6).double()[y] + 1.5 * torch.randn(384, 6).double(), y)

    def batch(step: int) -> Batch:
        g = torch.Generator().manual_seed(100_003 * seed + step)
        index = torch.randperm(384, generator=g)[:32]
        return data[0][index], data[1][index]

    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4)).double()
    case = Case(model, entropy, torch.optim.SGD(model.parameters(), 0.01, momentum=0.9), 500, data, batch)
    top = _excess(seed) * 2.0 * 1.9 / _sharpness(case)
    case = _at_rate(case, top)
    case.rate = lambda step: top * min(1.0, step / 100)
    return case


def rate_after_plateau(seed: int) -> Case:
    """Three linear layers from a small start: the edge only shows when the plateau ends."""
    model = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(3))).double()
    left, right = (torch.linalg.qr(torch.randn(3, 3).double()).Q for _ in range(2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.03 * torch.linalg.qr(torch.randn(3, 3).double()).Q)
    x = torch.randn(96, 3).double()
    y = x @ (left * torch.tensor([2.0, 1.5, 1.1]).double()) @ right + 0.5 * torch.randn(96, 3).double()
    case = Case(model, squared, torch.optim.SGD(model.parameters(), 0.01), 600, (x, y), lambda _: (x, y))
    # at the balanced minimum of depth three and singular value s the largest curvature is 3 s^(4/3)
    return _at_rate(case, _excess(seed) * 2.0 / (3.0 * 2.0 ** (4.0 / 3.0)))


def bad_schedule(seed: int) -> Case:
    """A warm-up that never ends, to 2 to 5 times a rate that the start bears."""
    case = rate_from_start(seed)
    top = 2.0 * float(case.optimizer.param_groups[0]["lr"])
    case = _at_rate(case, top)
    case.rate = lambda step: top * step / case.steps
    return case


FAMILIES: dict[str, Callable[[int], Case]] = {
    "rate_from_start": rate_from_start,
    "rate_small_batches": rate_small_batches,
    "rate_after_plateau": rate_after_plateau,
    "bad_schedule": bad_schedule,
    "logistic": logistic,
    "smooth_mlp": smooth_mlp,
    "full_batch": full_batch,
}
SMOOTH = ("logistic", "smooth_mlp", "full_batch")
HELD_OUT = 5  # seeds from here on were not looked at while the control was worked on


def make(family: str, seed: int) -> Case:
    """The run of this family and seed."""
    torch.manual_seed(5000 + seed)
    return FAMILIES[family](seed)


class Losses:
    """The loss on all the data after each step, and what the rules make of it."""

    def __init__(self, case: Case) -> None:
        self.case, self.values, self.event = case, [], None

    @torch.no_grad()
    def look(self) -> bool:
        """Take the loss; whether it is divergence."""
        loss = float(self.case.loss_fn(self.case.model, self.case.data))
        wrong = diverged(loss, self.values)
        self.values.append(loss)
        if wrong and self.event is None:
            self.event = len(self.values)
        return wrong

    @property
    def final(self) -> float:
        """Mean of the last 20; infinite if the run has diverged."""
        return math.inf if self.event is not None else statistics.fmean(self.values[-20:])


def alone(case: Case) -> Losses:
    """The run without any callback; ends where it diverges."""
    losses = Losses(case)
    for step in range(1, case.steps + 1):
        if case.rate is not None:
            for group in case.optimizer.param_groups:
                group["lr"] = case.rate(step)
        case.optimizer.zero_grad()
        case.loss_fn(case.model, case.batch(step)).backward()
        case.optimizer.step()
        if losses.look():
            break
    return losses


class _Module(L.LightningModule):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.model, self.case = case.model, case
        self.losses = Losses(case)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.case.loss_fn(self.model, batch)

    def on_train_batch_end(self, *args: Any) -> None:
        if self.losses.look():
            self.trainer.should_stop = True

    def configure_optimizers(self) -> Any:
        rate, start = self.case.rate, float(self.case.optimizer.param_groups[0]["lr"])
        if rate is None:
            return self.case.optimizer
        schedule = torch.optim.lr_scheduler.LambdaLR(self.case.optimizer, lambda k: rate(k + 1) / start)
        return {"optimizer": self.case.optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _Wait(Callback):
    """Waits for the analysis at every snapshot."""

    def __init__(self, watch: ShockWatch) -> None:
        self.watch = watch

    def on_train_batch_end(self, *args: Any) -> None:
        self.watch.catch_up()


def watched(case: Case, acts: Callback) -> tuple[Losses, _Module]:
    """The run with ``ShockWatch`` and one callback that acts on it."""
    module = _Module(case)
    watch = ShockWatch(every_n_steps=EVERY, probe=1)
    trainer = L.Trainer(
        max_steps=case.steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[watch, _Wait(watch), acts],
    )  # fmt: skip
    batches = [case.batch(step) for step in range(1, case.steps + 1)]
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return module.losses, module


def by_hand(family: str, seed: int) -> tuple[float, float]:
    """The best of the constant rates a factor of two apart, and its final loss."""
    case = make(family, seed)
    top = float(case.optimizer.param_groups[0]["lr"])
    tried = []
    for k in range(-1, 8):
        rate = top / 2.0**k
        tried.append((alone(_at_rate(make(family, seed), rate)).final, rate))
    return min(tried)


class _Factors(ShockLRController):
    """Remembers its smallest factor and how often it was below one."""

    lowest, lowered = 1.0, 0

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        self.lowest = min(self.lowest, self.factor)
        self.lowered += self.factor < 1.0


def run(job: tuple[str, int], known: dict[tuple[str, int], dict[str, Any]]) -> dict[str, Any]:
    """One run, made in all four ways; the two without shockwatch are taken from ``known`` where it has them."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("shockwatch", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    family, seed = job
    plain = alone(make(family, seed))
    if job in known:
        tuned, rate = known[job]["tuned"], known[job]["tuned_rate"]
    else:
        tuned, rate = by_hand(family, seed)
    control = _Factors()
    steered, _ = watched(make(family, seed), control)
    stop = ShockEarlyStopping("shock/lr_lambda_max", threshold=2.0, patience=2)
    stopped, _ = watched(make(family, seed), stop)
    case = make(family, seed)
    return {
        "family": family,
        "seed": seed,
        "steps": case.steps,
        "diverges_at": plain.event,
        "alone": plain.final,
        "tuned": tuned,
        "tuned_rate": rate,
        "controlled": steered.final,
        "controlled_diverges_at": steered.event,
        "lowest_factor": control.lowest,
        "steps_lowered": control.lowered,
        "stopped_at": stop.stopped_step,
        "steps_made": len(stopped.values),
        "best_after_stop": min(plain.values[stop.stopped_step :], default=math.inf)
        if stop.stopped_step
        else None,
        "best_before_stop": min(stopped.values),
    }


def tables(results: list[dict[str, Any]]) -> str:
    """Markdown: the seeds the control was worked on with, then those held out."""
    parts = []
    for title, held_out in (("Seeds 0 to 4", False), ("Seeds 5 to 9, held out", True)):
        if chosen := [r for r in results if (r["seed"] >= HELD_OUT) == held_out]:
            parts.append(f"## {title}\n\n{_table(chosen)}")
    return "\n".join(parts)


def _table(results: list[dict[str, Any]]) -> str:
    """Markdown: what was asked beside what came out, then every family, then every miss."""
    needed = [r for r in results if r["diverges_at"] is not None]
    spared = [r for r in results if r["diverges_at"] is None]
    good = [r for r in needed if r["controlled"] <= 1.05 * r["tuned"]]
    costs = [r["controlled"] / r["alone"] - 1.0 for r in spared]
    cheap = [cost for cost in costs if cost <= 0.02]
    stops = [r for r in needed if r["stopped_at"] is not None]
    saved = [r["steps"] - r["stopped_at"] for r in stops]
    true = [r for r in stops if r["steps_made"] == r["stopped_at"]]
    vain = [r for r in stops if r["best_after_stop"] >= r["best_before_stop"]]
    needless = [r for r in spared if r["stopped_at"] is not None]
    lines = [
        f"{len(results)} runs; {len(needed)} diverge without control, {len(spared)} do not.",
        "",
        "| | asked | found |",
        "|---|---|---|",
        f"| of the runs that diverge alone: within 5 % of a rate tuned by hand | 80 % | {_share(good, needed)} |",
        f"| of the runs that do not: final loss at most 2 % higher with control | all | {_share(cheap, spared)}, "
        f"median cost {100 * _median(costs):.2f} %, worst {100 * max(costs, default=math.nan):.1f} % |",
        f"| early stopping: diverging runs stopped | - | {_share(stops, needed)} |",
        f"| ... steps saved of what the run was to make, median | - | {_median(saved):.0f} |",
        f"| ... made exactly the steps it claims | all | {_share(true, stops)} |",
        f"| ... the run alone reached no lower loss after that step | - | {_share(vain, stops)} |",
        f"| ... stopped although the run alone does not diverge | none | {_share(needless, spared)} |",
        "",
        "| family | runs | diverge alone | within 5 % of tuned | controlled / tuned, median "
        "| controlled / alone, median | lowest factor, median |",
        "|---|---|---|---|---|---|---|",
    ]
    for family in dict.fromkeys(r["family"] for r in results):
        own = [r for r in results if r["family"] == family]
        gone = [r for r in own if r["diverges_at"] is not None]
        rest = [r for r in own if r["diverges_at"] is None]
        fine = [r for r in gone if r["controlled"] <= 1.05 * r["tuned"]]
        against = statistics.median(r["controlled"] / r["tuned"] for r in own)
        cost = f"{statistics.median(r['controlled'] / r['alone'] for r in rest):.3f}" if rest else "-"
        lines.append(
            f"| {family} | {len(own)} | {len(gone)} | {_share(fine, gone)} | {against:.3f} | {cost} "
            f"| {statistics.median(r['lowest_factor'] for r in own):.3f} |"
        )
    lines += ["", "### Misses", ""]
    for r in results:
        bad = r in needed and r not in good
        dear = r in spared and r["controlled"] > 1.02 * r["alone"]
        if bad or dear:
            lines.append(
                f"- {r['family']} {r['seed']}: controlled {r['controlled']:.4g}, tuned {r['tuned']:.4g}, alone "
                f"{r['alone']:.4g} (diverges at {r['diverges_at']}); factor down to {r['lowest_factor']:.3f}, "
                f"{r['steps_lowered']} of {r['steps']} steps lowered"
            )
    return "\n".join(lines) + "\n"


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else math.nan


def _share(part: list[Any], whole: list[Any]) -> str:
    return f"{len(part)} of {len(whole)}" + (f" ({100 * len(part) / len(whole):.0f} %)" if whole else "")


def main() -> None:
    """Run, save after every run, print the table."""
    parser = argparse.ArgumentParser(description="Control; see the docstring of the module.")
    parser.add_argument("--only", default="", help="families, comma separated; default: all")
    parser.add_argument("--seeds", default="", help="comma separated; default: all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="keep what was found without shockwatch")
    options = parser.parse_args()
    path = FOLDER / "control.json"
    FOLDER.mkdir(exist_ok=True)
    kept = (
        json.loads(path.read_text())
        if path.exists() and (options.only or options.seeds or options.again)
        else []
    )
    results = {(r["family"], r["seed"]): r for r in kept}
    known = dict(results) if options.again else {}
    jobs = [
        (family, seed)
        for family in (options.only.split(",") if options.only else FAMILIES)
        for seed in ((0, 1, 2, 5, 6) if family in SMOOTH else range(2 * HELD_OUT))
        if not options.seeds or str(seed) in options.seeds.split(",")
    ]
    jobs.sort(key=lambda job: job[1] >= HELD_OUT)
    with ProcessPoolExecutor(options.processes) as pool:
        for result in pool.map(partial(run, known=known), jobs):
            results[result["family"], result["seed"]] = result
            print(json.dumps(result), flush=True)
            saved = [
                results[key] for key in sorted(results, key=lambda k: (list(FAMILIES).index(k[0]), k[1]))
            ]
            path.write_text("[\n" + ",\n".join(map(json.dumps, saved)) + "\n]\n")
            (FOLDER / "control.md").write_text(tables(saved))
    print((FOLDER / "control.md").read_text())


if __name__ == "__main__":
    main()
