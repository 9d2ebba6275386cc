"""Faults in the model, its numbers and its trainer."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from shockwatch import ShockWatch
from shockwatch.phase import PhaseState
from tests.faults.recipes import Batch, Plain, Recipe, ours, points
from tests.faults.survival import listening, survives
from tests.runs.modules import same


class Edited(Plain):
    """Changes itself before the fourth batch."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(3, 3)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step == 3:
            self.edit()

    def edit(self) -> None:
        raise NotImplementedError


class NanParameter(Edited):
    def edit(self) -> None:
        with torch.no_grad():
            self.network[0].weight[0, 0] = torch.nan


class InfParameter(Edited):
    def edit(self) -> None:
        with torch.no_grad():
            self.network[0].weight[0, 0] = torch.inf


class NanGradient(Edited):
    def edit(self) -> None:
        self.network[0].weight.register_hook(lambda gradient: gradient * torch.nan)


class InfLoss(Edited):
    scale = 1.0

    def edit(self) -> None:
        self.scale = torch.inf

    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) * self.scale


class NanLoss(InfLoss):
    def edit(self) -> None:
        self.scale = torch.nan


class Added(Edited):
    def edit(self) -> None:
        self.more = nn.Linear(2, 2)


class Removed(Edited):
    def edit(self) -> None:
        del self.spare


class Resized(Edited):
    def edit(self) -> None:
        self.spare.weight = nn.Parameter(torch.zeros(5, 3))


class Retyped(Edited):
    def edit(self) -> None:
        self.spare.double()


class Empty(Plain):
    """A parameter and a layer without a single number."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(0, 4))
        self.none = nn.Linear(8, 0)

    def loss(self, batch: Batch) -> Tensor:
        hidden = self.network[:2](batch[0])
        return super().loss(batch) + self.nothing.sum() + self.none(hidden).sum()


class Frozen(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.network[0].requires_grad_(False)


class Lazy(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(4))

    def setup(self, stage: str) -> None:
        self.network(torch.ones(1, 6))


@pytest.mark.parametrize(
    "kind", [NanParameter, InfParameter, NanGradient, InfLoss, NanLoss], ids=lambda kind: kind.__name__
)
def test_numbers_that_are_none_are_called_divergence_once(
    kind: type[Edited], caplog: pytest.LogCaptureFixture, roomy: None
) -> None:
    watch, *others = ours(every_n_steps=1)
    heard, _ = survives(watch, *others, module=kind)
    assert heard == []
    assert [(alert.name, alert.step) for alert in watch.alerts if alert.name == "divergence"] == [
        ("divergence", 4)
    ]
    assert len([r for r in caplog.records if "diverges" in r.getMessage()]) == 1
    assert watch.values["phase/state"] == PhaseState.DIVERGING
    assert watch.values["shockwatch/errors"] == 0.0


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Added, "added more.weight, more.bias"),
        (Removed, "removed spare.weight, spare.bias"),
        (Resized, "changed spare.weight: (3, 3) torch.float32 on cpu -> (5, 3)"),
        (Retyped, "changed spare.weight: (3, 3) torch.float32 on cpu -> (3, 3) torch.float64"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_tensors_that_come_go_or_change_end_the_watch_with_one_warning(
    kind: type[Edited], message: str, roomy: None
) -> None:
    watch, *others = ours(every_n_steps=1)
    heard, _ = survives(watch, *others, module=kind)
    assert len(heard) == 1
    assert message in heard[0]
    assert watch.values["shockwatch/errors"] == 1.0
    assert watch.values["quotient/path_length"] > 0.0


@pytest.mark.parametrize("kind", [Empty, Frozen, Lazy], ids=lambda kind: kind.__name__)
def test_tensors_without_numbers_or_without_gradients(kind: type[Plain], roomy: None) -> None:
    watch, *others = ours()
    heard, _ = survives(watch, *others, module=kind)
    assert heard == []
    assert watch.values["shockwatch/errors"] == 0.0
    assert watch.values["quotient/path_length"] > 0.0
    assert watch.values["shock/lambda_max"] == watch.values["shock/lambda_max"]


@pytest.mark.parametrize(
    "options",
    [
        {"fast_dev_run": 2, "logger": False},
        {"overfit_batches": 1, "max_epochs": 3},
        {"max_steps": 0},
        {"max_epochs": 0},
        {"limit_train_batches": 0},
        {"max_steps": 1},
        {"max_time": "00:00:00:00"},
    ],
    ids=str,
)
def test_trainers_with_little_to_do(options: dict[str, Any]) -> None:
    watch, *others = ours()
    heard, trainer = survives(watch, *others, **options)
    assert heard == []
    steps = trainer.global_step
    assert ("raw/norm" in watch.values) == (steps > 0 and "fast_dev_run" not in options)


def test_barebones() -> None:
    def run(*callbacks: pl.Callback) -> Any:
        class Silent(Plain):
            def log(self, *_: Any, **__: Any) -> None: ...

        pl.seed_everything(0, verbose=False)
        module = Silent()
        pl.Trainer(barebones=True, accelerator="cpu", max_epochs=2, callbacks=list(callbacks)).fit(
            module, points()
        )
        return module.state_dict()

    plain = run()
    watch, *others = ours()
    with listening() as heard:
        watched = run(watch, *others)
    assert heard == []
    assert same(dict(plain), dict(watched))
    assert watch.values["raw/norm"] > 0.0


def test_fit_twice_with_one_trainer_and_once_with_another() -> None:
    watch, *others = ours()
    with listening() as heard:
        _, _, trainer = Recipe("twice").run(watch, *others)
        steps = trainer.global_step
        trainer.fit_loop.max_epochs = 4
        trainer.fit(trainer.lightning_module, points())
        assert trainer.global_step == 2 * steps
        survives(watch, *others)
    assert heard == []
    assert watch.values["shockwatch/errors"] == 0.0


def test_two_trainers_at_once(tmp_path: Path) -> None:
    """Their generators are one, so the data here draws nothing; each run must end as if alone."""

    def fit(*callbacks: pl.Callback) -> dict[str, Tensor]:
        torch.manual_seed(0)
        module = Plain()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape))
        data = [(torch.linspace(-1, 1, 48).reshape(8, 6) * k, torch.arange(8) % 4) for k in range(1, 5)]
        trainer = pl.Trainer(
            callbacks=list(callbacks), accelerator="cpu", max_epochs=20, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(module, DataLoader(data, batch_size=None))  # type: ignore[arg-type]
        return dict(module.state_dict())

    plain = fit()
    watches, ends = [ours() for _ in range(2)], {}

    def run(which: int) -> None:
        ends[which] = fit(*watches[which])

    with listening() as heard:
        threads = [threading.Thread(target=run, args=(which,)) for which in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert heard == []
    assert same(ends[0], plain)
    assert same(ends[1], plain)
    assert all(watch.values["raw/norm"] > 0.0 for watch, *_ in watches)
    assert all(watch.values["shockwatch/errors"] == 0.0 for watch, *_ in watches)


def test_a_fit_inside_of_a_fit_takes_the_watch_and_harms_neither(roomy: None) -> None:
    watch, *others = ours()

    class Nested(pl.Callback):
        def __init__(self, *inner: pl.Callback) -> None:
            self.inner = inner

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 4:
                state = torch.get_rng_state()
                Recipe("inner").run(*self.inner)
                torch.set_rng_state(state)

    from tests.faults.survival import Recipe as Outer

    plain, _, _ = Outer("outer").run(Nested())
    watched, _, trainer = Outer("outer").run(watch, *others, Nested(watch))
    assert same(plain, watched)
    assert trainer.global_step == 8


def test_two_watches_in_one_trainer_are_refused_before_anything_is_lost() -> None:
    with pytest.raises(RuntimeError, match=r"more than one stateful callback of type `ShockWatch`"):
        pl.Trainer(callbacks=[ShockWatch(), ShockWatch()], logger=False)
